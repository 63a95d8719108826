"""A picture that is sharper than the one it was seen as: back projection, among pictures of few edges.

What is seen of the guess is compared with what was seen, and the difference is given back to the guess (Irani, Peleg,
Improving resolution by image registration, CVGIP 1991). Between these rounds its total variation falls a little (Rudin,
Osher, Fatemi, Physica D 1992; over the colours together), which keeps edges and wears noise and ringing down.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

ROUNDS = 24
STEPS = 2
"""Of smoothing, in each round."""
STEP, SOFT = 0.65, 1.5
"""Times the noise: what a step takes off an edge, and the difference of colour below which it takes in proportion."""
LEAST_NOISE = 2 / 255


def back_projected(
    seen: np.ndarray, guess: np.ndarray, see: Callable[[np.ndarray], np.ndarray], noise: float
) -> np.ndarray:
    """Return a picture near `guess`, [H, W, 3], of which `see` makes `seen`, [h, w, 3]; float32 of 0..1 each.

    `noise` is the standard deviation of that in `seen`.
    """
    noise = max(noise, LEAST_NOISE)
    result = guess.astype(np.float32)
    size = (guess.shape[1], guess.shape[0])
    least, most = (resized(bound, size) for bound in _range_around(seen))
    for _ in range(ROUNDS):
        result += resized(seen - see(result), size)
        for _ in range(STEPS):
            _smooth(result, noise)
        np.clip(result, np.minimum(least, guess), np.maximum(most, guess), out=result)  # no rings, whatever `see` is
    return result


def _range_around(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the most of each place of [h, w, c] and its eight neighbours."""
    padded = np.pad(picture, ((1, 1), (1, 1), (0, 0)), mode="edge")
    places = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (0, 1))
    return places.min((-2, -1)), places.max((-2, -1))


def resized(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return [h, w, c] of float32 in another size, (width, height); bicubic."""
    planes = [Image.fromarray(np.ascontiguousarray(plane, np.float32)) for plane in np.moveaxis(picture, -1, 0)]
    return np.stack([np.asarray(plane.resize(size, Image.Resampling.BICUBIC)) for plane in planes], -1)


def _smooth(picture: np.ndarray, noise: float) -> None:
    """Take one step down the total variation of [H, W, 3], in place, along columns and then along rows."""
    for rows in (picture, picture.swapaxes(0, 1)):
        rise = np.diff(rows, axis=0)
        height = np.sqrt(np.square(rise).sum(-1, keepdims=True) + np.float32((SOFT * noise) ** 2))
        rise *= np.float32(STEP * noise) / height
        rows[:-1] += rise
        rows[1:] -= rise
