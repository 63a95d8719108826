"""Pictures in and out of files: read whatever people have as RGB, write whole files with their infotext."""

from __future__ import annotations

import io
import os
import stat
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from .errors import UserError
from .files import write_whole
from .text import printable, reason_of

READABLE = ("PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "AVIF")
WRITABLE = {
    ".png": "PNG",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".webp": "WEBP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".avif": "AVIF",
}

MOST_PIXELS = 200_000_000
LONGEST_SIDE = 32_768
MOST_ASPECT = 16
"""A picture is computed with sides of at least 64 pixels: beyond 16 to 1 little of it would be left."""

DRAFT_PIXELS = 50_000_000
"""Above this a JPEG is read at half size, to save memory."""

PARAMETERS = "parameters"
"""The web UI's name for the infotext among the texts of a PNG."""

# EXIF tags. Those kept of IFD0 say who made the picture, with what and when; the rest of it tells how the
# file is laid out (in a TIFF) or is made stale by an edit (orientation, resolution, thumbnail).
ORIENTATION, EXIF_IFD, GPS_IFD = 0x0112, 0x8769, 0x8825
KEPT_TAGS = (0x010E, 0x010F, 0x0110, 0x0132, 0x013B, 0x8298)
USER_COMMENT = 0x9286
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
"""EXIF orientation -> what turns the stored picture upright (Exif 2.3, tag 0x0112)."""

JPEG_EXIF_BYTES = 65_533
"""What one JPEG marker can hold."""

Source = str | os.PathLike[str] | bytes | IO[bytes]
Result = TypeVar("Result")


@dataclass(frozen=True)
class Picture:
    """A picture as the editor takes it: upright, 8-bit RGB, transparency laid on white."""

    image: Image.Image
    """RGB. Its numbers are the file's own; where `icc` is given, that profile says what they mean."""
    name: str
    alpha: Image.Image | None = None
    """L, the size of `image`; None for an opaque picture."""
    exif: bytes | None = None
    """Camera, author, time and place, without what an edit makes stale."""
    icc: bytes | None = None
    info: Mapping[str, str] = field(default_factory=dict)
    """The texts in the file; the infotext, wherever the format keeps it, is under 'parameters'."""
    notes: tuple[str, ...] = ()
    """What a person should know about how the file was read, a sentence each."""

    @property
    def infotext(self) -> str | None:
        """The 'parameters' text in the file, if any."""
        return self.info.get(PARAMETERS)


def open_picture(source: Source, *, most_pixels: int = MOST_PIXELS, name: str = "The picture") -> Picture:
    """Read a picture from a path, from bytes, or from a binary file.

    PNG, JPEG, WebP, BMP, TIFF, GIF and AVIF, of any depth and colour model. The first frame of an
    animation is taken. Up to `most_pixels` (known before anything is decoded), 32,768 pixels a side and 16 to 1;
    a JPEG above 50 megapixels is read at half size to save memory. Raises UserError for anything else, whose sentence
    calls a source without a name of its own `name`.
    """
    return read_as(source, _to_picture, most_pixels, name)


def read_infotext(source: Source | Image.Image) -> str | None:
    """The 'parameters' text of a picture, from PNG text or EXIF; None if it has none. Raises UserError."""
    if isinstance(source, Image.Image):
        return _texts(source).get(PARAMETERS)
    return read_as(source, lambda image, name: _texts(image).get(PARAMETERS), MOST_PIXELS)


def save_picture(
    image: Image.Image,
    path: str | os.PathLike[str],
    infotext: str | None = None,
    *,
    exif: bytes | None = None,
    icc: bytes | None = None,
    quality: int = 95,
    fmt: str | None = None,
) -> Path:
    """Write a picture, whole or not at all, and return its path; missing folders are made.

    The format follows the ending of the name unless `fmt` ('PNG', 'JPEG', 'WEBP', 'TIFF', 'AVIF') is
    given. The infotext goes where the web UI looks for it: the 'parameters' text of a PNG, the EXIF
    UserComment of the others. `exif` and `icc` are those of a Picture. Raises UserError.
    """
    path = Path(path)
    chosen = format_of(path, fmt)
    write_whole(path, encode_picture(image, chosen, infotext, exif=exif, icc=icc, quality=quality, name=path.name))
    return path


def encode_picture(
    image: Image.Image,
    fmt: str,
    infotext: str | None = None,
    *,
    exif: bytes | None = None,
    icc: bytes | None = None,
    quality: int = 95,
    name: str = "The picture",
) -> bytes:
    """Return the bytes that `save_picture` writes, in one of its formats; `name` is for sentences. Raises UserError."""
    name = printable(name)
    if not 1 <= quality <= 100:
        raise UserError(f"Quality is {quality}, but must lie between 1 and 100: choose one in that range.")
    if infotext is not None:
        infotext = infotext.encode("utf-8", "replace").decode().replace("\0", " ")
    options: dict[str, Any] = {"quality": quality} if fmt in ("JPEG", "WEBP", "AVIF") else {}
    if fmt == "PNG":
        options["exif"] = exif_bytes(exif)
        options["pnginfo"] = PngInfo()
        if infotext is not None:
            options["pnginfo"].add_text(PARAMETERS, infotext)  # tEXt, or iTXt where Latin-1 does not suffice
    else:
        options["exif"] = exif_bytes(exif, infotext)
        if fmt == "JPEG" and len(options["exif"]) > JPEG_EXIF_BYTES:
            options["exif"] = exif_bytes(None, infotext)  # the infotext matters more than the camera
    if icc:
        options["icc_profile"] = icc
    data = io.BytesIO()
    try:
        _writable(image, fmt).save(data, fmt, **{key: value for key, value in options.items() if value})
    except Exception as error:
        raise UserError(f"{name} cannot be saved as {fmt} ({reason_of(error)}): save it as PNG.") from error
    return data.getvalue()


def format_of(path: str | os.PathLike[str], fmt: str | None = None) -> str:
    """The format that `save_picture` writes a file of this name in: 'PNG', 'JPEG', … Raises UserError for none."""
    path = Path(path)
    chosen = fmt.upper() if fmt else WRITABLE.get(path.suffix.lower(), "")
    if chosen not in WRITABLE.values():
        endings = ", ".join(WRITABLE)
        raise UserError(
            f"{printable(path.name)} does not name a format that can be written: end the name in {endings}."
        )
    return chosen


def read_as(
    source: Source, use: Callable[[Image.Image, str], Result], most_pixels: int, name: str = "The picture"
) -> Result:
    """Open a picture, check its header, and apply `use` to (image, name); whatever goes wrong is a UserError.

    `name` is what sentences call a source that has no name of its own.
    """
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), name, use, most_pixels)
    if not isinstance(source, (str, os.PathLike)):
        label = getattr(source, "name", None)
        name = printable(Path(label).name) if isinstance(label, str) else name
        return _decode(io.BytesIO(source.read()), name, use, most_pixels)
    path = Path(source)
    name = printable(path.name or str(path))
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # a pipe would wait for ever
            kind = "a folder" if stat.S_ISDIR(mode) else "not a file"
            raise UserError(f"{name} is {kind}: give the name of a picture.")
        with path.open("rb") as stream:
            return _decode(stream, name, use, most_pixels)
    except FileNotFoundError as error:
        raise UserError(Path(printable(str(path))), " does not exist: check the name.") from error
    except PermissionError as error:
        raise UserError(f"{name} may not be read: change its permissions or copy it.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{name} could not be read ({reason_of(error)}): copy it again.") from error


