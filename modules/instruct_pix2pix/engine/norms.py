"""Group norms (Wu and He, arXiv 1803.08494), with the SiLU that mostly follows them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUP = 2**19
"""Numbers of a group up to which a kernel that has one program for each is faster than torch's own."""


def norm_silu(norm: nn.Module, x: Tensor) -> Tensor:
    """SiLU of a GroupNorm of x [B, C, h, w]."""
    if (kernel := _kernel(norm, x)) is not None:
        return kernel(x, norm.num_groups, norm.weight, norm.bias, norm.eps, silu=True)
    return F.silu(norm(x), inplace=not torch.is_grad_enabled())


def group_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """A GroupNorm of x [B, C, h, w]."""
    if (kernel := _kernel(norm, x)) is not None:
        return kernel(x, norm.num_groups, norm.weight, norm.bias, norm.eps, silu=False)
    return norm(x)


def _kernel(norm: Any, x: Tensor) -> Callable[..., Tensor] | None:  # noqa: ANN401 - a GroupNorm, often out of a list
    """Return what is faster than torch's own for this picture, if anything is."""
    if x.device.type != "cuda" or torch.is_grad_enabled() or x[0].numel() > GROUP * norm.num_groups:
        return None
    return _on_cuda() if x.is_contiguous(memory_format=torch.channels_last) else None


@lru_cache
def _on_cuda() -> Callable[..., Tensor] | None:
    try:
        from . import norm_kernel
    except ImportError:  # Triton comes with torch for CUDA on Linux
        return None
    return norm_kernel.group_norm
