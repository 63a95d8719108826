"""The kernels of `fused` for CUDA, in Triton: the operations between two matrix products, in few passes over memory.

torch's own group norm copies a channels-last picture into the other layout, and the convolution that follows copies it
back; activations, biases and sums are separate passes there. An edit has to wait while a kernel is compiled, so each
kernel is compiled once for a number format and not again for each size. Triton specializes `channels` and `total` alone
(both are multiples of sixteen): without that it would load numbers one by one.
"""

from __future__ import annotations

import torch
import triton  # pyright: ignore[reportMissingImports] - comes with torch for CUDA
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor

CELLS, LANES = 32, 128
"""Cells and channels of a picture that one program of a group norm holds at once."""
FEW_PARTS, MANY_PARTS, LARGE_PICTURE = 32, 256, 2**14
"""The most programs that share the cells of a group: few up to this many cells, many beyond."""
ROWS, COLUMNS = 4, 512
"""Rows and columns that one program of a layer norm holds at once."""
BLOCK = 2048
"""Numbers that one program of the other kernels computes."""


@triton.jit(do_not_specialize=["cells", "part", "width", "shift_stride", "shifted"])
def _sum_kernel(x, shift, sums, cells, part, channels, width, shift_stride, shifted,
                CELLS: tl.constexpr, LANES: tl.constexpr):
    """Sums and sums of squares of each channel over a part of the cells, relative to a number near its group's mean."""
    column, picture = tl.program_id(0) * LANES + tl.arange(0, LANES), tl.program_id(2).to(tl.int64)
    inside, first = column < channels, column // width * width
    x += picture * cells * channels
    pivot = tl.load(x + first, mask=inside, other=0.0).to(tl.float32)
    if shifted:
        shift += picture * shift_stride
        pivot += tl.load(shift + first, mask=inside, other=0.0).to(tl.float32)
        pivot -= tl.load(shift + column, mask=inside, other=0.0).to(tl.float32)
    total, squares = tl.zeros([CELLS, LANES], tl.float32), tl.zeros([CELLS, LANES], tl.float32)
    begin = tl.program_id(1) * part
    end = tl.minimum(begin + part, cells)
    for start in range(begin, end, CELLS):
        cell = start + tl.arange(0, CELLS)[:, None]
        mask = (cell < end) & inside[None, :]
        value = tl.load(x + cell * channels + column[None, :], mask=mask, other=0.0).to(tl.float32)
        value = tl.where(mask, value - pivot[None, :], 0.0)
        total += value
        squares += value * value
    sums += (picture * tl.num_programs(1) + tl.program_id(1)) * 2 * channels
    tl.store(sums + column, tl.sum(total, 0), mask=inside)
    tl.store(sums + channels + column, tl.sum(squares, 0), mask=inside)


@triton.jit(do_not_specialize=["cells", "parts", "width", "shift_stride", "shifted", "eps"])
def _scale_kernel(x, shift, sums, weight, bias, scales, cells, parts, channels, width, shift_stride,
                  shifted, eps, PARTS: tl.constexpr, LANES: tl.constexpr):
    """The factor and the offset of each channel of a group, [2, C] for each picture."""
    lane, row, picture = tl.arange(0, LANES), tl.arange(0, PARTS)[:, None], tl.program_id(1).to(tl.int64)
    first, inside = tl.program_id(0) * width, lane < width
    column = first + lane
    sums += picture * parts * 2 * channels
    total, squares = tl.zeros([PARTS, LANES], tl.float32), tl.zeros([PARTS, LANES], tl.float32)
    for start in range(0, parts, PARTS):
        at, mask = (start + row) * 2 * channels + column[None, :], (start + row < parts) & inside[None, :]
        total += tl.load(sums + at, mask=mask, other=0.0)
        squares += tl.load(sums + at + channels, mask=mask, other=0.0)
    count = cells * width
    mean = tl.sum(tl.sum(total, 0), 0) / count
    variance = tl.maximum(tl.sum(tl.sum(squares, 0), 0) / count - mean * mean, 0.0)
    mean += tl.load(x + picture * cells * channels + first).to(tl.float32)
    own = tl.zeros([LANES], tl.float32)
    if shifted:
        shift += picture * shift_stride
        mean += tl.load(shift + first).to(tl.float32)
        own += tl.load(shift + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32) * tl.rsqrt(variance + eps)
    offset = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32) + (own - mean) * scale
    scales += picture * 2 * channels
    tl.store(scales + column, scale, mask=inside)
    tl.store(scales + channels + column, offset, mask=inside)


@triton.jit(do_not_specialize=["cells", "silu"])
def _apply_kernel(x, scales, y, cells, channels, silu, CELLS: tl.constexpr, LANES: tl.constexpr):
    column, picture = tl.program_id(0) * LANES + tl.arange(0, LANES), tl.program_id(2).to(tl.int64)
    inside, cell = column < channels, tl.program_id(1) * CELLS + tl.arange(0, CELLS)[:, None]
    at = picture * cells * channels + cell * channels + column[None, :]
    mask = (cell < cells) & inside[None, :]
    scales += picture * 2 * channels
    scale = tl.load(scales + column, mask=inside, other=0.0)
    offset = tl.load(scales + channels + column, mask=inside, other=0.0)
    value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32) * scale[None, :] + offset[None, :]
    if silu:
        value = value * tl.sigmoid(value)
    tl.store(y + at, value.to(y.dtype.element_ty), mask=mask)


