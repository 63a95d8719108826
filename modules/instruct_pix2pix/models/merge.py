"""Merges models by the formulas of AUTOMATIC1111's checkpoint merger, which makes an edit model of any style.

Weighted sum: (1 - m) A + m B. Add difference: A + m (B - C): where A edits, and B was trained from C, the result edits
in the manner of B. See AUTOMATIC1111's modules/extras.py, run_modelmerger.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .bounded import parse_json
from .checkpoints import Checkpoint, whole_hash
from .convert import STALE_TEXTS
from .safetensors_writer import PlannedTensor, Rows
from .saved_model import Progress, output_file, save
from .stored_model import UNET, Located, StoredModel, in_precision, require_plain_numbers, with_ema
from .weights_files import fits

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTED_SUM, ADD_DIFFERENCE = "Weighted sum", "Add difference"
"""A1111's names of the formulas."""

DEFAULT_MULTIPLIER = {WEIGHTED_SUM: 0.3, ADD_DIFFERENCE: 1.0}
_MOST_MULTIPLIER = 10.0

_FIRST = f"{UNET}input_blocks.0.0.weight"
_POSITIONS = "cond_stage_model.transformer.text_model.embeddings.position_ids"  # A1111 leaves A's
_OLD_TEXT = re.compile(r"cond_stage_model\.transformer\.(?=(?:embeddings|encoder|final_layer_norm)\.)")
_WITH_PICTURE = (8, 9)
"""Input channels of models that edit and that inpaint: the first four are those of every other model."""


@dataclass(frozen=True)
class Merge:
    """How models are to be merged.

    `multiplier` is m; None is the formula's default. `precision` is one of PRECISIONS, None that of A. `ema` is 'use'
    or 'drop', of each model. `unet_only` leaves A's VAE and text encoder as they are.
    """

    multiplier: float | None = None
    precision: str | None = None
    ema: str = "use"
    unet_only: bool = False
    overwrite: bool = False


def merge(
    models: Sequence[StoredModel], output: Path, asked: Merge, progress: Progress
) -> tuple[Path, Checkpoint, tuple[str, ...]]:
    """Merge A and B, or A, B and C; return the file, what it is, and sentences for the person.

    What counts is as in A1111: the tensors of A whose names have 'model' in them and that B has too; where C lacks one,
    it stays A's. Into an A of 8 or 9 input channels, partners of 4 are merged in the first four. Whole numbers and
    noise levels stay A's. Computed in float32 (float64 where A has that), written in A's format or `asked.precision`.
    The result has no moving averages, and A1111's recipe in its metadata. Raises UserError for models that do not fit
    each other, and as `output_file` and `save` do.
    """
    path = output_file(output, models, overwrite=asked.overwrite)
    _require_fitting(models)
    notes: tuple[str, ...] = ()
    taken: list[StoredModel] = []
    for model in models:
        chosen, said = with_ema(model, asked.ema)
        taken.append(replace(chosen, tensors={_new_name(name): found for name, found in chosen.tensors.items()}))
        notes += said
    formula = ADD_DIFFERENCE if len(models) == 3 else WEIGHTED_SUM
    multiplier = DEFAULT_MULTIPLIER[formula] if asked.multiplier is None else asked.multiplier
    if not abs(multiplier) <= _MOST_MULTIPLIER:
        raise UserError(f"A multiplier of {multiplier:g} makes no model: give a number such as 1 or 0.5.")
    channels = [model.checkpoint.in_channels for model in models]
    if formula == WEIGHTED_SUM and channels == [8, 4]:
        edits, style = models[0].path.name, models[1].path.name
        note = f"'{style}' does not edit, so the result edits less than '{edits}': name the model that it was trained "
        notes += (f"{note}from as the third one, and only its style is added.",)
    planned = {
        name: _planned(name, taken, multiplier, asked) for name in taken[0].tensors if not name.startswith("model_ema.")
    }
    texts = {name: text for name, text in models[0].texts.items() if name not in STALE_TEXTS}
    texts |= _recipe(models, formula, multiplier, asked, path, progress)
    return path, save(path, planned, texts, models[0], progress), notes


# --- what fits what ---


def _require_fitting(models: Sequence[StoredModel]) -> None:
    """Raise UserError for models that cannot be merged in this order."""
    first, *partners = models
    for model in models:
        if _FIRST not in model.tensors or len(model.tensors[_FIRST].info.shape) != 4:
            raise UserError(
                f"'{model.path.name}' is {model.checkpoint.label}: a merge takes whole checkpoints, as one "
                ".safetensors or .ckpt or as a diffusers folder."
            )
        require_plain_numbers(model)
    for number, model in enumerate(partners):
        if any(_places(model) == _places(other) for other in models[: number + 1]):
            raise UserError(f"'{model.path.name}' is named twice: a merge takes different models.")
    for model in partners:
        a, b = first.checkpoint, model.checkpoint
        if (a.family, a.context_dim) != (b.family, b.context_dim):
            raise UserError(
                f"'{model.path.name}' is {b.label}, but '{first.path.name}' is {a.label}: "
                "only models of one family can be merged."
            )
    _require_channels(models)


def _places(model: StoredModel) -> set[Path]:
    return {file.resolve() for file in model.files}


def _require_channels(models: Sequence[StoredModel]) -> None:
    first, *partners = models
    channels = first.checkpoint.in_channels
    widths = {model.checkpoint.in_channels for model in partners}
    for model in partners:
        theirs = model.checkpoint.in_channels
        told = f"'{model.path.name}' takes {theirs} channels and '{first.path.name}' {channels}"
        if channels == 4 and theirs in _WITH_PICTURE:
            raise UserError(f"{told}: name '{model.path.name}' first, and the others behind it.")
        if theirs != channels and (theirs != 4 or channels not in _WITH_PICTURE):
            raise UserError(f"{told}: into a model that edits, only such models or those of 4 channels can be merged.")
    if len(widths) > 1:
        raise UserError(
            f"'{partners[0].path.name}' takes {partners[0].checkpoint.in_channels} channels and "
            f"'{partners[1].path.name}' {partners[1].checkpoint.in_channels}: the second model must be one that was "
            "trained from the third."
        )


