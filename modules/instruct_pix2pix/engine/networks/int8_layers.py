"""Layers that multiply in 8 bits: weights with a scale for each output channel, inputs as `kernels.int8` has them.

Linear layers and convolutions of one cell have a scale for each row, a token or a cell; wider convolutions have one
for each picture of the batch. The products are oneDNN's, whose weights are packed when a layer is made. Whatever
lies between products keeps the machine's format.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..kernels import int8
from .layers import OWN_BIAS, Conv2d, GatedLinear, HasLevels, Linear, QuantizedLayer

_ops: Any = torch.ops.onednn

PRODUCTS_AT_ONCE = 2 << 20
"""Numbers that a linear layer multiplies out before they are scaled: they stay in the processor's caches."""
LEAST_CHANNELS = 32
"""Channels, in and out, of the layers that are worth it."""
KEPT = ("emb_layers", "attn2.to_k", "attn2.to_v")
"""The layers of a block that no picture goes through, by their names."""


class _Weight(nn.Module):
    """A weight in 8 bits, packed, with what turns products with it into floats again."""

    packed: Tensor
    scales: Tensor
    sums: Tensor
    nothing: Tensor
    no_zeros: Tensor

    def __init__(self, weight: Tensor) -> None:
        """`weight` is [out, ..]."""
        super().__init__()
        flat = weight.detach().float().flatten(1)
        scales = (flat.abs().amax(1) / 127).clamp(min=int8.LEAST_SCALE)
        q = (flat / scales[:, None]).round_().clamp_(-127, 127)
        self.register_buffer("scales", scales, persistent=False)
        self.register_buffer("sums", q.sum(1) * scales, persistent=False)
        self.register_buffer("nothing", torch.zeros_like(scales), persistent=False)
        self.register_buffer("no_zeros", torch.zeros(len(scales), dtype=torch.int32), persistent=False)
        self.register_buffer("packed", self._pack(q.to(torch.int8).view(weight.shape)), persistent=False)

    def _pack(self, q: Tensor) -> Tensor:
        raise NotImplementedError

    def bias(self, bias: Tensor | None) -> Tensor:
        """float32 [out]."""
        return self.nothing if bias is None else bias.float()


class _LinearWeight(_Weight):
    def _pack(self, q: Tensor) -> Tensor:
        return _ops.qlinear_prepack(q, None)

    def products(self, q: Tensor) -> Tensor:
        """Bytes [rows, in] -> float32 [rows, out], the scales of the bytes left out."""
        where = (self.packed, self.scales, self.no_zeros, None, 1.0, 0, torch.float32, "none", [], "")
        return _ops.qlinear_pointwise(q, 1.0, 0, *where)

    def apply_to(self, x: int8.Bytes, bias: Tensor | None, dtype: torch.dtype, **other: Tensor | None) -> Tensor:
        """Bytes [rows, in] -> [rows, out], with `add` or `multiply` as in `int8.rescale`."""
        return int8.rescale(self.products(x.q), x, self.sums, self.bias(bias), dtype, **other)


class _GatedWeight(nn.Module):
    def __init__(self, value: _LinearWeight, gate: _LinearWeight) -> None:
        super().__init__()
        self.value, self.gate = value, gate


class _ConvWeight(_Weight):
    def __init__(self, weight: Tensor, stride: list[int]) -> None:
        self._stride = stride
        super().__init__(weight)

    def _pack(self, q: Tensor) -> Tensor:
        return _ops.qconv_prepack(q, self.scales, 1.0, 0, self._stride, [0, 0], [1, 1], 1, None)

    def products(self, q: Tensor) -> Tensor:
        """Bytes [B, in, h, w], the border among them -> float32 [B, out, h', w'], the scales of the bytes left out."""
        how = (self._stride, [0, 0], [1, 1], 1, 1.0, 0, torch.float32, "none", [], "")
        return _ops.qconv2d_pointwise(q, 1.0, 0, self.packed, self.scales, self.no_zeros, None, *how)


