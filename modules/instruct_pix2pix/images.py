"""Pictures in and out of files: any common format is read as RGB, and files are written whole, with their infotext."""

from __future__ import annotations

import io
import itertools
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from .camera_files import heic_opener, is_camera_raw, is_heic
from .containers import without_broken_metadata
from .deep_pixels import PNG_STRATEGY, deep_pixels_of, deep_png, deep_tiff, name_planes
from .errors import UserError
from .exif import EXIF_IFD, ORIENTATION, UPRIGHT, USER_COMMENT, comment_text, exif_bytes, exif_of, tiff_tags
from .files import check_picture_file, write_whole
from .jpeg import JpegFile
from .pixels import eight_bit, grey_mask, is_clear, on_white, split_alpha, to_rgb, writable
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
"""An edit has sides of at least 64 pixels: of a picture longer than 16 to 1 little would be left."""

SUBFILE_TYPE, MOST_PAGES = 254, 16

MOST_WHOLE = 100_000_000
"""Pixels above which a JPEG is read at half size, to save memory: whole it takes eight bytes a pixel."""

SHOWN = 1024
"""Pixels of the longest side of a picture in a notebook, whose file holds all that it shows."""

PARAMETERS = "parameters"
"""The web UI's name for the infotext among the texts of a PNG."""

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
    """L, the size of `image`; None for an opaque picture, and for one that would be transparent everywhere."""
    exif: bytes | None = field(default=None, repr=False)
    """Camera, author, time and place, without what an edit makes stale."""
    icc: bytes | None = field(default=None, repr=False)
    info: Mapping[str, str] = field(default_factory=dict)
    """The texts in the file; the infotext, wherever the format keeps it, is under 'parameters'."""
    notes: tuple[str, ...] = ()
    """What a person should know about how the file was read, a sentence each."""
    deep: np.ndarray | None = field(default=None, repr=False, compare=False)
    """What `image` shows in the 16 bits a channel of its file, exactly: [H, W, 3] uint16, 0..65535.

    None for a file of 8 bits, where it was not asked for, and where the numbers of `image` are not the file's own.
    """

    @property
    def infotext(self) -> str | None:
        """The 'parameters' text in the file, if any."""
        return self.info.get(PARAMETERS)

    @property
    def mask(self) -> Image.Image:
        """What the picture means as a mask (L): see `pixels.grey_mask`."""
        return grey_mask(self.image) if self.alpha is None else self.alpha

    def _repr_png_(self) -> bytes:
        """Return what a notebook shows."""
        return encode_small(self.image)


def open_picture(
    source: Source,
    *,
    most_pixels: int = MOST_PIXELS,
    name: str = "The picture",
    deep: bool = False,
    most_whole: int = MOST_WHOLE,
) -> Picture:
    """Read a picture from a path, from bytes, or from a binary file.

    PNG, JPEG, WebP, BMP, TIFF, GIF, AVIF and, with pillow-heif, HEIC, of any depth and colour model. The first frame of
    an animation is taken. Up to `most_pixels` (known before anything is decoded), 32,768 pixels a side and 16 to 1; a
    JPEG above `most_whole` pixels is read at half size to save memory. Damaged metadata is left out, and a JPEG may
    lack a small part at its end: `notes` says so. With `deep`, a PNG or TIFF of 16 bits a channel is decoded twice, to
    keep them all; it takes up to 23 bytes a pixel meanwhile. Raises UserError for anything else, whose sentence calls a
    source without a name of its own `name`.
    """
    return read_as(source, partial(_to_picture, with_deep=deep, most_whole=most_whole), most_pixels, name)


def read_infotext(source: Source | Image.Image) -> str | None:
    """Return the 'parameters' text of a picture, from PNG text or EXIF, or None. Raises UserError."""
    if isinstance(source, Image.Image):
        source.load()  # a PNG may hold its texts behind the pixels
        return texts_of(source).get(PARAMETERS)
    return read_texts(source).get(PARAMETERS)


def read_texts(source: Source, name: str = "The picture") -> Mapping[str, str]:
    """Return the texts in a picture as `Picture.info` has them. Raises UserError.

    Pixels are not decoded, so that the picture may have any size and shape.
    """
    return read_as(source, lambda image, *_: texts_of(image), None, name)


