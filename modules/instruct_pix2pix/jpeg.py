"""JPEGs whose last bytes are missing: read as browsers do, as long as little of the picture is lost."""

from __future__ import annotations

import io
import re
from typing import IO, Any

import numpy as np
from PIL.JpegImagePlugin import JpegImageFile

from .containers import pieced

MOST_MISSING = 0.05
"""The part of a picture's area that may be missing; with more it is refused as cut short."""

MOST_BYTES = 1 << 29
"""A larger file without its end is refused unread."""
END = b"\xff\xd9"
# In the data of a scan 0xFF is followed by 0x00 or by a restart marker (ITU-T T.81, B.1.1.5).
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_OTHER = bytes(range(1, 250, 3))
"""Data of blocks that nothing looks like; without 0xFF."""
_MCU_BYTES = 600
"""What six blocks of 64 coefficients take at most, about; an MCU has at least 64 pixels."""


class JpegFile(JpegImageFile):
    """A JPEG; of one that is cut short near its end, what is missing is what decoders fill in."""

    missing: float | None = None
    """The part of its area that is not in the file, once it is decoded; None for a file that is whole."""

    def load(self) -> Any:  # noqa: ANN401 - Pillow's
        """Decode the pixels. Raises OSError as Pillow does, also where more than MOST_MISSING is missing."""
        try:
            return super().load()
        except OSError as error:
            if self.fp is None or self.missing is not None or "truncated" not in str(error):
                raise
            self.missing = missing_part(self.fp)
            if self.missing > MOST_MISSING:
                raise
            self.fp = _ended(self.fp)
            return super().load()


def missing_part(source: IO[bytes]) -> float:
    """Return which part of the area of a JPEG without its end is not in the file, 0..1; more than 0.06 is a bound.

    Decoded in an eighth of its size, once as it is and once with other data behind it: what differs was not there. Of a
    progressive JPEG that has all its scans, a last one that is cut short leaves the picture less fine, which is not
    counted; without one of them all of it counts as missing.
    """
    if source.seek(0, io.SEEK_END) > MOST_BYTES:
        return 1.0
    source.seek(0)
    not_begun = _part_not_begun(source.read())
    if not_begun > MOST_MISSING:
        return not_begun
    seen = []
    for other in (False, True):
        image = JpegImageFile(_ended(source))
        if other:
            blocks = int(1.2 * MOST_MISSING * image.width * image.height / 64) + 1
            image = JpegImageFile(_ended(source, _OTHER * (blocks * _MCU_BYTES // len(_OTHER) + 1)))
        image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
        seen.append(np.asarray(image))
    differ = seen[0] != seen[1]
    return not_begun + float(np.mean(differ.any(axis=2) if differ.ndim == 3 else differ))


def _ended(source: IO[bytes], more: bytes = b"") -> IO[bytes]:
    size = source.seek(0, io.SEEK_END)
    source.seek(max(0, size - 1))
    if source.read(1) == b"\xff":  # half a marker
        size -= 1
    return pieced(source, [(0, size), more + END])


def _part_not_begun(data: bytes) -> float:
    """Return which part of a JPEG lies in scans and restart intervals that its data do not come to, 0..1.

    1 where the scan that brings the last bit of a coefficient has not begun (T.81, B.2.3 and G.1.1).
    """
    place, every, progressive, frame, scan = 2, 0, False, b"", b""
    lacking: set[tuple[int, int]] = {(0, 0)}  # (component, coefficient)
    while found := _MARKER.search(data, place):
        kind, place = data[found.start() + 1], found.end()
        segment = data[place + 2 : place + int.from_bytes(data[place : place + 2], "big")]
        place += 2 + len(segment)
        if kind in (0xC0, 0xC1, 0xC2):
            frame, progressive = segment, kind == 0xC2
            lacking = {(component, one) for component in frame[6::3] for one in range(64)}
        elif kind == 0xDD:
            every = int.from_bytes(segment[:2], "big")
        elif kind == 0xDA and len(segment) > 3 and len(segment) >= 4 + 2 * segment[0]:
            scan, (first, last, bits) = segment[1 : 1 + 2 * segment[0] : 2], segment[-3:]
            if bits & 15 == 0:
                lacking -= {(component, one) for component in scan for one in range(first, last + 1)}
    if lacking:
        return 1.0
    if progressive or not every:
        return 0.0
    begun = (len(_RESTART.findall(data, place)) + 1) * every
    return max(0.0, 1 - begun / _mcus(frame, scan))


def _mcus(frame: bytes, scan: bytes) -> int:
    """Return how many MCUs a scan of these components has (T.81, A.2)."""
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    factors = {component: divmod(both, 16) for component, both in zip(frame[6::3], frame[7::3], strict=False)}
    across, down = (max(column) for column in zip(*factors.values(), strict=True))
    own = factors.get(scan[0], (1, 1)) if len(scan) == 1 else (1, 1)
    return max(1, -(-width * own[0] // (8 * across)) * -(-height * own[1] // (8 * down)))
