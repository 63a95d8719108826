"""A result at the picture's own size: what the model did to a small copy, done to the picture itself.

Near each place of the small copy the edit is read as an affine map of colours, fitted in a window (He, Sun, Tang,
Guided image filtering, ECCV 2010). The maps, made larger, are applied to the picture, whose detail so stays. What they
do not explain, such as a new object, is taken from the small edit, sharper by back projection, and the picture's detail
is let go of there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from PIL import Image, ImageFilter

from .back_projection import back_projected, resized

Advance = Callable[[float], None]
"""Told after each strip what share is done, 0..1; what it raises ends the work."""

RADIUS = 3
"""Pixels: windows of the small copy are seven wide."""
RIDGE = 1e-4
"""Variance (of 0..1) that a window must have to be believed beside the map of the whole picture."""
MOST_CHANGE = 1.5
"""How far a window's map may be from that of the whole picture (Frobenius norm): dull windows would say anything."""
BLURS = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.3)
"""Sigmas in pixels that a VAE's blur is looked for among."""
MOST_NOISE = 4 / 255
"""Standard deviation that is still taken for a VAE's noise."""
DRIFT = 24 / 255
"""Differences at a mask's edge well below this are the VAE's, and are taken back there; larger ones are the edit."""
LEAST_NEW = 0.05
"""Places of which less is new are not looked at again."""
MOST_NEW = 0.5
"""Where more of a picture is new than this share, it was not edited in a part, but the maps do not fit it."""
MARGIN = 8
"""Pixels beside what is new that are looked at with it."""
STRIP_PIXELS = 1 << 19

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Maps:
    """The edit as maps of colours, edited = gain @ colour + offset, at the small size, float32, of values 0..1."""

    gain: np.ndarray
    """[h, w, 3, 3], output channel first."""
    offset: np.ndarray
    """[h, w, 3]."""
    finer: np.ndarray | None = None
    """[2 h, 2 w, 3], added: detail of what is new in the edit; None where nothing is."""