def save_picture(
    image: Image.Image | np.ndarray,
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
    UserComment of the others. `exif` and `icc` are those of a Picture. An array is RGB or RGBA, [H, W, 3 or 4]
    uint16, and keeps its 16 bits a channel in a PNG or TIFF; the other formats have 8. Raises UserError.
    """
    path = Path(path)
    chosen = format_of(path, fmt)
    write_whole(path, encode_picture(image, chosen, infotext, exif=exif, icc=icc, quality=quality, name=path.name))
    return path


def encode_picture(
    image: Image.Image | np.ndarray,
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
    if isinstance(image, np.ndarray) and (image.dtype != np.uint16 or image.ndim != 3 or image.shape[2] not in (3, 4)):
        raise ValueError(f"not [H, W, 3 or 4] of uint16: {image.shape} of {image.dtype}")
    if not 1 <= quality <= 100:
        raise UserError(f"Quality is {quality}, but must lie between 1 and 100: choose one in that range.")
    if infotext is not None:
        infotext = infotext.encode("utf-8", "replace").decode().replace("\0", " ")
    options: dict[str, Any] = {"quality": quality} if fmt in ("JPEG", "WEBP", "AVIF") else {}
    texts = PngInfo()
    if fmt == "PNG":
        kept = exif_bytes(exif)
        if infotext is not None:
            texts.add_text(PARAMETERS, infotext)  # tEXt, or iTXt where Latin-1 does not suffice
        options |= {"pnginfo": texts, "exif": kept, "compress_type": PNG_STRATEGY}
    else:
        kept = exif_bytes(exif, infotext)
        if fmt == "JPEG" and len(kept) > JPEG_EXIF_BYTES:
            kept = exif_bytes(None, infotext)  # the infotext matters more than the camera
        options |= {"tiffinfo": tiff_tags(kept)} if fmt == "TIFF" else {"exif": kept}
    options["icc_profile"] = icc
    data = io.BytesIO()
    try:
        if isinstance(image, np.ndarray):
            if fmt == "PNG":
                return deep_png(image, texts, kept, icc)
            if fmt == "TIFF":
                return deep_tiff(image, kept, icc)
            image = Image.fromarray(eight_bit(image)[0])
        writable(image, fmt).save(data, fmt, **{key: value for key, value in options.items() if value})
    except Exception as error:
        raise UserError(f"{name} cannot be saved as {fmt} ({reason_of(error)}): save it as PNG.") from error
    return data.getvalue()


def encode_small(image: Image.Image, fmt: str = "PNG", longest: int = SHOWN) -> bytes:
    """Return the bytes of a picture to be looked at: of its own size, or with a longest side of so many pixels."""
    if max(image.size) > longest:
        image = image.copy()
        image.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return encode_picture(image, fmt)


def format_of(path: str | os.PathLike[str], fmt: str | None = None) -> str:
    """Return the format that `save_picture` gives a file of this name: 'PNG', 'JPEG', … Raises UserError."""
    path = Path(path)
    chosen = fmt.upper() if fmt else WRITABLE.get(path.suffix.lower(), "")
    if chosen not in WRITABLE.values():
        endings = ", ".join(WRITABLE)
        raise UserError(
            f"{printable(path.name)} does not name a format that can be written: end the name in {endings}."
        )
    return chosen


Use = Callable[[Image.Image, str, tuple[str, ...]], Result]
"""Takes a picture that is not decoded yet, its name for sentences, and notes about how it was read."""


def read_as(source: Source, use: Use[Result], most_pixels: int | None, name: str = "The picture") -> Result:
    """Open a picture, check its header and return what `use` makes of it. Raises UserError for whatever goes wrong.

    `name` is what sentences call a source that has no name of its own. Any size and shape will do where `most_pixels`
    is None.
    """
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), name, use, most_pixels)
    if not isinstance(source, (str, os.PathLike)):
        label = getattr(source, "name", None)
        name = printable(Path(label).name) if isinstance(label, str) else name
        return _decode(io.BytesIO(source.read()), name, use, most_pixels)
    path = Path(source)
    name = printable(path.name or str(path))
    check_picture_file(path)
    try:
        with path.open("rb") as stream:
            return _decode(stream, name, use, most_pixels)
    except PermissionError as error:
        raise UserError(f"{name} may not be read: change its permissions or copy it.") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{name} could not be read ({reason_of(error)}): copy it again.") from error


def _decode(stream: IO[bytes], name: str, use: Use[Result], most_pixels: int | None) -> Result:
    head = stream.read(16)
    if not head:
        raise UserError(f"{name} is empty: copy it again from its source.")
    if is_camera_raw(stream):
        raise UserError(f"{name} is a camera's raw file: save it as JPEG, PNG or TIFF with the camera's own program.")
    fmt, opener = ("HEIF", heic_opener(stream, name)) if is_heic(stream) else _opener_for(head, name)
    try:
        file, broken = without_broken_metadata(stream, fmt)
        notes = (f"Metadata in {name} is damaged or too large: it was left out.",) if broken else ()
        with opener(file, "") as image:
            if fmt == "TIFF":
                _go_to_full_size(image)
                name_planes(image)
            if most_pixels is not None:
                _check_size(image.size, name, most_pixels)
            return use(image, name, notes)
    except UserError:
        raise
    except MemoryError as error:
        raise UserError(f"{name} does not fit into memory: make it smaller first.") from error
    except Exception as error:  # decoders raise nearly anything on hostile files
        reason = reason_of(error)
        if reason == "unknown pixel mode":
            raise UserError(f"{name} is of a kind of {fmt} that cannot be read here: save it as PNG.") from error
        cut = isinstance(error, (EOFError, struct.error)) or "truncated" in reason.lower()
        state = "cut short" if cut else f"damaged ({reason})"
        raise UserError(f"{name} is {state}: copy it again from its source.") from error


def _opener_for(head: bytes, name: str) -> tuple[str, Callable[[IO[bytes], str], Any]]:
    """Return the format of a file that begins so, and what opens it. Raises UserError for one that is not read here."""
    # Not Image.open: its limit on pixels is global, and lower than a phone's 200 megapixels.
    Image.init()
    openers = {**Image.OPEN, "JPEG": (JpegFile, Image.OPEN["JPEG"][1])}
    for fmt in READABLE:
        accept = openers[fmt][1] if fmt in openers else None
        if accept and accept(head) is True:
            return fmt, openers[fmt][0]
    known = "PNG, JPEG, WebP, BMP, TIFF, GIF, AVIF or HEIC"
    raise UserError(f"{name} is not a picture that can be read here: use {known}.")


def _has_frames(image: Image.Image) -> bool:
    """Whether there is more than one picture in a file, besides reduced versions of one."""
    if image.format != "TIFF":
        return getattr(image, "is_animated", False)
    return list(itertools.islice(_pages(image), MOST_PAGES)).count(False) > 1


def _pages(image: Image.Image) -> Iterator[bool]:
    """Go from page to page of a TIFF; yield for each whether it is a reduced version of another (TIFF 6.0, tag 254)."""
    for page in itertools.count():
        try:
            image.seek(page)
        except EOFError:
            return
        yield image.tag_v2.get(SUBFILE_TYPE, 0) & 1 == 1  # type: ignore[attr-defined]


def _go_to_full_size(image: Image.Image) -> None:
    """Go to the first page of a TIFF that is no reduced version of another, if there is one."""
    if all(itertools.islice(_pages(image), MOST_PAGES)):
        image.seek(0)


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


def _to_picture(image: Image.Image, name: str, known: tuple[str, ...], *, with_deep: bool, most_whole: int) -> Picture:
    notes = list(known)
    samples = deep_pixels_of(image) if with_deep else None
    width, height = image.size
    if image.format in ("JPEG", "MPO") and width * height > most_whole:
        image.draft(None, (width // 2, height // 2))
        notes.append(f"{name} is {width} x {height} pixels: it was read at half size.")
    image.load()
    if isinstance(image, JpegFile) and image.missing is not None:
        lost = f"about {max(1, round(100 * image.missing))} % of the picture" if image.missing else "next to nothing"
        notes.append(f"{name} is cut short: {lost} is missing.")
    texts = texts_of(image)
    exif = exif_of(image)
    base, alpha, stretched = split_alpha(image)
    if alpha is not None and is_clear(alpha):
        alpha = None
        notes.append(f"{name} is transparent everywhere: it was read as if it were opaque.")
    if stretched:
        notes.append(f"{name} has an unusual range of values: its darkest became black, its lightest white.")
    turn = UPRIGHT.get(exif.get(ORIENTATION, 1)) if image.format != "TIFF" else None  # Pillow turns it while loading
    if turn is not None:
        base, alpha = base.transpose(turn), alpha and alpha.transpose(turn)
    profile = image.info.get("icc_profile")
    rgb, icc = to_rgb(base, profile)
    if alpha is not None:
        rgb = on_white(rgb, alpha)
    rgb.info = {}
    kept = base.mode == "RGB" or icc == profile  # a profile of grey was applied
    deep = samples.read(base, turn, alpha) if samples is not None and kept else None
    if _has_frames(image):  # asked last: it may move on to the next frame
        notes.append(f"{name} has several frames: the first one is used.")
    return Picture(rgb, name, alpha, exif_bytes(exif) or None, icc, texts, tuple(notes), deep)


def texts_of(image: Image.Image) -> dict[str, str]:
    """Return the texts of an open picture; pixels are not decoded."""
    texts = {str(key): str(value) for key, value in image.info.items() if isinstance(value, str)}
    if image.format == "GIF" and isinstance(comment := image.info.get("comment"), bytes):
        texts.setdefault(PARAMETERS, comment.decode("utf-8", "replace"))
    if PARAMETERS not in texts:
        comment = comment_text(exif_of(image).get_ifd(EXIF_IFD).get(USER_COMMENT))
        if comment.strip():
            texts[PARAMETERS] = comment
    return texts
