"""Layers that know devices and caches, so that the networks need not: packed weights, attention, MLPs in parts.

oneDNN, which multiplies on CPUs, wants weights packed: in blocks whose shape depends on the processor. Given plain
weights it packs them at every call; after `prepare` each layer does so once, at its first call, and keeps the packed
weight alone. The additions and the activation that follow a layer are then done as its result is written.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from types import ModuleType
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend

from ...errors import UserError
from ..free_memory import CARDS
from ..kernels import amx_attention, fused, winograd, winograd_bf16
from ..precision import Machine

_ops: Any = torch.ops.mkldnn

OWN_BIAS: Any = object()
"""Stands for the bias of the layer itself."""

WINOGRAD_LEVELS = 2
"""Levels, from the finest, whose 3x3 convolutions may use Winograd's algorithm: what it saves grows with the picture,
and the memory that its weights take with the channels, of which coarser levels have more. In bf16 a layer's error is
two and a half times that of rounding, and the network's 1.15 times what it was (docs/performance.md)."""

HEAD_BY_HEAD_FROM, QUERIES_AT_ONCE = 128, 512
"""Queries and keys from which on bf16 attention without AMX multiplies head by head, and the queries of a head in one
product: their scores for 4096 keys still fit into the processor's caches."""

SCORES_AT_ONCE = 64 << 20
"""Bytes of scores, queries times keys of all heads, that attention by plain products may hold on a card."""

MLP_IN_PARTS_FROM, MLP_PART = 24 << 20, 8 << 20
"""Bytes between the two layers of an MLP from which on a CPU computes it in parts, and bytes of a part: larger blocks
come from the system and go back to it at each call, and do not stay in the processor's caches."""

_wanted_layouts: dict[tuple[object, ...], tuple[object, ...]] = {}
"""The block layouts that oneDNN wants for weights of a shape and pictures of a size, as far as they were met."""


def block_layout(weight: Tensor) -> tuple[object, ...]:
    """Return what tells the block layout of a packed weight from others, out of oneDNN's own descriptor.

    Padded sizes, strides and blocks begin at its byte 112; before are shape and type, and bytes that are never set.
    """
    return tuple(_ops._get_mkldnn_serialized_md(weight.detach()).tolist()[112:])


