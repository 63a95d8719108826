"""Large pictures through the VAE in overlapping tiles, blended where they overlap."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def in_tiles(function: Callable[[Tensor], Tensor], x: Tensor, *, tile: int, overlap: int, scale: float) -> Tensor:
    """Apply `function` to x [B, C, H, W] tile by tile -> [B, C', H * scale, W * scale], float32.

    `tile` and `overlap` are in pixels of x and multiples of 1 / scale. A picture no larger than a tile is not divided.
    Neighbouring tiles are blended by a linear ramp as wide as their overlap.
    """
    height, width = x.shape[-2:]
    if height <= tile and width <= tile:
        return function(x).float()
    total: Tensor | None = None
    weights: Tensor | None = None
    for top in _starts(height, tile, overlap):
        for left in _starts(width, tile, overlap):
            part = x[..., top : top + tile, left : left + tile]
            y = function(part).float()
            if total is None or weights is None:
                size = (round(height * scale), round(width * scale))
                total = y.new_zeros(*y.shape[:2], *size)
                weights = y.new_zeros(size)
            rows = slice(round(top * scale), round(top * scale) + y.shape[-2])
            columns = slice(round(left * scale), round(left * scale) + y.shape[-1])
            ramp = round(overlap * scale)
            weight = _ramp(y.shape[-2], ramp).to(y)[:, None] * _ramp(y.shape[-1], ramp).to(y)[None]
            total[..., rows, columns] += y * weight
            weights[rows, columns] += weight
    assert total is not None and weights is not None
    return total / weights


def _starts(length: int, tile: int, overlap: int) -> list[int]:
    """Return where tiles begin; the last one ends where the picture ends."""
    if length <= tile:
        return [0]
    return [*range(0, length - tile, tile - overlap), length - tile]


def _ramp(length: int, ramp: int) -> Tensor:
    """Return weights that rise from nearly 0 over `ramp` pixels at both ends; never 0, as a border has but one tile."""
    rise = (torch.arange(length) + 1.0) / (ramp + 1)
    return torch.minimum(rise, rise.flip(0)).clamp(max=1.0)
