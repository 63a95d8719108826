"""The kernel of `norms` for CUDA: a group norm and its SiLU in one pass over channels-last pictures.

torch's own writes such pictures out anew in the other layout, and the convolution that follows turns them back.
"""

from __future__ import annotations

import torch
import triton  # pyright: ignore[reportMissingImports] - comes with torch for CUDA
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

AT_ONCE = 4096
"""Numbers that a program holds at once."""


@triton.jit
def _kernel(x, y, weight, bias, cells, channels, width, eps,  # noqa: ANN001, ANN202 - Triton's own types
            SILU: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # noqa: N803
    group, picture = tl.program_id(0), tl.program_id(1).to(tl.int64)
    columns, rows = tl.arange(0, COLUMNS), tl.arange(0, ROWS)
    inside = columns < width
    start = picture * cells * channels + group * width
    pivot = tl.load(x + start).to(tl.float32)  # near the mean, so that squares are small
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    squares = tl.zeros([ROWS, COLUMNS], tl.float32)
    for first in range(0, cells, ROWS):
        cell = first + rows
        mask = (cell < cells)[:, None] & inside[None, :]
        at = start + cell[:, None] * channels + columns[None, :]
        value = tl.where(mask, tl.load(x + at, mask=mask, other=0.0).to(tl.float32) - pivot, 0.0)
        total += value
        squares += value * value
    count = cells * width
    mean = tl.sum(tl.sum(total, 1), 0) / count
    variance = tl.sum(tl.sum(squares, 1), 0) / count - mean * mean
    of = group * width + columns
    scale = tl.load(weight + of, mask=inside, other=0.0).to(tl.float32) * tl.rsqrt(variance + eps)
    shift = tl.load(bias + of, mask=inside, other=0.0).to(tl.float32) - (mean + pivot) * scale
    for first in range(0, cells, ROWS):
        cell = first + rows
        mask = (cell < cells)[:, None] & inside[None, :]
        at = start + cell[:, None] * channels + columns[None, :]
        value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32) * scale[None, :] + shift[None, :]
        if SILU:
            value = value * tl.sigmoid(value)
        tl.store(y + at, value.to(y.dtype.element_ty), mask=mask)


def group_norm(x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, *, silu: bool) -> Tensor:
    """x [B, C, h, w], channels-last, with its norm's weight and bias [C] -> the same shape, layout and format."""
    y = torch.empty_like(x, memory_format=torch.channels_last)
    batch, channels, cells = len(x), x.shape[1], x.shape[2:].numel()
    width = channels // groups
    columns = triton.next_power_of_2(width)
    rows = max(1, AT_ONCE // columns)
    launch = _kernel[(groups, batch)]  # pyright: ignore[reportIndexIssue]
    launch(x, y, weight, bias, cells, channels, width, eps, SILU=silu, ROWS=rows, COLUMNS=columns, num_warps=8)
    return y
