"""A copy of a large picture to look at: a browser shows it at once, where the picture itself would take it seconds."""

from __future__ import annotations

from PIL import Image

from ..conditioning import fit
from ..images import encode_picture

LONGEST = 2048
"""Pixels of the longest side of a copy."""
QUALITY = 90


def small_size(width: int, height: int, longest: int = LONGEST) -> tuple[int, int]:
    """Return the size of the copy of a picture of this size, which is its own where it is no larger."""
    return (width, height) if max(width, height) <= longest else fit(width, height, longest, 1).size


def small_copy(image: Image.Image, icc: bytes | None, longest: int = LONGEST) -> bytes | None:
    """Return the copy as a WebP, or None where the picture is no larger itself."""
    if max(image.size) <= longest:
        return None
    copy = image.resize(small_size(*image.size, longest), Image.Resampling.LANCZOS, reducing_gap=2.0)
    return encode_picture(copy, "WEBP", icc=icc, quality=QUALITY)