def enlarge(
    picture: np.ndarray,
    before: Image.Image,
    after: Image.Image,
    inside: Image.Image | None = None,
    advance: Advance | None = None,
) -> np.ndarray:
    """Return the edit `before` -> `after` (RGB, one size) made on `picture` ([H, W, 3], uint8 or uint16), like it.

    All have the same framing. `inside` (L, any size) tells where: 255 edited, 0 kept bit for bit, blended in between.
    """
    height, width = picture.shape[:2]
    small = None if inside is None else _values(inside.resize(before.size, Image.Resampling.BOX))
    result = picture.copy()
    if inside is not None and not inside.getbbox():
        return result
    maps = colour_maps(_values(before), _values(after), small)
    planes = [_image(plane) for plane in np.moveaxis(maps.gain.reshape(*maps.gain.shape[:2], 9), -1, 0)]
    planes += [_image(plane) for plane in np.moveaxis(maps.offset, -1, 0)]
    finer = [] if maps.finer is None else [_image(plane) for plane in np.moveaxis(maps.finer, -1, 0)]
    seam = None if small is None else _image(_feather(small))
    top = np.iinfo(picture.dtype).max
    rows = max(1, STRIP_PIXELS // width)
    for start in range(0, height, rows):
        end = min(height, start + rows)
        cut = partial(_strip, size=(width, height), rows=(start, end))
        share: np.ndarray | None = None
        if inside is not None and seam is not None:
            share = cut(inside) / np.float32(255)
            if not share.any():
                continue
            share *= cut(seam)
        strip = picture[start:end].astype(np.float32) / top
        for channel in range(3):
            # gains and offsets are enlarged alike: colours are a sum of both
            edited = cut(planes[9 + channel], how=Image.Resampling.BICUBIC).copy()
            for source in range(3):
                edited += cut(planes[3 * channel + source], how=Image.Resampling.BICUBIC) * strip[..., source]
            if finer:
                edited += cut(finer[channel], how=Image.Resampling.BICUBIC)
            np.clip(edited, 0, 1, out=edited)
            if share is not None:
                edited -= strip[..., channel]
                edited *= share
                edited += strip[..., channel]
            edited *= top
            values = np.rint(edited, out=edited).astype(picture.dtype)
            if share is None:
                result[start:end, :, channel] = values
            else:
                np.copyto(result[start:end, :, channel], values, where=share > 0)
        if advance:
            advance(end / height)
    return result


def _strip(
    image: Image.Image,
    size: tuple[int, int],
    rows: tuple[int, int],
    how: Image.Resampling = Image.Resampling.BILINEAR,
) -> np.ndarray:
    """Return those rows of an image enlarged to `size` (width, height)."""
    scale = image.height / size[1]
    box = (0, rows[0] * scale, image.width, min(image.height, rows[1] * scale))
    return np.asarray(image.resize((size[0], rows[1] - rows[0]), how, box))


def colour_maps(before: np.ndarray, after: np.ndarray, inside: np.ndarray | None = None) -> Maps:
    """Read an edit, [h, w, 3] of 0..1 each, as maps of colours; with `inside` [h, w], of what is inside alone."""
    weight = np.ones(before.shape[:2], np.float32) if inside is None else np.maximum(inside, 1e-3)
    blur = _blur_between(before @ LUMA, after @ LUMA)
    seen = _gaussian(before, blur)  # what the VAE would have made of the picture as it was
    gain, offset = _fitted(seen, after, weight)
    left = after - (_applied(gain, seen) + offset)

    # the noise of the VAE is in all that is left; what is more than noise belongs to the edit
    error = _mean(left**2, weight).mean(-1, keepdims=True)
    typical = float(np.median(error))
    noise = min(typical, MOST_NOISE**2)
    sure = np.clip(1 - 2 * noise / np.maximum(error, 1e-12), 0, 1)
    new = sure * left
    new += new - _gaussian(new, blur)  # undoes a part of the blur

    # the picture's own detail stays as far as it explains the edit: a little less of it is seen less than a ghost
    detail = _applied(gain, seen - _mean(seen, weight))
    explained = _mean(detail**2, weight).mean(-1, keepdims=True)
    kept = explained / np.maximum(explained + 6 * np.maximum(error - 4 * noise, 0), 1e-12)
    kept[error <= 4 * noise] = 1
    edited = _applied(gain, before) + offset + new
    if inside is not None:
        edited += _drift(seen - after, inside)
    gain = gain * kept[..., None]
    new = 1 - kept if inside is None else (1 - kept) * inside[..., None]
    return Maps(gain, edited - _applied(gain, before), _finer(after, edited, new, blur, typical**0.5))


def _finer(after: np.ndarray, edited: np.ndarray, new: np.ndarray, blur: float, noise: float) -> np.ndarray | None:
    """Return what `edited` lacks of the edit at twice its size, by how much of it is `new`, [h, w, 1] of 0..1."""
    if new.mean() > MOST_NEW:
        return None
    places = np.argwhere(new[..., 0] > LEAST_NEW)
    if not len(places):
        return None
    (top, left), (bottom, right) = np.maximum(places.min(0) - MARGIN, 0), places.max(0) + 1 + MARGIN
    part = np.s_[top:bottom, left:right]
    seen, plain = after[part], edited[part]
    height, width = seen.shape[:2]
    twice = resized(plain, (2 * width, 2 * height))
    sharp = back_projected(seen, twice, lambda picture: _gaussian(resized(picture, (width, height)), blur), noise)
    result = np.zeros((2 * new.shape[0], 2 * new.shape[1], 3), np.float32)
    result[2 * top : 2 * bottom, 2 * left : 2 * right] = (sharp - twice) * resized(new[part], (2 * width, 2 * height))
    return result


def _fitted(seen: np.ndarray, after: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the gain and offset of each window, averaged over the windows that a pixel lies in."""
    h, w = weight.shape

    def products(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (a[..., :, None] * b[..., None, :]).reshape(h, w, 9)

    mean, target = _mean(seen, weight), _mean(after, weight)
    squares = _mean(products(seen, seen), weight) - products(mean, mean)
    cross = _mean(products(after, seen), weight) - products(target, mean)

    def slope(squares: np.ndarray, cross: np.ndarray, toward: np.ndarray) -> np.ndarray:
        """Return (cross + RIDGE * toward) @ inverse(squares + RIDGE), the second of which is symmetric."""
        shape = (*squares.shape[:2], 3, 3)
        right = (cross.reshape(shape) + RIDGE * toward).swapaxes(-1, -2)
        return np.linalg.solve(squares.reshape(shape) + RIDGE * np.eye(3, dtype=np.float32), right).swapaxes(-1, -2)

    def pooled(values: np.ndarray) -> np.ndarray:
        return (values * weight[..., None]).mean((0, 1), keepdims=True) / weight.mean()

    # the map of the whole picture is that of its detail: colours of far places also differ by what stands there
    general = slope(pooled(squares), pooled(cross), np.eye(3, dtype=np.float32))
    change = slope(squares, cross, general) - general
    length = np.sqrt((change**2).sum((-1, -2), keepdims=True))
    gain = general + change * np.minimum(1, MOST_CHANGE / np.maximum(length, 1e-6))
    offset = target - _applied(gain, mean)
    return _mean(gain.reshape(h, w, 9), weight).reshape(h, w, 3, 3), _mean(offset, weight)


def _blur_between(before: np.ndarray, after: np.ndarray) -> float:
    """Return the sigma at which one grey picture, blurred, explains the other best where both have detail."""

    after = after[..., None]
    target = _mean(after)
    target_spread = _mean(after * after) - target * target

    def unexplained(sigma: float) -> tuple[np.ndarray, np.ndarray]:
        blurred = _gaussian(before[..., None], sigma)
        mean = _mean(blurred)
        spread, shared = _mean(blurred * blurred) - mean * mean, _mean(blurred * after) - mean * target
        slope = shared / (spread + RIDGE)
        return target_spread - 2 * slope * shared + slope * slope * spread, spread

    _, spread = unexplained(0)
    lively = spread >= np.median(spread)
    return min(BLURS, key=lambda sigma: float(np.median(unexplained(sigma)[0][lively])))


def _drift(difference: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """Return what takes back small differences at the edge of `inside`, and fades away from it."""
    outside = _gaussian(1 - inside[..., None], 4)
    rim = inside[..., None] * _gaussian(1 - inside[..., None], 1.5)
    at_edge = _gaussian(rim * difference, 3) / np.maximum(_gaussian(rim, 3), 1e-6)
    size = np.abs(at_edge).max(-1, keepdims=True)
    return at_edge * np.exp(-((size / DRIFT) ** 2)) * np.minimum(1, 2 * outside)


def _feather(inside: np.ndarray) -> np.ndarray:
    """Return a factor [h, w] that rises from 0 at the edge of `inside` to 1 within a pixel or two."""
    soft = _gaussian(inside[..., None], 0.7)[..., 0]
    peak = (
        np.asarray(Image.fromarray(np.rint(soft * 255).astype(np.uint8)).filter(ImageFilter.MaxFilter(5)), np.float32)
        / 255
    )
    return np.clip(2 * soft / np.maximum(peak, 1 / 255) - 1, 0, 1)  # by the peak: thin strokes keep their middle


def _values(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.float32) / 255


def _image(plane: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(plane, np.float32))


def _applied(gain: np.ndarray, colours: np.ndarray) -> np.ndarray:
    return (gain @ colours[..., None])[..., 0]


def _mean(values: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """Average [h, w, c] over windows, of which only what lies in the picture counts."""
    if weight is not None:
        return _mean(values * weight[..., None]) / _mean(weight[..., None])
    result = np.empty(values.shape, np.float32)
    for channel in range(values.shape[2]):
        plane = values[..., channel]
        for _ in range(2):
            size = len(plane)
            sums = np.zeros((size + 1, plane.shape[1]))
            np.cumsum(plane, 0, out=sums[1:])
            first = np.maximum(np.arange(size) - RADIUS, 0)
            last = np.minimum(np.arange(size) + RADIUS + 1, size)
            plane = ((sums[last] - sums[first]) / (last - first)[:, None]).T
        result[..., channel] = plane
    return result


def _gaussian(values: np.ndarray, sigma: float) -> np.ndarray:
    """Blur [h, w, c]; beyond an edge the edge goes on."""
    if sigma == 0:
        return values
    reach = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2).astype(np.float32)
    kernel /= kernel.sum()
    for axis in (0, 1):
        padded = np.pad(values, [(reach, reach) if a == axis else (0, 0) for a in range(3)], mode="edge")
        size = values.shape[axis]
        values = np.zeros_like(values)
        for first, share in enumerate(kernel):
            values += share * padded.take(range(first, first + size), axis)
    return values
