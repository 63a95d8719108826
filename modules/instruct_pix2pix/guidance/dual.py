"""The guided denoiser: asks the model for the rows of a step, and sums them up (see `rows`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from .apg import ProjectedGuidance, Projection
from .cached import CachedGuidance, SamplingStep
from .relevance import Keeper
from .rows import Row, Scales, rescale_denoised, rows, same_length

Condition = TypeVar("Condition")
"""What a model makes of texts, once: its own type, which the guidance hands back to it as it is."""


@dataclass(frozen=True)
class Prompt:
    """One text over the steps of a sampling: a part of an AND, or the negative prompt."""

    schedule: tuple[tuple[int, Tensor], ...]
    """(until_step, embedding [B or 1, T, C]): each holds up to and with that step, the last one to the end."""
    weight: float = 1.0
    pooled: tuple[Tensor | None, ...] = ()
    """For each entry of the schedule, one vector [B or 1, P] that stands for the whole text; SDXL reads it.

    None, which the negative prompt may have: that of the instruction (see `completed`). Empty: the model reads none.
    """

    def stage(self, step: int) -> int:
        """Return the place in the schedule of a step, counted from 0 (as AUTOMATIC1111 counts)."""
        stages = range(len(self.schedule))
        return next((stage for stage in stages if step <= self.schedule[stage][0]), len(self.schedule) - 1)

    def at(self, step: int) -> Tensor:
        """Return the embedding [B or 1, T, C] of a step."""
        return self.schedule[self.stage(step)][1]

    def pooled_at(self, step: int) -> Tensor | None:
        """Return the pooled vector [B or 1, P] of a step; None where there is none."""
        return self.pooled[self.stage(step)] if self.pooled else None


@dataclass(frozen=True)
class GuidanceInputs:
    """What an edit is conditioned on."""

    prompts: tuple[Prompt, ...]
    """The instruction, split at AND."""
    negative: Prompt
    """What stands for 'no text': the negative prompt, or the empty text."""
    image: Tensor
    """The input picture's latent [B or 1, 4, h, w]: the VAE's mode, unscaled; zeros stand for 'no picture'."""


class RowModel(Protocol[Condition]):
    """A network wrapped as a denoiser of rows, several of which may share their latent and picture."""

    def condition(
        self, texts: Tensor, pooled: Tensor | None = None, cells: tuple[int, int] | None = None
    ) -> Condition:
        """Texts [N, T, C] of N rows -> a handle, to be made once and given back at every step that has these rows.

        With SDXL their `pooled` vectors [N, P], and the (h, w) of the latents that are denoised.
        """
        ...

    def __call__(self, x: Tensor, sigma: Tensor, condition: Condition, image: Tensor, entries: Sequence[int]) -> Tensor:
        """x [M, 4, h, w], sigma [M], image [M, 4, h, w] and N texts -> denoised [N, 4, h, w].

        `entries` [N] says for each row which entry of x, sigma and image it has.
        """
        ...


class DualGuidance(Generic[Condition]):
    """The guided denoiser (x, sigma) -> denoised that a sampler walks with.

    `sigmas` are the levels of the sampling, by which a step is known from its sigma; `rescale` in 0..1 pulls the
    deviation of the guided noise back to that of the full row (see `rescale_noise`); `speed` is one of `cached.SHARES`;
    `formula` is one that `rows` knows; `projection` tames the guidance (see `apg`); `keeper` holds the rest of the
    picture (see `relevance`).
    `rows_evaluated` counts the model rows of one picture so far.
    """

    def __init__(
        self,
        model: RowModel[Condition],
        given: GuidanceInputs,
        scales: Scales,
        sigmas: Tensor,
        *,
        rescale: float = 0.0,
        speed: str = "exact",
        formula: str = "instruct-pix2pix",
        projection: Projection | None = None,
        keeper: Keeper | None = None,
    ) -> None:
        self.model = model
        self.given = given
        self.scales = scales
        self.rescale = rescale
        self.formula = formula
        self.rows_evaluated = 0
        self._levels = sigmas[sigmas > 0].tolist()
        self._cache = None if speed == "exact" else CachedGuidance(speed)
        self._projected = None if projection in (None, Projection()) else ProjectedGuidance(projection)
        self._keeper = keeper
        self._conditions: dict[int, tuple[object, Condition]] = {}
        self._weights: tuple[tuple[float, ...], Tensor] | None = None

    def step_of(self, sigma: float) -> int:
        """Return the step, from 0, that evaluates at this sigma: the last whose own level is not below it."""
        return max(0, sum(level >= sigma * (1 - 1e-5) for level in self._levels) - 1)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """x [B, 4, h, w], sigma [] or [B] (one level for all), best on the CPU -> denoised [B, 4, h, w]."""
        now = self._now(float(sigma.flatten()[0]))
        look = self._keeper is not None and self._keeper.wants_image_only(now.step)
        weights = [prompt.weight for prompt in self.given.prompts]
        needed = rows(self.scales, weights, formula=self.formula, look_at_image_only=look)
        full = [row for row in needed if row.prompt is not None and row.image]
        if not full:
            return self._sum(self._evaluate(x, sigma, now.step, needed), needed)
        cache = self._cache if len(full) < len(needed) else None
        if cache is not None and cache.serves(now, x.shape):
            own = self._evaluate(x, sigma, now.step, full).mean(dim=0)
            guided = cache.guided(own, now.level)
        else:
            denoised = self._evaluate(x, sigma, now.step, needed)
            own = denoised[: len(full)].mean(dim=0)
            guided = self._sum(denoised, needed)
            if cache is not None:
                cache.keep(now, guided, own, now.level)
            if self._keeper is not None and look:
                self._keeper.see(now.step, own, denoised[len(full)])  # the image-only row comes after the full ones
        if self._projected is not None:
            guided = self._projected(guided, own, self.scales.text)
        if self.rescale:
            guided = rescale_denoised(x, guided, own, self.rescale)
        return guided if self._keeper is None else self._keeper.hold(now.step, guided, own)

    def _now(self, level: float) -> SamplingStep:
        step = self.step_of(level)
        texts = tuple(prompt.at(step) for prompt in (*self.given.prompts, self.given.negative))
        return SamplingStep(step, len(self._levels), level, (self.scales.text, self.scales.image), texts)

    def _evaluate(self, x: Tensor, sigma: Tensor, step: int, needed: Sequence[Row]) -> Tensor:
        """Return the denoised rows [R, B, 4, h, w], all from one call of the model."""
        self.rows_evaluated += len(needed)
        batch = len(x)
        image = self.given.image.to(x).expand(batch, -1, -1, -1)
        kinds = list(dict.fromkeys(row.image for row in needed))  # with and without the picture
        denoised = self.model(
            x.repeat(len(kinds), 1, 1, 1),
            sigma.reshape(-1).float().expand(batch).repeat(len(kinds)),
            self._condition(step, needed, x),
            torch.cat([image if seen else torch.zeros_like(image) for seen in kinds]),
            [kinds.index(row.image) * batch + i for row in needed for i in range(batch)],
        )
        return denoised.unflatten(0, (len(needed), batch))

    def _condition(self, step: int, needed: Sequence[Row], x: Tensor) -> Condition:
        """Return the condition of these rows of latents x; the last one of each number of rows is kept.

        A step may have all rows and the next one some of them.
        """
        batch, cells = len(x), (x.shape[-2], x.shape[-1])
        prompts = [self.given.negative if row.prompt is None else self.given.prompts[row.prompt] for row in needed]
        key = batch, cells, tuple((row.prompt, prompt.stage(step)) for row, prompt in zip(needed, prompts, strict=True))
        kept = self._conditions.get(len(needed))
        if kept is None or kept[0] != key:
            texts = same_length([prompt.at(step) for prompt in prompts])
            states = torch.cat([text.expand(batch, -1, -1) for text in texts])
            pooled = [vector.expand(batch, -1) for p in prompts if (vector := p.pooled_at(step)) is not None]
            made = self.model.condition(states, torch.cat(pooled), cells) if pooled else self.model.condition(states)
            self._conditions[len(needed)] = kept = key, made
        return kept[1]

    def _sum(self, denoised: Tensor, needed: Sequence[Row]) -> Tensor:
        """Rows [R, B, 4, h, w] -> their weighted sum [B, 4, h, w]."""
        weights = tuple(row.weight for row in needed)
        if self._weights is None or self._weights[0] != weights:  # a tensor that is sent to a GPU waits for it
            self._weights = weights, torch.tensor(weights, dtype=denoised.dtype, device=denoised.device)
        return torch.tensordot(self._weights[1], denoised, dims=1)


def join_prompts(prompts: Sequence[Prompt]) -> Prompt:
    """Join the prompts of several pictures, one each and all of one weight, to that of their batch."""
    weight = prompts[0].weight
    if any(prompt.weight != weight for prompt in prompts):
        raise ValueError("prompts of different weights cannot share a batch")
    ends = sorted({until for prompt in prompts for until, _ in prompt.schedule})
    stages = [(until, torch.cat(same_length([prompt.at(until) for prompt in prompts]))) for until in ends]
    pooled = [[vector for p in prompts if (vector := p.pooled_at(until)) is not None] for until in ends]
    return Prompt(tuple(stages), weight, tuple(map(torch.cat, pooled)) if any(pooled) else ())


def completed(negative: Prompt, instruction: Prompt) -> Prompt:
    """Return a negative prompt that has the pooled vectors of the instruction where it has none of its own."""
    if None not in negative.pooled:
        return negative
    ends = sorted({until for prompt in (negative, instruction) for until, _ in prompt.schedule})
    vectors = [negative.pooled_at(until) for until in ends]
    pooled = [
        instruction.pooled_at(until) if vector is None else vector for until, vector in zip(ends, vectors, strict=True)
    ]
    return Prompt(tuple((until, negative.at(until)) for until in ends), negative.weight, tuple(pooled))
