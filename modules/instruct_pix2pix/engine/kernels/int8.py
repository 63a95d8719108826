"""Numbers in 8 bits for products of whole numbers: rows of pictures to bytes, and the products back to floats.

A row x of numbers becomes bytes q in 0..255, or 0..127 (`largest_byte`), with a scale and a zero of its own,
x = scale * (q - zero): all of the range is used where most numbers are positive, as after SiLU. The product with a
weight in 8 bits, the sum of q w, holds the sum of w too much, times zero, which `rescale` takes off. In torch's
operations that is many passes over the numbers; `int8_ir` writes kernels for it, which llvmlite compiles in memory.
Without them results differ by rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from . import threads

_ops: Any = torch.ops.onednn

LEAST_SCALE = 2.0**-100
"""The scale of rows that are zero."""


@dataclass(frozen=True)
class Bytes:
    """Rows of numbers in 8 bits."""

    q: Tensor
    """uint8, up to `largest_byte()`."""
    scales: Tensor
    """float32 [rows]."""
    zeros: Tensor
    """float32 [rows], whole numbers that a byte can be."""


@lru_cache
def largest_byte() -> int:
    """Return up to where oneDNN's products of bytes are exact here: 255, or 127.

    With no more than AVX2 two products are added up in 16 bits, which overflow.
    """
    ones, most = torch.ones(64), torch.full((64, 64), 255, dtype=torch.uint8)
    weight = _ops.qlinear_prepack(torch.full((64, 64), 127, dtype=torch.int8), None)
    how = (ones, torch.zeros(64, dtype=torch.int32), None, 1.0, 0, torch.float32, "none", [], "")
    y = _ops.qlinear_pointwise(most, 1.0, 0, weight, *how)
    return 255 if bool((y == 64 * 255 * 127).all()) else 127


def quantize_rows(x: Tensor) -> Bytes:
    """x [rows, K], bf16 or float32, contiguous -> bytes [rows, K], each row with a scale of its own."""
    kernels = _kernels(x)
    if kernels is None:
        return _quantize_plainly(x, *_ranges_plainly(x))
    low, high, scales, zeros = torch.empty(4, len(x))
    q = torch.empty(x.shape, dtype=torch.uint8)
    offsets = torch.arange(0, max(q.numel(), 1), x.shape[1])
    ranges, quantize, _ = kernels

    def run(first: int, last: int) -> None:
        ranges(*_pointers(x, low, high), first, last, x.shape[1])
        quantize(*_pointers(x, low, high, offsets, q, scales, zeros), first, last, x.shape[1])

    _in_parts(run, len(x))
    return Bytes(q, scales, zeros)


def quantize_pictures(x: Tensor, border: int) -> Bytes:
    """x [B, C, h, w], bf16 or float32 -> bytes [B, C, h + 2 border, w + 2 border], channels-last, one scale a picture.

    The border holds the bytes that stand for zero, so that a convolution need not know what these are.
    """
    batch, channels, height, width = x.shape
    lines = x.permute(0, 2, 3, 1).contiguous().view(batch * height, width * channels)
    q = torch.empty(batch, height + 2 * border, width + 2 * border, channels, dtype=torch.uint8)
    kernels = _kernels(lines)
    if kernels is None:
        low, high = (edge.view(batch, height) for edge in _ranges_plainly(lines))
        low, high = low.amin(1), high.amax(1)
        plain = _quantize_plainly(lines.view(batch, -1), low, high)
        q[:, border : border + height, border : border + width] = plain.q.view(batch, height, width, channels)
        scales, zeros = plain.scales, plain.zeros
    else:
        low, high, scales, zeros = torch.empty(4, batch * height)
        ranges, quantize, _ = kernels
        _in_parts(lambda a, b: ranges(*_pointers(lines, low, high), a, b, lines.shape[1]), len(lines))
        low = low.view(batch, height).amin(1).repeat_interleave(height)
        high = high.view(batch, height).amax(1).repeat_interleave(height)
        line = q.stride(1)
        inside = torch.arange(height) * line + border * (line + channels)
        offsets = (torch.arange(batch)[:, None] * q.stride(0) + inside).flatten()
        where = _pointers(lines, low, high, offsets, q, scales, zeros)
        _in_parts(lambda a, b: quantize(*where, a, b, lines.shape[1]), len(lines))
        scales, zeros = scales[::height].contiguous(), zeros[::height].contiguous()
    if border:
        edge = zeros.nan_to_num().to(torch.uint8).view(-1, 1, 1)
        for part in (q[:, :border], q[:, -border:], q[:, :, :border], q[:, :, -border:]):
            part.copy_(edge.view(-1, 1, 1, 1))
    return Bytes(q.permute(0, 3, 1, 2), scales, zeros)


def rescale(
    y: Tensor,
    of: Bytes,
    sums: Tensor,
    bias: Tensor,
    dtype: torch.dtype,
    *,
    add: Tensor | None = None,
    multiply: Tensor | None = None,
) -> Tensor:
    """Products y [rows, N] of bytes, float32 -> (y - zero * sums) * scale + bias, in `dtype`.

    The rows of `of` stand for one or more rows of y each; `sums` and `bias` are float32 [N]. `add` or `multiply` like
    the result is added to it or multiplied with it.
    """
    each = len(y) // max(len(of.scales), 1)
    scales, zeros = (of.scales, of.zeros) if each == 1 else (v.repeat_interleave(each) for v in (of.scales, of.zeros))
    other = add if multiply is None else multiply
    kernels = _kernels(y, dtype, "" if other is None else "multiply" if add is None else "add")
    if kernels is None:
        out = (y - zeros[:, None] * sums) * scales[:, None] + bias
        out = out if add is None else out + add
        return (out if multiply is None else out * multiply).to(dtype)
    out = torch.empty(y.shape, dtype=dtype)
    where = _pointers(y, scales, zeros, sums, bias, y if other is None else other.contiguous(), out)
    _in_parts(lambda a, b: kernels[2](*where, a, b, y.shape[1]), len(y))
    return out


def _ranges_plainly(x: Tensor) -> tuple[Tensor, Tensor]:
    low, high = torch.aminmax(x.float(), dim=1)
    none = (x.float() * 0).sum(1)
    return low.clamp(max=0) + none, high.clamp(min=0) + none


def _quantize_plainly(x: Tensor, low: Tensor, high: Tensor) -> Bytes:
    largest = largest_byte()
    scales = (high - low) / largest
    scales = torch.where(scales < LEAST_SCALE, LEAST_SCALE, scales)
    factors = 1 / scales
    zeros = (-low * factors).round()
    values = x.float() * factors[:, None] + (zeros + 0.5)[:, None]
    return Bytes(values.nan_to_num().clamp(0, largest).to(torch.uint8), scales, zeros)


def _pointers(*tensors: Tensor) -> list[int]:
    assert all(tensor.is_contiguous() for tensor in tensors)
    return [tensor.data_ptr() for tensor in tensors]


def _in_parts(run: Callable[[int, int], None], rows: int) -> None:
    """Run a kernel for all rows, a part of them on each thread."""
    parts = min(torch.get_num_threads(), max(rows // ROWS_OF_A_PART, 1))
    if parts == 1:
        run(0, rows)
        return
    edges = [rows * i // parts for i in range(parts + 1)]
    threads.parallel_map(lambda i: run(edges[i], edges[i + 1]), range(parts))


ROWS_OF_A_PART = 16
"""Rows for which another thread is not worth its while."""


def _kernels(x: Tensor, dtype: torch.dtype | None = None, other: str = "") -> Sequence[Callable[..., None]] | None:
    """Return the kernels for rows like x, of this format; None where torch's operations have to do."""
    dtype = dtype or x.dtype
    fits = x.device.type == "cpu" and x.shape[1] % 16 == 0 and dtype in (torch.bfloat16, torch.float32)
    return _compiled(dtype == torch.bfloat16, other) if fits and has_kernels() else None


def has_kernels() -> bool:
    """Tell whether there are kernels: llvmlite is installed, and the processor has AVX2."""
    return _writer() is not None


def _compiler() -> ModuleType:
    writer = _writer()
    assert writer is not None, "not without llvmlite"
    return writer


@lru_cache
def _writer() -> ModuleType | None:
    """Return the module `int8_ir`; None without llvmlite, and for processors that its kernels are not for."""
    try:
        from . import int8_ir
    except ImportError:
        return None
    return int8_ir if int8_ir.can_compile() else None


@lru_cache
def _compiled(half: bool, other: str) -> Sequence[Callable[..., None]]:
    return _kernel("ranges", half, ""), _kernel("quantize", half, ""), _kernel("rescale", half, other)


@lru_cache
def _kernel(name: str, half: bool, other: str) -> Callable[..., None]:
    return _compiler().writer(name, half=half, other=other, largest=largest_byte()).compile()
