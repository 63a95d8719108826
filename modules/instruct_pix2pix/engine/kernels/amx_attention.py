"""Attention in bf16 for processors with AMX or AVX-512 bf16, 1.5 to 2.5 times as fast as torch's.

In torch's kernel the matrix unit waits while scores are written, scaled, compared, summed, rounded and rearranged, and
for the exponentials. `amx_attention_ir` writes a kernel without most of that, and `avx512_attention_ir` the same
without AMX; llvmlite compiles it in memory, once in a process for each head width. Without llvmlite torch's is used.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

from . import threads

MOST_WIDTH = 160
"""The widest heads, in numbers, that the kernel takes."""
LEAST_QUERIES = 512
"""Queries from which on it is faster than torch's."""


@lru_cache
def has_amx() -> bool:
    """Tell whether this processor has AMX, and the system lets torch use it."""
    return getattr(torch.cpu, "_is_amx_tile_supported", bool)()


@lru_cache
def _writer() -> ModuleType | None:
    """Return the module that writes the kernel; None where processor, system or llvmlite cannot run what it writes."""
    try:
        from . import amx_attention_ir, avx512_attention_ir
    except ImportError:
        return None
    if not has_amx():
        return avx512_attention_ir if avx512_attention_ir.can_compile() else None
    return amx_attention_ir if amx_attention_ir.can_compile() and torch.cpu._init_amx() else None


def applies(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Tell whether to use `attention` for heads q [B, H, N, c], k and v [B, H, T, c]: it is possible and faster."""
    width = q.shape[-1]
    return (
        q.shape[2] >= LEAST_QUERIES
        and q.dtype == k.dtype == v.dtype == torch.bfloat16
        and q.device.type == "cpu"
        and width % 2 == 0
        and width <= MOST_WIDTH
        and q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
        and _writer() is not None
    )


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
    """softmax(q k^T / sqrt(c)) v for heads q [B, H, N, c], k and v [B, H, T, c] to which it applies -> [B, N, H * c].

    None where scores differ by more than float32 can hold the exponential of.
    """
    (batch, heads, queries, width), keys = q.shape, k.shape[2]
    writer = _writer()
    assert writer is not None, "not without AMX or AVX-512 bf16"
    kernel = _kernel(width)
    out = torch.empty(batch, queries, heads, width, dtype=q.dtype)
    strides = [2 * x.stride(dim) for x, dim in ((q, 2), (k, 2), (v, 2), (out, 1))]
    parts = -(-4 * torch.get_num_threads() // (batch * heads))  # enough for all threads to end at about the same time
    size = -(-queries // (parts * writer.QUERIES)) * writer.QUERIES

    def attend(place: tuple[int, int, int]) -> int:
        b, h, first = place
        first, last = min(first, queries - writer.QUERIES), min(first + size, queries)
        packed = torch.empty(writer.packed_bytes(width, keys), dtype=torch.uint8)
        where = (q[b, h, first], k[b, h], v[b, h], out[b, first, h], packed)
        return kernel(*(x.data_ptr() for x in where), last - first, keys, *strides, width**-0.5 * math.log2(math.e))

    places = itertools.product(range(batch), range(heads), range(0, queries, size))
    return None if any(threads.parallel_map(attend, places)) else out.flatten(2)


@lru_cache
def _kernel(width: int) -> Callable[..., int]:
    writer = _writer()
    assert writer is not None
    return writer.compile_kernel(width)
