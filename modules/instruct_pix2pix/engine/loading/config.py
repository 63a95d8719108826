"""Model configs: the shapes of a model's networks, read from a yaml of latent diffusion (LDM, SGM) with OmegaConf.

A yaml may come with a checkpoint from anywhere, so it is hostile input: the class names in it are looked up in a fixed
table, and nothing else in it can refer to Python code.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ...errors import UserError
from ...models.bounded import TooMuch, read_small
from ...paths import DATA
from ..networks.clip import TextConfig
from ..networks.unet import UNetConfig, as_depths
from ..networks.vae import VAEConfig

CONFIGS = DATA / "configs"

MOST_CONFIG = 50_000
"""Bytes of a config, yaml or json: those that come with checkpoints have 1,000 to 5,000."""
_MOST_NODES = 20_000  # of a yaml, each counted as often as it is referred to
_MOST_REFERENCE = 200  # letters of a text with '${' in it, which OmegaConf parses, slowly where they are nested

UNREADABLE = (
    OSError,
    OmegaConfBaseException,
    yaml.YAMLError,
    LookupError,
    TypeError,
    ValueError,
    ArithmeticError,
    AttributeError,
    RecursionError,
)
"""The errors that reading a file can raise that is not a config, or not one that can be used."""

_CLASSES: dict[str, type] = {
    "ldm.modules.diffusionmodules.openaimodel.UNetModel": UNetConfig,
    "ldm.models.autoencoder.AutoencoderKL": VAEConfig,
    "ldm.modules.encoders.modules.FrozenCLIPEmbedder": TextConfig,
    "sgm.modules.diffusionmodules.openaimodel.UNetModel": UNetConfig,
    "sgm.models.autoencoder.AutoencoderKL": VAEConfig,
    "sgm.models.autoencoder.AutoencoderKLInferenceWrapper": VAEConfig,
    "sgm.modules.encoders.modules.FrozenCLIPEmbedder": TextConfig,
    "sgm.modules.encoders.modules.FrozenOpenCLIPEmbedder2": TextConfig,
}

_SDXL_CLIP = TextConfig(skip_last=True)
_SDXL_OPENCLIP = TextConfig(1280, 32, 20, gelu=True, skip_last=True, projection=1280)


@dataclass(frozen=True)
class ModelConfig:
    """The shapes of the networks, the noise schedule, and the picture size that a model was trained for."""

    unet: UNetConfig
    vae: VAEConfig
    text: TextConfig
    text_2: TextConfig | None = None
    """SDXL's second text encoder, whose pooled vector begins the UNet's label."""
    scale_factor: float = 0.18215
    linear_start: float = 0.00085
    linear_end: float = 0.012
    timesteps: int = 1000
    size: int = 512
    """Longest side, in pixels, at which the model edits best."""
    cosxl: tuple[float, float] | None = None
    """The smallest and the largest sigma of a model in the manner of CosXL; None: noise levels as in LDM.

    Such a model predicts v at continuous noise levels, takes the picture's latent scaled, and knows the empty text with
    its own pooled vector.
    """

    def __post_init__(self) -> None:
        """Raise ValueError for networks that could be built but not run, or not built in reasonable time."""
        unet, vae, texts = self.unet, self.vae, [text for text in (self.text, self.text_2) if text]
        pooled = (self.text_2 and self.text_2.projection) or 0
        label = (unet.adm_in_channels or 0) - pooled
        widths = [unet.model_channels * mult for mult in unet.channel_mult]
        depth = max(*(text.layers for text in texts), unet.num_res_blocks, vae.num_res_blocks, *unet.transformer_depth)
        for problem, found in {
            "it has more layers than this program builds": depth > 64 or max(len(widths), len(vae.ch_mult)) > 8,
            "a text encoder has no layer": any(text.layers < 1 for text in texts),
            "the UNet and what reads the text do not agree on the width of a text embedding": (
                unet.context_dim != sum(text.width for text in texts)
            ),
            "the UNet does not take two latents of the autoencoder and return one": (
                (unet.in_channels, unet.out_channels) != (2 * vae.z_channels, vae.z_channels)
            ),
            "its second text encoder makes no pooled vector": self.text_2 is not None and pooled < 1,
            "the UNet asks for another label than a pooled text and six sizes": (
                bool(unet.adm_in_channels) != bool(pooled) or (pooled and (label < 12 or label % 12))
            ),
            "attention heads do not divide a width": (
                any(text.width % text.heads for text in texts) or any(width % unet.heads(width) for width in widths)
            ),
            "a text encoder reads fewer than 77 tokens": any(text.context_length < 77 for text in texts),
            "the vocabulary is not CLIP's or the beginning of it": (
                not all(514 <= text.vocab_size <= 49408 for text in texts) or len({t.vocab_size for t in texts}) > 1
            ),
            "the noise schedule cannot be used": (
                not 0 < self.linear_start <= self.linear_end < 1 or not 2 <= self.timesteps <= 100_000
            ),
            "scale_factor is not a positive number": not 0 < self.scale_factor < 1e6,
            "size is not between 64 and 4096 pixels": not 64 <= self.size <= 4096,
            "the noise levels cannot be used": (
                self.cosxl is not None and not 1e-6 <= self.cosxl[0] < self.cosxl[1] <= 1e6
            ),
        }.items():
            if found:
                raise ValueError(problem)


def load_config(path: Path) -> ModelConfig:
    """Read a model config.

    Raises UserError when the file is not such a yaml or names a class that is not in the table.
    """
    try:
        # not resolved: an interpolation could read the environment variables of this machine
        params: Any = OmegaConf.to_container(OmegaConf.create(_bounded_yaml(path)), resolve=False)
        params = params["model"]["params"]
        unet = _build(params["network_config" if "network_config" in params else "unet_config"], UNetConfig)
        vae = _build(params["first_stage_config"], VAEConfig)
        texts = {"text": params.get("cond_stage_config"), "text_2": None}
        if "conditioner_config" in params:  # the yaml of SDXL has a list: two texts, then three sizes
            emb_models = params["conditioner_config"]["params"]["emb_models"]
            texts = dict(zip(texts, emb_models, strict=False))
        built = {name: _build(section, TextConfig) for name, section in texts.items() if section}
        plain: dict[str, Any] = {
            field.name: type(field.default)(params[field.name])
            for field in fields(ModelConfig)
            if field.name in params and isinstance(field.default, int | float)
        }
        return ModelConfig(unet, vae, **built, **plain)
    except UNREADABLE as error:
        raise UserError(
            f"{path.name} is not a model config that this program can read ({first_line(error)}): "
            "remove it, or put the yaml that came with the checkpoint beside it."
        ) from error


def _bounded_yaml(path: Path) -> str:
    """Return the text of a yaml file that stays small when its aliases are followed: OmegaConf copies what they name.

    Raises TooMuch for one that does not, and what reading raises.
    """
    text = read_small(path, MOST_CONFIG).decode("utf-8")
    count = 0
    top = yaml.compose(text, Loader=yaml.SafeLoader)
    waiting: list[yaml.Node] = [top] if top else []
    while waiting:
        node = waiting.pop()
        count += 1
        if count + len(waiting) > _MOST_NODES:
            raise TooMuch("it holds more than a model config")
        if isinstance(node, yaml.MappingNode):
            waiting += [each for pair in node.value for each in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif "${" in node.value and len(node.value) > _MOST_REFERENCE:
            raise TooMuch("it holds a longer reference than a model config")
    return text


def first_line(error: BaseException) -> str:
    """Return an error's text for use in a sentence: 200 characters of its first line, or its class if it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]


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
    if kind is TextConfig and target.startswith("sgm."):
        return replace(_SDXL_OPENCLIP if "OpenCLIP" in target else _SDXL_CLIP, **chosen)
    return kind(**chosen)
