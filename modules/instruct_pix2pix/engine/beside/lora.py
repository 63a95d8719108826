"""LoRA files: read for one model, and merged into its layers for the time of an edit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import UserError
from ...models.bounded import parse_json
from ...models.weights_files import metadata, read_weights
from ..precision import Machine
from .exchange import Change, Exchange
from .layer_names import Layers, ModelLayer, name_of
from .low_rank import Unfit, bias_change, weight_change

_SHOWN = 3  # names in one sentence


@dataclass(frozen=True)
class LoraFile:
    """What a file does to the layers of a model."""

    name: str
    layers: Mapping[ModelLayer, Mapping[str, Tensor]]
    """For each layer its tensors, mapped from the file, under `layer_names.name_of`'s names."""
    left_out: Sequence[str] = field(default=())
    """The names of tensors that have no place in the model."""

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence where something of it was left out."""
        if not self.left_out:
            return ()
        more = "" if len(self.left_out) <= _SHOWN else ", …"
        shown = ", ".join(self.left_out[:_SHOWN])[:200]
        count = len(self.left_out) + sum(map(len, self.layers.values()))
        what = f"Of the LoRA '{self.name}' {len(self.left_out)} of {count} tensors were left out"
        return (f"{what}: this model has no place for them ({shown}{more}).",)


@dataclass(frozen=True)
class WeightedLora:
    """A LoRA with the weights that a prompt gives it, in the text encoder and in the UNet."""

    file: LoraFile
    text: float
    unet: float


def read_lora(path: Path, layers: Layers) -> LoraFile:
    """Read a LoRA for a model with these layers.

    Raises UserError for a file that cannot be read, that is no LoRA, or of which nothing fits the model.
    """
    found: dict[ModelLayer, dict[str, Tensor]] = {}
    left_out: list[str] = []
    known = False
    for key, tensor in read_weights(path).items():
        layer, part = name_of(key) or ("", "")
        known = known or bool(part)
        if layer not in layers:
            left_out.append(key)
            continue
        tensors = found.setdefault(layers[layer], {})
        if part in tensors:
            raise UserError(f"'{path.name}' changes the layer {layers[layer].name} twice: take another file.")
        tensors[part] = tensor
    if not found:
        what = "was made for a model of another kind" if known else "is no LoRA that this program knows"
        raise UserError(f"'{path.name}' {what}: none of its tensors has a place in this model; take another.")
    _set_alphas(path, found)
    return LoraFile(path.stem, found, left_out)


def merged(loras: Sequence[WeightedLora], machine: Machine) -> Exchange:
    """Merge LoRAs into the layers of a model. Raises UserError for one that does not fit; then nothing is changed."""

    def changed(layer: ModelLayer) -> Change:
        return lambda shape, kind: _sum_of(loras, layer, shape, kind, machine.device)

    layers = dict.fromkeys(layer for lora in loras for layer in lora.file.layers)
    return Exchange({layer.module: changed(layer) for layer in layers}, machine)


def _sum_of(
    loras: Sequence[WeightedLora], layer: ModelLayer, shape: torch.Size, kind: str, device: torch.device
) -> Tensor | None:
    """Return what LoRAs add to the weight or bias of a layer, float32 on this device; None for nothing."""
    total: Tensor | None = None
    for lora in loras:
        weight = lora.text if layer.reads_text else lora.unet
        if not weight or layer not in lora.file.layers:
            continue
        tensors = {name: tensor.to(device) for name, tensor in lora.file.layers[layer].items()}
        try:
            part = (weight_change if kind == "weight" else bias_change)(tensors, shape)
        except Unfit as problem:
            raise UserError(
                f"The LoRA '{lora.file.name}' cannot be used: what it has for the layer {layer.name} {problem}; "
                "take one that was made for this kind of model."
            ) from problem
        if part is None:
            continue
        if not part.isfinite().all():
            raise UserError(f"The LoRA '{lora.file.name}' holds numbers that are none: download it again.")
        total = part * weight if total is None else total + part * weight
    return total


def _set_alphas(path: Path, layers: dict[ModelLayer, dict[str, Tensor]]) -> None:
    """Add the alphas that diffusers writes into a file's metadata, where the layers have none. Raises UserError."""
    try:
        adapter = parse_json(metadata(path).get("lora_adapter_metadata", "{}").encode())
        for network, prefix in (("unet", "unet."), ("text_encoder", "te1."), ("text_encoder_2", "te2.")):
            alpha: Any = adapter.get(f"{network}.lora_alpha")
            if any(adapter.get(f"{network}.{name}") for name in ("use_rslora", "use_dora", "alpha_pattern")):
                raise UserError(f"'{path.name}' is a LoRA of a kind that is not supported: take a plain one.")
            for layer, tensors in layers.items():
                if layer.name.startswith(prefix) and alpha is not None:
                    tensors.setdefault("alpha", torch.tensor(float(alpha)))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"'{path.name}' has damaged metadata: download it again.") from error
