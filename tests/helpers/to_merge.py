"""Small checkpoints to merge: a model that edits, a style of four channels, and the model that it was trained from."""

from __future__ import annotations

import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from tools.reference_networks import TINY, ldm_state, random_model, write_yaml

FIRST = "model.diffusion_model.input_blocks.0.0.weight"
TEXT = "cond_stage_model.transformer."
ONLY_IN_EDIT = "cond_stage_model.transformer.text_model.extra.weight"
NOT_IN_BASE = "first_stage_model.decoder.conv_out.bias"


def edit_state() -> dict[str, Tensor]:
    """Return a whole model with what real files hold beside the networks, in float32."""
    return {
        **ldm_state(random_model(TINY)),
        f"{TEXT}text_model.embeddings.position_ids": torch.arange(77)[None],
        ONLY_IN_EDIT: torch.ones(3),
        "alphas_cumprod": torch.linspace(0.9, 0.1, 1000),
    }


def moved(state: dict[str, Tensor], amount: float, seed: int) -> dict[str, Tensor]:
    """Return the same model, trained on: every number a little different."""

    def one(name: str, value: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + seed)
        noise = torch.randn(value.shape, generator=generator)
        return value + amount * noise.to(value.dtype) if value.is_floating_point() else value + seed

    return {name: one(name, value) for name, value in state.items()}


def states() -> dict[str, dict[str, Tensor]]:
    """Return 'edit', 'style' and 'base'. The style has the names of older files, the base lacks one tensor."""
    edit = edit_state()
    plain = {name: value for name, value in edit.items() if name != ONLY_IN_EDIT}
    plain[FIRST] = plain[FIRST][:, :4].contiguous()
    base = {name: value for name, value in moved(plain, 0.05, 1).items() if name != NOT_IN_BASE}
    style = {name.replace("transformer.text_model.", "transformer."): v for name, v in moved(plain, 0.07, 2).items()}
    return {"edit": edit, "style": style, "base": base}


def write_models(folder: Path, dtype: torch.dtype = torch.float32) -> dict[str, Path]:
    """Write the three as files; the one that edits has its yaml beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{name}.safetensors" for name in ("edit", "style", "base")}
    for name, state in states().items():
        stored = {key: value.to(dtype) if value.is_floating_point() else value for key, value in state.items()}
        save_file(stored, paths[name], {"modelspec.title": name, "modelspec.hash_sha256": "0x0"})
    write_yaml(paths["edit"].with_suffix(".yaml"), TINY)
    return paths
