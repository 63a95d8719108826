"""The names that diffusers gives to the tensors of our networks, and the configs of a diffusers folder."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...models.bounded import parse_json, read_small
from ...models.checkpoints import is_continuous
from ..networks.clip import TextConfig
from ..networks.unet import UNetConfig, as_depths
from ..networks.vae import VAEConfig
from .config import MOST_CONFIG, UNREADABLE, ModelConfig, first_line

_RESBLOCK = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_UNET_ENDS = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_VAE_ATTENTION_OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def unet_name(key: str, config: UNetConfig) -> str:
    """Return the name in diffusers' UNet2DConditionModel of the tensor `key` of our UNet."""
    stem, kind = key.rsplit(".", 1)
    if stem in _UNET_ENDS:
        return f"{_UNET_ENDS[stem]}.{kind}"
    section, *rest = key.split(".")
    number, layer, inner = int(rest[0]), rest[1], ".".join(rest[2:])
    if section == "middle_block":
        place = {0: "mid_block.resnets.0", 1: "mid_block.attentions.0", 2: "mid_block.resnets.1"}[number]
        return f"{place}.{_resblock(key.split('.', 2)[2])}"
    per_level = config.num_res_blocks + 1
    if section == "input_blocks":
        level, index = divmod(number - 1, per_level)
        side, resample = f"down_blocks.{level}", "downsamplers"
    else:
        level, index = divmod(number, per_level)
        side, resample = f"up_blocks.{level}", "upsamplers"
    if inner.startswith(("op.", "conv.")):
        return f"{side}.{resample}.0.conv.{kind}"
    group = "resnets" if layer == "0" else "attentions"
    return f"{side}.{group}.{index}.{_resblock(inner)}"


def _resblock(inner: str) -> str:
    stem, kind = inner.rsplit(".", 1)
    return f"{_RESBLOCK.get(stem, stem)}.{kind}"


def vae_name(key: str, config: VAEConfig, old: bool = False) -> str:
    """Return the name in diffusers' AutoencoderKL of the tensor `key` of our VAE; `old`: with the names before 2023."""
    last = len(config.ch_mult) - 1
    name = re.sub(r"down\.(\d+)\.block\.", r"down_blocks.\1.resnets.", key)
    name = re.sub(r"up\.(\d+)\.block\.", lambda m: f"up_blocks.{last - int(m[1])}.resnets.", name)
    name = re.sub(r"down\.(\d+)\.downsample", r"down_blocks.\1.downsamplers.0", name)
    name = re.sub(r"up\.(\d+)\.upsample", lambda m: f"up_blocks.{last - int(m[1])}.upsamplers.0", name)
    name = re.sub(r"mid\.block_(\d)", lambda m: f"mid_block.resnets.{int(m[1]) - 1}", name)
    name = name.replace("nin_shortcut", "conv_shortcut").replace("norm_out", "conv_norm_out")
    if match := re.search(r"mid\.attn_1\.(\w+)", name):
        inner = _VAE_ATTENTION[match[1]]
        inner = _VAE_ATTENTION_OLD.get(inner, inner) if old else inner
        name = name.replace(match[0], f"mid_block.attentions.0.{inner}")
    return name


def read_configs(folder: Path) -> ModelConfig:
    """Read the configs of a diffusers folder. Raises UserError when one is missing or cannot be used."""
    try:
        unet, vae, text = (_json(folder / part / "config.json") for part in ("unet", "vae", "text_encoder"))
        second_file = folder / "text_encoder_2" / "config.json"
        second = _json(second_file) if second_file.exists() else None
        scheduler_file = folder / "scheduler" / "scheduler_config.json"
        scheduler = _json(scheduler_file) if scheduler_file.exists() else {}
        continuous = is_continuous(scheduler)
        if not continuous and scheduler.get("prediction_type", "epsilon") != "epsilon":
            raise UserError(f"'{folder.name}' predicts {scheduler['prediction_type']}, which is not supported.")
        if text.get("hidden_act", "quick_gelu") != "quick_gelu":
            raise UserError(f"'{folder.name}' has a text encoder other than SD1's, which is not supported.")
        return ModelConfig(
            unet=_unet_config(unet),
            vae=_vae_config(vae),
            text=_text_config(text, skip_last=second is not None),
            text_2=_text_config(second, skip_last=True, projection=second["projection_dim"]) if second else None,
            cosxl=(scheduler["sigma_min"], scheduler["sigma_max"]) if continuous else None,
            scale_factor=vae.get("scaling_factor", 0.18215),
            linear_start=scheduler.get("beta_start", 0.00085),
            linear_end=scheduler.get("beta_end", 0.012),
            timesteps=scheduler.get("num_train_timesteps", 1000),
        )
    except UNREADABLE as error:
        raise UserError(
            f"'{folder.name}' is not a complete diffusers folder ({first_line(error)}): it needs unet, vae and "
            "text_encoder, each with its config.json."
        ) from error


def _json(path: Path) -> dict[str, Any]:
    return parse_json(read_small(path, MOST_CONFIG))


def _text_config(text: dict[str, Any], *, skip_last: bool, projection: int | None = None) -> TextConfig:
    activations = {"quick_gelu": False, "gelu": True}
    return TextConfig(
        width=text["hidden_size"],
        layers=text["num_hidden_layers"],
        heads=text["num_attention_heads"],
        vocab_size=text["vocab_size"],
        context_length=text["max_position_embeddings"],
        gelu=activations[text.get("hidden_act", "quick_gelu")],
        skip_last=skip_last,
        projection=projection,
    )


def _unet_config(unet: dict[str, Any]) -> UNetConfig:
    widths = unet["block_out_channels"]
    levels = len(widths)
    attention = tuple(2**i for i, kind in enumerate(unet["down_block_types"]) if "CrossAttn" in kind)
    # diffusers' attention_head_dim is the number of heads, in spite of its name: one number, or one for each level
    heads = unet.get("num_attention_heads") or unet.get("attention_head_dim", 8)
    heads = [heads] * levels if isinstance(heads, int) else heads
    head_widths = {width // count for width, count in zip(widths, heads, strict=True)}
    same_count = len(set(heads)) == 1
    if not same_count and len(head_widths) > 1:
        raise ValueError("neither the number nor the width of the attention heads is the same at all levels")
    return UNetConfig(
        in_channels=unet["in_channels"],
        out_channels=unet["out_channels"],
        model_channels=widths[0],
        channel_mult=tuple(width // widths[0] for width in widths),
        num_res_blocks=unet["layers_per_block"],
        attention_resolutions=attention,
        transformer_depth=as_depths(unet.get("transformer_layers_per_block", 1), levels),
        num_heads=heads[0],
        num_head_channels=-1 if same_count else head_widths.pop(),
        context_dim=unet["cross_attention_dim"],
        use_linear_in_transformer=unet.get("use_linear_projection", False),
        adm_in_channels=unet.get("projection_class_embeddings_input_dim"),
    )


def _vae_config(vae: dict[str, Any]) -> VAEConfig:
    widths = vae["block_out_channels"]
    return VAEConfig(
        ch=widths[0],
        ch_mult=tuple(width // widths[0] for width in widths),
        num_res_blocks=vae["layers_per_block"],
        z_channels=vae["latent_channels"],
    )
