"""The guided denoiser: asks the model for the rows of a step, and sums them up (see `rows`)."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .cached import CachedGuidance, SamplingStep
from .rows import Row, Scales, rescale_denoised, rows, same_length


@dataclass(frozen=True)
class Prompt:
    """One text over the steps of a sampling: a part of an AND, or the negative prompt."""

    schedule: tuple[tuple[int, Tensor], ...]
    """(until_step, embedding [B or 1, T, C]): each holds up to and with that step, the last one to the end."""
    weight: float = 1.0

    def at(self, step: int) -> Tensor:
        """Return the embedding [B or 1, T, C] for a step, counted from 0 (as AUTOMATIC1111 counts)."""
        return next((e for until, e in self.schedule if step <= until), self.schedule[-1][1])


@dataclass(frozen=True)
class Conditions:
    """What an edit is conditioned on."""

    prompts: tuple[Prompt, ...]
    """The instruction, split at AND."""
    negative: Prompt
    """What stands for 'no text': the negative prompt, or the empty text."""
    image: Tensor
    """The input picture's latent [B or 1, 4, h, w]: the VAE's mode, unscaled; zeros stand for 'no picture'."""


class Model(Protocol):
    """A network wrapped as a denoiser of rows."""

    def __call__(self, x: Tensor, sigma: Tensor, text: Tensor, image: Tensor, twins: Sequence[int]) -> Tensor:
        """x [N, 4, h, w], sigma [N], text [N, T, C], image [N, 4, h, w] -> denoised [N, 4, h, w].

        `twins` [N] tells for each row the first one that has the same x and image.
        """
        ...


class DualGuidance:
    """The guided denoiser (x, sigma) -> denoised that a sampler walks with.

    `sigmas` are the levels of the sampling, by which a step is known from its sigma; `rescale` in 0..1 pulls the
    deviation of the guided noise back to that of the full row (see `rescale_noise`); `speed` is one of `reuse.SHARES`.
    `rows_evaluated` counts the model rows of one picture so far.
    """

    def __init__(
        self,
        model: Model,
        conditions: Conditions,
        scales: Scales,
        sigmas: Tensor,
        *,
        rescale: float = 0.0,
        speed: str = "exact",
    ) -> None:
        self.model = model
        self.conditions = conditions
        self.scales = scales
        self.rescale = rescale
        self.rows_evaluated = 0
        self._levels = sigmas[sigmas > 0].tolist()
        self._pull = None if speed == "exact" else CachedGuidance(speed)
        self._known_weights: tuple[tuple[float, ...], Tensor] | None = None
        self._last: dict[int, tuple[list[Tensor], Tensor]] = {}

    def step_of(self, sigma: float) -> int:
        """Return the step, from 0, that evaluates at this sigma: the last whose own level is not below it."""
        return max(0, sum(level >= sigma * (1 - 1e-5) for level in self._levels) - 1)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        """x [B, 4, h, w], sigma [] or [B] (one level for all), best on the CPU -> denoised [B, 4, h, w]."""
        level = float(sigma.flatten()[0])
        step = self.step_of(level)
        scales = self.scales
        needed = rows(scales, [prompt.weight for prompt in self.conditions.prompts])
        full = [row for row in needed if row.prompt is not None]
        pull = self._pull if 0 < len(full) < len(needed) else None
        now = SamplingStep(step, len(self._levels), level, (scales.text, scales.image), self._said(step))
        serves = pull is not None and pull.serves(now, x.shape)
        if serves:
            needed = full
        self.rows_evaluated += len(needed)
        denoised = self._evaluate(x, sigma, step, needed)
        own = denoised[: len(full)].mean(dim=0)
        if pull is not None and serves:
            guided = pull.guided(own, level)
        else:
            guided = torch.tensordot(self._weights(needed, x), denoised, dims=1)
            if pull is not None:
                pull.keep(now, guided, own, level)
        if self.rescale and full:
            guided = rescale_denoised(x, guided, own, self.rescale)
        return guided

    def _said(self, step: int) -> tuple[Tensor, ...]:
        return tuple(prompt.at(step) for prompt in (*self.conditions.prompts, self.conditions.negative))

    def _evaluate(self, x: Tensor, sigma: Tensor, step: int, needed: Sequence[Row]) -> Tensor:
        """Return the denoised rows [R, B, 4, h, w], all from one call of the model."""
        batch = len(x)
        image = self.conditions.image.to(x).expand(batch, -1, -1, -1)
        seen = [row.image for row in needed]
        denoised = self.model(
            x.repeat(len(needed), 1, 1, 1),
            sigma.reshape(-1).float().expand(batch).repeat(len(needed)),
            self._texts(step, needed, batch),
            torch.cat([image if row.image else torch.zeros_like(image) for row in needed]),
            [seen.index(row.image) * batch + i for row in needed for i in range(batch)],
        )
        return denoised.unflatten(0, (len(needed), batch))

    def _weights(self, needed: Sequence[Row], x: Tensor) -> Tensor:
        """Return the weights of the rows [R], like x; the same tensor for the same ones: to make it waits for a GPU."""
        weights = tuple(row.weight for row in needed)
        if self._known_weights is None or self._known_weights[0] != weights:
            self._known_weights = weights, torch.tensor(weights, dtype=x.dtype, device=x.device)
        return self._known_weights[1]

    def _texts(self, step: int, needed: Sequence[Row], batch: int) -> Tensor:
        """Return the texts of the rows [R * B, T, C]: as long as they are the same, the same tensor.

        A model may remember what it made of it.
        """
        negative = self.conditions.negative.at(step)
        texts = [negative if r.prompt is None else self.conditions.prompts[r.prompt].at(step) for r in needed]
        last = self._last.get(len(texts))
        if last is None or any(map(operator.is_not, last[0], texts)):
            joined = torch.cat([text.expand(batch, -1, -1) for text in same_length(texts)])
            self._last[len(texts)] = last = texts, joined
        return last[1]


def together(prompts: Sequence[Prompt]) -> Prompt:
    """Join the prompts of several pictures, one each and all of one weight, to that of their batch."""
    first = prompts[0]
    if all(prompt is first for prompt in prompts):
        return first
    if any(prompt.weight != first.weight for prompt in prompts):
        raise ValueError("prompts of different weights cannot share a batch")
    ends = sorted({until for prompt in prompts for until, _ in prompt.schedule})
    stages = [(until, torch.cat(same_length([prompt.at(until) for prompt in prompts]))) for until in ends]
    return Prompt(tuple(stages), first.weight)
