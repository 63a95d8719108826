"""The instruction in a part of the picture alone: elsewhere the guidance is that of a Text CFG of 0.

    guided = outside + M * (inside - outside)

where `inside` is the sum of `rows` at the scales that are set, and `outside` that of the same rows at Text CFG 0. For
InstructPix2Pix that is the masked guidance of Focus on Your Instruction (Guo and Lin 2023, arXiv 2312.10113),
`null + s_I * (image_only - null) + s_T * M * (full - image_only)`.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from .relevance import Watcher, inside, relevance


class Focus:
    """The mask M over one sampling of so many steps: one that is given, or the map that the first steps make.

    A `mask` [B or 1, 1, h, w] in 0..1 holds from the first step on. Without one the map is that of `relevance`, cut as
    `relevance.inside` cuts it by `amount`; the steps that it is made of are guided everywhere.
    """

    def __init__(self, steps: int, amount: float = 0.5, mask: Tensor | None = None) -> None:
        self.mask = mask
        """[B or 1, 1, h, w] in 0..1; None as long as it is not known."""
        self._amount = amount
        self._watcher = Watcher(steps)

    def wants_image_only(self, step: int) -> bool:
        """Whether the mask is made of this step, from 0: then the image-only row is needed, whatever its weight."""
        return self.mask is None and self._watcher.wants_image_only(step)

    def see(self, step: int, full: Tensor, image_only: Tensor) -> None:
        """Take the rows of a step, denoised [B, C, h, w]."""
        if self.mask is None:
            self._watcher.see(step, full, image_only)

    def decide(self, step: int) -> bool:
        """Return whether the mask is known at a step, from 0; after the last of those that make it, it is."""
        if self.mask is None and not self._watcher.wants_image_only(step) and self._watcher.differences:
            self.mask = inside(relevance([*self._watcher.differences.values()]), self._amount)
        return self.mask is not None

    def __call__(self, within: Tensor, outside: Tensor) -> Tensor:
        """Return the guided latent [B, C, h, w] from those with the instruction and without it."""
        if self.mask is None:
            return within
        mask = self.mask.to(within)
        if mask.shape[-2:] != within.shape[-2:]:  # some samplers take steps at another size
            mask = F.interpolate(mask, within.shape[-2:], mode="bilinear")
        return outside + mask * (within - outside)
