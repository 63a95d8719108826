"""Convolutions and linear layers whose weights may lie as the processor multiplies them best.

oneDNN, which multiplies on CPUs, wants weights in blocks whose shape depends on the processor. Given plain ones it
reorders them at every call; `prepare` lets each layer do so once, at its first call, and keep only the result. The
additions and the activation that follow a layer are then done as its result is written.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .kernels import amx_attention, fused, winograd
from .precision import Machine

_ops: Any = torch.ops.mkldnn

LONG = 128
"""Queries and keys from which on heads are multiplied one by one."""
AT_ONCE = 512
"""Queries of a head at once: their products with 4096 keys still lie in the processor's caches."""

OWN: Any = object()
"""The bias of the layer itself."""

FINE = 2
"""Levels, from the finest, whose 3x3 convolutions may have weights spread over more memory: what that gains grows with
the picture, and what it takes with the channels, of which coarser levels have more."""

_layouts: dict[tuple[object, ...], tuple[object, ...]] = {}
"""The blocks that oneDNN wants for weights of a shape at pictures of a size, as far as they were met."""


def _layout(weight: Tensor) -> tuple[object, ...]:
    """Return what tells one way of lying in blocks from another, out of oneDNN's own descriptor.

    Padded sizes, strides and blocks begin at its byte 112; before are shape and type, and bytes that are never set.
    """
    return tuple(_ops._get_mkldnn_serialized_md(weight.detach()).tolist()[112:])


