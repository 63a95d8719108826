"""What a picture means as a mask, and pictures that say they are transparent everywhere."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, features

from instruct_pix2pix.conditioning import fit
from instruct_pix2pix.engine.edit_batch import FittedPicture
from instruct_pix2pix.images import open_picture
from instruct_pix2pix.pixels import grey_mask

AVIF = ["AVIF"] if features.check("avif") else []
CLEAR = "The picture is transparent everywhere: it was read as if it were opaque."


def encoded(image: Image.Image, fmt: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


def half(mode: str, clear: tuple[int, ...], solid: tuple[int, ...]) -> Image.Image:
    """A picture whose left half is transparent."""
    image = Image.new(mode, (32, 16), clear)
    image.paste(solid, (16, 0, 32, 16))
    return image


def painted() -> dict[str, bytes]:
    """White on transparent in every way that a file has for it."""
    rgba = half("RGBA", (255, 255, 255, 0), (255, 255, 255, 255))
    grey = half("LA", (255, 0), (255, 255))
    palette = Image.new("P", (32, 16), 0)
    palette.putpalette([255, 255, 255, 255, 255, 254])
    palette.paste(1, (16, 0, 32, 16))
    keyed = half("RGB", (254, 254, 254), (255, 255, 255))
    level = Image.new("L", (32, 16), 254)
    level.paste(255, (16, 0, 32, 16))
    deep = Image.fromarray(np.where(np.arange(32) < 16, 65534, 65535).astype(np.uint16)[None].repeat(16, 0))
    files = {f"RGBA {fmt}": encoded(rgba, fmt) for fmt in ("PNG", "TIFF", *AVIF)}
    files["RGBA WEBP"] = encoded(rgba, "WEBP", lossless=True, exact=True)
    files |= {"LA PNG": encoded(grey, "PNG"), "LA TIFF": encoded(grey, "TIFF"), "GIF": encoded(rgba, "GIF")}
    files["palette, index"] = encoded(palette, "PNG", transparency=0)
    files["palette, alphas"] = encoded(palette, "PNG", transparency=b"\x01\xff")
    files["RGB, colour key"] = encoded(keyed, "PNG", transparency=(254, 254, 254))
    files["grey, key"] = encoded(level, "PNG", transparency=254)
    files["16-bit grey, key"] = encoded(deep, "PNG", transparency=65534)
    plain, premultiplied = (struct.pack("<HHIHH", 338, 3, 1, kind, 0) for kind in (2, 1))  # ExtraSamples
    assert plain in encoded(rgba, "TIFF")
    files["premultiplied TIFF"] = encoded(rgba, "TIFF").replace(plain, premultiplied)
    return files


@pytest.mark.parametrize("name", painted())
def test_of_a_transparent_mask_the_opaque_part_is_edited(name: str) -> None:
    mask = open_picture(painted()[name]).mask
    assert mask.mode == "L"
    values = np.asarray(mask).astype(int)
    assert values[:, :15].max() <= 3 and values[:, 17:].min() >= 252


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "P", "RGBA", "LA", "I;16"])
def test_of_an_opaque_mask_the_white_part_is_edited(mode: str) -> None:
    grey = Image.new("L", (32, 16))
    grey.paste(255, (16, 0, 32, 16))
    image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else grey.convert(mode)
    for mask in (open_picture(encoded(image, "PNG")).mask, grey_mask(image)):
        assert np.array_equal(np.asarray(mask), np.asarray(grey))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_a_mask_that_a_program_hands_over_means_the_same(mode: str) -> None:
    image = half(mode, *{"RGBA": ((255,) * 3 + (0,), (0, 0, 0, 255)), "LA": ((255, 0), (0, 255))}[mode])
    fitted = FittedPicture.by(fit(64, 64, 64, 8), Image.new("RGB", (64, 64)), image, 8)
    assert fitted.keep is not None
    assert fitted.keep[..., :3].min() == 1 and fitted.keep[..., 5:].max() == 0


def bmp(alpha: int, header: int, compression: int, masks: tuple[int, ...] = ()) -> bytes:
    """A BMP of 2 x 2 pixels of 32 bits; headers are told by their size."""
    pixels = bytes([10, 20, 30, alpha]) * 4
    words = struct.pack("<IiiHHIIiiII", header, 2, 2, 1, 32, compression, len(pixels), 0, 0, 0, 0)
    words += struct.pack(f"<{len(masks)}I", *masks)
    words = words.ljust(header, b"\0")
    return b"BM" + struct.pack("<IHHI", 14 + len(words) + 16, 0, 0, 14 + len(words)) + words + pixels


COLOURS = (0xFF0000, 0xFF00, 0xFF)


@pytest.mark.parametrize(
    "data",
    [bmp(0, 40, 0), bmp(0, 40, 3, COLOURS), bmp(0, 56, 3, (*COLOURS, 0)), bmp(0, 124, 0)],
    ids=["plain", "three masks", "no mask for alpha", "version 5"],
)
def test_a_bitmap_without_alpha_is_opaque(data: bytes) -> None:
    picture = open_picture(data)
    assert picture.image.getpixel((0, 0)) == (30, 20, 10)
    assert (picture.alpha, picture.notes) == (None, ())


def all_clear() -> dict[str, bytes]:
    image = Image.new("RGBA", (16, 16), (30, 20, 10, 0))
    files = {fmt: encoded(image, fmt) for fmt in ("PNG", "TIFF", *AVIF)}
    files["WEBP"] = encoded(image, "WEBP", lossless=True, exact=True)
    files["BMP"] = bmp(0, 124, 3, (*COLOURS, 0xFF000000))
    return files


@pytest.mark.parametrize("fmt", all_clear())
def test_a_picture_that_is_transparent_everywhere_is_read_as_opaque_and_that_is_said(fmt: str) -> None:
    picture = open_picture(all_clear()[fmt])
    assert np.abs(np.asarray(picture.image).astype(int) - (30, 20, 10)).max() <= 3
    assert (picture.alpha, picture.notes) == (None, (CLEAR,))


def test_a_mask_that_is_transparent_everywhere_is_read_as_opaque(tmp_path: Path) -> None:
    image = Image.new("RGBA", (32, 16), (0, 0, 0, 0))
    image.paste((255, 255, 255, 0), (16, 0, 32, 16))
    image.save(tmp_path / "mask.png")
    values = np.asarray(open_picture(tmp_path / "mask.png").mask)
    assert values[:, :16].max() == 0 and values[:, 16:].min() == 255