def _decode(
    stream: IO[bytes], name: str, use: Callable[[Image.Image, str], Result], most_pixels: int
) -> Result:
    head = stream.read(16)
    if not head:
        raise UserError(f"{name} is empty: copy it again from its source.")
    # Not Image.open: its limit on pixels is global, and lower than a phone's 200 megapixels.
    Image.init()
    openers = [Image.OPEN[format_name] for format_name in READABLE if format_name in Image.OPEN]
    factory = next((factory for factory, accept in openers if accept and accept(head) is True), None)
    if factory is None:
        raise UserError(f"{name} is not a picture that can be read here: use PNG, JPEG, WebP, BMP, TIFF, GIF or AVIF.")
    stream.seek(0)
    try:
        with factory(stream, "") as image:
            _check_size(image.size, name, most_pixels)
            return use(image, name)
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{name} does not fit into memory: make it smaller first.") from error
    except Exception as error:  # decoders raise nearly anything on hostile files
        reason = reason_of(error)
        cut = isinstance(error, (EOFError, struct.error)) or "truncated" in reason.lower()
        state = "cut short" if cut else f"damaged ({reason})"
        raise UserError(f"{name} is {state}: copy it again from its source.") from error


def _check_size(size: tuple[int, int], name: str, most_pixels: int) -> None:
    width, height = size
    shown = f"{name} is {width} x {height} pixels"
    if width * height > most_pixels or max(size) > LONGEST_SIDE:
        raise UserError(
            f"{shown}, but at most {most_pixels // 10**6} megapixels and {LONGEST_SIDE} pixels a side "
            "are read: make it smaller first."
        )
    if max(size) > MOST_ASPECT * min(size):
        raise UserError(
            f"{shown}, but its sides may differ by {MOST_ASPECT} to 1 at most: crop it to the part to edit."
        )