class _Packable(nn.Module):
    """A layer that packs its weight at the first call after `prepare`; `weight` is then oneDNN's own tensor.

    A state dict holds the plain weight; a move to another device or format unpacks it.
    """

    weight: Tensor
    pack_at_next_call: bool = False

    def _pack(self, x: Tensor) -> None:
        """Replace the weight by a packed one, for inputs like x."""
        self.pack_at_next_call = False
        with torch.inference_mode(False), torch.no_grad():
            self.weight = nn.Parameter(self._packed_weight(x), requires_grad=False)

    def _packed_weight(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    @property
    def _is_packed(self) -> bool:
        """Whether the weight is laid out in another way than in a checkpoint."""
        return self.weight.is_mkldnn

    def _plain_weight(self) -> Tensor:
        """Return the weight as a checkpoint has it."""
        return self.weight.detach().to_dense() if self.weight.is_mkldnn else self.weight.detach()

    def _unpack(self) -> None:
        self.weight = nn.Parameter(self._plain_weight(), requires_grad=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:  # noqa: ANN401 - as in nn.Module
        if self._is_packed:  # only plain weights can go to another format or device
            self._unpack()
        return super()._apply(fn, recurse)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if self._is_packed:
            destination[f"{prefix}weight"] = self._plain_weight()


class Conv2d(nn.Conv2d, _Packable):
    """A convolution; `bias` [out] replaces its own (None for none), `add` [B, out, h', w'] is added to its result.

    Where it `may_use_winograd`, it packs its weight for Winograd's algorithm at the first picture for which that is
    faster, and keeps it so.
    """

    may_use_winograd: bool = False

    packed_for: torch.Size | None = None
    """The height and width of the pictures that the weight was packed for."""

    @property
    def is_plain_3x3(self) -> bool:
        """Whether it is of the kind that Winograd's algorithm computes."""
        shape = (self.kernel_size, self.stride, self.padding, self.dilation, self.groups)
        return shape == ((3, 3), (1, 1), (1, 1), (1, 1), 1) and self.bias is not None

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - torch calls x `input`
        self, x: Tensor, *, bias: Tensor | None = OWN_BIAS, add: Tensor | None = None
    ) -> Tensor:
        """x [B, in, h, w] -> [B, out, h', w']."""
        bias = self.bias if bias is OWN_BIAS else bias
        if self.pack_at_next_call:
            self._pack(x)
        elif self.packed_for != x.shape[2:] and self.weight.is_mkldnn:
            self._repack_for(x)
        if self._has_winograd_weight:
            assert bias is not None
            return winograd_for(self.weight.dtype).convolve(x, self.weight, bias, add)
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
        elif bias is not None and fused.has_kernels(x):
            return fused.add_bias(self._conv_forward(x, self.weight, None), bias, add)
        else:
            y = self._conv_forward(x, self.weight, bias)
        return y if add is None else y + add

    def _packed_forward(self, x: Tensor, bias: Tensor | None, add: Tensor | None) -> Tensor:
        where = (self.weight, bias, self.padding, self.stride, self.dilation, self.groups)
        if add is None:
            return _ops._convolution_pointwise(x, *where, "none", [], "")
        return _ops._convolution_pointwise.binary(x, add, *where, "add", 1.0, None, [], None)

    @property
    def _has_winograd_weight(self) -> bool:
        return self.weight.ndim != 4

    @property
    def _is_packed(self) -> bool:
        return self._has_winograd_weight or super()._is_packed

    def _plain_weight(self) -> Tensor:
        if not self._has_winograd_weight:
            return super()._plain_weight()
        return winograd_for(self.weight.dtype).restore_weight(self.weight.detach())

    def _uses_winograd(self, x: Tensor) -> bool:
        return self.may_use_winograd and winograd_for(self.weight.dtype).applies(self.weight, x)

    def _packed_weight(self, x: Tensor) -> Tensor:
        self.packed_for = x.shape[2:]
        weight = self._plain_weight()
        if self._uses_winograd(x):
            return winograd_for(weight.dtype).transform_weight(weight)
        weight = weight.contiguous().to_mkldnn()
        return torch._C._nn.mkldnn_reorder_conv2d_weight(  # pyright: ignore[reportAttributeAccessIssue]
            weight, self.padding, self.stride, self.dilation, self.groups, x[: self._rows_at_once(x)].shape
        )

    def _repack_for(self, x: Tensor) -> None:
        """Pack again if pictures of this size want another layout: with the wrong one every call reorders weights."""
        if self._uses_winograd(x):
            self._pack(x)
            return
        key = (*self.weight.shape, *self.stride, *self.padding, self.weight.dtype, *x.shape[2:])
        old, old_layout = self.weight, block_layout(self.weight)
        if _wanted_layouts.get(key) != old_layout:
            self._pack(x)
            _wanted_layouts[key] = block_layout(self.weight)
            if _wanted_layouts[key] == old_layout:
                self.weight = old
        self.packed_for = x.shape[2:]

    def _rows_at_once(self, x: Tensor) -> int:
        """Pictures in a call of oneDNN: with no more than AVX2 it wants another layout for more than it has threads."""
        alike = self.kernel_size == (1, 1) or torch.backends.cpu.get_cpu_capability() != "AVX2"
        return len(x) if alike else torch.get_num_threads()


def winograd_for(dtype: torch.dtype) -> ModuleType:
    """Return the module that convolves by Winograd's algorithm in this format."""
    return winograd_bf16 if dtype == torch.bfloat16 else winograd


def conv_norm_silu(
    conv: Any,  # noqa: ANN401 - a Conv2d, often out of a list
    norm: nn.Module,
    x: Tensor,
    shift: Tensor | None = None,
) -> Tensor:
    """SiLU(norm(conv(x) + shift)) for a GroupNorm and `shift` [B or 1, C], which is added where that costs least."""
    assert conv.bias is not None
    if fused.has_kernels(x):
        return fused.norm_silu(norm, conv(x, bias=None), conv.bias[None] if shift is None else conv.bias + shift)
    if shift is not None and len(shift) == 1:
        return fused.norm_silu(norm, conv(x, bias=conv.bias + shift[0]))
    return fused.norm_silu(norm, conv(x), shift)


class Linear(nn.Linear, _Packable):
    """A linear layer [.., in] -> [.., out]; `add` [.., out] is added to its result."""

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - torch calls x `input`
        self, x: Tensor, *, add: Tensor | None = None
    ) -> Tensor:
        """x [.., in] -> [.., out]."""
        if self.pack_at_next_call:
            self._pack(x)
        if not self.weight.is_mkldnn:
            y = F.linear(x, self.weight, self.bias)
            return y if add is None else y + add
        if add is None:
            return _ops._linear_pointwise(x, self.weight, self.bias, "none", [], "none")
        return _ops._linear_pointwise.binary(x, add, self.weight, self.bias, "add")

    def _packed_weight(self, x: Tensor) -> Tensor:
        return _ops._reorder_linear_weight(self.weight.detach(), x.numel() // x.shape[-1])


class GatedLinear(nn.Linear, _Packable):
    """Two linear layers under one name, [.., in] -> [.., out / 2]: the first half times a GELU of the second.

    Packed, the halves are two weights, and the GELU and the product are done as their results are written.
    """

    gate: nn.Parameter | None
    """The second half of the weight, once packed."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__(channels, out)
        self.register_parameter("gate", None)

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride] - torch calls x `input`
        """x [.., in] -> [.., out / 2]."""
        if self.pack_at_next_call:
            self._pack(x)
        if self.gate is None:
            return fused.geglu(F.linear(x, self.weight, self.bias))
        bias, gate_bias = self.bias.chunk(2)
        gate = _ops._linear_pointwise(x, self.gate, gate_bias, "gelu", [], "none")
        return _ops._linear_pointwise.binary(x, gate, self.weight, bias, "mul")

    def _packed_weight(self, x: Tensor) -> Tensor:
        rows, halves = x.numel() // x.shape[-1], self.weight.detach().chunk(2)
        value, gate = (_ops._reorder_linear_weight(half.contiguous(), rows) for half in halves)
        self.gate = nn.Parameter(gate, requires_grad=False)
        return value

    def _plain_weight(self) -> Tensor:
        if self.gate is None:
            return super()._plain_weight()
        return torch.cat([half.detach().to_dense() for half in (self.weight, self.gate)])

    def _unpack(self) -> None:
        super()._unpack()
        self.gate = None

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.pop(f"{prefix}gate", None)


def mlp_in_parts(
    widen: Callable[[Tensor], Tensor],
    narrow: Any,  # noqa: ANN401 - a Linear, often out of a list
    x: Tensor,
    add: Tensor,
) -> Tensor:
    """narrow(widen(x)) + add for x and `add` [B, N, C]; on a CPU a part of the B * N rows at a time if it is large."""
    inner = x.numel() // x.shape[-1] * narrow.in_features * x.element_size()
    if x.device.type != "cpu" or torch.is_grad_enabled() or inner <= MLP_IN_PARTS_FROM:
        return narrow(widen(x), add=add)
    parts = -(-inner // MLP_PART)
    xs, adds = (whole.flatten(0, 1).tensor_split(parts) for whole in (x, add))
    return torch.cat([narrow(widen(x), add=add) for x, add in zip(xs, adds, strict=True)]).view_as(x)


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(c)) v for heads q [B, H, N, c], k and v [B, H, T, c] -> [B, N, H * c].

    By torch's own kernel, except in bf16 on CPUs: with AMX or AVX-512 bf16 our kernel is faster, and without llvmlite,
    which compiles it, and without AMX torch's reaches a quarter of the speed of products head by head.
    """
    if not torch.is_grad_enabled() and amx_attention.applies(q, k, v):
        out = amx_attention.attention(q, k, v)
        if out is not None:
            return out
    short = min(q.shape[2], k.shape[2]) < HEAD_BY_HEAD_FROM
    if short or q.dtype != torch.bfloat16 or torch.is_grad_enabled() or not multiplies_heads(q.device.type):
        return _attention_of_torch(q, k, v).transpose(1, 2).flatten(2)
    q = q * q.shape[-1] ** -0.5
    out = torch.empty(q.shape[0], q.shape[2], *q.shape[1::2], dtype=q.dtype)
    for b, h in itertools.product(*map(range, q.shape[:2])):
        keys, values = k[b, h].t(), v[b, h].contiguous()
        for part, result in zip(q[b, h].split(QUERIES_AT_ONCE), out[b, :, h].split(QUERIES_AT_ONCE), strict=True):
            result.copy_(torch.softmax(part @ keys, dim=-1) @ values)
    return out.flatten(2)


def _attention_of_torch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As F.scaled_dot_product_attention; some queries at a time where that would hold too many scores at once."""
    scores = q.shape[:3].numel() * k.shape[2] * q.element_size()
    if scores <= SCORES_AT_ONCE or not holds_scores(q, k, v):
        return F.scaled_dot_product_attention(q, k, v)
    parts = q.split(max(1, q.shape[2] * SCORES_AT_ONCE // scores), dim=2)
    return torch.cat([F.scaled_dot_product_attention(part, k, v) for part in parts], dim=2)


def holds_scores(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Tell whether torch has no better kernel for this attention on a card than plain products, as on older ones."""
    return q.device.type in CARDS and torch._fused_sdp_choice(q, k, v) == SDPBackend.MATH.value


@lru_cache
def multiplies_heads(device: str) -> bool:
    """Tell whether bf16 attention is faster head by head on this kind of device: CPUs with AVX-512 bf16 but no AMX."""
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    bf16, amx = (getattr(torch.cpu, test, bool)() for test in tests)
    return device == "cpu" and bf16 and not amx


@runtime_checkable
class HasLevels(Protocol):
    """A network that works at several resolutions."""

    def by_level(self) -> Iterable[tuple[nn.Module, int]]:
        """Return parts of the network, each with the level at which its convolutions of stride 1 work, 0 the finest."""
        ...


def prepare(network: nn.Module, machine: Machine) -> None:
    """Let the layers of a network pack their weights when they are first called, if this machine packs any.

    Plain weights are freed one by one. Results change by rounding: sums are rounded once, at their end.
    """
    if not packs(machine):
        return
    for layer in network.modules():
        if isinstance(layer, _Packable):
            layer.pack_at_next_call = True
    ways = winograd_for(machine.dtype)
    levels = WINOGRAD_LEVELS if ways.available() else 0
    for part, level in network.by_level() if isinstance(network, HasLevels) else ():
        for layer in part.modules():
            if isinstance(layer, Conv2d):
                layer.may_use_winograd = level < levels and layer.is_plain_3x3 and ways.takes(layer.weight)


def packs(machine: Machine) -> bool:
    """Tell whether oneDNN has packed weights for this device and format."""
    if machine.device.type != "cpu" or platform.machine().lower() not in ("x86_64", "amd64"):
        return False
    if not torch.backends.mkldnn.is_available() or not hasattr(_ops, "_linear_pointwise"):
        return False
    if machine.dtype == torch.bfloat16:
        return _ops._is_mkldnn_bf16_supported()
    return machine.dtype == torch.float32


class QuantizedLayer(nn.Module):
    """A layer that holds its weight in a form from which the checkpoint's own does not come back."""

    reread: Callable[[], Tensor] | None = None
    """Returns the weight as the checkpoint has it, in the format in which the layer was made, where that is known."""

    def set_weight(self, weight: Tensor) -> None:
        """Hold another weight."""
        raise NotImplementedError

    def plain_weight(self) -> Tensor:
        """Return the weight as the checkpoint has it. Raises UserError where that is not known."""
        if self.reread is None:
            raise UserError("A model in int8 that is from no file takes no LoRA: choose precision bf16 or fp32.")
        return self.reread()


_HELD = ("weight", "bias", "gate", "in_8_bits", "packed_for", "pack_at_next_call")


def plain_weight(layer: nn.Module) -> Tensor:
    """Return the weight of a layer as a checkpoint has it, the same bits before and after it was packed.

    To that end a weight that may go Winograd's way comes out of that form in any case: it returns from it rounded.
    """
    if isinstance(layer, QuantizedLayer):
        return layer.plain_weight()
    if isinstance(layer, Conv2d) and layer.may_use_winograd and layer.weight.ndim == 4:
        ways = winograd_for(layer.weight.dtype)
        return ways.restore_weight(ways.transform_weight(layer._plain_weight()))
    return layer._plain_weight() if isinstance(layer, _Packable) else layer.get_parameter("weight").detach()


def parameters_of(layer: nn.Module) -> dict[str, Any]:
    """Return the weight and bias of a layer as they are, packed or not, for `set_parameters`."""
    return {name: getattr(layer, name) for name in _HELD if hasattr(layer, name)}


def set_parameters(layer: nn.Module, held: Mapping[str, Any]) -> None:
    """Give a layer weight and bias back that `parameters_of` returned, without a copy."""
    for name, value in held.items():
        setattr(layer, name, value)


def replace_parameters(layer: nn.Module, weight: Tensor | None, bias: Tensor | None, machine: Machine) -> None:
    """Give a layer another plain weight or bias; None leaves the one that it has. It packs them at its next call."""
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    if weight is not None and isinstance(layer, QuantizedLayer):
        layer.set_weight(weight)
    elif weight is not None:
        layer.weight = nn.Parameter(weight, requires_grad=False)
        if isinstance(layer, _Packable):
            layer.pack_at_next_call = packs(machine)
        if isinstance(layer, GatedLinear):
            layer.gate = None
