"""A picture seen small and blurred comes back sharper, and no noisier."""

import numpy as np
from scipy.ndimage import gaussian_filter

from instruct_pix2pix.engine.back_projection import back_projected, resized

SIDE = 48


def see(picture: np.ndarray) -> np.ndarray:
    return gaussian_filter(resized(picture, (SIDE, SIDE)), (0.6, 0.6, 0))


def seen_and_guessed(truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    noise = np.random.default_rng(0).normal(0, 2 / 255, (SIDE, SIDE, 3)).astype(np.float32)
    seen = see(truth) + noise
    return seen, resized(seen, (2 * SIDE, 2 * SIDE))


def away(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.square(a - b)[8:-8, 8:-8].mean()))


def test_stripes_and_a_slanted_edge_come_back_sharper() -> None:
    y, x = np.mgrid[: 2 * SIDE, : 2 * SIDE]
    plane = np.where(x + 0.4 * y > 70, 0.2, np.where(y // 9 % 2, 0.9, 0.6)).astype(np.float32)
    truth = np.stack([plane, 0.5 * plane, 0.8 - 0.3 * plane], -1)
    seen, guess = seen_and_guessed(truth)
    assert away(back_projected(seen, guess, see, 2 / 255), truth) < 0.6 * away(guess, truth)


def test_a_slope_stays_one_and_its_noise_does_not_grow() -> None:
    plane = np.linspace(0.2, 0.8, 2 * SIDE, dtype=np.float32)[None, :, None]
    truth = np.broadcast_to(plane, (2 * SIDE, 2 * SIDE, 3))
    seen, guess = seen_and_guessed(truth)
    sharper = back_projected(seen, guess, see, 2 / 255)
    assert away(sharper, truth) < away(guess, truth)
    rise = np.diff(sharper.mean((0, 2))[8:-8])
    assert np.abs(rise - rise.mean()).max() < 1 / 255  # no steps


def test_what_is_seen_of_it_is_what_was_seen() -> None:
    truth = np.random.default_rng(1).random((12, 12, 3)).repeat(8, 0).repeat(8, 1).astype(np.float32)
    seen, guess = seen_and_guessed(truth)
    before, after = (np.abs(see(one) - seen).mean() for one in (guess, back_projected(seen, guess, see, 2 / 255)))
    assert after < 0.2 * before


def test_no_ring_stands_beside_an_edge_where_less_was_blurred_than_is_believed() -> None:
    edge = np.where(np.arange(2 * SIDE) < SIDE, 0.3, 0.7).astype(np.float32)[None, :, None]
    seen, guess = seen_and_guessed(np.broadcast_to(edge, (2 * SIDE, 2 * SIDE, 3)))
    sharper = back_projected(seen, guess, lambda picture: gaussian_filter(see(picture), (1.3, 1.3, 0)), 2 / 255)
    assert sharper.min() > 0.2 and sharper.max() < 0.8
