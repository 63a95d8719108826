"""Cheaper guidance: at most steps only the full row is evaluated; what the guidance adds to it is an earlier step's.

With one instruction the guided noise is, by the sum in `rows`, that of the full row and what the guidance adds to it:

    guided = full + (s_T - 1) * (full - image_only) + (s_I - 1) * (image_only - null)

As predicted noise that addition changes slowly from step to step (the observation behind Adaptive Guidance, Castillo
et al. 2023, arXiv 2312.12487, and the CFG cache of FasterCache, Lv et al. 2024, arXiv 2410.19355). So all rows are
evaluated at some steps, and the addition found there is used until the next of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

SHARES = {"exact": 1.0, "balanced": 0.5, "fast": 0.25}
"""The speeds of `settings.SPEEDS`, each with the share of the steps at which every row is evaluated."""
REUSING = frozenset({"fast"})
"""Those at which a model of ours also reuses deep features, as `deep` says."""


@lru_cache
def whole_steps(speed: str, steps: int) -> frozenset[int]:
    """Return the steps, counted from 0, at which every row is evaluated: the first, the last, and more near the end.

    There sigma falls by the largest factors, and no steps are left to correct a difference.
    """
    gaps = min(steps, max(3, math.ceil(steps * SHARES[speed]))) - 1
    if gaps in (0, steps - 1):
        return frozenset(range(steps))
    return frozenset(steps - 1 - round((steps - 1) * (k / gaps) ** 1.25) for k in range(gaps + 1))


@dataclass(frozen=True)
class SamplingStep:
    """Where in a sampling a denoiser is called, and with what. In a host a step is a call of its denoiser."""

    step: int
    """From 0."""
    steps: int
    level: float
    """Sigma, or the timestep; it falls."""
    scales: tuple[float, ...]
    texts: tuple[Tensor, ...]


class CachedGuidance:
    """What the guidance adds to the full row, kept between the steps of one sampling.

    Steps may come in any order, several times, and at other sizes: what does not fit is evaluated again.
    """

    def __init__(self, speed: str) -> None:
        self._speed = speed
        self._kept: tuple[SamplingStep, Tensor] | None = None

    def serves(self, now: SamplingStep, shape: Sequence[int]) -> bool:
        """Whether what is kept can stand for the rows other than the full one, for latents of this shape.

        Not at the steps of `whole_steps`, nor above the noise level at which it was found, nor with other scales or
        texts.
        """
        if self._kept is None or min(now.step, now.steps - 1) in whole_steps(self._speed, now.steps):
            return False
        then, added = self._kept
        fits = added.shape == tuple(shape) and now.level <= then.level * (1 + 1e-5) and now.scales == then.scales
        return fits and len(now.texts) == len(then.texts) and all(map(_equal, now.texts, then.texts))

    def keep(self, now: SamplingStep, guided: Tensor, full: Tensor, sigma: float) -> None:
        """Keep what the guidance adds at a step with all rows, from its guided result and its full row.

        Both are denoised latents [B, 4, h, w], or predicted noise with `sigma` 1.
        """
        self._kept = now, (guided - full) / sigma

    def guided(self, full: Tensor, sigma: float) -> Tensor:
        """Return the guided [B, 4, h, w] of a step that this serves, from its full row."""
        assert self._kept is not None, "nothing is kept"
        return full + sigma * self._kept[1]


def _equal(a: Tensor, b: Tensor) -> bool:
    return a is b or torch.equal(a, b)
