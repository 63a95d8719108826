"""Small checkpoints of random weights that every host loads, and the tokenizer's files that a host would download."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from instruct_pix2pix.engine.tokenizer import byte_alphabet, merges
from tools.random_checkpoint import write_random_checkpoint

EDITS, NOISY, PLAIN = "ip2p-small", "ip2p-noisy", "plain-small"
"""Names of the checkpoints: one that edits, one that edits and whose VAE has a wide posterior, one that does not."""

CONTROLNET = "controlnet-small"
"""The name of a ControlNet for them."""

XL_EDITS, COSXL = "ip2p-xl-small", "cosxl-small"
"""Names of two SDXL checkpoints that edit: one in the manner of SDXL ip2p, and one of CosXL-Edit."""
SIGMAS = {"edm_vpred.sigma_min": 0.004, "edm_vpred.sigma_max": 100.0}
"""What the latter says of its noise levels: not the usual ones, which a program may know by itself."""

CONFIG, XL_CONFIG = (Path(__file__).with_name(f"{name}.yaml") for name in ("small-ip2p", "small-sdxl"))
FIRST = "model.diffusion_model.input_blocks.0.0.weight"


def folder() -> Path:
    """Where the checkpoints lie between runs: $IP2P_HOST_MODELS, or a place among the temporary files."""
    return Path(os.environ.get("IP2P_HOST_MODELS") or Path(tempfile.gettempdir(), "instruct-pix2pix-host-models"))


def are_full_size(where: Path) -> bool:
    """Tell whether somebody has put checkpoints of SD1's full size there, under the names of the small ones."""
    return (where / f"{EDITS}.safetensors").stat().st_size > 1.5e9


def make(where: Path) -> None:
    """Write what is missing: about 560 MB for each checkpoint, and a ControlNet."""
    where.mkdir(parents=True, exist_ok=True)
    if not (where / f"{NOISY}.safetensors").exists():
        write_random_checkpoint(where / f"{NOISY}.safetensors", CONFIG)  # copies the yaml beside it
    if not (where / f"{EDITS}.safetensors").exists():
        tensors = _tensors(where / f"{NOISY}.safetensors")
        # Real posteriors have next to no spread. A host draws from it by a generator that no seed governs, and two
        # jobs of one seed would differ.
        tensors["first_stage_model.quant_conv.weight"][4:] = 0
        tensors["first_stage_model.quant_conv.bias"][4:] = -30
        _save(tensors, where / f"{EDITS}.safetensors")
        shutil.copyfile(CONFIG, where / f"{EDITS}.yaml")
    if not (where / f"{PLAIN}.safetensors").exists():
        tensors = _tensors(where / f"{EDITS}.safetensors")
        tensors[FIRST] = (tensors[FIRST][:, :4] * 2**0.5).contiguous()
        _save(tensors, where / f"{PLAIN}.safetensors")
        text = CONFIG.read_text(encoding="utf-8")
        for old, new in (
            ("modules.models.diffusion.ddpm_edit.LatentDiffusion", "ldm.models.diffusion.ddpm.LatentDiffusion"),
            ("first_stage_key: edited", "first_stage_key: jpg"),
            ("cond_stage_key: edit", "cond_stage_key: txt"),
            ("conditioning_key: hybrid", "conditioning_key: crossattn"),
            ("in_channels: 8", "in_channels: 4"),
        ):
            text = text.replace(old, new)
        (where / f"{PLAIN}.yaml").write_text(text, encoding="utf-8")
    if not (where / f"{CONTROLNET}.safetensors").exists():
        _save(_controlnet(_tensors(where / f"{PLAIN}.safetensors")), where / f"{CONTROLNET}.safetensors")


def make_xl(where: Path) -> None:
    """Write what is missing of the SDXL checkpoints: 2.4 GB each, most of it the second text encoder."""
    if not (where / f"{XL_EDITS}.safetensors").exists():
        write_random_checkpoint(where / "new.safetensors", XL_CONFIG)
        tensors = _tensors(where / "new.safetensors")
        tensors["first_stage_model.quant_conv.weight"][4:] = 0
        tensors["first_stage_model.quant_conv.bias"][4:] = -30
        _save(tensors, where / f"{XL_EDITS}.safetensors")
        (where / "new.safetensors").unlink()
        (where / "new.yaml").replace(where / f"{XL_EDITS}.yaml")
    if not (where / f"{COSXL}.safetensors").exists():
        tensors = _tensors(where / f"{XL_EDITS}.safetensors")
        _save(tensors | {name: torch.tensor(value) for name, value in SIGMAS.items()}, where / f"{COSXL}.safetensors")
        shutil.copyfile(XL_CONFIG, where / f"{COSXL}.yaml")