class _Packable(nn.Module):
    """A layer that packs its weight at the first call after `prepare`; `weight` is then oneDNN's own tensor."""

    weight: nn.Parameter
    waits: bool = False
    """Whether the next call packs the weight."""

    def _pack(self, x: Tensor) -> None:
        self.waits = False
        with torch.inference_mode(False), torch.no_grad():
            self.weight = nn.Parameter(self._packed(x), requires_grad=False)

    def _packed(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    @property
    def _lies_apart(self) -> bool:
        """Whether the weight lies in another way than in a checkpoint."""
        return self.weight.is_mkldnn

    def _plain(self) -> Tensor:
        """Return the weight as a checkpoint has it."""
        return self.weight.detach().to_dense() if self.weight.is_mkldnn else self.weight.detach()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:  # noqa: ANN401 - as in nn.Module
        if self._lies_apart:  # to another format or device: only plain weights can go there
            self._unpack()
        return super()._apply(fn, recurse)

    def _unpack(self) -> None:
        self.weight = nn.Parameter(self._plain(), requires_grad=False)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._lies_apart:
            destination[f"{prefix}weight"] = self._plain()


class Conv2d(nn.Conv2d, _Packable):
    """A convolution; `bias` stands in for its own (None for none), `add` [B, out, h, w] is added to its result.

    Where it `may_spread`, its weight becomes that of Winograd's way at the first picture where that pays, and stays so.
    """

    may_spread: bool = False

    packed_for: torch.Size | None = None
    """The height and width of the pictures that the weight was packed for."""

    @property
    def _is_spread(self) -> bool:
        return self.weight.ndim == 3

    @property
    def _lies_apart(self) -> bool:
        return self._is_spread or super()._lies_apart

    def _plain(self) -> Tensor:
        return winograd.plain_weight(self.weight.detach()) if self._is_spread else super()._plain()

    def _can_spread(self, x: Tensor) -> bool:
        shape = (self.kernel_size, self.stride, self.padding, self.dilation, self.groups)
        fits = shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1) and self.bias is not None
        return self.may_spread and fits and winograd.pays(self.weight, x)

    def _packed(self, x: Tensor) -> Tensor:
        self.packed_for = x.shape[2:]
        weight = self._plain()
        if self._can_spread(x):
            return winograd.spread_weight(weight)
        weight = weight.contiguous().to_mkldnn()
        return torch._C._nn.mkldnn_reorder_conv2d_weight(  # pyright: ignore[reportAttributeAccessIssue]
            weight, self.padding, self.stride, self.dilation, self.groups, x[: self._rows_at_once(x)].shape
        )

    def _rows_at_once(self, x: Tensor) -> int:
        """Pictures in a call of oneDNN: with no more than AVX2 it wants other blocks for more than it has threads."""
        alike = self.kernel_size == (1, 1) or torch.backends.cpu.get_cpu_capability() != "AVX2"
        return len(x) if alike else torch.get_num_threads()

    def _fit(self, x: Tensor) -> None:
        """Pack anew where pictures of this size want other blocks: with the wrong ones every call reorders them."""
        if self._can_spread(x):
            self._pack(x)
            return
        key = (*self.weight.shape, *self.stride, *self.padding, self.weight.dtype, *x.shape[2:])
        old, before = self.weight, _layout(self.weight)
        if _layouts.get(key) != before:
            self._pack(x)
            _layouts[key] = _layout(self.weight)
            if _layouts[key] == before:
                self.weight = old
        self.packed_for = x.shape[2:]

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, x: Tensor, *, bias: Tensor | None = OWN, add: Tensor | None = None
    ) -> Tensor:
        """x [B, in, h, w] -> [B, out, h', w']."""
        bias = self.bias if bias is OWN else bias
        if self.waits:
            self._pack(x)
        elif self.packed_for != x.shape[2:] and self.weight.is_mkldnn:
            self._fit(x)
        if self._is_spread:
            assert bias is not None
            return winograd.convolve(x, self.weight, bias, add)
        if not self.weight.is_mkldnn:
            return self._plain_forward(x, bias, add)
        rows = self._rows_at_once(x)
        if len(x) <= rows:
            return self._packed_forward(x, bias, add)
        parts = zip(x.split(rows), itertools.repeat(None) if add is None else add.split(rows), strict=False)
        return torch.cat([self._packed_forward(part, bias, more) for part, more in parts])

    def _plain_forward(self, x: Tensor, bias: Tensor | None, add: Tensor | None) -> Tensor:
        if x.device.type == "cuda" and self.kernel_size == (1, 1):  # cuBLAS adds the bias as it writes, cuDNN does not
            y = F.linear(x.permute(0, 2, 3, 1), self.weight.flatten(1), bias).permute(0, 3, 1, 2)
        elif bias is not None and fused.fuses(x):
            return fused.add(self._conv_forward(x, self.weight, None), bias, add)
        else:
            y = self._conv_forward(x, self.weight, bias)
        return y if add is None else y + add

    def _packed_forward(self, x: Tensor, bias: Tensor | None, add: Tensor | None) -> Tensor:
        where = (self.weight, bias, self.padding, self.stride, self.dilation, self.groups)
        if add is None:
            return _ops._convolution_pointwise(x, *where, "none", [], "")
        return _ops._convolution_pointwise.binary(x, add, *where, "add", 1.0, None, [], None)


def norm_silu_of(
    norm: nn.Module,
    conv: Any,  # noqa: ANN401 - a Conv2d, often out of a list
    x: Tensor,
    shift: Tensor | None = None,
) -> Tensor:
    """SiLU of a GroupNorm of a convolution of x, to which `shift` [B or 1, C] is added: each where it costs least."""
    assert conv.bias is not None
    if fused.fuses(x):
        return fused.norm_silu(norm, conv(x, bias=None), conv.bias[None] if shift is None else conv.bias + shift)
    if shift is not None and len(shift) == 1:
        return fused.norm_silu(norm, conv(x, bias=conv.bias + shift[0]))
    return fused.norm_silu(norm, conv(x), shift)


def conv3(channels: int, out_channels: int, level: int) -> Conv2d:
    """A convolution of 3 by 3 for pictures of a level, counted from the finest."""
    layer = Conv2d(channels, out_channels, 3, padding=1)
    layer.may_spread = level < FINE
    return layer


