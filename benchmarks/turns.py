"""Edits by several programs in turns, and what is told of them: medians, and their ratios to the first program's."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from instruct_pix2pix.errors import UserError

Clock = Callable[[], float]
"""Seconds: of the wall, or with --busy of the processor."""
INSTRUCTION, SEED = "make it winter", 1
OURS = "ours"


@dataclass
class Run:
    """One edit: seconds of each step and of the whole, and the latent at its end [1, 4, h, w] float32.

    The latent is None of a program that draws other noise, whose result cannot be compared number by number.
    """

    steps: list[float]
    edit: float
    latent: Tensor | None


@dataclass
class Way:
    """One program in one setting, and what was measured of it in the case at hand."""

    name: str
    run: Callable[[tuple[float, float]], Run]
    runs: list[Run] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """Medians in seconds; the first step of all is left out of them where there are more."""
        steps = [second for run in self.runs for second in run.steps]
        rest = [run.edit - sum(run.steps) for run in self.runs]
        later = steps[1:] or steps
        return {
            "name": self.name,
            "first_step": steps[0],
            "step": statistics.median(later),
            "fastest_step": min(later),
            "measured_steps": len(later),
            "beside_steps": statistics.median(rest[1:] or rest),
        }


def chosen(names: Sequence[str], words: Sequence[str]) -> list[str]:
    """Return those of `names` that a word chooses, in their order, ours first in any case; no words choose all.

    A word chooses the way of that name, or else all whose names begin with it: 'openvino' three of them. Raises
    UserError for a word that chooses none.
    """
    found = set(names if not words else ())
    for word in words:
        hits = {word} & set(names) or {name for name in names if name.startswith(f"{word}-")}
        if not hits and word != OURS:
            raise UserError(f"There is no way '{word}' here; there are {', '.join(names)}.")
        found |= hits
    return [name for name in names if name in found or name == OURS]


def measure_case(ways: Sequence[Way], scales: tuple[float, float], rounds: int) -> dict[str, Any]:
    """Run all ways in turns; ours is the first of them."""
    for way in ways:
        way.runs = []
    for number in range(rounds):
        for way in ways:
            way.runs.append(way.run(scales))
            seconds = ", ".join(f"{step:.3g}" for step in way.runs[-1].steps)
            say(f"{scales[0]:g} / {scales[1]:g}, round {number + 1} of {rounds}, {way.name}: steps of {seconds} s")
    figures = [way.figures() for way in ways]
    reference = ways[0].runs[-1].latent
    for way, one in zip(ways, figures, strict=True):
        latent = way.runs[-1].latent
        one["ours_times_as_fast"] = one["step"] / figures[0]["step"]
        one["difference"] = None if latent is None or reference is None else relative(reference, latent)
    return {"text_cfg": scales[0], "image_cfg": scales[1], "ways": figures}


def relative(a: Tensor, b: Tensor) -> float:
    """Return |a - b| / |b|."""
    return float((a - b).norm() / b.norm())


def synchronize(device: torch.device) -> None:
    """Wait for what a GPU was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def say(text: str) -> None:
    """One line of progress, apart from the report."""
    print(text, file=sys.stderr, flush=True)
