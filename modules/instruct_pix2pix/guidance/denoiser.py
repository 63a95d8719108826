"""The guided denoiser: asks for the rows of a step, whoever evaluates them, and sums them up (see `rows`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from .apg import ProjectedGuidance, Projection
from .cached import CachedGuidance, SamplingStep
from .focus import Focus
from .relevance import Watcher
from .rows import Kind, Row, Scales, kinds_of, rescale_denoised, rows


class RowSource(Protocol):
    """What evaluates the rows of a step: the engine's model (see `evaluation`), or a host's."""

    @property
    def prompt_weights(self) -> Sequence[float]:
        """The weight of each part of the instruction, which AND divides."""
        ...

    def texts_at(self, step: int) -> tuple[Tensor, ...]:
        """Return the embeddings of a step, from 0, by which it is known whether it has other texts than one before."""
        ...

    def __call__(
        self, x: Tensor, sigma: Tensor, step: int, kinds: Sequence[Kind], needed: Sequence[Sequence[Kind]]
    ) -> Tensor:
        """x [B, 4, h, w] at one level sigma [] or [B] -> denoised rows [R, B, 4, h, w], one for each of `kinds`.

        `needed` says which of them each picture needs, in the same order; the others are zeros.
        """
        ...


class GuidedDenoiser:
    """The guided denoiser (x, sigma) -> denoised that a sampler walks with, in any program.

    `scales` are those of all pictures, or a list with one for each; `sigmas` are the levels of the sampling, by which
    a step is known from its sigma; `rescale` in 0..1 pulls the deviation of the guided noise back to that of the full
    row (see `rescale_noise`); `speed` is one of `cached.SHARES`; `formula` is one that `rows` knows; `projection` tames
    the guidance (see `apg`); `watcher` looks at the rows, and may hold the rest of the picture (see `relevance`);
    `focus` lets the instruction act in a part of the picture alone.

    `leaders` says for each picture which one, perhaps itself, has the same latent and texts as it at the first call:
    there the rows of the leaders alone are evaluated.
    """

    def __init__(
        self,
        source: RowSource,
        scales: Scales | Sequence[Scales],
        sigmas: Tensor,
        *,
        rescale: float = 0.0,
        speed: str = "exact",
        formula: str = "instruct-pix2pix",
        projection: Projection | None = None,
        watcher: Watcher | None = None,
        focus: Focus | None = None,
        leaders: Sequence[int] | None = None,
    ) -> None:
        each = [scales] if isinstance(scales, Scales) else list(scales)
        self.scales = each[:1] if len(set(each)) == 1 else each
        self.rescale = rescale
        self.formula = formula
        self._source = source
        self._levels = sigmas[sigmas > 0].tolist()
        self._cache = None if speed == "exact" else CachedGuidance(speed)
        self._projected = None if projection in (None, Projection()) else ProjectedGuidance(projection)
        self._watcher = watcher
        self._focus = focus
        self._leaders = leaders
        self._weights: dict[object, Tensor] = {}
        self._given_up: frozenset[int] = frozenset()
        self._counted: list[int] = []
        self._last: Tensor | None = None
        self.full: Tensor | None = None
        """The full row of the last call, denoised [B, 4, h, w]; None where its weight is zero."""

    @property
    def rows_evaluated(self) -> int:
        """The model rows of one picture so far, the first of them where each has scales of its own."""
        return self.rows_of(0)

    def rows_of(self, picture: int) -> int:
        """Return the model rows of one picture so far, as if it had been alone."""
        return self._counted[picture] if self._counted else 0

    def give_up(self, pictures: Iterable[int]) -> None:
        """Evaluate these pictures no more: from now on they stay what they were becoming."""
        self._given_up |= set(pictures)

    def step_of(self, sigma: float) -> int:
        """Return the step, from 0, that evaluates at this sigma: the last whose own level is not below it."""
        return max(0, sum(level >= sigma * (1 - 1e-5) for level in self._levels) - 1)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """x [B, 4, h, w], sigma [] or [B] (one level for all), best on the CPU -> denoised [B, 4, h, w]."""
        guided = self._guided(x, sigma)
        if self._given_up and self._last is not None:
            gone = sorted(self._given_up)
            guided = guided.clone()
            guided[gone] = self._last[gone]
        self._last = guided
        return guided

    def _guided(self, x: Tensor, sigma: Tensor) -> Tensor:
        now = self._now(float(sigma.flatten()[0]))
        watchers = [one for one in (self._watcher, self._focus) if one and one.wants_image_only(now.step)]
        needed = self._rows(len(x), look=bool(watchers))
        kinds = kinds_of(row for own in needed for row in own)
        full = [kind for kind in kinds if kind.full]
        self.full = None
        if not full:
            return self._sum(self._evaluate(x, sigma, now.step, kinds, needed), kinds, needed)
        cache = self._cache if len(full) < len(kinds) else None
        if cache is not None and cache.serves(now, x.shape):
            own = self._evaluate(x, sigma, now.step, full, needed).mean(dim=0)
            guided = cache.guided(own, now.level)
        else:
            denoised = self._evaluate(x, sigma, now.step, kinds, needed)
            own = denoised[: len(full)].mean(dim=0)
            guided = self._sum(denoised, kinds, needed)
            if self._focus is not None:
                outside = self._rows(len(x), look=False, text=0.0)
                guided = self._focus(guided, self._sum(denoised, kinds, outside))
            if cache is not None:
                cache.keep(now, guided, own, now.level)
            for one in watchers:
                one.see(now.step, own, denoised[len(full)])  # the image-only row comes after the full ones
        self.full = own
        if self._projected is not None:
            guided = self._projected(guided, own, self._text_cfg(guided))
        if self.rescale:
            guided = rescale_denoised(x, guided, own, self.rescale)
        return guided if self._watcher is None else self._watcher.hold(now.step, guided, own)

    def _now(self, level: float) -> SamplingStep:
        step = self.step_of(level)
        scales = tuple(scale for each in self.scales for scale in (each.text, each.image))
        if self._focus is not None:  # what was kept before the mask was known does not fit after it
            scales = (*scales, float(self._focus.decide(step)))
        return SamplingStep(step, len(self._levels), level, scales, self._source.texts_at(step))

    def _rows(self, batch: int, *, look: bool, text: float | None = None) -> list[list[Row]]:
        """Return what each of the pictures needs; with `text` at this Text CFG."""
        found = {each: self._rows_at(each, text, look=look) for each in self.scales}
        return [found[each] for each in (self.scales * batch if len(self.scales) == 1 else self.scales)]

    def _rows_at(self, scales: Scales, text: float | None, *, look: bool) -> list[Row]:
        weights = self._source.prompt_weights
        asked = scales if text is None else Scales(text, scales.image)
        found = rows(asked, weights, formula=self.formula, look_at_image_only=look)
        if self._focus is None or text is not None:
            return found
        have = {row.kind for row in found}
        outside = rows(Scales(0.0, scales.image), weights, formula=self.formula)
        return [*found, *(replace(row, weight=0.0) for row in outside if row.kind not in have)]

    def _evaluate(
        self, x: Tensor, sigma: Tensor, step: int, kinds: Sequence[Kind], needed: Sequence[Sequence[Row]]
    ) -> Tensor:
        """Return the denoised rows [R, B, 4, h, w] of these kinds, those that a picture does not need as zeros."""
        wanted = []
        for picture, own in enumerate(needed):
            have = {row.kind for row in own}
            # all have the full rows, whatever their weight: much of what follows is measured by them
            wanted.append([k for k in kinds if picture not in self._given_up and (k.full or k in have)])
        first, self._counted = not self._counted, self._counted or [0] * len(x)
        for picture, own in enumerate(wanted):
            self._counted[picture] += len(own)
        if not first or self._leaders is None:
            return self._source(x, sigma, step, kinds, wanted)
        by_leader: list[set[Kind]] = [set() for _ in wanted]
        for leader, own in zip(self._leaders, wanted, strict=True):
            by_leader[leader].update(own)
        shared = [[k for k in kinds if k in have] for have in by_leader]
        return self._source(x, sigma, step, kinds, shared)[:, list(self._leaders)]

    def _sum(self, denoised: Tensor, kinds: Sequence[Kind], needed: Sequence[Sequence[Row]]) -> Tensor:
        """Rows [R, B, 4, h, w] -> their weighted sum [B, 4, h, w]."""
        one = len(self.scales) == 1
        weights = tuple(tuple(self._weight(own, kind) for own in (needed[:1] if one else needed)) for kind in kinds)
        if weights not in self._weights:  # a tensor that is sent to a GPU waits for it
            self._weights[weights] = torch.tensor(weights, dtype=denoised.dtype, device=denoised.device)
        if one:
            return torch.tensordot(self._weights[weights][:, 0], denoised, dims=1)
        return torch.einsum("rb,rbchw->bchw", self._weights[weights], denoised)

    @staticmethod
    def _weight(own: Sequence[Row], kind: Kind) -> float:
        return next((row.weight for row in own if row.kind == kind), 0.0)

    def _text_cfg(self, like: Tensor) -> float | Tensor:
        """Return the Text CFG of all pictures, or that of each, [B, 1, 1, 1]."""
        if len(self.scales) == 1:
            return self.scales[0].text
        return like.new_tensor([each.text for each in self.scales]).view(-1, 1, 1, 1)
