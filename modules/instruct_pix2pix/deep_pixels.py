"""Pictures of 16 bits a channel, in and out of PNG and TIFF without loss, though Pillow has no such RGB mode."""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo, putchunk
from PIL.TiffTags import LONG

from .exif import tiff_tags

BAND_VALUES = 1 << 20
"""Values that are worked on at once."""

PNG_STRATEGY = zlib.Z_RLE
"""How zlib packs a PNG: in a photograph what else it could find takes three to five times as long and saves nothing."""

# What Pillow calls the layout of pixels in a file; ';16L' takes the last of a sample's two bytes, ';16B' the first.
_GREY = ("I;16", "I;16B", "I;16L", "I;16N")
_GREY_ALPHA = "LA;16B"
_COLOUR = ("RGB", "RGBX", "RGBA", "RGBa", "R", "G", "B", "A")
_OTHER = {"L": "B", "B": "L"}

# TIFF 6.0; 34675 is ICC.1, B.4.
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC, _OFFSETS, _SAMPLES = 256, 257, 258, 259, 262, 273, 277
_ROWS, _COUNTS, _PLANES, _EXTRA, _ICC = 278, 279, 284, 338, 34675


class DeepPixels:
    """The pixels of a picture of 16 bits a channel that is open, but not decoded yet.

    Pillow decodes colours to the high byte of each sample. A second decoding takes the low bytes.
    """

    def __init__(self, image: Image.Image) -> None:
        """`deep_pixels_of` makes it."""
        self._image, self._file, self._page = image, image.fp, image.tell()  # type: ignore[attr-defined]
        self._raw = _raw_modes(image)[0]

    def read(self, high: Image.Image, turn: Image.Transpose | None, alpha: Image.Image | None) -> np.ndarray:
        """Return the samples as RGB, laid on white by `alpha` (L): [H, W, 3] uint16, 0..65535.

        For when the picture is decoded: `high` is that without alpha, in 8 bits. It and `alpha` have been turned by
        `turn` already. Raises what Pillow raises.
        """

        def turned(image: Image.Image) -> Image.Image:
            return image if turn is None else image.transpose(turn)

        if self._raw in _GREY:
            parts, combine = [turned(self._image)], _grey
        elif self._raw == _GREY_ALPHA:
            parts, combine = [turned(self._decoded(lambda _: "RGBA"))], _grey_of_pairs  # of each sample two bytes
        else:
            low, combine = turned(self._decoded(lambda raw: _byte_of(raw, low=True))), _colour
            if self._raw.startswith("RGBa"):  # multiplied by alpha; Pillow divides by it in 8 bits
                high, combine = turned(self._decoded(lambda raw: _byte_of(raw, low=False))), _divided
            parts = [high, low]
        width, height = parts[0].size
        values = np.empty((height, width, 3), np.uint16)
        for top, bottom in _bands(height, 4 * width):
            box = (0, top, width, bottom)
            band = combine(*(np.asarray(part.crop(box)) for part in parts))
            if alpha is not None:
                weight = np.asarray(alpha.crop(box))[..., None].astype(np.uint32)
                band = (band * weight + 65535 * (255 - weight) + 127) // 255
            values[top:bottom] = band
        return values

    def _decoded(self, raw_mode: Callable[[str], str]) -> Image.Image:
        """Decode the file once more, with other raw modes."""
        self._file.seek(0)
        image = type(self._image)(self._file, "")  # type: ignore[call-arg]
        if self._page:
            image.seek(self._page)
        name_planes(image)
        _rename(image, raw_mode)
        image.load()
        return image


def deep_pixels_of(image: Image.Image) -> DeepPixels | None:
    """Return the pixels of a picture of 16 bits a channel that can be read without loss; None of any other.

    That is a PNG or a TIFF in RGB or grey, but for planes that are compressed one by one.
    """
    if image.format not in ("PNG", "TIFF") or not _raw_modes(image):
        return None
    if image.tile[0][0] == "libtiff" and image.tag_v2.get(_PLANES) == 2:  # type: ignore[attr-defined]
        return None
    known = (*_GREY, _GREY_ALPHA)
    return DeepPixels(image) if all(raw in known or _byte_of(raw, low=True) for raw in _raw_modes(image)) else None


def name_planes(image: Image.Image) -> None:
    """Make Pillow read the planes of a TIFF that stores R, G and B apart, uncompressed, in 16 bits: it takes 8."""
    tags: Any = getattr(image, "tag_v2", {})
    if tags.get(_PLANES) == 2 and set(tags.get(_BITS, ())) == {16}:
        order = "L" if tags.prefix == b"II" else "B"
        _rename(image, lambda raw: f"{raw};16{order}" if raw in ("R", "G", "B", "A") else raw)


def _raw_modes(image: Image.Image) -> list[str]:
    return [args if isinstance(args, str) else args[0] for *_, args in image.tile]  # type: ignore[attr-defined]


