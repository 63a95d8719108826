"""Adaptive projected guidance against burnt colours at high Text CFG (Sadat et al. 2024, arXiv 2410.02416).

For three rows: the guidance is what is added to the full row, guided = full + (s_T - 1) D. Of D, a part along the full
row itself mostly makes colours stronger (eta), and a long one burns them (threshold); momentum adds some of the last.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Projection:
    """How the guidance is tamed. The defaults leave it as it is."""

    eta: float = 1.0
    """The share, 0..1, of what lies along the full row."""
    threshold: float = 0.0
    """The greatest norm of D over a picture's latent; 0 is none."""
    momentum: float = 0.0
    """Times the last D, added to D."""


class ProjectedGuidance:
    """The projection over the calls of one sampling."""

    def __init__(self, projection: Projection) -> None:
        self._projection = projection
        self._last: Tensor | None = None

    def __call__(self, guided: Tensor, full: Tensor, text_cfg: float | Tensor) -> Tensor:
        """Guided and full denoised [B, C, h, w] -> guided [B, C, h, w]; at Text CFG 1 there is nothing to tame.

        `text_cfg` is that of all pictures, or [B, 1, 1, 1] with that of each.
        """
        if isinstance(text_cfg, Tensor):
            plain = text_cfg == 1.0
            return torch.where(plain, guided, self._tamed(guided, full, torch.where(plain, 2.0, text_cfg)))
        return guided if text_cfg == 1.0 else self._tamed(guided, full, text_cfg)

    def _tamed(self, guided: Tensor, full: Tensor, text_cfg: float | Tensor) -> Tensor:
        pull = (guided - full) / (text_cfg - 1)
        one, dims = self._projection, tuple(range(1, pull.ndim))
        if one.momentum:
            if self._last is not None and self._last.shape == pull.shape:
                pull = pull + one.momentum * self._last
            self._last = pull
        if one.threshold:
            norm = pull.square().sum(dim=dims, keepdim=True).sqrt()
            pull = pull * (one.threshold / norm.clamp(min=1e-12)).clamp(max=1)
        if one.eta != 1.0:
            along = (full * pull).sum(dim=dims, keepdim=True) / full.square().sum(dim=dims, keepdim=True)
            pull = pull + (one.eta - 1) * along * full
        return full + (text_cfg - 1) * pull
