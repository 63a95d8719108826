"""Convolutions of 3 by 3 in float32 by Winograd's way: a quarter of the multiplications.

F(4 x 4, 3 x 3) of Lavin and Gray (arXiv 1509.09308): tiles of 6 by 6 cells become 36 numbers each, in which a
convolution is 36 products of matrices, and those become tiles of 4 by 4. Written with torch the two changes cost as
much as they gain; `winograd_code` writes kernels for them, which llvmlite compiles in memory. Rounding is two to four
times the plain way's. In bf16 the numbers between would not do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ..free_memory import is_room_for
from . import threads

CELLS = 8 * 8
"""Cells of a picture from which on it pays."""
LEFT = 2**29
"""Numbers that must still fit into memory when a layer's weights have grown, 2 GB of them."""
CHANNELS = 128
"""Channels from which on it pays."""
AT_ONCE = 512
"""Tiles at once: what lies between then stays in the caches, or near them."""

_KERNEL = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)


def pays(weight: Tensor, x: Tensor) -> bool:
    """Whether to convolve x [B, in, h, w] in this way with a weight [out, in, 3, 3], one cell of zeros around."""
    return (
        weight.dtype == x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.shape[2:].numel() >= CELLS
        and min(weight.shape[:2]) >= CHANNELS
        and weight.shape[0] % 16 == weight.shape[1] % 16 == 0
        and _kernels() is not None
        and is_room_for(4 * weight.numel() + LEFT, x.dtype, x.device)
    )


def spread_weight(weight: Tensor) -> Tensor:
    """[out, in, 3, 3] -> [36, in, out]."""
    flat = weight.permute(2, 3, 1, 0).reshape(9, -1)
    return torch.matmul(_both_ways().to(weight.dtype), flat).view(36, *weight.shape[1::-1])


def plain_weight(spread: Tensor) -> Tensor:
    """[36, in, out] -> [out, in, 3, 3], but for rounding."""
    back = torch.linalg.pinv(_both_ways()).to(spread.dtype)
    flat = torch.matmul(back, spread.flatten(1)).view(3, 3, *spread.shape[1:])
    return flat.permute(3, 2, 0, 1).contiguous()


def _both_ways() -> Tensor:
    """[36, 9] float64: what a kernel's columns and then its rows become."""
    kernel = torch.tensor(_KERNEL, dtype=torch.float64)
    return torch.kron(kernel, kernel)


def convolve(x: Tensor, spread: Tensor, bias: Tensor, add: Tensor | None = None) -> Tensor:
    """x [B, in, h, w], weights [36, in, out], bias [out], `add` [B, out, h, w] -> [B, out, h, w]; all float32."""
    kernels = _kernels()
    assert kernels is not None, "not without llvmlite"
    (batch, channels, h, w), out = x.shape, spread.shape[2]
    x, bias = x.contiguous(memory_format=torch.channels_last), bias.contiguous()
    add = None if add is None else add.contiguous(memory_format=torch.channels_last)
    y = torch.empty(batch, out, h, w, memory_format=torch.channels_last)
    zeros, lost = torch.zeros(max(channels, out)), torch.empty(out)
    down, across = -(-h // 4), -(-w // 4)
    tiles = batch * down * across
    for first in range(0, tiles, AT_ONCE):
        count = min(AT_ONCE, tiles - first)
        numbers, products = torch.empty(36, count, channels), torch.empty(36, count, out)
        _run(kernels[0], numbers, (x, zeros), first, down, across, h, w)
        torch.bmm(numbers, spread, out=products)
        _run(kernels[1], products, (bias, add, zeros, y, lost), first, down, across, h, w)
    return y


def _run(kernel: Callable[..., None], of: Tensor, others: Sequence[Tensor | None], first: int, *shape: int) -> None:
    """Let a kernel fill or read `of` [36, tiles, channels] for the tiles from the first on, in parts."""
    count, row, parts = of.shape[1], of.shape[2] * of.element_size(), torch.get_num_threads()
    begin, *pointers = (0 if tensor is None else tensor.data_ptr() for tensor in (of, *others))

    def part(number: int) -> None:
        a, b = (count * i // parts for i in (number, number + 1))
        kernel(begin + a * row, *pointers, first + a, first + b, *shape, row, count * row)

    threads.each(part, range(parts))


@lru_cache
def _kernels() -> tuple[Callable[..., None], Callable[..., None]] | None:
    """Return `spread` and `gather`; None where the processor or llvmlite is not what they take."""
    try:
        from . import winograd_ir
    except ImportError:
        return None
    return winograd_ir.kernels() if winograd_ir.can_compile() else None
