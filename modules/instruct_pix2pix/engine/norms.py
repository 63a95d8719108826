"""Group norms (Wu and He, arXiv 1803.08494), with the SiLU that mostly follows them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GROUP = 2**19
"""Numbers of a group up to which a kernel that has one program for each is faster than torch's own."""


def norm_silu(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """SiLU of the norm of x [B, C, h, w]."""
    if (kernel := _kernel(norm, x)) is not None:
        return kernel(x, norm.num_groups, norm.weight, norm.bias, norm.eps, silu=True)
    return F.silu(norm(x), inplace=not torch.is_grad_enabled())


def group_norm(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """The norm of x [B, C, h, w]."""
    if (kernel := _kernel(norm, x)) is not None:
        return kernel(x, norm.num_groups, norm.weight, norm.bias, norm.eps, silu=False)
    return norm(x)


def _kernel(norm: nn.GroupNorm, x: Tensor) -> Callable[..., Tensor] | None:
    """Return what is faster than torch's own for this picture, if anything is."""
    if torch.is_grad_enabled() or not x.is_contiguous(memory_format=torch.channels_last):
        return None
    if x.device.type == "cuda" and x[0].numel() <= GROUP * norm.num_groups:
        return _on_cuda()
    return None


@lru_cache
def _on_cuda() -> Callable[..., Tensor] | None:
    try:
        from . import norm_kernel
    except ImportError:  # Triton comes with torch for CUDA on Linux
        return None
    return norm_kernel.group_norm
