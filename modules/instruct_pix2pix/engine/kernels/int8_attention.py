"""Attention whose two products are of whole numbers in 8 bits, for processors with AVX-512 VNNI and no AMX.

As in SageAttention (Zhang et al., arXiv 2410.02367) the mean over all keys is taken off each key, which softmax does
not see, and queries and keys have a scale each. The weights are signed bytes too, the largest of a query 127; they are
rounded so that their sums stay. Values have a scale for each channel. The products are torch's, `torch._int_mm`, which
packs nothing beforehand; what lies between them is a kernel of `int8_ir`.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from . import int8

LEAST = 512
"""Queries and keys from which on it is faster."""
QUERIES_AT_ONCE = 512
"""Their scores for 4096 keys still fit into the processor's caches."""


def applies(q: Tensor, k: Tensor) -> bool:
    """Tell whether to use `attention` for heads q [B, H, N, c] and k [B, H, T, c]: it is possible and faster."""
    return (
        min(q.shape[2], k.shape[2]) >= LEAST
        and k.shape[2] % 16 == 0
        and q.device.type == "cpu"
        and q.dtype in (torch.bfloat16, torch.float32)
        and not getattr(torch.cpu, "_is_amx_tile_supported", bool)()
        and int8.can_weigh()
    )


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(c)) v for heads q [B, H, N, c], k and v [B, H, T, c] -> [B, N, H * c], where it applies."""
    batch, heads, queries, width = q.shape
    qs, q_scales = _rows(q, None)
    ks, k_scales = _rows(k, k.mean(2, keepdim=True))
    q_scales *= width**-0.5 * math.log2(math.e)
    v_scales = (v.abs().amax(2).float() / 127).clamp(min=int8.LEAST_SCALE)  # [B, H, c]
    vs = (v / v_scales[:, :, None].to(v.dtype)).round_().clamp_(-127, 127).to(torch.int8)
    v_scales = v_scales + k_scales.sum(2, keepdim=True) * 0  # no number for a key that is none
    out = torch.empty(batch, queries, heads, width, dtype=q.dtype)
    size = min(QUERIES_AT_ONCE, queries)
    scores = torch.empty(size, k.shape[2], dtype=torch.int32)  # once: such blocks come from the system, slowly
    weights = torch.empty(scores.shape, dtype=torch.int8)
    for b, h in itertools.product(range(batch), range(heads)):
        keys, values = ks[b, h].t(), vs[b, h].contiguous()
        for part, scales, to in zip(*(x.split(size) for x in (qs[b, h], q_scales[b, h], out[b, :, h])), strict=True):
            rows = len(part)
            torch._int_mm(part, keys, out=scores[:rows])
            sums = int8.weigh(scores[:rows], scales, k_scales[b, h], weights[:rows])
            to.copy_(torch._int_mm(weights[:rows], values) * v_scales[b, h] / sums[:, None])
    return out.flatten(2)


def _rows(x: Tensor, minus: Tensor | None) -> tuple[Tensor, Tensor]:
    """Heads [B, H, N, c], without `minus` -> signed bytes [B, H, N, c or more] and scales [B, H, N]; more are zeros."""
    width = -(-x.shape[3] // 16) * 16
    rows = x.new_zeros(*x.shape[:3], width)
    if minus is None:
        rows[..., : x.shape[3]] = x
    else:
        torch.sub(x, minus, out=rows[..., : x.shape[3]])
    q, scales = int8.quantize_evenly(rows.view(-1, width))
    return q.view(rows.shape), scales.view(rows.shape[:3])
