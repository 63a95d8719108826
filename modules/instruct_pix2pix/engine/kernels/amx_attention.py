"""Attention for processors with AMX, over twice as fast as torch's at thousands of positions.

There the matrix unit waits for the exponentials and for what lies between: scores are written, scaled, compared,
summed, rounded and laid out anew. `amx_attention_ir` writes a kernel without most of that; llvmlite compiles it in
memory, once a process for each width of heads. Without llvmlite there is torch's kernel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from . import threads

WIDEST = 160
"""Numbers in a head up to which there is a kernel."""
LONG = 512
"""Queries from which on it is faster than torch's."""


@lru_cache
def _code() -> Any:  # noqa: ANN401 - a module
    """Return the module `amx_attention_ir`; None where the processor, the system or llvmlite is not what it takes."""
    if not getattr(torch.cpu, "_is_amx_tile_supported", bool)():
        return None
    try:
        from . import amx_attention_ir
    except ImportError:
        return None
    return amx_attention_ir if amx_attention_ir.can_compile() and torch.cpu._init_amx() else None


def takes(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether `attention` can answer for these heads, and soon."""
    width = q.shape[-1]
    return (
        q.shape[2] >= LONG
        and q.dtype == k.dtype == v.dtype == torch.bfloat16
        and q.device.type == "cpu"
        and width % 2 == 0
        and width <= WIDEST
        and q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
        and _code() is not None
    )


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor | None:
    """softmax(q k^T / sqrt(c)) v for heads q [B, H, N, c], k and v [B, H, T, c] that it `takes` -> [B, N, H * c].

    None where scores differ by more than float32 holds the exponential of.
    """
    (batch, heads, queries, width), keys = q.shape, k.shape[2]
    code, kernel = _code(), _kernel(width)
    out = torch.empty(batch, queries, heads, width, dtype=q.dtype)
    strides = [2 * x.stride(dim) for x, dim in ((q, 2), (k, 2), (v, 2), (out, 1))]
    parts = -(-4 * torch.get_num_threads() // (batch * heads))  # enough for all workers to end at about the same time
    size = -(-queries // (parts * code.QUERIES)) * code.QUERIES

    def part(place: tuple[int, int, int]) -> int:
        b, h, first = place
        first, last = min(first, queries - code.QUERIES), min(first + size, queries)
        packed = torch.empty(code.packed_bytes(width, keys), dtype=torch.uint8)
        where = (q[b, h, first], k[b, h], v[b, h], out[b, first, h], packed)
        return kernel(*(x.data_ptr() for x in where), last - first, keys, *strides, width**-0.5 * math.log2(math.e))

    places = itertools.product(range(batch), range(heads), range(0, queries, size))
    return None if any(threads.each(part, places)) else out.flatten(2)


@lru_cache
def _kernel(width: int) -> Callable[..., int]:
    return _code().compiled(width)
