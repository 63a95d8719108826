"""Camera raw files: told by what they say of themselves, whatever they are called."""

from __future__ import annotations

import struct
from typing import IO

# What makers begin their files with: Canon, Fujifilm, Minolta, Olympus, Panasonic, Sigma, Phase One.
_BEGINNINGS = (b"FUJIFILMCCD-RAW", b"\0MRM", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb")
_WITHIN = ((4, b"ftypcrx "), (6, b"HEAPCCDR"), (8, b"CR\x02"), (8, b"IIII"))

# Tags of TIFF 6.0, TIFF/EP and DNG 1.7.
_SUBFILE_TYPE, _PHOTOMETRIC, _SUB_IFDS, _DNG_VERSION = 0x00FE, 0x0106, 0x014A, 0xC612
_SENSOR = (32803, 34892)
"""Photometric interpretations: a colour filter array, and linear raw."""
_MOST_TAGS, _MOST_IFDS = 512, 16


def is_camera_raw(file: IO[bytes]) -> bool:
    """Whether a file is what a camera's sensor saw; a decoder of TIFF would read its thumbnail."""
    file.seek(0)
    head = file.read(16)
    if head.startswith(_BEGINNINGS) or any(head.startswith(word, place) for place, word in _WITHIN):
        return True
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(head[:4])
    if order is None or len(head) < 8:
        return False
    first = _tags(file, order, *struct.unpack_from(f"{order}I", head, 4))
    others = [_tags(file, order, place) for place in first.get(_SUB_IFDS, ())[:_MOST_IFDS]]
    if _DNG_VERSION in first or any(tags.get(_PHOTOMETRIC, (0,))[0] in _SENSOR for tags in (first, *others)):
        return True
    return bool(others) and first.get(_SUBFILE_TYPE, (0,))[0] & 1 == 1  # a reduced image of one that lies deeper


def _tags(file: IO[bytes], order: str, place: int) -> dict[int, tuple[int, ...]]:
    """Return the whole numbers of 1 to 4 bytes in an IFD (TIFF 6.0, section 2), as far as they are there."""
    found: dict[int, tuple[int, ...]] = {}
    file.seek(place)
    (count,) = struct.unpack(f"{order}H", file.read(2).ljust(2, b"\0"))
    table = file.read(12 * min(count, _MOST_TAGS))
    for tag, kind, number, value in struct.iter_unpack(f"{order}HHI4s", table[: len(table) // 12 * 12]):
        letter = {1: "B", 3: "H", 4: "I", 13: "I"}.get(kind)
        if letter is None or not 0 < number <= _MOST_IFDS:
            continue
        size = struct.calcsize(f"{order}{number}{letter}")
        if size > 4:
            file.seek(*struct.unpack(f"{order}I", value))
            value = file.read(size)
        if len(value) >= size:
            found[tag] = struct.unpack_from(f"{order}{number}{letter}", value)
    return found
