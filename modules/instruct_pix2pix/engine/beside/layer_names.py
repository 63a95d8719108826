"""The names that LoRA files give to the layers of a model and to the tensors of a layer.

There are two families. kohya's: `lora_unet_down_blocks_0_….lora_down.weight`, the layer in diffusers' or in LDM's names
with '_' for '.', `lora_te_` (SDXL: `lora_te1_`, `lora_te2_`) before those of a text encoder. diffusers' and peft's:
`unet.down_blocks.0.….lora_A.weight`, or `.lora.down.weight` and `processor.to_q_lora.down.weight` in older files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from ..loading.diffusers_keys import unet_name
from ..networks.layers import QuantizedLayer
from ..networks.unet import UNet

_PREFIXES = (  # as files write them, and what the table below has in their place
    ("base_model.model.", ""),
    ("lora_unet_", "unet_"),
    ("lora_te1_", "te1_"),
    ("lora_te2_", "te2_"),
    ("lora_te_", "te1_"),
    ("unet.", "unet_"),
    ("model.diffusion_model.", "unet_"),
    ("diffusion_model.", "unet_"),
    ("text_encoder.", "te1_"),
    ("text_encoder_2.", "te2_"),
)
_PARTS = re.compile(
    r"""(?P<layer> .+?) (?:
        [._] lora (?: _ | \. | _linear_layer\. ) (?P<side> down | up | mid | A | B ) (?: \.default )? \.weight
      | \. (?P<part> alpha | hada_[wt][12](?:_[ab])? | lokr_[wt][12](?:_[ab])? | diff | diff_b | w_norm | b_norm
                   | dora_scale | lora_magnitude_vector (?: \.weight )? | lora_magnitude_vector\.default\.weight )
    )""",
    re.VERBOSE,
)
_SIDES = {"A": "down", "B": "up"}


@dataclass(frozen=True)
class ModelLayer:
    """A layer of a model that a LoRA may change, by its own name, 'unet.….to_q' or 'te1.….q_proj'."""

    name: str
    module: nn.Module

    @property
    def reads_text(self) -> bool:
        """Whether it is part of a text encoder."""
        return not self.name.startswith("unet.")


Layers = Mapping[str, ModelLayer]
"""The layers of a model by each name that `name_of` may return for one."""


def layers_of(unet: UNet, texts: Sequence[nn.Module]) -> dict[str, ModelLayer]:
    """Return the layers of a UNet and of its text encoders, one or two, by their names in LoRA files."""
    layers: dict[str, ModelLayer] = {}
    for stem in _stems(unet):
        layer = ModelLayer(f"unet.{stem}", unet.get_submodule(stem))
        for name in (stem, unet_name(f"{stem}.weight", unet.config).removesuffix(".weight")):
            layers[_flat(f"unet_{name}")] = layer
            if name.endswith("to_out.0"):  # diffusers' attention processors had no '.0'
                layers[_flat(f"unet_{name.removesuffix('.0')}")] = layer
    for number, text in enumerate(texts, 1):
        for stem in _stems(text):
            layer = ModelLayer(f"te{number}.{stem}", text.get_submodule(stem))
            for name in (stem, stem.removeprefix("text_model.")):  # newer transformers write no 'text_model'
                layers[_flat(f"te{number}_{name}")] = layer
    return layers


def name_of(key: str) -> tuple[str, str] | None:
    """Return the layer that a tensor of a LoRA file is for and which of its tensors it is; None for other tensors.

    The layer is flat: 'unet_down_blocks_0_attentions_0_proj_in', 'te1_text_model_encoder_…'. The tensors are 'down',
    'up', 'mid', 'alpha', or have their names in LyCORIS: 'hada_w1_a', 'lokr_w2', 'diff'.
    """
    found = _PARTS.fullmatch(key)
    if found is None:
        return None
    layer = found["layer"]
    for prefix, short in _PREFIXES:
        if layer.startswith(prefix):
            layer = short + layer.removeprefix(prefix)
            if short:
                break
    else:  # peft's own files say nothing of the network
        layer = f"te1_{layer}" if layer.startswith("text_model.") else f"unet_{layer}"
    part = found["part"] or _SIDES.get(found["side"], found["side"])
    return _flat(layer.replace(".processor.", ".")), part.split(".")[0]


def _stems(network: nn.Module) -> Iterable[str]:
    modules = network.named_modules()
    return [name for name, one in modules if hasattr(one, "weight") or isinstance(one, QuantizedLayer)]


def _flat(name: str) -> str:
    return name.replace(".", "_")
