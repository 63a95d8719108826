"""The guided denoiser: asks the model for the rows of a step, and sums them up (see `rows`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Generic

import torch
from torch import Tensor

from .apg import ProjectedGuidance, Projection
from .cached import CachedGuidance, SamplingStep
from .evaluation import Condition, RowEvaluator, RowModel
from .inputs import GuidanceInputs
from .relevance import Watcher
from .rows import Kind, Row, Scales, kinds_of, rescale_denoised, rows


class DualGuidance(Generic[Condition]):
    """The guided denoiser (x, sigma) -> denoised that a sampler walks with.

    `scales` are those of all pictures, or a list with one for each; `sigmas` are the levels of the sampling, by which
    a step is known from its sigma; `rescale` in 0..1 pulls the deviation of the guided noise back to that of the full
    row (see `rescale_noise`); `speed` is one of `cached.SHARES`; `formula` is one that `rows` knows; `projection` tames
    the guidance (see `apg`); `watcher` looks at the rows, and may hold the rest of the picture (see `relevance`).

    `together` and `between` are those of `RowEvaluator`. `leaders` says for each picture which one, perhaps itself, has
    the same latent and texts as it at the first call: there the rows of the leaders alone are evaluated.
    """

    def __init__(
        self,
        model: RowModel[Condition],
        given: GuidanceInputs,
        scales: Scales | Sequence[Scales],
        sigmas: Tensor,
        *,
        rescale: float = 0.0,
        speed: str = "exact",
        formula: str = "instruct-pix2pix",
        projection: Projection | None = None,
        watcher: Watcher | None = None,
        together: int | None = None,
        between: Callable[[float], None] | None = None,
        leaders: Sequence[int] | None = None,
    ) -> None:
        each = [scales] if isinstance(scales, Scales) else list(scales)
        self.scales = each[:1] if len(set(each)) == 1 else each
        self.rescale = rescale
        self.formula = formula
        self.evaluator = RowEvaluator(model, given, together, between)
        """Has the model, and what the edit is conditioned on."""
        self._levels = sigmas[sigmas > 0].tolist()
        self._cache = None if speed == "exact" else CachedGuidance(speed)
        self._projected = None if projection in (None, Projection()) else ProjectedGuidance(projection)
        self._watcher = watcher
        self._leaders = leaders
        self._weights: tuple[object, Tensor] | None = None
        self._given_up: frozenset[int] = frozenset()
        self._counted: list[int] = []
        self._last: Tensor | None = None

    @property
    def rows_evaluated(self) -> int:
        """The model rows of one picture so far, the first of them where each has scales of its own."""
        return self.rows_of(0)

    @property
    def rows_in_all(self) -> int:
        """The model rows of all pictures so far; one that several pictures share counts once."""
        return self.evaluator.evaluated

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
        look = self._watcher is not None and self._watcher.wants_image_only(now.step)
        needed = self._rows(len(x), look=look)
        kinds = kinds_of(row for own in needed for row in own)
        full = [kind for kind in kinds if kind.full]
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
            if cache is not None:
                cache.keep(now, guided, own, now.level)
            if self._watcher is not None and look:
                self._watcher.see(now.step, own, denoised[len(full)])  # the image-only row comes after the full ones
        if self._projected is not None:
            guided = self._projected(guided, own, self._text_cfg(guided))
        if self.rescale:
            guided = rescale_denoised(x, guided, own, self.rescale)
        return guided if self._watcher is None else self._watcher.hold(now.step, guided, own)

    def _now(self, level: float) -> SamplingStep:
        step = self.step_of(level)
        texts = tuple(prompt.at(step) for prompt in (*self.evaluator.given.prompts, self.evaluator.given.negative))
        scales = tuple(scale for each in self.scales for scale in (each.text, each.image))
        return SamplingStep(step, len(self._levels), level, scales, texts)

    def _rows(self, batch: int, *, look: bool) -> list[list[Row]]:
        """Return what each of the pictures needs."""
        weights = [prompt.weight for prompt in self.evaluator.given.prompts]
        found = {each: rows(each, weights, formula=self.formula, look_at_image_only=look) for each in self.scales}
        return [found[each] for each in (self.scales * batch if len(self.scales) == 1 else self.scales)]

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
            return self.evaluator(x, sigma, step, kinds, wanted)
        by_leader: list[set[Kind]] = [set() for _ in wanted]
        for leader, own in zip(self._leaders, wanted, strict=True):
            by_leader[leader].update(own)
        shared = [[k for k in kinds if k in have] for have in by_leader]
        return self.evaluator(x, sigma, step, kinds, shared)[:, list(self._leaders)]

    def _sum(self, denoised: Tensor, kinds: Sequence[Kind], needed: Sequence[Sequence[Row]]) -> Tensor:
        """Rows [R, B, 4, h, w] -> their weighted sum [B, 4, h, w]."""
        one = len(self.scales) == 1
        key = tuple(kinds), tuple(self.scales)
        if self._weights is None or self._weights[0] != key:  # a tensor that is sent to a GPU waits for it
            of_each = [{row.kind: row.weight for row in own} for own in (needed[:1] if one else needed)]
            weights = [[own.get(kind, 0.0) for own in of_each] for kind in kinds]
            self._weights = key, torch.tensor(weights, dtype=denoised.dtype, device=denoised.device)
        if one:
            return torch.tensordot(self._weights[1][:, 0], denoised, dims=1)
        return torch.einsum("rb,rbchw->bchw", self._weights[1], denoised)

    def _text_cfg(self, like: Tensor) -> float | Tensor:
        """Return the Text CFG of all pictures, or that of each, [B, 1, 1, 1]."""
        if len(self.scales) == 1:
            return self.scales[0].text
        return like.new_tensor([each.text for each in self.scales]).view(-1, 1, 1, 1)