def _new_name(name: str) -> str:
    """Return the name that newer files give to a tensor of SD1's text encoder, as A1111 does when it loads one."""
    return _OLD_TEXT.sub("cond_stage_model.transformer.text_model.", name)


# --- one tensor ---


def _planned(name: str, models: Sequence[StoredModel], multiplier: float, asked: Merge) -> PlannedTensor:
    """Return how a tensor of the result is made. Raises UserError for one that does not fit A's."""
    mine = models[0].tensors[name]
    info = in_precision(name, mine.info, asked.precision)
    others = [model.tensors.get(name) for model in models[1:]]
    counts = "model" in name and name != _POSITIONS and (name.startswith(UNET) or not asked.unet_only)
    if counts and name.startswith(UNET) and None in others:
        lacking = models[1 + others.index(None)].path.name
        raise UserError(f"'{lacking}' lacks the tensor {ascii(name)[:100]} of '{models[0].path.name}': they differ.")
    found = [other for other in others if other is not None]
    if not counts or len(found) < len(others) or not all("float" in one.info.dtype for one in (mine, *found)):
        return PlannedTensor(info, (mine.source,), lambda rows: rows)
    rows = _formula(len(models), multiplier)
    for model, other in zip(models[1:], found, strict=True):
        if name == _FIRST and other.info.shape != mine.info.shape:
            rows = partial(_in_first_channels, _formula(len(models), multiplier), other.info.shape[1])
        _require_shape(name, mine, other, models[0], model)
    return PlannedTensor(info, (mine.source, *(other.source for other in found)), rows)


def _require_shape(name: str, mine: Located, other: Located, first: StoredModel, model: StoredModel) -> None:
    """Raise UserError unless the shapes agree: a 1x1 convolution may be a matrix, a first layer take fewer channels."""
    ours, theirs = mine.info.shape, other.info.shape
    if name == _FIRST:
        theirs = (*theirs[:1], *ours[1:2], *theirs[2:])
    if not fits(theirs, ours):
        raise UserError(
            f"'{model.path.name}' does not fit '{first.path.name}': {ascii(name)[:100]} is {list(other.info.shape)} in "
            f"the one and {list(ours)} in the other."
        )


def _formula(count: int, multiplier: float) -> Rows:
    return partial(_weighted_sum if count == 2 else _add_difference, multiplier)


def _weighted_sum(multiplier: float, a: Tensor, b: Tensor) -> Tensor:
    wide = _wide(a)
    return (1 - multiplier) * wide + multiplier * b.to(wide.dtype).reshape(a.shape)


def _add_difference(multiplier: float, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    wide = _wide(a)
    return wide + multiplier * (b.to(wide.dtype) - c.to(wide.dtype).reshape(b.shape)).reshape(a.shape)


def _in_first_channels(formula: Rows, count: int, a: Tensor, *others: Tensor) -> Tensor:
    result = _wide(a).clone()
    result[:, :count] = formula(result[:, :count], *others)
    return result


def _wide(value: Tensor) -> Tensor:
    return value if value.dtype.itemsize == 8 else value.float()


# --- the recipe, as A1111 writes it ---


def _recipe(
    models: Sequence[StoredModel], formula: str, multiplier: float, asked: Merge, path: Path, progress: Progress
) -> dict[str, str]:
    """Return `sd_merge_recipe` and `sd_merge_models`, by which A1111 shows what a model was merged from."""
    hashes = [whole_hash(model.path, partial(progress, f"Hash of {model.path.name}")) for model in models]
    channels = [model.checkpoint.in_channels for model in models]
    recipe = {
        "type": "instruct-pix2pix",  # the program; A1111's own is 'webui'
        "primary_model_hash": hashes[0],
        "secondary_model_hash": hashes[1],
        "tertiary_model_hash": hashes[2] if len(hashes) > 2 else None,
        "interp_method": formula,
        "multiplier": multiplier,
        "save_as_half": asked.precision == "fp16",
        "custom_name": path.stem,
        "config_source": 0,
        "bake_in_vae": "None",
        "discard_weights": "^model_ema\\.",
        "is_inpainting": channels[:2] == [9, 4],
        "is_instruct_pix2pix": channels[:2] == [8, 4],
        "precision": asked.precision,
        "moving_averages": asked.ema,
        "unet_only": asked.unet_only,
    }
    merged: dict[str, object] = {}
    for model, found in zip(models, hashes, strict=True):
        merged[found] = {
            "name": model.path.name,
            "legacy_hash": _legacy_hash(model.path),
            "sd_merge_recipe": _parsed(model.texts, "sd_merge_recipe"),
        }
        merged |= _parsed(model.texts, "sd_merge_models") or {}
    return {"sd_merge_recipe": json.dumps(recipe), "sd_merge_models": json.dumps(merged)}


def _parsed(texts: Mapping[str, str], name: str) -> dict[str, Any] | None:
    try:
        value = parse_json(texts.get(name, "null").encode())
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _legacy_hash(path: Path) -> str | None:
    """Return the hash by which older versions of A1111 name a file; None of a folder."""
    if path.is_dir():
        return None
    with path.open("rb") as file:
        file.seek(1 << 20)
        return hashlib.sha256(file.read(1 << 16)).hexdigest()[:8]

