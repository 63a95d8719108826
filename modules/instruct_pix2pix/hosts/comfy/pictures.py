"""ComfyUI's pictures, [B, H, W, C] in 0..1, fitted to a model and back, and what is kept of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ...conditioning import Fit, fit

CELL = 8
"""Pixels of a latent cell."""


@dataclass(frozen=True)
class FittedBatch:
    """Pictures of one size as the model sees them."""

    plan: Fit
    pixels: Tensor
    """[B, H, W, 3] in 0..1, of the plan's `padded` size."""

    def undone(self, made: Tensor) -> Tensor:
        """Pictures [B, H, W, C] of `padded` size -> in the framing of the input, [B, h, w, C]."""
        width, height = self.plan.size
        return made[:, :height, :width]

    def share(self, cells: Tensor) -> Tensor:
        """Cells [B or 1, 1, h, w] in 0..1 -> the same for each pixel, [B or 1, H, W], of `padded` size."""
        width, height = self.plan.padded
        return F.interpolate(cells.float().cpu(), (height, width), mode="bilinear")[:, 0]

    def kept(self, made: Tensor, share: Tensor) -> Tensor:
        """Return pictures [B, H, W, 3] with the input's own pixels where `share` [B or 1, H, W] is 0."""
        mine = share.to(made)[..., None]
        return torch.where(mine > 0, self.pixels.to(made).lerp(made, mine), self.pixels.to(made))


def fitted(pictures: Tensor, longest: int) -> FittedBatch:
    """Fit pictures [B, H, W, C] to sides of at most `longest` pixels, as the rest of this program fits a picture."""
    height, width = pictures.shape[1:3]
    plan = fit(width, height, longest, CELL)
    levels = (pictures[..., :3].float().cpu() * 255).round().clamp(0, 255).byte().numpy()
    if levels.shape[-1] == 1:
        levels = levels.repeat(3, axis=-1)
    seen = [np.asarray(plan.apply(Image.fromarray(one))) for one in levels]
    return FittedBatch(plan, torch.from_numpy(np.stack(seen)).float() / 255)


def fitted_mask(mask: Tensor, plan: Fit) -> Tensor:
    """Fit a mask [B or 1, H, W] in 0..1, of any size, as the pictures of `plan` are: [B or 1, H, W]."""
    whole = F.interpolate(mask.reshape(-1, 1, *mask.shape[-2:]).float(), plan.whole[::-1], mode="bilinear")
    levels = (whole[:, 0].cpu() * 255).round().clamp(0, 255).byte().numpy()
    seen = [np.asarray(plan.apply(Image.fromarray(one))) for one in levels]
    return torch.from_numpy(np.stack(seen)).float() / 255
