"""Keeping the rest of a picture: where an instruction means to change it, from rows that the guidance has anyway.

Where the full row and the image-only row differ, the instruction changes the picture (Watch Your Steps, Mirzaei et al.
2023, arXiv 2308.08947). The differences of the first steps cost no row of their own (ELECT, Kim et al. 2025, arXiv
2504.13490). From then on the rest is held at the input, as inpainting holds what is outside a mask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

MAP_SHARE, HOLD_SHARE = 0.2, 0.4
"""The shares of the steps that the map is made of, and after which the rest is held."""

SMOOTH = 0.8
"""The deviation, in latent cells, by which a map is smoothed; a 64th of the longest side where that is more."""

RAMP = 0.1
"""The part of the map's range in which the edit fades out."""

GROWTH, ABOVE_REST = 0.15, 2.0
"""The map grows over places beside it that change by more than this share of what its own do, and by more than so many
times what the rest does: early in a sampling all of a picture is still unclear."""

MOVED, WHOLE_PICTURE = 0.2, 0.2
"""An edit of the whole picture moves more than this share of the rest by more than `MOVED`, the mean over the channels
of scaled latents (whose deviation is about 1). On the demo model edits of one thing moved at most 0.14 of the rest so
far, those of season or time of day at least 0.27."""


def map_steps(steps: int) -> int:
    """Return the number of first steps that the map is made of."""
    return max(1, math.ceil(steps * MAP_SHARE))


def relevance(differences: list[Tensor]) -> Tensor:
    """Differences of rows [B, C, h, w], one for each step, in any unit -> the map [B, 1, h, w] in 0..1.

    In each step the sum over channels is clipped at Tukey's upper fence (Q3 + 1.5 (Q3 - Q1)), as in Watch Your Steps,
    stretched to 0..1 and squared, as in ELECT; then their mean is smoothed.
    """
    squares = []
    for difference in differences:
        size = difference.abs().sum(dim=1, keepdim=True).float()
        low, high = torch.quantile(size.flatten(1), size.new_tensor([0.25, 0.75]), dim=1)
        fence = high + 1.5 * (high - low)
        squares.append(_stretched(size.minimum(fence.view(-1, 1, 1, 1))).square())
    mean = torch.stack([_stretched(square) for square in squares]).mean(dim=0)
    return _stretched(_smoothed(mean, max(SMOOTH, max(mean.shape[-2:]) / 64)))


def inside(relevant: Tensor, amount: float) -> Tensor:
    """Map [B, 1, h, w] in 0..1 -> how far each place is edited, 0..1; `amount` in 0..1, higher keeps more."""
    # At 0 all is edited, at 1 nothing: the ramp passes beyond both ends.
    edge = amount * (1 + RAMP)
    return ((relevant - edge) / RAMP + 1).clamp(0, 1)


def grown(edited: Tensor, change: Tensor) -> Tensor:
    """Let what is edited [B, 1, h, w] grow over the places beside it that change too, so that nothing is cut in two.

    `change` [B, 1, h, w] says by how much each place changes.
    """
    seed, change = (edited >= 0.5).to(change), _smoothed(change, 0.5)
    least = []
    for each, at in zip(change, seed > 0, strict=True):
        own = torch.quantile(each[at], 0.9) if at.any() else each.max()
        rest = each[~at].median() if not at.all() else own
        least.append(torch.maximum(GROWTH * own, ABOVE_REST * rest))
    may = torch.maximum((change >= torch.stack(least).view(-1, 1, 1, 1)).to(seed), seed)
    for _ in range(sum(seed.shape[-2:])):
        larger = F.max_pool2d(seed, 3, 1, 1) * may
        if torch.equal(larger, seed):
            break
        seed = larger
    return torch.maximum(edited, seed)


def is_whole(edited: Tensor, change: Tensor, free: Tensor | None = None) -> Tensor:
    """Tell of each picture, bool [B, 1, 1, 1], whether it is edited as a whole: much of the rest changes too.

    `edited` and `change` are those of `grown`; of the rest only what is `free` [B or 1, 1, h, w] counts.
    """
    rest = 1 - edited if free is None else (1 - edited) * free.to(edited)
    moved = (rest * (change > MOVED)).sum(dim=(1, 2, 3), keepdim=True)
    return moved / rest.sum(dim=(1, 2, 3), keepdim=True).clamp(min=1e-6) > WHOLE_PICTURE