def group_norm(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, *, silu: bool, shift: Tensor | None = None
) -> Tensor:
    """x [B, C, h, w], channels-last, with its norm's weight and bias [C] -> the same shape, layout and format.

    `shift` [B or 1, C] is added to x before the norm.
    """
    y = torch.empty_like(x, memory_format=torch.channels_last)
    batch, channels, cells = len(x), x.shape[1], x.shape[2:].numel()
    width, blocks = channels // groups, triton.cdiv(channels, LANES)
    part = CELLS * triton.cdiv(cells, CELLS * (FEW_PARTS if cells <= LARGE_PICTURE else MANY_PARTS))
    parts = triton.cdiv(cells, part)
    sums = torch.empty(batch, parts, 2, channels, dtype=torch.float32, device=x.device)
    scales = torch.empty(batch, 2, channels, dtype=torch.float32, device=x.device)
    stride = 0 if shift is None or len(shift) == 1 else channels
    shifted, shift = int(shift is not None), x if shift is None else shift.contiguous()
    launch_sum, launch_scale = _sum_kernel[blocks, parts, batch], _scale_kernel[groups, batch]  # pyright: ignore[reportIndexIssue]
    launch_apply = _apply_kernel[blocks, triton.cdiv(cells, CELLS), batch]  # pyright: ignore[reportIndexIssue]
    launch_sum(x, shift, sums, cells, part, channels, width, stride, shifted, CELLS=CELLS, LANES=LANES)
    sizes = {"PARTS": FEW_PARTS, "LANES": max(LANES, triton.next_power_of_2(width))}
    launch_scale(x, shift, sums, weight, bias, scales, cells, parts, channels, width, stride, shifted, eps, **sizes)
    launch_apply(x, scales, y, cells, channels, int(silu), CELLS=CELLS, LANES=LANES)
    return y


@triton.jit(do_not_specialize=["rows", "eps"])
def _layer_norm_kernel(x, y, weight, bias, rows, channels, eps, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row, lane = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    start = row.to(tl.int64) * channels
    pivot = tl.load(x + start, mask=row < rows, other=0.0).to(tl.float32)  # near the mean, so that squares are small
    total, squares = tl.zeros([ROWS, COLUMNS], tl.float32), tl.zeros([ROWS, COLUMNS], tl.float32)
    for begin in range(0, channels, COLUMNS):
        mask = (row < rows) & (begin + lane < channels)
        value = tl.load(x + start + begin + lane, mask=mask, other=0.0).to(tl.float32)
        value = tl.where(mask, value - pivot, 0.0)
        total += value
        squares += value * value
    mean = tl.sum(total, 1)[:, None] / channels
    variance = tl.maximum(tl.sum(squares, 1)[:, None] / channels - mean * mean, 0.0)
    mean += pivot
    deviation = tl.rsqrt(variance + eps)
    for begin in range(0, channels, COLUMNS):
        column = begin + lane
        inside = column < channels
        mask = (row < rows) & inside
        scale = tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
        offset = tl.load(bias + column, mask=inside, other=0.0).to(tl.float32)
        value = tl.load(x + start + column, mask=mask, other=0.0).to(tl.float32)
        value = (value - mean) * deviation * scale + offset
        tl.store(y + start + column, value.to(y.dtype.element_ty), mask=mask)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """x [.., C], contiguous -> the same shape and format."""
    y, channels = torch.empty_like(x), x.shape[-1]
    rows = x.numel() // channels
    launch = _layer_norm_kernel[(triton.cdiv(rows, ROWS),)]  # pyright: ignore[reportIndexIssue]
    launch(x, y, weight, bias, rows, channels, eps, ROWS=ROWS, COLUMNS=COLUMNS)
    return y


@triton.jit
def _geglu_kernel(x, y, total, channels, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask, row = at < total, at // channels
    gate = tl.load(x + at + (row + 1) * channels, mask=mask, other=0.0).to(tl.float32)
    value = tl.load(x + at + row * channels, mask=mask, other=0.0).to(tl.float32)
    value *= 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    tl.store(y + at, value.to(y.dtype.element_ty), mask=mask)


def geglu(x: Tensor) -> Tensor:
    """x [.., 2 C], contiguous -> its first half times a GELU of the second, [.., C]."""
    y = x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
    launch = _geglu_kernel[(triton.cdiv(y.numel(), BLOCK),)]  # pyright: ignore[reportIndexIssue]
    launch(x, y, y.numel(), y.shape[-1], BLOCK=BLOCK)
    return y


@triton.jit(do_not_specialize=["adds"])
def _add_bias_kernel(x, bias, other, y, total, channels, adds, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < total
    value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    value += tl.load(bias + at % channels, mask=mask, other=0.0).to(tl.float32)
    if adds:
        value += tl.load(other + at, mask=mask, other=0.0).to(tl.float32)
    tl.store(y + at, value.to(y.dtype.element_ty), mask=mask)


def add_bias(x: Tensor, bias: Tensor, other: Tensor | None) -> Tensor:
    """x [B, C, h, w] + bias [C] + other like x, all channels-last -> the same shape, layout and format."""
    y = torch.empty_like(x, memory_format=torch.channels_last)
    launch = _add_bias_kernel[(triton.cdiv(x.numel(), BLOCK),)]  # pyright: ignore[reportIndexIssue]
    more = x if other is None else other
    launch(x, bias, more, y, x.numel(), x.shape[1], int(other is not None), BLOCK=BLOCK)
    return y
