"""3x3 convolutions in float32 on CPUs by Winograd's algorithm, with a quarter of the multiplications.

F(4x4, 3x3) of Lavin and Gray (arXiv 1509.09308): Y = A^T [(G g G^T) * (B^T d B)] A. Input tiles d of 6x6 cells become
36 numbers each, in which the convolution is 36 matrix products, and these become output tiles Y of 4x4 cells. Written
with torch the two transforms cost as much as the products save; `winograd_ir` writes kernels for them, which llvmlite
compiles in memory. The rounding error is two to four times that of a direct convolution; in bf16 it would be too large.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ..free_memory import is_room_for
from . import threads

LEAST_CELLS = 8 * 8
"""Cells of a picture (h * w) from which on it is faster."""
LEAST_CHANNELS = 128
"""Channels, in and out, from which on it is faster."""
SPARE_NUMBERS = 2**29
"""Numbers (2 GB) that must still fit into memory beside a layer's transformed weight, four times as large as before."""
TILES_AT_ONCE = 512
"""Their transformed numbers and products stay in the caches, or near them."""

_G = (
    (1 / 4, 0, 0),
    (-1 / 6, -1 / 6, -1 / 6),
    (-1 / 6, 1 / 6, -1 / 6),
    (1 / 24, 1 / 12, 1 / 6),
    (1 / 24, -1 / 12, 1 / 6),
    (0, 0, 1),
)


def available() -> bool:
    """Tell whether there are kernels: llvmlite is installed and knows this processor to have AVX2."""
    return _kernels() is not None


def takes(weight: Tensor) -> bool:
    """Tell whether a weight [out, in, 3, 3] can be transformed for the kernel, and is large enough to gain by it."""
    out, channels = weight.shape[:2]
    return min(out, channels) >= LEAST_CHANNELS and out % 16 == channels % 16 == 0


def applies(weight: Tensor, x: Tensor) -> bool:
    """Tell whether to convolve x [B, in, h, w] with a weight [out, in, 3, 3], padded by one cell, in this way.

    It must be possible and faster, and the transformed weight must fit into memory.
    """
    return (
        weight.dtype == x.dtype == torch.float32
        and x.device.type == "cpu"
        and x.shape[2:].numel() >= LEAST_CELLS
        and takes(weight)
        and available()
        and is_room_for(4 * weight.numel() + SPARE_NUMBERS, x.dtype, x.device)
    )


def transform_weight(weight: Tensor) -> Tensor:
    """G g G^T of each kernel: [out, in, 3, 3] -> [36, in, out]."""
    flat = weight.permute(2, 3, 1, 0).reshape(9, -1)
    return torch.matmul(_weight_transform().to(weight.dtype), flat).view(36, *weight.shape[1::-1])


def restore_weight(transformed: Tensor) -> Tensor:
    """The inverse of `transform_weight`, but for rounding: [36, in, out] -> [out, in, 3, 3]."""
    back = torch.linalg.pinv(_weight_transform()).to(transformed.dtype)
    flat = torch.matmul(back, transformed.flatten(1)).view(3, 3, *transformed.shape[1:])
    return flat.permute(3, 2, 0, 1).contiguous()


def _weight_transform() -> Tensor:
    """The matrix [36, 9], float64, that takes a flattened kernel g to the flattened G g G^T."""
    g = torch.tensor(_G, dtype=torch.float64)
    return torch.kron(g, g)


def convolve(x: Tensor, weight: Tensor, bias: Tensor, add: Tensor | None = None) -> Tensor:
    """Convolve x [B, in, h, w] with a transformed weight [36, in, out], one cell of zeros around -> [B, out, h, w].

    `bias` [out] and `add` [B, out, h, w] are added. All are float32.
    """
    kernels = _kernels()
    assert kernels is not None, "not without llvmlite"
    transform_input, transform_output = kernels
    (batch, channels, h, w), out = x.shape, weight.shape[2]
    x, bias = x.contiguous(memory_format=torch.channels_last), bias.contiguous()
    add = None if add is None else add.contiguous(memory_format=torch.channels_last)
    y = torch.empty(batch, out, h, w, memory_format=torch.channels_last)
    zeros, scrap = torch.zeros(max(channels, out)), torch.empty(out)
    down, across = -(-h // 4), -(-w // 4)
    tiles = batch * down * across
    for first in range(0, tiles, TILES_AT_ONCE):
        count = min(TILES_AT_ONCE, tiles - first)
        inputs, products = torch.empty(36, count, channels), torch.empty(36, count, out)
        _run(transform_input, inputs, (x, zeros), first, down, across, h, w)
        torch.bmm(inputs, weight, out=products)
        _run(transform_output, products, (bias, add, zeros, y, scrap), first, down, across, h, w)
    return y


def _run(
    kernel: Callable[..., None], transformed: Tensor, others: Sequence[Tensor | None], first: int, *shape: int
) -> None:
    """Run a kernel on all threads for the tiles of `transformed` [36, tiles, channels], numbered from `first` on."""
    count, row, parts = transformed.shape[1], transformed.shape[2] * transformed.element_size(), torch.get_num_threads()
    begin, *pointers = (0 if tensor is None else tensor.data_ptr() for tensor in (transformed, *others))

    def run_part(number: int) -> None:
        a, b = (count * i // parts for i in (number, number + 1))
        kernel(begin + a * row, *pointers, first + a, first + b, *shape, row, count * row)

    threads.parallel_map(run_part, range(parts))


@lru_cache
def _kernels() -> tuple[Callable[..., None], Callable[..., None]] | None:
    """Return the kernels of the input and output transforms; None where they cannot be compiled."""
    try:
        from . import winograd_ir
    except ImportError:
        return None
    return winograd_ir.compile_kernels() if winograd_ir.can_compile() else None
