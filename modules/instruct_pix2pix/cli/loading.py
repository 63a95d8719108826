"""Loading a model for a command, which is told on stderr."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from ..engine.model import EditModel
from ..engine.precision import Machine
from ..models.registry import model_hash
from ..text import printable, say, say_hint


def load(path: Path, machine: Machine, models: Sequence[Path]) -> tuple[EditModel, str]:
    """Load a model and return it with its hash; `models` as for `EditModel.load`. Raises UserError."""
    began = time.perf_counter()
    say_hint(f"Loading {printable(path.stem)} …")
    model = EditModel.load(path, machine, models)
    hash_ = model_hash(path)
    for note in model.notes:
        say(note)
    say_hint(f"Loaded in {time.perf_counter() - began:.1f} s; runs on {machine.device} in {machine.number}.")
    return model, hash_
