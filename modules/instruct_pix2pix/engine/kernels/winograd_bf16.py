"""3x3 convolutions in bf16 by Winograd's algorithm, for CPUs that multiply bf16 by AVX-512 and have no AMX.

F(2x2, 3x3) of Lavin and Gray (arXiv 1509.09308), with 16 multiplications where the plain way has 36. Input tiles of
4x4 cells and weights are rounded to bf16 once they are transformed; sums, their transform and what is added are
float32. The error is about two and a half times that of rounding the exact result to bf16; with the larger tiles of
`winograd` it would be ten times that. `winograd_bf16_ir` writes the kernel, which llvmlite compiles in memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

from ..free_memory import is_room_for
from . import threads

LEAST_CELLS = 8 * 8
"""Cells of a picture (h * w) from which on it is faster."""
LEAST_CHANNELS = 128
"""Channels, in and out, from which on it is faster."""
SPARE_NUMBERS = 2**30
"""Numbers (2 GB) that must still fit into memory beside a layer's transformed weight, 1.8 times as large as before."""

_G = ((1, 0, 0), (1 / 2, 1 / 2, 1 / 2), (1 / 2, -1 / 2, 1 / 2), (0, 0, 1))


def available() -> bool:
    """Tell whether there is a kernel: llvmlite is installed, and this processor has AVX-512 bf16 and no AMX."""
    return _writer() is not None


def takes(weight: Tensor) -> bool:
    """Tell whether a weight [out, in, 3, 3] can be transformed for the kernel, and is large enough to gain by it."""
    out, channels = weight.shape[:2]
    return min(out, channels) >= LEAST_CHANNELS and out % 64 == channels % 16 == 0


def applies(weight: Tensor, x: Tensor) -> bool:
    """Tell whether to convolve x [B, in, h, w] with a weight [out, in, 3, 3], padded by one cell, in this way.

    It must be possible and faster, and the transformed weight must fit into memory.
    """
    return (
        weight.dtype == x.dtype == torch.bfloat16
        and x.device.type == "cpu"
        and x.shape[2:].numel() >= LEAST_CELLS
        and takes(weight)
        and available()
        and is_room_for(2 * weight.numel() + SPARE_NUMBERS, x.dtype, x.device)
    )


def transform_weight(weight: Tensor) -> Tensor:
    """G g G^T of each kernel: [out, in, 3, 3] -> [out / 64, 16, in / 2, 64, 2], as the kernel reads it."""
    out, channels = weight.shape[:2]
    flat = weight.permute(2, 3, 1, 0).reshape(9, -1).float()
    whole = torch.matmul(_weight_transform(), flat).to(weight.dtype).view(16, channels // 2, 2, out // 64, 64)
    return whole.permute(3, 0, 1, 4, 2).contiguous()


def restore_weight(transformed: Tensor) -> Tensor:
    """The inverse of `transform_weight`, but for rounding: -> [out, in, 3, 3]."""
    panels, _, pairs, _, _ = transformed.shape
    flat = transformed.permute(1, 2, 4, 0, 3).reshape(16, -1).float()
    whole = torch.matmul(torch.linalg.pinv(_weight_transform()), flat).to(transformed.dtype)
    return whole.view(3, 3, 2 * pairs, 64 * panels).permute(3, 2, 0, 1).contiguous()


def _weight_transform() -> Tensor:
    """The matrix [16, 9] that takes a flattened kernel g to the flattened G g G^T."""
    g = torch.tensor(_G)
    return torch.kron(g, g)


def convolve(x: Tensor, weight: Tensor, bias: Tensor, add: Tensor | None = None) -> Tensor:
    """Convolve x [B, in, h, w] with a transformed weight, one cell of zeros around -> [B, out, h, w].

    `bias` [out] and `add` [B, out, h, w] are added. All are bf16.
    """
    writer = _writer()
    assert writer is not None, "not without AVX-512 bf16"
    kernel = _kernel()
    (batch, channels, h, w), out = x.shape, 64 * weight.shape[0]
    x, bias = x.contiguous(memory_format=torch.channels_last), bias.float().contiguous()
    add = None if add is None else add.contiguous(memory_format=torch.channels_last)
    y = torch.empty(batch, out, h, w, dtype=x.dtype, memory_format=torch.channels_last)
    zeros, scrap = torch.zeros(max(channels, out), dtype=x.dtype), torch.empty(out, dtype=x.dtype)
    pointers = [0 if one is None else one.data_ptr() for one in (x, weight, bias, add, y, zeros, scrap)]
    down, across = -(-h // 2), -(-w // 2)
    plane = writer.input_plane(2 * channels)

    def run_part(part: tuple[tuple[int, int], tuple[int, int]]) -> None:
        (first, last), (begin, end) = part
        inputs = torch.empty(16 * plane, dtype=torch.uint8)
        products = torch.empty(16 * writer.PLANE, dtype=torch.uint8)
        shape = (first, last, down, across, h, w, 2 * channels, plane, 2 * out, 128 * begin, 128 * end)
        kernel(*pointers, inputs.data_ptr(), products.data_ptr(), *shape)

    tiles, count = batch * down * across, torch.get_num_threads()
    # few tiles: each thread does all of them for some of the channels, so that the weights are read once
    most = -(-tiles // (writer.TILES * count))
    by_tiles = 1 if most == 1 else count * min(4, most)
    parts = itertools.product(
        _ranges(tiles, by_tiles, writer.ROWS), _ranges(len(weight), 1 if by_tiles > 1 else min(count, len(weight)))
    )
    threads.parallel_map(run_part, list(parts))
    return y


def _ranges(total: int, parts: int, step: int = 1) -> list[tuple[int, int]]:
    """Return ranges of about the same size that make up `total`; they begin at multiples of `step`."""
    steps = -(-total // step)
    ends = [min(total, step * (steps * i // parts)) for i in range(parts + 1)]
    return list(itertools.pairwise(ends))


@lru_cache
def _writer() -> ModuleType | None:
    """Return the module `winograd_bf16_ir`; None where it cannot be used, and with AMX, which has faster products."""
    if getattr(torch.cpu, "_is_amx_tile_supported", bool)():
        return None
    try:
        from . import winograd_bf16_ir
    except ImportError:
        return None
    return winograd_bf16_ir if winograd_bf16_ir.can_compile() else None


@lru_cache
def _kernel() -> Callable[..., None]:
    writer = _writer()
    assert writer is not None
    return writer.compile_kernel()