class Int8Linear(QuantizedLayer):
    """A linear layer [.., in] -> [.., out] in 8 bits; `add` [.., out] is added to its result."""

    def __init__(self, layer: Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        self.set_weight(layer.weight)

    def set_weight(self, weight: Tensor) -> None:  # noqa: D102 - as in the base
        self.in_8_bits = _LinearWeight(weight)

    def forward(self, x: Tensor, *, add: Tensor | None = None) -> Tensor:
        """x [.., in] -> [.., out]."""
        adds = None if add is None else add.reshape(-1, self.out_features)
        y = _in_parts(self.in_8_bits, self.bias, x.reshape(-1, self.in_features), adds)
        return y.view(*x.shape[:-1], self.out_features)


class Int8GatedLinear(QuantizedLayer):
    """A `GatedLinear` in 8 bits, [.., in] -> [.., out / 2]."""

    def __init__(self, layer: GatedLinear) -> None:
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        self.set_weight(layer.weight)

    def set_weight(self, weight: Tensor) -> None:  # noqa: D102 - as in the base
        self.in_8_bits = _GatedWeight(*map(_LinearWeight, weight.chunk(2)))

    def forward(self, x: Tensor) -> Tensor:
        """x [.., in] -> [.., out / 2]."""
        parts = _parts(x.reshape(-1, self.in_features), self.out_features)
        return torch.cat([self._part(part) for part in parts]).view(*x.shape[:-1], -1)

    def _part(self, x: Tensor) -> Tensor:
        """x [rows, in] -> [rows, out / 2]."""
        weight = self.in_8_bits
        bias, gate_bias = self.bias.chunk(2)
        q = int8.quantize_rows(x.contiguous())
        gates = F.gelu(weight.gate.apply_to(q, gate_bias, x.dtype))
        return weight.value.apply_to(q, bias, x.dtype, multiply=gates)


class Int8Conv2d(QuantizedLayer):
    """A convolution in 8 bits, [B, in, h, w] -> [B, out, h', w']; `bias` and `add` as for `Conv2d`."""

    def __init__(self, layer: Conv2d) -> None:
        super().__init__()
        self.out_channels, self.kernel_size, self.stride = layer.out_channels, layer.kernel_size, layer.stride
        self.bias = layer.bias
        self.border = int(layer.padding[0])
        self.set_weight(layer.weight)

    def set_weight(self, weight: Tensor) -> None:  # noqa: D102 - as in the base
        by_cell = self.kernel_size == (1, 1) and self.stride == (1, 1) and not self.border
        self.in_8_bits = _LinearWeight(weight.flatten(1)) if by_cell else _ConvWeight(weight, list(self.stride))

    def forward(self, x: Tensor, *, bias: Tensor | None = OWN_BIAS, add: Tensor | None = None) -> Tensor:
        """x [B, in, h, w] -> [B, out, h', w']."""
        bias = self.bias if bias is OWN_BIAS else bias
        adds = None if add is None else add.permute(0, 2, 3, 1).reshape(-1, self.out_channels)
        weight = self.in_8_bits
        if isinstance(weight, _LinearWeight):
            y = _in_parts(weight, bias, x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]), adds)
            height, width = x.shape[2:]
        else:
            q = int8.quantize_pictures(x, self.border)
            products = weight.products(q.q).permute(0, 2, 3, 1)
            height, width = products.shape[1:3]
            rows = products.reshape(-1, self.out_channels)
            y = int8.rescale(rows, q, weight.sums, weight.bias(bias), x.dtype, add=adds)
        return y.view(len(x), height, width, self.out_channels).permute(0, 3, 1, 2)


def _in_parts(weight: _LinearWeight, bias: Tensor | None, x: Tensor, add: Tensor | None) -> Tensor:
    """x [rows, in] -> [rows, out], `add` [rows, out] added."""
    out = len(weight.scales)
    if len(x) * out <= PRODUCTS_AT_ONCE:
        return weight.apply_to(int8.quantize_rows(x.contiguous()), bias, x.dtype, add=add)
    adds = [None] * len(list(_parts(x, out))) if add is None else _parts(add, out)
    return torch.cat([_in_parts(weight, bias, part, more) for part, more in zip(_parts(x, out), adds, strict=True)])


def _parts(rows: Tensor, out: int) -> tuple[Tensor, ...]:
    return rows.tensor_split(-(-len(rows) * out // PRODUCTS_AT_ONCE) or 1)


def quantize(network: nn.Module, reread: Callable[[str], Tensor] | None = None) -> None:
    """Put layers in 8 bits in the place of a network's own, between its first layer and its last.

    What makes vectors of the time and the keys of the texts stays: it takes next to no time, and all depends on it.
    Layers whose weight is not there yet, on the meta device, are left for another call. `reread` returns a weight as
    the checkpoint has it, by its name in the network's state dict.
    """
    names = {layer: name for name, layer in network.named_modules()}
    for part, _ in network.by_level() if isinstance(network, HasLevels) else ():
        for parent, name, layer in list(_layers_of_pictures(part)):
            quantized = _in_8_bits(layer)
            if reread is not None:
                quantized.reread = partial(reread, f"{names.pop(layer)}.weight")
            setattr(parent, name, quantized)
            del layer


def _layers_of_pictures(part: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    for path, parent in part.named_modules():
        for name, layer in parent.named_children():
            if isinstance(layer, Linear | GatedLinear | Conv2d) and not _is_kept(f"{path}.{name}", layer):
                yield parent, name, layer


def _is_kept(path: str, layer: Linear | GatedLinear | Conv2d) -> bool:
    out, channels, *_ = layer.weight.shape
    if layer.weight.is_meta or min(out, channels) < LEAST_CHANNELS:
        return True
    return any(f".{name}." in f".{path}." for name in KEPT)


def _in_8_bits(layer: nn.Module) -> QuantizedLayer:
    if isinstance(layer, Conv2d):
        return Int8Conv2d(layer)
    if isinstance(layer, GatedLinear):
        return Int8GatedLinear(layer)
    assert isinstance(layer, Linear)
    return Int8Linear(layer)
