"""Small networks with random weights, and their twins in diffusers and transformers, for the tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from instruct_pix2pix.engine.loading.config import ModelConfig, load_config, yaml_of
from instruct_pix2pix.engine.loading.loader import Networks
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.networks.clip import TextConfig, TextEncoder
from instruct_pix2pix.engine.networks.unet import UNet, UNetConfig
from instruct_pix2pix.engine.networks.vae import VAE, VAEConfig
from instruct_pix2pix.engine.precision import Machine

DEMO_YAML = Path(__file__).parent.parent / "modules" / "instruct_pix2pix" / "data" / "demo" / "demo.yaml"
DEMO = load_config(DEMO_YAML)
SMALL = ModelConfig(  # SD1's layout to the last layer, a tenth of its width
    UNetConfig(model_channels=32, num_heads=4, context_dim=24),
    VAEConfig(ch=32),
    TextConfig(width=24, layers=2, heads=4, vocab_size=700),
    size=64,
)
TINY = replace(  # the least that is still a whole model
    SMALL,
    unet=replace(SMALL.unet, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(2,)),
    vae=replace(SMALL.vae, ch_mult=(1, 1, 1, 1), num_res_blocks=1),
)
SDXL_SHAPED = UNetConfig(  # fixed head widths, linear projections, deeper levels, a label
    model_channels=32,
    channel_mult=(1, 2, 4),
    attention_resolutions=(2, 4),
    transformer_depth=(0, 1, 2),
    num_head_channels=16,
    context_dim=24,
    use_linear_in_transformer=True,
    adm_in_channels=40 + 6 * 8,
)
CPU = Machine(torch.device("cpu"), torch.float32)


def randomized(module: nn.Module, seed: int = 0) -> Any:
    """Give every parameter, norms and biases included, random numbers that keep signals near their size."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in module.named_parameters():
        numbers = torch.randn(weight.shape, generator=generator)
        if weight.ndim > 1:
            weight.data = numbers / weight[0].numel() ** 0.5
        else:
            weight.data = 0.2 * numbers + (1.0 if name.endswith("weight") else 0.0)
    return module.eval().requires_grad_(False)


def random_model(config: ModelConfig = SMALL, machine: Machine = CPU) -> EditModel:
    """Return a whole model with random weights."""
    parts = (UNet(config.unet), VAE(config.vae), TextEncoder(config.text))
    unet, vae, text = (randomized(part, seed).to(machine.dtype) for seed, part in enumerate(parts))
    return EditModel(Networks(unet, vae, text, config), machine)


def write_yaml(path: Path, config: ModelConfig) -> Path:
    """Write a config the way latent diffusion's own files are written."""
    path.write_text(yaml_of(config), encoding="utf-8")
    return path


def ldm_state(networks: Networks | EditModel) -> dict[str, Tensor]:
    """Return the state dict of a checkpoint with these networks."""
    parts = {
        "model.diffusion_model.": networks.unet,
        "first_stage_model.": networks.vae,
        "cond_stage_model.transformer.": networks.text,
    }
    return {prefix + key: value for prefix, part in parts.items() for key, value in part.state_dict().items()}


def diffusers_unet(config: UNetConfig) -> Any:
    """Return diffusers' UNet of this shape, not filled."""
    from diffusers import UNet2DConditionModel

    levels = range(len(config.channel_mult))
    widths: Any = [config.model_channels * mult for mult in config.channel_mult]
    attention = [2**level in config.attention_resolutions and config.transformer_depth[level] > 0 for level in levels]
    depths: Any = [depth or 1 for depth in config.transformer_depth[: len(widths)]]
    # a number or one for each level; what diffusers calls attention_head_dim counts the heads
    heads: Any = config.num_heads
    if config.num_head_channels != -1:
        heads = [config.heads(width) for width in widths]
    label: dict[str, Any] = {}
    if config.adm_in_channels:
        label = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": config.adm_in_channels,
        }
    return UNet2DConditionModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=tuple(widths),
        layers_per_block=config.num_res_blocks,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)),
        attention_head_dim=heads,
        transformer_layers_per_block=depths,
        cross_attention_dim=config.context_dim,
        use_linear_projection=config.use_linear_in_transformer,
        **label,
    ).eval()


def diffusers_vae(config: VAEConfig, scale_factor: float = 0.18215) -> Any:
    """Return diffusers' autoencoder of this shape, not filled."""
    from diffusers import AutoencoderKL

    levels = len(config.ch_mult)
    widths: Any = tuple(config.ch * mult for mult in config.ch_mult)
    down: Any = ("DownEncoderBlock2D",) * levels
    up: Any = ("UpDecoderBlock2D",) * levels
    return AutoencoderKL(
        block_out_channels=widths,
        layers_per_block=config.num_res_blocks,
        latent_channels=config.z_channels,
        down_block_types=down,
        up_block_types=up,
        scaling_factor=scale_factor,
    ).eval()


def transformers_text(config: TextConfig) -> Any:
    """Return transformers' CLIP text model of this shape, not filled."""
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            hidden_size=config.width,
            intermediate_size=4 * config.width,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            vocab_size=config.vocab_size,
            max_position_embeddings=config.context_length,
            bos_token_id=config.vocab_size - 2,
            eos_token_id=config.vocab_size - 1,
            pad_token_id=config.vocab_size - 1,
        )
    ).eval()


def unet_twin(unet: UNet) -> Any:
    """Return diffusers' UNet with the same weights, renamed by diffusers' own conversion."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    twin = diffusers_unet(unet.config)
    state = {f"model.diffusion_model.{key}": value for key, value in unet.state_dict().items()}
    twin.load_state_dict(convert_ldm_unet_checkpoint(state, twin.config))
    return twin


def vae_twin(vae: VAE, scale_factor: float = 0.18215) -> Any:
    """Return diffusers' autoencoder with the same weights, renamed by diffusers' own conversion."""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    twin = diffusers_vae(vae.config, scale_factor)
    state = {f"first_stage_model.{key}": value for key, value in vae.state_dict().items()}
    converted = convert_ldm_vae_checkpoint(state, twin.config)
    shapes = {key: value.shape for key, value in twin.state_dict().items()}
    twin.load_state_dict({key: value.reshape(shapes[key]) for key, value in converted.items()})
    return twin


def text_twin(text: TextEncoder) -> Any:
    """Return transformers' text model with the same weights."""
    twin = transformers_text(text.config)
    wrapped = any(key.startswith("text_model.") for key in twin.state_dict())  # until transformers 5
    state = {key if wrapped else key.removeprefix("text_model."): value for key, value in text.state_dict().items()}
    missing = twin.load_state_dict(state, strict=False)
    assert not missing.unexpected_keys and all(key.endswith("position_ids") for key in missing.missing_keys)
    return twin


def diffusers_pipeline(networks: Networks | EditModel, tokenizer: object = None) -> Any:
    """Return diffusers' pipeline with the same weights, without a safety checker."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionInstructPix2PixPipeline

    config = networks.config
    parts: Any = {
        "vae": vae_twin(networks.vae, config.scale_factor),
        "text_encoder": text_twin(networks.text),
        "tokenizer": tokenizer,
        "unet": unet_twin(networks.unet),
        "scheduler": EulerDiscreteScheduler(
            beta_start=config.linear_start,
            beta_end=config.linear_end,
            beta_schedule="scaled_linear",
            timestep_spacing="linspace",
        ),
        "safety_checker": None,
        "feature_extractor": None,
    }
    pipeline = StableDiffusionInstructPix2PixPipeline(**parts, requires_safety_checker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference, as a part of the largest value."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).abs().max() / theirs.abs().max())
