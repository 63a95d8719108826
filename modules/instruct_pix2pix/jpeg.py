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

END = b"\xff\xd9"
# In the data of a scan 0xFF is followed by 0x00 or by a restart marker (ITU-T T.81, B.1.1.5).
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_NOT_FLAT = bytes(range(1, 250, 3)) * 8
"""Data of blocks that are not those before them; without 0xFF."""


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
    """Return which part of the area of a JPEG without its end is not in the file, 0..1.

    Decoded in an eighth of its size, once as it is and once with other data behind it: what differs was not there. Of a
    progressive JPEG that has all its scans, a last one that is cut short leaves the picture less fine, which is not
    counted; without one of them all of it counts as missing.
    """
    if not _has_all_scans(source):
        return 1.0
    seen = []
    for more in (b"", _NOT_FLAT):
        image = JpegImageFile(_ended(source, more))
        image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
        seen.append(np.asarray(image))
    differ = seen[0] != seen[1]
    return float(np.mean(differ.any(axis=2) if differ.ndim == 3 else differ))


def _ended(source: IO[bytes], more: bytes = b"") -> IO[bytes]:
    size = source.seek(0, io.SEEK_END)
    return pieced(source, [(0, size), more + END])


def _has_all_scans(source: IO[bytes]) -> bool:
    """Whether the scan that brings the last bit of each coefficient has begun (T.81, B.2.3 and G.1.1)."""
    source.seek(0)
    data = source.read()
    place = 2
    lacking: set[tuple[int, int]] = set()  # (component, coefficient)
    while found := _MARKER.search(data, place):
        kind, place = data[found.start() + 1], found.end()
        segment = data[place + 2 : place + int.from_bytes(data[place : place + 2], "big")]
        if kind in (0xC0, 0xC1, 0xC2) and len(segment) > 5:
            lacking = {(component, one) for component in segment[6::3] for one in range(64)}
        elif kind == 0xDA and len(segment) > 3 and len(segment) >= 4 + 2 * segment[0]:
            first, last, bits = segment[1 + 2 * segment[0] :][:3]
            if bits & 15 == 0:
                ours = segment[1 : 1 + 2 * segment[0] : 2]
                lacking -= {(component, one) for component in ours for one in range(first, last + 1)}
        place += 2 + len(segment)
    return not lacking
