"""Norms, activations, biases and sums between matrix products, each group of them in one pass where a kernel can.

On CUDA by our own Triton kernels, if they can be compiled there, otherwise by torch's operations.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

log = logging.getLogger(__name__)


def norm_silu(norm: nn.Module, x: Tensor, shift: Tensor | None = None) -> Tensor:
    """SiLU of a GroupNorm (Wu and He, arXiv 1803.08494) of x [B, C, h, w], to which `shift` [B or 1, C] is added."""
    if (kernels := _kernels(x)) is not None:
        return _group_norm(kernels, norm, x, silu=True, shift=shift)
    if shift is not None:
        x = x + shift[:, :, None, None]
    return F.silu(norm(x), inplace=not torch.is_grad_enabled())


def group_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """A GroupNorm of x [B, C, h, w]."""
    kernels = _kernels(x)
    return norm(x) if kernels is None else _group_norm(kernels, norm, x, silu=False)


def layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """A LayerNorm (Ba et al., arXiv 1607.06450) of x [.., C]."""
    if (kernels := _kernels(x)) is None:
        return norm(x)
    return kernels.layer_norm(x.contiguous(), norm.weight, norm.bias, norm.eps)


def geglu(x: Tensor) -> Tensor:
    """x [.., 2 C] -> its first half times a GELU of the second, [.., C] (Shazeer, arXiv 2002.05202)."""
    if (kernels := _kernels(x)) is not None:
        return kernels.geglu(x.contiguous())
    value, gate = x.chunk(2, dim=-1)
    return value * F.gelu(gate)


def add_bias(x: Tensor, bias: Tensor, other: Tensor | None) -> Tensor:
    """x [B, C, h, w] + bias [C] + other like x, by a kernel: only where `has_kernels(x)`."""
    kernels = _kernels(x)
    assert kernels is not None
    other = None if other is None else other.contiguous(memory_format=torch.channels_last)
    return kernels.add_bias(x.contiguous(memory_format=torch.channels_last), bias, other)


def upsample_2x(x: Tensor) -> Tensor:
    """x [B, C, h, w] -> [B, C, 2h, 2w] by nearest neighbour."""
    if not has_kernels(x):
        return F.interpolate(x, scale_factor=2.0)
    cells = x.permute(0, 2, 3, 1)[:, :, None, :, None]  # torch's own kernel takes ten times as long as a copy
    batch, channels, height, width = x.shape
    return cells.expand(-1, -1, 2, -1, 2, -1).reshape(batch, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)


def has_kernels(x: Tensor) -> bool:
    """Whether our own kernels run on the device of x now; they compute no gradients."""
    return _kernels(x) is not None


def _group_norm(kernels: ModuleType, norm: Any, x: Tensor, **more: Any) -> Tensor:  # noqa: ANN401 - often out of a list
    x = x.contiguous(memory_format=torch.channels_last)
    return kernels.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps, **more)


def _kernels(x: Tensor) -> ModuleType | None:
    return _on_cuda() if x.device.type == "cuda" and not torch.is_grad_enabled() else None


@lru_cache
def _on_cuda() -> ModuleType | None:
    """Return the kernels if they can be compiled: with Triton, a C compiler and a GPU that is not too old."""
    try:
        from . import triton_kernels  # Triton comes with torch for CUDA on Linux

        triton_kernels.geglu(torch.zeros(1, 32, device="cuda"))
    except Exception as error:
        log.info("Edits are slower than they could be on this GPU: %s: %s", type(error).__name__, error)
        return None
    return triton_kernels
