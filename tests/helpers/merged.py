"""A merged demo model: it still carries the moving averages of the model that the merge began with."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from instruct_pix2pix.models.checkpoints import ema_twin
from instruct_pix2pix.models.registry import DEMO


def write_merged_demo(path: Path) -> Path:
    """Write the demo model with moving averages that are another model's."""
    state = load_file(DEMO)
    unet = {name: value for name, value in state.items() if name.startswith("model.diffusion_model.")}
    generator = torch.Generator().manual_seed(1)
    for name, value in unet.items():
        state[ema_twin(name)] = value + 0.3 * value.abs().mean() * torch.randn(value.shape, generator=generator).half()
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(state, path)
    shutil.copyfile(DEMO.with_suffix(".yaml"), path.with_suffix(".yaml"))
    return path
