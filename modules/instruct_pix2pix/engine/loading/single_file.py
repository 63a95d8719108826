"""A model as a single file in the LDM layout would hold it, from such a file or from a diffusers folder.

It lies here, and not beside what merges and converts such models, because the names of a folder's tensors follow from
its configs and from our networks.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from ...errors import UserError
from ...models.checkpoints import inspect
from ...models.stored_model import UNET, StoredModel, locate, stored_file
from ..networks.clip import TextEncoder
from ..networks.unet import UNet
from ..networks.vae import VAE
from .config import CONFIGS, load_config, yaml_of
from .diffusers_keys import read_configs
from .loader import folder_sources

_PREFIXES = {"unet": UNET, "vae": "first_stage_model.", "text": "cond_stage_model.transformer."}
_EDIT_CHANNELS = 8


def as_single_file(path: Path) -> StoredModel:
    """Return a checkpoint file or diffusers folder as one file would hold it; only headers and configs are read.

    Of a folder, the config is None where its model is SD1 as it is. Raises UserError as `inspect`, and for a folder
    that is not complete or not SD1's architecture.
    """
    if not path.is_dir():
        return stored_file(path)
    checkpoint = inspect(path)
    if checkpoint.layout != "diffusers" or not (path / "unet").is_dir():
        raise UserError(f"'{path.name}' is not a whole diffusers folder. {checkpoint.advice}")
    channels = checkpoint.in_channels or 0
    # A style model, of four channels, is no model that can be loaded here, but its names are those of one.
    config = None if checkpoint.family in ("sd2", "sdxl") else read_configs(path, in_channels=_EDIT_CHANNELS)
    if config is None or config.text_2 is not None:
        raise UserError(f"'{path.name}' is {checkpoint.label}: only folders of SD1 models can become one file here.")
    with torch.device("meta"):
        unet = UNet(replace(config.unet, in_channels=channels))
        parts = {"unet": unet, "vae": VAE(config.vae), "text": TextEncoder(config.text)}
    found = folder_sources(path, parts, config)
    sources = {_PREFIXES[part] + key: source for part in parts for key, source in found[part].items()}
    shapes = {_PREFIXES[part] + key: value.shape for part in parts for key, value in parts[part].state_dict().items()}
    needs_config = channels == _EDIT_CHANNELS and config != load_config(CONFIGS / "sd1.yaml")
    return StoredModel(checkpoint, locate(sources, shapes), {}, yaml_of(config) if needs_config else None)
