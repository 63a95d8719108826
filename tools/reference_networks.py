"""Small networks with random weights, and their twins in diffusers and transformers, for the tests."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from instruct_pix2pix.engine.loading.config import ModelConfig, load_config
from instruct_pix2pix.engine.loading.loader import Networks
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.networks.clip import PooledTextEncoder, TextConfig, TextEncoder
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
SIZE_WIDTH = 8
"""Width of the sinusoids of one size in the labels of the small models; SDXL's have 256."""
SMALL_SDXL = ModelConfig(  # SDXL's layout to the last layer, a tenth of its width
    UNetConfig(
        model_channels=32,
        channel_mult=(1, 2, 4),
        attention_resolutions=(4, 2),
        transformer_depth=(0, 2, 10),
        num_head_channels=16,
        context_dim=24 + 40,
        use_linear_in_transformer=True,
        adm_in_channels=40 + 6 * 8,
    ),
    VAEConfig(ch=32),
    TextConfig(width=24, layers=3, heads=4, vocab_size=700, skip_last=True),
    TextConfig(width=40, layers=4, heads=5, vocab_size=700, gelu=True, skip_last=True, projection=40),
    scale_factor=0.13025,
    size=64,
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
    parts: list[Any] = [UNet(config.unet), VAE(config.vae), TextEncoder(config.text)]
    parts += [PooledTextEncoder(config.text_2)] if config.text_2 else []
    unet, vae, text, *more = (randomized(part, seed).to(machine.dtype) for seed, part in enumerate(parts))
    return EditModel(Networks(unet, vae, text, config, (), *more), machine)


def write_yaml(path: Path, config: ModelConfig) -> Path:
    """Write a config the way latent diffusion's own files are written, SDXL's where there are two text encoders."""
    plain = asdict(config)
    unet, vae, text, text_2, _ = (plain.pop(part) for part in ("unet", "vae", "text", "text_2", "cosxl"))
    root = "sgm" if text_2 else "ldm"
    sections = {
        "network_config" if text_2 else "unet_config": (f"{root}.modules.diffusionmodules.openaimodel.UNetModel", unet),
        "first_stage_config": (f"{root}.models.autoencoder.AutoencoderKL", {"embed_dim": 4, "ddconfig": vae}),
    }
    encoders = [("FrozenCLIPEmbedder", text), ("FrozenOpenCLIPEmbedder2", text_2)]
    texts = [{"target": f"{root}.modules.encoders.modules.{name}", "params": params} for name, params in encoders]
    if text_2:
        sizes = {"target": "sgm.modules.encoders.modules.ConcatTimestepEmbedderND", "params": {"outdim": 256}}
        plain["conditioner_config"] = {"params": {"emb_models": [*texts, *[sizes] * 3]}}
    else:
        plain["cond_stage_config"] = texts[0]
    plain.update({name: {"target": target, "params": params} for name, (target, params) in sections.items()})
    OmegaConf.save(OmegaConf.create({"model": {"params": plain}}), path)
    return path


def ldm_state(networks: Networks | EditModel) -> dict[str, Tensor]:
    """Return the state dict of a checkpoint with these networks."""
    second = networks.text_2
    parts = {
        "model.diffusion_model.": networks.unet,
        "first_stage_model.": networks.vae,
        f"{'conditioner.embedders.0' if second else 'cond_stage_model'}.transformer.": networks.text,
    }
    state = {prefix + key: value for prefix, part in parts.items() for key, value in part.state_dict().items()}
    return {**state, **({} if second is None else openclip_state(second))}


def openclip_state(encoder: PooledTextEncoder) -> dict[str, Tensor]:
    """Return the second text encoder as OpenCLIP's own layout has it in an SDXL file."""
    ours = {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
    state = {
        "token_embedding.weight": ours["embeddings.token_embedding.weight"],
        "positional_embedding": ours["embeddings.position_embedding.weight"],
        "ln_final.weight": ours["final_layer_norm.weight"],
        "ln_final.bias": ours["final_layer_norm.bias"],
        "text_projection": ours["text_projection.weight"].t().contiguous(),
        "logit_scale": torch.tensor(4.6),
    }
    same = {
        "attn.out_proj": "self_attn.out_proj",
        "ln_1": "layer_norm1",
        "ln_2": "layer_norm2",
        "mlp.c_fc": "mlp.fc1",
        "mlp.c_proj": "mlp.fc2",
    }
    for number in range(encoder.config.layers):
        layer, block = f"encoder.layers.{number}", f"transformer.resblocks.{number}"
        for kind in ("weight", "bias"):
            three = [ours[f"{layer}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
            state[f"{block}.attn.in_proj_{kind}"] = torch.cat(three)
            state |= {f"{block}.{name}.{kind}": ours[f"{layer}.{our}.{kind}"] for name, our in same.items()}
    return {f"conditioner.embedders.1.model.{name}": value for name, value in state.items()}


def diffusers_unet(config: UNetConfig, size_width: int = SIZE_WIDTH) -> Any:
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
            "addition_time_embed_dim": size_width,
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
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    return (CLIPTextModelWithProjection if config.projection else CLIPTextModel)(
        CLIPTextConfig(
            hidden_act="gelu" if config.gelu else "quick_gelu",
            projection_dim=config.projection or config.width,
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


def text_twin(text: TextEncoder | PooledTextEncoder) -> Any:
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


def diffusers_xl_pipeline(
    networks: Networks | EditModel, tokenizers: tuple[object, object] = (None, None), zeros: bool = True
) -> Any:
    """Return diffusers' pipeline for SDXL with the same weights; `zeros` is its force_zeros_for_empty_prompt."""
    from diffusers import EDMEulerScheduler, EulerDiscreteScheduler, StableDiffusionXLInstructPix2PixPipeline

    config = networks.config
    assert networks.text_2 is not None
    if config.cosxl is None:
        scheduler: Any = EulerDiscreteScheduler(
            beta_start=config.linear_start,
            beta_end=config.linear_end,
            beta_schedule="scaled_linear",
            timestep_spacing="linspace",
        )
    else:
        low, high = config.cosxl
        scheduler = EDMEulerScheduler(
            sigma_min=low,
            sigma_max=high,
            sigma_data=1.0,
            prediction_type="v_prediction",
            sigma_schedule="exponential",
        )
    parts: Any = {
        "vae": vae_twin(networks.vae, config.scale_factor),
        "text_encoder": text_twin(networks.text),
        "text_encoder_2": text_twin(networks.text_2),
        "tokenizer": tokenizers[0],
        "tokenizer_2": tokenizers[1],
        "unet": unet_twin(networks.unet),
        "scheduler": scheduler,
    }
    pipeline = StableDiffusionXLInstructPix2PixPipeline(
        **parts,
        force_zeros_for_empty_prompt=zeros,
        add_watermarker=False,
        is_cosxl_edit=config.cosxl is not None,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference, as a part of the largest value."""
    assert ours.shape == theirs.shape
    return float((ours - theirs).detach().abs().max() / theirs.detach().abs().max())
