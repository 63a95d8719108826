"""Writes a model as one safetensors file: in another precision, without what an edit does not need."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .checkpoints import Checkpoint
from .safetensors_writer import PlannedTensor
from .saved_model import Progress, output_file, save
from .stored_model import StoredModel, in_precision, require_plain_numbers, with_ema

# In the metadata: the file's or its tensors' hashes, which are no longer theirs.
STALE_TEXTS = ("modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash")


@dataclass(frozen=True)
class Conversion:
    """How a model is to be written: `precision` of PRECISIONS or None for its own; `ema` of EMA_CHOICES."""

    precision: str | None = None
    ema: str = "use"
    overwrite: bool = False


def convert(
    model: StoredModel, output: Path, asked: Conversion, progress: Progress
) -> tuple[Path, Checkpoint, tuple[str, ...]]:
    """Write `model` to `output`; return the file, what it is, and sentences about what was left out.

    Numbers stay the same bits unless `asked.precision` changes them. Raises UserError as `output_file` and `save` do,
    and for a change of weights that are packed.
    """
    path = output_file(output, [model], overwrite=asked.overwrite)
    if asked.precision is not None:
        require_plain_numbers(model)
    model, notes = with_ema(model, asked.ema)
    planned = {
        name: PlannedTensor(in_precision(name, info, asked.precision), (source,), lambda rows: rows)
        for name, (source, info) in model.tensors.items()
    }
    texts = {name: text for name, text in model.texts.items() if name not in STALE_TEXTS}
    return path, save(path, planned, texts, model, progress), notes
