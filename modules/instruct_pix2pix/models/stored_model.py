"""A model as one file in the LDM layout holds it: where its tensors lie, the texts beside them, and its yaml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from ..errors import UserError
from .bounded import TooMuch, read_small
from .checkpoints import Checkpoint, ema_twin, inspect
from .moving_average import belongs
from .weights_files import Stacked, TensorInfo, TensorSource, fits, header, metadata

UNET = "model.diffusion_model."
"""How the names of the UNet's tensors begin."""

PRECISIONS = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
"""torch's name for each format of numbers that a model can be written in."""

EMA_CHOICES = {
    "use": "the averages become the weights",
    "drop": "they are left out",
    "keep": "they stay beside the weights",
}
"""What can be done with the moving averages (EMA) of a model."""

_EMA = "model_ema."
_MOST_YAML = 50_000  # bytes
# What a training program keeps beside the model, by the first part of its name; 'loss' is a VAE's discriminator.
_TRAINING = {
    *("optimizer", "optimizers", "optimizer_states", "lr_scheduler", "lr_schedulers"),
    *("callbacks", "loops", "loss"),
}
_NOISE_LEVELS = ("edm_vpred.", "denoiser.")  # and names without a dot, such as alphas_cumprod
# Beside weights in 8 bits and fewer: what they must be multiplied by. See engine/loading/loader.py.
_PACKED = ("scale_weight", "weight_scale", "weight_scale_inv", "weight_scale_2", "weight.absmax", "weight.quant_map")


class Located(NamedTuple):
    """Where a tensor lies, its shape and its dtype."""

    source: Stacked
    info: TensorInfo


@dataclass(frozen=True)
class StoredModel:
    """What one file would hold, whether the model lies in one or in a diffusers folder.

    `tensors` are by the names of the LDM layout where it is a whole model, else by the file's own; `texts` are the
    metadata of a safetensors file; `config` is the text of the yaml that the model needs beside it, None where it needs
    none; `numbers` are tensors that a file has, and a folder in its configs.
    """

    checkpoint: Checkpoint
    tensors: Mapping[str, Located]
    texts: Mapping[str, str]
    config: str | None
    numbers: Mapping[str, float] = field(default_factory=dict)

    @property
    def path(self) -> Path:
        """The file or folder."""
        return self.checkpoint.path

    @property
    def files(self) -> set[Path]:
        """The files that hold the tensors."""
        return {part.file for located in self.tensors.values() for part in located.source}


def stored_file(path: Path) -> StoredModel:
    """Return the model in a safetensors or torch file, without what its training left there. Raises as `inspect`."""
    found = {
        name: Located((TensorSource(path, name),), info)
        for name, info in header(path).items()
        if name.split(".")[0] not in _TRAINING
    }
    return StoredModel(inspect(path), found, metadata(path), _yaml_beside(path))


def locate(sources: Mapping[str, Stacked], shapes: Mapping[str, Sequence[int]]) -> dict[str, Located]:
    """Return tensors with their shape in the LDM layout, in which 1x1 convolutions are no matrices, and their dtype.

    `shapes` are those of the parts of a source, which are alike.

    Raises UserError for one that is not there or has another shape.
    """
    files = {part.file for source in sources.values() for part in source}
    headers = {file: header(file) for file in files if file.is_file()}
    found: dict[str, Located] = {}
    for name, source in sources.items():
        rows, *others = shapes[name]
        dtypes = set()
        for part in source:
            info = headers.get(part.file, {}).get(part.name)
            if info is None or not fits(part.shape_of(info.shape), shapes[name]):
                raise UserError(f"'{part.file.name}' lacks the tensor {part.name} of its config: download it again.")
            dtypes.add(info.dtype)
        dtype = dtypes.pop() if len(dtypes) == 1 else "float32"
        found[name] = Located(source, TensorInfo((rows * len(source), *others), dtype))
    return found


def with_ema(model: StoredModel, choice: str) -> tuple[StoredModel, tuple[str, ...]]:
    """Return the model with its moving averages (EMA) used, dropped or kept, and sentences about what became of them.

    They are used where they are the weights' own, as when a picture is edited; those of another model are dropped.
    """
    if choice == "keep" or not any(name.startswith(_EMA) for name in model.tensors):
        return model, ()
    kept = {name: located for name, located in model.tensors.items() if not name.startswith(_EMA)}
    unet = [name for name in kept if name.startswith(UNET)]
    name = model.path.name
    if choice == "drop":
        notes = (f"The moving average (EMA) in '{name}' is left out.",)
    elif model.checkpoint.has_ema and belongs(model.path, unet):
        kept |= {name: model.tensors[ema_twin(name)] for name in unet}
        notes = (f"The moving average (EMA) in '{name}' takes the place of its weights.",)
    else:
        notes = (f"The moving average (EMA) in '{name}' is not that of its weights: it is left out.",)
    return replace(model, tensors=kept), notes


def in_precision(name: str, info: TensorInfo, precision: str | None) -> TensorInfo:
    """Return what a tensor will be in another precision; None changes nothing.

    Whole numbers stay what they are, and so do noise levels, which half precision would move.
    """
    if precision is None or "float" not in info.dtype or "." not in name or name.startswith(_NOISE_LEVELS):
        return info
    return TensorInfo(info.shape, PRECISIONS[precision])


def require_plain_numbers(model: StoredModel) -> None:
    """Raise UserError for weights that must be multiplied by something before they can be counted with."""
    for name, (_, info) in model.tensors.items():
        if name.endswith(_PACKED) or (name.startswith(UNET) and "float" not in info.dtype):
            raise UserError(
                f"'{model.path.name}' holds its weights packed ({ascii(name)[:100]}, {info.dtype}), and only "
                "plain numbers can be converted or merged: take a file in fp16."
            )


def _yaml_beside(path: Path) -> str | None:
    file = path.with_suffix(".yaml")
    if not file.is_file():
        return None
    try:
        return read_small(file, _MOST_YAML).decode()
    except (OSError, TooMuch, UnicodeDecodeError) as error:
        raise UserError(f"'{file.name}' is not a model config: remove it from beside '{path.name}'.") from error