@dataclass(frozen=True)
class Region:
    """Where pictures are edited, as a keeper found it."""

    map: Tensor
    """[1 or B, 1, h, w] in 0..1: see `relevance`."""
    inside: Tensor
    """[1 or B, 1, h, w] in 0..1: how far each place is edited; 1 everywhere in an edit of the whole."""

    def shared(self) -> Region:
        """Return one region for all pictures, such as the frames of an animation: the union of theirs.

        An edit of the whole picture by most of them is one by all.
        """
        whole = (self.inside == 1).all(dim=-1).all(dim=-1).all(dim=-1)
        if 2 * whole.sum() > len(whole):
            inside = torch.ones_like(self.inside[:1])
        else:
            inside = self.inside[~whole].amax(dim=0, keepdim=True)
        return Region(self.map.amax(dim=0, keepdim=True), inside)


class Watcher:
    """Looks at the rows of one sampling of so many steps: where does the instruction change the pictures?"""

    def __init__(self, steps: int) -> None:
        self.differences: dict[int, Tensor] = {}
        """For each of the first steps, full minus image-only row, denoised [B, C, h, w]."""
        self.full: Tensor | None = None
        """The full row of the last step, denoised [B, C, h, w]."""
        self._map_steps = map_steps(steps)

    def wants_image_only(self, step: int) -> bool:
        """Whether the map is made of this step, from 0: then the image-only row is needed, whatever its weight."""
        return step < self._map_steps

    def see(self, step: int, full: Tensor, image_only: Tensor) -> None:
        """Take the rows of a step, denoised [B, C, h, w]; the first of several calls counts."""
        if self.wants_image_only(step):
            self.differences.setdefault(step, full - image_only)

    def hold(self, step: int, guided: Tensor, full: Tensor) -> Tensor:
        """Return the guided denoised latent [B, C, h, w] of a step as the sampling shall have it."""
        del step
        self.full = full
        return guided

    def shared_map(self) -> Tensor:
        """Return one map [1, 1, h, w] in 0..1 for all pictures, attempts at one edit: see `relevance`.

        The sizes of their differences are averaged before they are squared, as in ELECT.
        """
        return relevance([difference.abs().mean(dim=0, keepdim=True) for difference in self.differences.values()])


class Keeper(Watcher):
    """Holds the rest of the pictures of one sampling at the input, once it is known what the rest is.

    `start` [B or 1, C, h, w] is the input's scaled latent; `amount` is that of `inside`. With `automatic` an edit of
    the whole picture, known by what the rest of it becomes, is let go; of the rest only what a mask leaves free
    counts, `free` [B or 1, 1, h, w] in 0..1. A `region` that is known beforehand is held from the first step on.
    """

    def __init__(
        self,
        start: Tensor,
        steps: int,
        amount: float,
        *,
        automatic: bool,
        free: Tensor | None = None,
        region: Region | None = None,
    ) -> None:
        super().__init__(steps)
        self.start = start
        self.amount = amount
        self._free = free
        self._map_steps = 0 if region else self._map_steps
        self._held_from = 0 if region else min(math.ceil(steps * HOLD_SHARE), steps - 1)
        self._automatic = automatic
        self.region = region
        """Where the pictures are edited, once it is decided."""

    def hold(self, step: int, guided: Tensor, full: Tensor) -> Tensor:
        """Return the guided denoised latent [B, C, h, w] of a step, with the rest as in the input."""
        super().hold(step, guided, full)
        if step < self._held_from or not (self.differences or self.region):
            return guided
        if self.region is None:
            made, change = relevance(list(self.differences.values())), (full - self.start).abs().mean(1, keepdim=True)
            self.region = Region(made, self._decided(inside(made, self.amount), change))
        return torch.lerp(self.start.to(guided).expand_as(guided), guided, self.region.inside.to(guided))

    def _decided(self, edited: Tensor, change: Tensor) -> Tensor:
        larger = grown(edited, change)
        if not self._automatic:
            return larger
        return torch.where(is_whole(edited, change, self._free), torch.ones_like(larger), larger)


def _stretched(values: Tensor) -> Tensor:
    """Return values [B, 1, h, w] with the least of each picture at 0 and the greatest at 1."""
    least, most = values.amin(dim=(1, 2, 3), keepdim=True), values.amax(dim=(1, 2, 3), keepdim=True)
    return (values - least) / (most - least).clamp(min=1e-9)


def _smoothed(values: Tensor, deviation: float) -> Tensor:
    """Return values [B, 1, h, w] blurred by a Gaussian of this deviation in cells."""
    reach = min(math.ceil(3 * deviation), *(side - 1 for side in values.shape[-2:]))
    if reach < 1:
        return values
    offsets = torch.arange(-reach, reach + 1, device=values.device, dtype=values.dtype)
    weights = torch.exp(-0.5 * (offsets / deviation) ** 2)
    weights = weights / weights.sum()
    padded = F.pad(values, (reach, reach, reach, reach), mode="reflect")
    return F.conv2d(F.conv2d(padded, weights.view(1, 1, 1, -1)), weights.view(1, 1, -1, 1))
