"""A model as a single file in the LDM layout would hold it, from such a file or from a diffusers folder.

It lies here, and not beside what merges and converts such models, because the names of a folder's tensors follow from
its configs and from our networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ...errors import UserError
from ...models.checkpoints import SIGMAS, inspect
from ...models.stored_model import Located, StoredModel, locate, stored_file
from ...models.weights_files import Stacked
from ..networks.clip import PooledTextEncoder, TextEncoder
from ..networks.unet import UNet
from ..networks.vae import VAE
from .config import CONFIGS, ModelConfig, load_config, yaml_of
from .diffusers_keys import read_configs
from .loader import folder_sources, ldm_source

_EDIT_CHANNELS = 8


def as_single_file(path: Path) -> StoredModel:
    """Return a checkpoint file or diffusers folder as one file would hold it; only headers and configs are read.

    Of a folder, the config is None where its model is SD1 or SDXL as it is. Raises UserError as `inspect`, and for a
    folder that is not complete or of another architecture.
    """
    if not path.is_dir():
        return stored_file(path)
    checkpoint = inspect(path)
    if checkpoint.layout != "diffusers" or not (path / "unet").is_dir():
        raise UserError(f"'{path.name}' is not a whole diffusers folder. {checkpoint.advice}")
    if checkpoint.family == "sd2":
        raise UserError(f"'{path.name}' is {checkpoint.label}: only folders of SD1 and SDXL models become one file.")
    channels = checkpoint.in_channels or 0
    # A style model, of four channels, is no model that can be loaded here, but its names are those of one.
    config = read_configs(path, in_channels=_EDIT_CHANNELS)
    with torch.device("meta"):
        unet = UNet(replace(config.unet, in_channels=channels))
        parts = {"unet": unet, "vae": VAE(config.vae), "text": TextEncoder(config.text)}
        if config.text_2 is not None:
            parts["text_2"] = PooledTextEncoder(config.text_2)
    needs_config = channels == _EDIT_CHANNELS and not is_usual(config)
    levels = dict(zip(SIGMAS, config.cosxl, strict=True)) if config.cosxl else {}
    tensors = _tensors(path, parts, config)
    return StoredModel(checkpoint, tensors, {}, yaml_of(config) if needs_config else None, levels)


def is_usual(config: ModelConfig) -> bool:
    """Whether a model is SD1 or SDXL as they are, however its config is written: no program needs a yaml for it."""
    usual = load_config(CONFIGS / ("sd1.yaml" if config.text_2 is None else "sdxl.yaml"))
    elsewhere = {"unet", "size", "cosxl"}  # compared below; the others need no yaml
    if any(value != vars(usual)[name] for name, value in vars(config).items() if name not in elsewhere):
        return False
    widths = [config.unet.model_channels * mult for mult in config.unet.channel_mult]
    with torch.device("meta"):
        shapes = [{k: v.shape for k, v in UNet(one.unet).state_dict().items()} for one in (config, usual)]
    return shapes[0] == shapes[1] and all(config.unet.heads(width) == usual.unet.heads(width) for width in widths)


def _tensors(path: Path, parts: Mapping[str, nn.Module], config: ModelConfig) -> dict[str, Located]:
    """Return the tensors of a folder by their names in the LDM layout."""
    found = folder_sources(path, parts, config)
    sources: dict[str, Stacked] = {}
    shapes: dict[str, Sequence[int]] = {}
    for part, network in parts.items():
        state = network.state_dict()
        places = {key: ldm_source(path, part, key, sdxl=config.text_2 is not None) for key in state}
        for key in sorted(state, key=lambda key: places[key].third or 0):
            place = places[key]
            source = replace(found[part][key], transposed=place.transposed)
            sources[place.name] = (*sources.get(place.name, ()), source)
            shapes[place.name] = tuple(reversed(state[key].shape)) if place.transposed else state[key].shape
    return locate(sources, shapes)