class Linear(nn.Linear, _Packable):
    """A linear layer [.., in] -> [.., out]; `add` [.., out] is added to its result."""

    def _packed(self, x: Tensor) -> Tensor:
        return _ops._reorder_linear_weight(self.weight.detach(), x.numel() // x.shape[-1])

    def forward(self, x: Tensor, *, add: Tensor | None = None) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """x [.., in] -> [.., out]."""
        if self.waits:
            self._pack(x)
        if not self.weight.is_mkldnn:
            y = F.linear(x, self.weight, self.bias)
            return y if add is None else y + add
        if add is None:
            return _ops._linear_pointwise(x, self.weight, self.bias, "none", [], "none")
        return _ops._linear_pointwise.binary(x, add, self.weight, self.bias, "add")


class GatedLinear(nn.Linear, _Packable):
    """Two linear layers under one name, [.., in] -> [.., out / 2]: the first half times a GELU of the second.

    Packed, the halves part, and the GELU and the product are done as their results are written.
    """

    gate: nn.Parameter | None
    """The second half of the weight, once packed."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out)
        self.register_parameter("gate", None)

    def _pack(self, x: Tensor) -> None:
        self.waits = False
        with torch.inference_mode(False), torch.no_grad():
            rows, halves = x.numel() // x.shape[-1], self.weight.detach().chunk(2)
            packed = [_ops._reorder_linear_weight(half.contiguous(), rows) for half in halves]
            self.weight, self.gate = (nn.Parameter(half, requires_grad=False) for half in packed)

    def _plain(self) -> Tensor:
        if self.gate is None:
            return super()._plain()
        return torch.cat([half.detach().to_dense() for half in (self.weight, self.gate)])

    def _unpack(self) -> None:
        super()._unpack()
        self.gate = None

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.pop(f"{prefix}gate", None)

    def forward(self, x: Tensor) -> Tensor:
        """x [.., in] -> [.., out / 2]."""
        if self.waits:
            self._pack(x)
        if self.gate is None:
            return fused.gate(F.linear(x, self.weight, self.bias))
        bias, gate_bias = self.bias.chunk(2)
        gate = _ops._linear_pointwise(x, self.gate, gate_bias, "gelu", [], "none")
        return _ops._linear_pointwise.binary(x, gate, self.weight, bias, "mul")


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(c)) v for heads q [B, H, N, c], k and v [B, H, T, c] -> [B, N, H * c].

    torch's own kernel, but for bf16: with AMX ours is faster, and without it torch's multiplies at a quarter of what
    products of whole heads reach.
    """
    if not torch.is_grad_enabled() and amx_attention.takes(q, k, v):
        out = amx_attention.attention(q, k, v)
        if out is not None:
            return out
    short = min(q.shape[2], k.shape[2]) < LONG
    if short or q.dtype != torch.bfloat16 or torch.is_grad_enabled() or not _multiplies_heads(q.device.type):
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    q = q * q.shape[-1] ** -0.5
    out = torch.empty(q.shape[0], q.shape[2], *q.shape[1::2], dtype=q.dtype)
    for b, h in itertools.product(*map(range, q.shape[:2])):
        keys, values = k[b, h].t(), v[b, h].contiguous()
        for part, result in zip(q[b, h].split(AT_ONCE), out[b, :, h].split(AT_ONCE), strict=True):
            result.copy_(torch.softmax(part @ keys, dim=-1) @ values)
    return out.flatten(2)


@lru_cache
def _multiplies_heads(device: str) -> bool:
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    bf16, amx_attention = (getattr(torch.cpu, test, bool)() for test in tests)
    return device == "cpu" and bf16 and not amx_attention


def prepare(network: nn.Module, machine: Machine) -> None:
    """Let the layers of a network pack their weights when they are first called, where that pays.

    The plain weights are let go of one by one. Bits of results change a little: sums are rounded once, at their end.
    """
    if not packs(machine):
        return
    for module in network.modules():
        if isinstance(module, _Packable):
            module.waits = True


def packs(machine: Machine) -> bool:
    """Whether oneDNN has packed weights for this device and format."""
    if machine.device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if not torch.backends.mkldnn.is_available() or not hasattr(_ops, "_linear_pointwise"):
        return False
    if machine.dtype == torch.bfloat16:
        return _ops._is_mkldnn_bf16_supported()
    return machine.dtype == torch.float32
