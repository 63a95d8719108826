"""The mode of an autoencoder's posterior, where a host samples from it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

MOMENTS = 8
"""Channels of a posterior's moments: the mean and the log-variance of four latents. A tiny VAE has no posterior."""
LEAST_LOGVAR = -30.0
"""The least log-variance that latent diffusion's posteriors take (their `DiagonalGaussianDistribution` clamps it)."""


@contextmanager
def taking_the_mode(vae: Any) -> Iterator[None]:
    """Let an autoencoder that samples from its posterior take the mode for as long as the context lasts.

    The layer that gives the posterior's moments gives the least variance with the mean: a sample is the mean to 3e-7
    then, whatever takes it and however the host divides the picture.
    """
    layer: torch.nn.Module = vae.encoder if getattr(vae, "quant_conv", None) is None else vae.quant_conv

    def narrow(_: torch.nn.Module, __: object, moments: Tensor) -> Tensor:
        if moments.shape[1] != MOMENTS:
            return moments
        mean, logvar = moments.chunk(2, dim=1)
        return torch.cat([mean, torch.full_like(logvar, LEAST_LOGVAR)], dim=1)

    handle = layer.register_forward_hook(narrow)
    try:
        yield
    finally:
        handle.remove()
