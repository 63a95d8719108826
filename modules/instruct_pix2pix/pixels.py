"""Pixels of any depth and colour model as 8-bit RGB, and the modes that a file format stores."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, ImageCms

BAND_VALUES = 1 << 20
"""Deep grey values that are scaled at once."""


def split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None, bool]:
    """Return the picture as 8 bits without alpha, its alpha (L; None if opaque), and whether it was stretched.

    A picture is stretched when the range of its deep grey values had to be fitted (see `eight_bit`).
    """
    alpha = None
    stretched = False
    if image.mode == "F" or image.mode.startswith("I"):
        values = np.asarray(image)
        clear = image.info.get("transparency")
        if isinstance(clear, int):
            alpha = Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8))
        eight, stretched = eight_bit(values)
        image = Image.fromarray(eight)
    elif image.mode == "LA":
        image, alpha = image.split()
    elif image.mode in ("RGBA", "RGBa", "PA", "La") or "transparency" in image.info:
        image = image if image.mode == "RGBA" else image.convert("RGBA")  # a copy, else
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    if alpha is not None and alpha.getextrema() == (255, 255):
        alpha = None
    return image, alpha, stretched


def grey_mask(image: Image.Image) -> Image.Image:
    """Return what a picture of any mode means as a mask (L): white is edited, black is kept.

    Of a picture with transparency the opaque part is edited, whatever its colours, as in the AUTOMATIC1111 web UI
    (`create_binary_mask` in its modules/processing.py). One that is transparent everywhere is taken as opaque.
    """
    if image.mode == "L" and "transparency" not in image.info:
        return image
    base, alpha, _ = split_alpha(image)
    return base.convert("L") if alpha is None or is_clear(alpha) else alpha


def is_clear(alpha: Image.Image) -> bool:
    """Whether an alpha is 0 everywhere: some programs leave it so in pictures that are opaque to them."""
    return alpha.getextrema() == (0, 0)


def eight_bit(values: np.ndarray) -> tuple[np.ndarray, bool]:
    """Scale deep values, [h, w] or [h, w, channels], to uint8; True if their range had to be stretched to fit.

    Integers are 16-bit, 0..65535; floats are 0..1, or 0..255, or 0..65535, whichever first holds them.
    """
    rows = max(1, BAND_VALUES // values.shape[1])
    bands = [slice(start, start + rows) for start in range(0, len(values), rows)]  # float64 of all would be too much
    eight = np.empty(values.shape, np.uint8)
    if values.dtype.kind == "u":
        for band in bands:
            eight[band] = (values[band].astype(np.uint32) * 255 + 32767) // 65535
        return eight, False

    def finite(band: slice) -> np.ndarray:
        return np.where(np.isfinite(values[band]), values[band], 0).astype(np.float64)

    tops = (1, 255, 65535) if values.dtype.kind == "f" else (65535,)
    low, high = min(float(finite(band).min()) for band in bands), max(float(finite(band).max()) for band in bands)
    top = next((top for top in tops if low >= 0 and high <= top), None)
    for band in bands:
        part = finite(band)
        eight[band] = np.rint(part * (255 / top) if top else (part - low) * (255 / (high - low)))
    return eight, top is None


def to_rgb(image: Image.Image, icc: bytes | None) -> tuple[Image.Image, bytes | None]:
    """Return the picture in RGB, and the colour profile that still applies to it, if any.

    An RGB profile is kept beside the numbers; grey and CMYK profiles cannot be kept, so they are applied (to sRGB).
    """
    space = icc[16:20] if icc else b""  # ICC.1, 7.2.6: the header's data colour space
    try:
        if image.mode == "RGB" and type(image) is Image.Image:  # no file's own, which closes with it
            return image, icc if space == b"RGB " else None
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


def writable(image: Image.Image, chosen: str) -> Image.Image:
    """Return a copy in a mode that the format stores, without the metadata that Pillow would write unasked."""
    base, alpha, _ = split_alpha(image)
    rgb = base.copy() if base.mode in ("RGB", "L") else base.convert("RGB")
    if alpha is not None and chosen == "JPEG":
        rgb = on_white(rgb, alpha)
    elif alpha is not None:
        rgb = rgb.convert("RGB")
        rgb.putalpha(alpha)
    rgb.info = {}
    return rgb