def _rename(image: Image.Image, raw_mode: Callable[[str], str]) -> None:
    tiles = []
    for tile in image.tile:  # type: ignore[attr-defined]
        args = tile[3]
        new = raw_mode(args) if isinstance(args, str) else (raw_mode(args[0]), *args[1:])
        tiles.append(getattr(tile, "_make", tuple)((*tile[:3], new)))
    image.tile = tiles  # type: ignore[attr-defined]


def _byte_of(raw: str, *, low: bool) -> str:
    """Return the raw mode that takes the high or the low byte of the samples of another; empty for one not of 16 bits.

    Alpha is taken as any other channel.
    """
    kind, _, order = raw.partition(";16")
    if order == "N":  # as libtiff hands samples over
        order = "L" if sys.byteorder == "little" else "B"
    if kind not in _COLOUR or order not in _OTHER:
        return ""
    return f"{kind.replace('a', 'A')};16{_OTHER[order] if low else order}"


def _grey(values: np.ndarray) -> np.ndarray:
    return values[..., None]


def _grey_of_pairs(pairs: np.ndarray) -> np.ndarray:
    return pairs[..., :1].astype(np.uint16) << 8 | pairs[..., 1:2]


def _colour(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    return high[..., :3].astype(np.uint16) << 8 | low[..., :3]


def _divided(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    values = high.astype(np.uint32) << 8 | low
    alpha = np.maximum(values[..., 3:], 1)
    return np.minimum((values[..., :3] * 65535 + alpha // 2) // alpha, 65535)


def _bands(height: int, row_values: int) -> Iterator[tuple[int, int]]:
    rows = max(1, BAND_VALUES // row_values)
    for top in range(0, height, rows):
        yield top, min(top + rows, height)


def with_alpha(values: np.ndarray, alpha: Image.Image) -> np.ndarray:
    """Return RGB [H, W, 3] uint16 with an alpha (L, of the same size) as its fourth channel: [H, W, 4] uint16."""
    return np.dstack((values, np.asarray(alpha).astype(np.uint16) * 257))


def deep_png(values: np.ndarray, texts: PngInfo, exif: bytes, icc: bytes | None) -> bytes:
    """Return RGB or RGBA, [H, W, 3 or 4] uint16, as a PNG of 16 bits a channel (PNG 3rd edition).

    Texts, EXIF and profile lie where Pillow puts them in a PNG of 8 bits.
    """
    height, width, channels = values.shape
    file = io.BytesIO()
    file.write(b"\x89PNG\r\n\x1a\n")
    putchunk(file, b"IHDR", struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[channels], 0, 0, 0))
    if icc:
        putchunk(file, b"iCCP", b"ICC Profile\0\0", zlib.compress(icc))
    for kind, data, *_ in texts.chunks:
        putchunk(file, kind, data)
    if exif:
        putchunk(file, b"eXIf", exif.removeprefix(b"Exif\0\0"))
    packer = zlib.compressobj(strategy=PNG_STRATEGY)
    for top, bottom in _bands(height, channels * width):
        row = values[top:bottom].astype(">u2", order="C").view(np.uint8).reshape(bottom - top, -1)
        filtered = np.empty((bottom - top, 1 + row.shape[1]), np.uint8)
        step = 2 * channels
        filtered[:, 0] = 1  # filter type 'Sub' (9.2): the difference from the same byte of the pixel before
        filtered[:, 1 : 1 + step] = row[:, :step]
        np.subtract(row[:, step:], row[:, :-step], out=filtered[:, 1 + step :])
        if data := packer.compress(filtered.data):
            putchunk(file, b"IDAT", data)
    putchunk(file, b"IDAT", packer.flush())
    putchunk(file, b"IEND", b"")
    return file.getvalue()


def deep_tiff(values: np.ndarray, exif: bytes, icc: bytes | None) -> bytes:
    """Return RGB or RGBA, [H, W, 3 or 4] uint16, as a TIFF of 16 bits a channel (TIFF 6.0), uncompressed as all here.

    `exif` is in its tags as Pillow puts it in a TIFF of 8 bits.
    """
    height, width, channels = values.shape
    tags = tiff_tags(exif)
    tags[_WIDTH], tags[_HEIGHT], tags[_ROWS] = width, height, height
    tags[_BITS], tags[_SAMPLES] = (16,) * channels, channels
    tags[_COMPRESSION], tags[_PHOTOMETRIC], tags[_PLANES] = 1, 2, 1
    if channels == 4:
        tags[_EXTRA] = 2  # alpha that the colours are not multiplied by
    if icc:
        tags[_ICC] = icc
    tags.tagtype[_COUNTS] = LONG
    tags[_COUNTS], tags[_OFFSETS] = values.nbytes, 0  # the latter counts from the end of the tags, where they are saved
    file = io.BytesIO()
    tags.save(file)
    for top, bottom in _bands(height, channels * width):
        file.write(values[top:bottom].astype("<u2", order="C").data)
    return file.getvalue()
