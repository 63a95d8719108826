"""Writes a model file of tensors that are made of others, with the yaml that it needs: whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ..errors import Remedy, UserError
from ..files import is_folder, status_of, write_whole, writing_whole
from ..text import printable
from .checkpoints import Checkpoint, inspect
from .hub import size_text
from .safetensors_writer import PlannedTensor, plan_file, planned_number, write_planned
from .stored_model import StoredModel

Progress = Callable[[str, int, int], None]
"""Told what is being done, and how many bytes of how many."""

_SUFFIX = ".safetensors"


def output_file(given: Path, inputs: Sequence[StoredModel], *, overwrite: bool) -> Path:
    """Return the file that a model will be written to: `given`, with its suffix added.

    Raises UserError for a folder, for a name of another format, for one of the inputs, and for a file that is there
    already, unless `overwrite`; its yaml counts as well.
    """
    if is_folder(given):
        raise UserError(given, " is a folder: give the name of a file in it.")
    if given.suffix.lower() in (".ckpt", ".pt", ".pth", ".bin"):
        raise UserError(f"'{printable(given.name)}' is not written by this program: give a name with {_SUFFIX}.")
    path = given if given.suffix.lower() == _SUFFIX else given.with_name(given.name + _SUFFIX)
    if is_folder(path):
        raise UserError(path, " is a folder: give the name of a file in it.")
    for model in inputs:
        if status_of(path) is not None and any(path.samefile(file) for file in model.files):
            name = printable(path.name)
            raise UserError(f"The result would take the place of '{name}', which it is made of: choose another name.")
    if status_of(path) is not None and not overwrite:
        raise UserError(path, " is there already", remedy=Remedy.OVERWRITE)
    beside, config = path.with_suffix(".yaml"), inputs[0].config
    if config is None and status_of(beside) is not None:
        raise UserError(beside, " would be taken for this model's, which needs none: move it, or choose another name.")
    if config is not None and not overwrite and _holds_another(beside, config):
        raise UserError(beside, " is there already, and this model needs another", remedy=Remedy.OVERWRITE)
    return path


def save(
    path: Path, tensors: Mapping[str, PlannedTensor], texts: Mapping[str, str], first: StoredModel, progress: Progress
) -> Checkpoint:
    """Write a model to `path` and, where it needs one, its yaml beside it; return what the file then is.

    Beside `tensors` it has the numbers and the yaml of the `first` model that it is made of.

    Nothing is left where it fails or is stopped. Raises UserError as `plan_file` and `write_planned`, and where the
    disk has no room for it.
    """
    numbers = {name: planned_number(value) for name, value in first.numbers.items()}
    plan = plan_file({**tensors, **numbers}, {"format": "pt", **texts})
    _require_room(path, plan.size)
    with writing_whole(path) as file:
        write_planned(plan, file, lambda done, total: progress("Writing", done, total))
    if first.config is not None:
        write_whole(path.with_suffix(".yaml"), first.config.encode())
    return inspect(path)


def _holds_another(file: Path, text: str) -> bool:
    status = status_of(file)
    return status is not None and (status.st_size != len(text.encode()) or file.read_bytes() != text.encode())


def _require_room(path: Path, size: int) -> None:
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"The disk of {folder} has {size_text(free)} free, and '{printable(path.name)}' takes {size_text(size)}: "
            "free some space, or choose a folder on another disk."
        )
