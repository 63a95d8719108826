"""A sampling of ComfyUI's with a guider of ours, in one call: noise, levels, progress, preview."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .guider import EditGuider

LARGEST_SEED = 2**64


def noise_of(seed: int, like: Tensor) -> Tensor:
    """Return the noise [B, C, h, w] that edits begin with, on the CPU: each picture's from a seed of its own.

    The first picture's is that of ComfyUI's samplers, and each is the one that it would have alone.
    """
    drawn = []
    for number in range(len(like)):
        generator = torch.Generator("cpu").manual_seed((seed + number) % LARGEST_SEED)
        drawn.append(torch.randn(like.shape[1:], generator=generator, device="cpu"))
    return torch.stack(drawn)


def sample(guider: EditGuider, like: Tensor, sampler_name: str, scheduler: str, steps: int, seed: int) -> Tensor:
    """Return the edited latents [B, 4, h, w], unscaled, of pictures whose latents are `like`.

    ComfyUI's progress bar, preview and interruption work as in its own samplers.
    """
    samplers, management = import_module("comfy.samplers"), import_module("comfy.model_management")
    patcher = guider.model_patcher
    sigmas = samplers.KSampler(patcher, steps, patcher.load_device, sampler_name, scheduler, denoise=1.0).sigmas
    made = guider.sample(
        noise_of(seed, like),
        torch.zeros_like(like),
        samplers.sampler_object(sampler_name),
        sigmas,
        callback=import_module("latent_preview").prepare_callback(patcher, len(sigmas) - 1),
        disable_pbar=not import_module("comfy.utils").PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    return made.to(management.intermediate_device())
