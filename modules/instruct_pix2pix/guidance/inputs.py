"""What an edit is conditioned on: its texts over the steps, and the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .rows import same_length


@dataclass(frozen=True)
class Prompt:
    """One text over the steps of a sampling: a part of an AND, or the negative prompt."""

    schedule: tuple[tuple[int, Tensor], ...]
    """(until_step, embedding [B or 1, T, C]): each holds up to and with that step, the last one to the end."""
    weight: float = 1.0
    pooled: tuple[Tensor | None, ...] = ()
    """For each entry of the schedule, one vector [B or 1, P] that stands for the whole text; SDXL reads it.

    None, which the negative prompt may have: that of the instruction (see `completed`). Empty: the model reads
    none.
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
