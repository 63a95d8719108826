"""How a model is built, read from an LDM-style yaml with OmegaConf.

A yaml may lie beside a checkpoint, so it is hostile input: the class names in it are looked up in a fixed table,
and nothing else in it can name Python.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from ..errors import UserError
from .clip import TextConfig
from .unet import UNetConfig, as_depths
from .vae import VAEConfig

CONFIGS = Path(__file__).parent.parent / "data" / "configs"

_CLASSES: dict[str, type] = {
    "ldm.modules.diffusionmodules.openaimodel.UNetModel": UNetConfig,
    "ldm.models.autoencoder.AutoencoderKL": VAEConfig,
    "ldm.modules.encoders.modules.FrozenCLIPEmbedder": TextConfig,
}


@dataclass(frozen=True)
class ModelConfig:
    """The three networks, the noise schedule and the picture size that a model was trained for."""

    unet: UNetConfig
    vae: VAEConfig
    text: TextConfig
    scale_factor: float = 0.18215
    linear_start: float = 0.00085
    linear_end: float = 0.012
    timesteps: int = 1000
    size: int = 512
    """Longest side, in pixels, at which the model edits best."""
    multiple: int = 64
    """Both sides are brought to multiples of this many pixels."""


def load_config(path: Path) -> ModelConfig:
    """Read a model config.

    Raises UserError when the file is no such yaml or names a class that is not in the table.
    """
    try:
        params: Any = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
        params = params["model"]["params"]
        unet = _build(params["unet_config"], UNetConfig)
        vae = _build(params["first_stage_config"], VAEConfig)
        text = _build(params["cond_stage_config"], TextConfig)
        plain = {
            field.name: type(field.default)(params[field.name])
            for field in fields(ModelConfig)
            if field.name in params and isinstance(field.default, int | float)
        }
    except (OSError, OmegaConfBaseException, YAMLError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path.name} is not a model config that this program can read ({error}): "
            "remove it, or put the yaml that came with the checkpoint beside it."
        ) from error
    return ModelConfig(unet, vae, text, **plain)


def _build(section: dict[str, Any], kind: type) -> Any:  # noqa: ANN401 - one of the three configs
    target = section["target"]
    if _CLASSES.get(target) is not kind:
        raise UserError(
            f"The model config asks for {target!r}, which is not one of the networks built in here: "
            "use a yaml for Stable Diffusion."
        )
    params = dict(section.get("params") or {})
    params.update(params.pop("ddconfig", None) or {})
    if kind is UNetConfig and "transformer_depth" in params:
        params["transformer_depth"] = as_depths(params["transformer_depth"], len(params["channel_mult"]))
    known = {field.name for field in fields(kind)}
    chosen: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in params.items() if k in known}
    return kind(**chosen)
