"""A model of rows for tests of the guidance: one line in which text, picture and time act on each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from instruct_pix2pix.guidance.deep import DeepFeatures


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class AnalyticRows:
    """It notes what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[int] = []
        """The rows of each call."""
        self.different: list[int] = []
        """Those of each call that differ in more than their text."""
        self.conditions: list[Tensor] = []
        """All that were made."""

    def condition(self, texts: Tensor, pooled: object = None, cells: object = None) -> Tensor:
        self.conditions.append(texts)
        return texts

    def __call__(
        self,
        x: Tensor,
        sigma: Tensor,
        condition: Tensor,
        image: Tensor,
        entries: Sequence[int],
        deep: DeepFeatures | None = None,
    ) -> Tensor:
        assert len(x) == len(sigma) == len(image) and len(condition) == len(entries)
        self.calls.append(len(entries))
        self.different.append(len(x))
        each = list(entries)
        return self.denoised(x[each], sigma[each], condition, image[each])

    def denoised(self, x: Tensor, sigma: Tensor, text: Tensor, image: Tensor) -> Tensor:
        """N rows, each by itself."""
        said = text.mean(dim=(1, 2)).view(-1, 1, 1, 1)
        return torch.tanh(x / (1 + sigma.view(-1, 1, 1, 1)) + said * (1 + image)) + 0.3 * image.roll(1, dims=-1)
