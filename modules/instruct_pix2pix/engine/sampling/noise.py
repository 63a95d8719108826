"""The noise of each picture, from its own seed alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class ImageNoise:
    """Standard normal noise for a batch, one generator a picture.

    Drawn on the CPU in float32, so that a picture depends on its seed only: not on batch size, its place in the
    batch, or the device. The order of draws is AUTOMATIC1111's with random numbers from the CPU.
    """

    def __init__(self, seeds: Sequence[int], shape: Sequence[int], device: torch.device) -> None:
        """Prepare for one seed (0 .. 2**64 - 1) a picture and latents of shape (4, h, w)."""
        self._generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        self._shape = tuple(shape)
        self._device = device

    def draw(self) -> Tensor:
        """Return the next noise [B, 4, h, w], float32, on the device."""
        noise = [torch.randn(self._shape, generator=g, device="cpu") for g in self._generators]
        return torch.stack(noise).to(self._device)

    def __call__(self, sigma: float, sigma_next: float) -> Tensor:
        """Return the noise of a step, as samplers ask for it."""
        return self.draw()