def _to_picture(image: Image.Image, name: str) -> Picture:
    notes = []
    width, height = image.size
    if image.format in ("JPEG", "MPO") and width * height > DRAFT_PIXELS:
        image.draft(None, (width // 2, height // 2))
        notes.append(f"{name} is {width} x {height} pixels: it was read at half size.")
    texts = _texts(image)
    exif = exif_of(image)
    base, alpha, stretched = split_alpha(image)
    if stretched:
        notes.append(f"{name} has an unusual range of values: its darkest became black, its lightest white.")
    rgb, icc = to_rgb(base, image.info.get("icc_profile"))
    if alpha is not None:
        rgb = on_white(rgb, alpha)
    turn = UPRIGHT.get(exif.get(ORIENTATION, 1))
    if turn is not None and image.format != "TIFF":  # which Pillow turns itself while loading
        rgb = rgb.transpose(turn)
        alpha = alpha and alpha.transpose(turn)
    rgb.info = {}
    # A camera's MPO holds the same photo several times. Asked last: it may move on to the next frame.
    if image.format != "MPO" and getattr(image, "is_animated", False):
        notes.append(f"{name} has several frames: the first one is used.")
    return Picture(rgb, name, alpha, exif_bytes(exif) or None, icc, texts, tuple(notes))


def split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None, bool]:
    """8-bit picture without transparency, its alpha (L) unless opaque, and whether values were stretched."""
    alpha = None
    stretched = False
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            alpha = Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))
        eight, stretched = _eight_bit(values)
        image = Image.fromarray(eight)
    elif image.mode == "LA":
        image, alpha = image.split()
    elif image.mode in ("RGBA", "RGBa", "PA", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    if alpha is not None and alpha.getextrema() == (255, 255):
        alpha = None
    return image, alpha, stretched


def _eight_bit(values: np.ndarray) -> tuple[np.ndarray, bool]:
    """Scale deep grey values [h w] to uint8; True if their range had to be stretched to fit.

    Integers are 16-bit, 0..65535; floats are 0..1, or 0..255, or 0..65535, whichever first holds them.
    """
    if values.dtype.kind == "u":
        return ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8), False
    tops = (1, 255, 65535) if values.dtype.kind == "f" else (65535,)
    values = np.where(np.isfinite(values), values, 0).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    top = next((top for top in tops if low >= 0 and high <= top), None)
    scaled = values * (255 / top) if top else (values - low) * (255 / (high - low))
    return np.rint(scaled).astype(np.uint8), top is None