def link(where: Path, models: Path, *, yaml: bool, xl: bool) -> None:
    """Show the checkpoints to a host that looks into `models`, with the yaml beside them where it needs that."""
    models.mkdir(parents=True)
    for name in (EDITS, NOISY, PLAIN, *((XL_EDITS, COSXL) if xl else ())):
        for suffix in (".safetensors", ".yaml") if yaml else (".safetensors",):
            (models / (name + suffix)).symlink_to((where / (name + suffix)).resolve())


def link_controlnet(where: Path, models: Path) -> None:
    """Show the ControlNet to a host that looks into `models`."""
    models.mkdir(parents=True)
    name = f"{CONTROLNET}.safetensors"
    (models / name).symlink_to((where / name).resolve())


def write_lora(path: Path) -> None:
    """Write a LoRA of rank 4 for the text encoder and one attention of the UNet."""
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for layer, inner, outer in (
        ("lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k", 768, 320),
        ("lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_v", 768, 320),
        *((f"lora_te_text_model_encoder_layers_{n}_mlp_fc1", 768, 3072) for n in range(12)),
    ):
        if layer.startswith("lora_unet"):  # as diffusers names it, which is what files for SD1 have
            layer = layer.replace("input_blocks_1_1", "down_blocks_0_attentions_0")
        tensors[f"{layer}.lora_down.weight"] = torch.randn(4, inner, generator=generator) / inner**0.5
        tensors[f"{layer}.lora_up.weight"] = torch.randn(outer, 4, generator=generator)
        tensors[f"{layer}.alpha"] = torch.tensor(4.0)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {"ss_base_model_version": "sd_v1"})


def write_embedding(path: Path) -> None:
    """Write a textual inversion of two vectors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"emb_params": torch.randn(2, 768, generator=torch.Generator().manual_seed(2))}, path)


def write_tokenizer(hf_home: Path) -> None:
    """Write what a host asks the model hub for, in the layout of its cache: CLIP's vocabulary and its sizes."""
    model = hf_home / "hub" / "models--openai--clip-vit-large-patch14"
    files = model / "snapshots" / "local"
    files.mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("local", encoding="utf-8")
    begin, end = "<|startoftext|>", "<|endoftext|>"
    alphabet = byte_alphabet()
    words = [*alphabet, *(f"{one}</w>" for one in alphabet), *(a + b for a, b in merges()), begin, end]
    text = {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_attention_heads": 12,
        "num_hidden_layers": 12,
        "max_position_embeddings": 77,
        "projection_dim": 768,
        "vocab_size": len(words),
        "hidden_act": "quick_gelu",
        "model_type": "clip_text_model",
    }
    special = {"bos_token": begin, "eos_token": end, "unk_token": end, "pad_token": end}
    for name, content in (
        ("vocab.json", {word: number for number, word in enumerate(words)}),
        ("config.json", {"model_type": "clip", "projection_dim": 768, "text_config": text, "text_config_dict": text}),
        ("tokenizer_config.json", {**special, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer"}),
        ("special_tokens_map.json", special),
    ):
        (files / name).write_text(json.dumps(content), encoding="utf-8")
    lines = ["#version: 0.2", *(f"{a} {b}" for a, b in merges())]
    (files / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _controlnet(plain: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return a ControlNet in the layout of its authors: the downward half of a UNet, with random connections."""
    generator = torch.Generator().manual_seed(3)
    unet = "model.diffusion_model."
    parts = tuple(f"{unet}{part}." for part in ("time_embed", "input_blocks", "middle_block"))
    tensors = {name.removeprefix(unet): one for name, one in plain.items() if name.startswith(parts)}
    ends = ("out_layers.3.weight", "op.weight", "weight")
    widths = []  # of what each block gives: of a residual block, of one that halves the size, of the first one
    while found := [one for end in ends if (one := tensors.get(f"input_blocks.{len(widths)}.0.{end}")) is not None]:
        widths.append(len(found[0]))
    hints = (3, 16, 16, 32, 32, 96, 96, 256, widths[0])
    layers = {f"input_hint_block.{2 * n}": (hints[n + 1], hints[n], 3) for n in range(len(hints) - 1)}
    layers |= {f"zero_convs.{block}.0": (width, width, 1) for block, width in enumerate(widths)}
    layers["middle_block_out.0"] = (widths[-1], widths[-1], 1)
    for name, (out, channels, size) in layers.items():
        shape = (out, channels, size, size)
        tensors[f"{name}.weight"] = torch.randn(shape, generator=generator) / (channels * size**2) ** 0.5
        tensors[f"{name}.bias"] = torch.zeros(out)
    return tensors


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    partial = path.with_name(f"{path.name}.partial")
    save_file(tensors, partial)
    partial.replace(path)
