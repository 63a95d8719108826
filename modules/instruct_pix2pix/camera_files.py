"""What cameras write besides JPEG, told by what it says of itself: raw files, and HEIC, which pillow-heif reads."""

from __future__ import annotations

import importlib
import io
import struct
from typing import IO, Any

from .errors import UserError

# What makers begin their files with: Canon, Fujifilm, Minolta, Olympus, Panasonic, Sigma, Phase One.
_BEGINNINGS = (b"FUJIFILMCCD-RAW", b"\0MRM", b"IIRO", b"IIRS", b"MMOR", b"IIU\0", b"FOVb")
_WITHIN = ((4, b"ftypcrx "), (6, b"HEAPCCDR"), (8, b"CR\x02"), (8, b"IIII"))

# Tags of TIFF 6.0, TIFF/EP and DNG 1.7.
_SUBFILE_TYPE, _PHOTOMETRIC, _SUB_IFDS, _DNG_VERSION = 0x00FE, 0x0106, 0x014A, 0xC612
_SENSOR = (32803, 34892)
"""Photometric interpretations: a colour filter array, and linear raw."""
_MOST_TAGS, _MOST_IFDS = 512, 16

HEIC = (".heic", ".heif", ".hif")
"""How names of HEIC files end."""
# ISO/IEC 23008-12, B.4: pictures and sequences in HEVC. The container may call itself 'mif1', as that of AVIF may.
_HEVC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
_AV1 = {b"avif", b"avis"}
_MOST_BRANDS = 64
MOST_HEIC_BYTES = 1 << 29
"""A larger file is refused unread: libheif has it in memory as a whole."""


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


def is_heic(file: IO[bytes]) -> bool:
    """Whether a file says that its pictures are in HEVC: in its box 'ftyp' (ISO/IEC 14496-12, 4.3)."""
    file.seek(0)
    head = file.read(8)
    if head[4:] != b"ftyp":
        return False
    words = file.read(min(int.from_bytes(head[:4], "big") - 8, 4 * _MOST_BRANDS))
    brands = {words[place : place + 4] for place in range(0, len(words), 4)}
    return bool(brands & _HEVC) and not brands & _AV1


def heic_opener(file: IO[bytes], name: str) -> Any:  # noqa: ANN401 - a class of a package that need not be here
    """Return the class of Pillow's kind that opens a HEIC file: `ImageFile(file, "")`.

    Its pixels come upright and in 8 bits a channel. libheif refuses a picture whose pixels are more than its header
    says. Raises UserError, which calls the file `name`, without pillow-heif and for a file that is too large.
    """
    if file.seek(0, io.SEEK_END) > MOST_HEIC_BYTES:
        raise UserError(f"{name} has more than {MOST_HEIC_BYTES >> 20} MB, too many for HEIC: make it smaller first.")
    try:
        return importlib.import_module("pillow_heif.as_plugin").HeifImageFile
    except ImportError as error:
        raise UserError(
            f"{name} is a HEIC picture, which is read by pillow-heif alone: save it as JPEG, or install that "
            "(python -m pip install pillow-heif)."
        ) from error


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
