"""The EXIF of a picture: the part that is kept through an edit, and the infotext in it."""

from __future__ import annotations

from typing import Any

from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

# EXIF tags. Those kept of IFD0 say who made the picture, with what and when; the others describe the layout of
# the file (in a TIFF) or are no longer true after an edit (orientation, resolution, thumbnail).
ORIENTATION, EXIF_IFD, GPS_IFD = 0x0112, 0x8769, 0x8825
KEPT_TAGS = (0x010E, 0x010F, 0x0110, 0x0132, 0x013B, 0x8298)
USER_COMMENT = 0x9286
DENSITY_TAGS = (0x011A, 0x0128)
# Not kept of the Exif IFD: maker note (its offsets would point nowhere), comment, the old width and height,
# and the pointer to the interoperability IFD.
DROPPED_TAGS = (0x927C, USER_COMMENT, 0xA002, 0xA003, 0xA005)

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""For each EXIF orientation, the operation that turns the stored picture upright (Exif 2.3, tag 0x0112)."""


def exif_of(image: Image.Image) -> Image.Exif:
    """Return the EXIF of a picture, empty where there is none or it cannot be read."""
    try:
        # A PNG's own would decode the pixels to look behind them: `images` reads no PNG that has something there.
        exif = Image.Image.getexif(image) if image.format == "PNG" else image.getexif()
        for ifd in (EXIF_IFD, GPS_IFD):
            exif.get_ifd(ifd)
    except Exception:  # hostile EXIF raises nearly anything, and is no reason to refuse the picture
        return Image.Exif()
    return exif


def is_readable(data: bytes) -> bool:
    """Whether EXIF can be read as far as it is needed, and by Pillow when it opens a file with it."""
    exif = Image.Exif()
    try:
        exif.load(data)
        for ifd in (EXIF_IFD, GPS_IFD):
            exif.get_ifd(ifd)
        density = [exif.get(tag) for tag in (ORIENTATION, *DENSITY_TAGS)][1]
    except Exception:  # as above
        return False
    return not isinstance(density, (str, bytes)) and density != ()


def exif_bytes(source: Image.Exif | bytes | None, comment: str | None = None) -> bytes:
    """Return the EXIF worth keeping, with `comment` as its UserComment; empty bytes if there is neither."""
    kept = Image.Exif()
    try:
        stored = source if isinstance(source, Image.Exif) else Image.Exif()
        if isinstance(source, bytes):
            stored.load(source)
        for tag in KEPT_TAGS:
            if tag in stored:
                kept[tag] = stored[tag]
        details = {tag: _undefined(value) for tag, value in stored.get_ifd(EXIF_IFD).items()}
        kept[EXIF_IFD] = {tag: value for tag, value in details.items() if tag not in DROPPED_TAGS}
        kept[GPS_IFD] = dict(stored.get_ifd(GPS_IFD))
        kept.tobytes()
    except Exception:  # as above: values that make no sense are dropped with the rest
        kept = Image.Exif()
    if comment is not None:
        written = _undefined(b"UNICODE\0" + comment.encode("utf-16-be"))
        kept[EXIF_IFD] = {**kept.get(EXIF_IFD, {}), USER_COMMENT: written}
    for ifd in (EXIF_IFD, GPS_IFD):
        if not kept.get(ifd):
            kept.pop(ifd, None)
    return kept.tobytes() if len(kept) else b""


def tiff_tags(exif: bytes) -> ImageFileDirectory_v2:
    """Return the EXIF that `exif_bytes` returned as the tags of a TIFF."""
    known, tags = Image.Exif(), ImageFileDirectory_v2()
    known.load(exif)
    for tag, value in known.items():
        tags[tag] = known.get_ifd(tag) if tag in (EXIF_IFD, GPS_IFD) else value
    if EXIF_IFD in tags:
        tags[EXIF_IFD] = {tag: _undefined(value) for tag, value in tags[EXIF_IFD].items()}
    return tags


def _undefined(value: Any) -> Any:  # noqa: ANN401 - whatever Pillow read
    """Keep bytes of the Exif IFD of EXIF type UNDEFINED, which the standard gives them all.

    Pillow writes bytes as type BYTE, which piexif, and so the web UI, does not accept as a comment;
    a bytearray in a list is written as it should be.
    """
    return [bytearray(value)] if isinstance(value, bytes) else value


def comment_text(value: object) -> str:
    """Return the text of an EXIF UserComment, whose first eight bytes name its encoding (Exif 2.3, 4.6.5)."""
    if not isinstance(value, bytes):
        return value if isinstance(value, str) else ""
    code, body = value[:8], value[8:]
    if code == b"UNICODE\0":
        # The web UI writes big-endian, others in the byte order of the file: the zero bytes of plain letters tell.
        little = body[1::2].count(0) > body[::2].count(0)
        text = body.decode("utf-16-le" if little else "utf-16-be", "ignore")
    elif code in (b"ASCII\0\0\0", bytes(8)):
        text = body.decode("utf-8", "ignore")
    else:
        text = value.decode("utf-8", "ignore")
    return text.strip("\0\ufeff")