def to_rgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, bytes | None]:
    """RGB, and the profile that still applies to it.

    An RGB profile is kept beside the numbers; grey and CMYK ones cannot be, so they are applied (to sRGB).
    """
    space = icc[16:20] if icc else b""  # ICC.1, 7.2.6: the header's data colour space
    try:
        if image.mode == "LAB":
            source = ImageCms.createProfile("LAB")
        elif icc and (image.mode, space) in (("CMYK", b"CMYK"), ("L", b"GRAY")):
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
        else:
            return image.convert("RGB"), icc if space == b"RGB " else None
        converted = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
        if converted is not None:
            return converted, None
    except (ImportError, OSError, ImageCms.PyCMSError):
        pass  # a broken profile, or a Pillow without colour management: the plain formula
    return image.convert("RGB"), None


def on_white(image: Image.Image, alpha: Image.Image) -> Image.Image:
    """Lay a picture on white by its alpha (L)."""
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=alpha)
    return white


def _writable(image: Image.Image, chosen: str) -> Image.Image:
    """A copy in a mode that the format stores, without the metadata that Pillow would write unasked."""
    base, alpha, _ = split_alpha(image)
    rgb = base.copy() if base.mode in ("RGB", "L") else base.convert("RGB")
    if alpha is not None and chosen == "JPEG":
        rgb = on_white(rgb, alpha)
    elif alpha is not None:
        rgb = rgb.convert("RGB")
        rgb.putalpha(alpha)
    rgb.info = {}
    return rgb


def _texts(image: Image.Image) -> dict[str, str]:
    image.load()  # a PNG may hold its texts behind the pixels
    texts = {str(key): str(value) for key, value in image.info.items() if isinstance(value, str)}
    if image.format == "GIF" and isinstance(comment := image.info.get("comment"), bytes):
        texts.setdefault(PARAMETERS, comment.decode("utf-8", "replace"))
    if PARAMETERS not in texts:
        comment = comment_text(exif_of(image).get_ifd(EXIF_IFD).get(USER_COMMENT))
        if comment.strip():
            texts[PARAMETERS] = comment
    return texts


def exif_of(image: Image.Image) -> Image.Exif:
    """The EXIF of a picture, empty where there is none or it cannot be read."""
    try:
        exif = image.getexif()
        for ifd in (EXIF_IFD, GPS_IFD):
            exif.get_ifd(ifd)
    except Exception:  # hostile EXIF raises nearly anything, and is no reason to refuse the picture
        return Image.Exif()
    return exif


def exif_bytes(source: Image.Exif | bytes | None, comment: str | None = None) -> bytes:
    """The EXIF worth keeping, with `comment` as its UserComment; empty bytes for none of both."""
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


def _undefined(value: Any) -> Any:  # noqa: ANN401 - whatever Pillow read
    """Keep bytes of the Exif IFD of EXIF type UNDEFINED, which the standard gives them all.

    Pillow writes bytes as type BYTE, which piexif, and with it the web UI, does not take for a comment;
    a bytearray in a list is written as it should be.
    """
    return [bytearray(value)] if isinstance(value, bytes) else value


def comment_text(value: object) -> str:
    """The text of an EXIF UserComment, whose first eight bytes name its encoding (Exif 2.3, 4.6.5)."""
    if not isinstance(value, bytes):
        return value if isinstance(value, str) else ""
    code, body = value[:8], value[8:]
    if code == b"UNICODE\0":
        # Written big-endian by the web UI, by others in the byte order of the file: plain letters tell.
        little = body[1::2].count(0) > body[::2].count(0)
        text = body.decode("utf-16-le" if little else "utf-16-be", "ignore")
    elif code in (b"ASCII\0\0\0", bytes(8)):
        text = body.decode("utf-8", "ignore")
    else:
        text = value.decode("utf-8", "ignore")
    return text.strip("\0\ufeff")
