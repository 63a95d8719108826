"""The formulas by which LoRA, LoCon, LoHa, LoKr and their like change a weight.

LoRA: Hu et al. 2021, arXiv 2106.09685. LoHa, LoKr and the Tucker form of convolutions: Yeh et al. 2023 (LyCORIS), arXiv
2309.14859. All are computed in float32; a file's shapes are checked before anything is multiplied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_RANK = 4096
"""Of a pair of matrices: files that people share have 4 to 256."""

_MATRICES = {
    "LoRA": ({"down", "up"}, {"mid", "alpha"}),
    "LoHa": ({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"}, {"hada_t1", "hada_t2", "alpha"}),
    "LoKr": (set(), {f"lokr_{n}" for n in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")} | {"alpha"}),
    "difference": ({"diff"}, {"alpha"}),
    "norm": ({"w_norm"}, {"alpha"}),
}
_BIASES = ("diff_b", "b_norm")


class Unfit(Exception):  # noqa: N818 - whoever knows the file's name words it
    """What is wrong with the tensors for a layer, the rest of a sentence."""


def bias_change(tensors: Mapping[str, Tensor], shape: torch.Size) -> Tensor | None:
    """Return what is to be added to a bias of this shape; None where the file leaves it alone. Raises Unfit."""
    found = next((tensors[name] for name in _BIASES if name in tensors), None)
    return None if found is None else _shaped(found.float(), shape)


def weight_change(tensors: Mapping[str, Tensor], shape: torch.Size) -> Tensor | None:
    """Return what a file at weight 1 adds to a layer's weight of this shape, float32; None where it leaves it alone.

    `tensors` are those of the layer, under `layer_names.name_of`'s names. For a convolution with eight input channels,
    the latent's and the picture's, one with four, from a model without a picture, is added to the first. Raises Unfit.
    """
    own = {name: tensor for name, tensor in tensors.items() if name not in _BIASES}
    if not own.keys() - {"alpha"}:
        return None
    if any(name in own for name in ("dora_scale", "lora_magnitude_vector")):
        raise Unfit("is a DoRA, which scales whole weights and is not supported")
    forms = _MATRICES.items()
    kind = next((name for name, (needed, optional) in forms if needed <= own.keys() <= needed | optional), None)
    if kind is None:
        raise Unfit(f"combines {', '.join(sorted(own))}, which is no form of LoRA known here")
    if not all(tensor.is_floating_point() for name, tensor in own.items() if name != "alpha"):
        raise Unfit("holds packed numbers")
    most = max(shape.numel(), MOST_RANK * max(shape[0], shape.numel() // max(1, shape[0])))
    if any(tensor.numel() > most for tensor in own.values()):
        raise Unfit("is far larger than that layer")
    parts = {name: tensor.float() for name, tensor in own.items()}
    if kind == "LoRA":
        change, rank = _pair(parts, shape)
    elif kind == "LoHa":
        change, rank = _hadamard(parts, shape)
    elif kind == "LoKr":
        change, rank = _kronecker(parts, shape)
    else:
        change, rank = parts.get("diff", parts.get("w_norm", torch.empty(0))), None
    alpha = parts.get("alpha")
    if alpha is not None and alpha.numel() != 1:
        raise Unfit("has an alpha that is not one number")
    return _shaped(change, shape) * (1.0 if alpha is None or rank is None else alpha.item() / rank)


def _pair(parts: Mapping[str, Tensor], shape: torch.Size) -> tuple[Tensor, int]:
    """up @ down, or with the kernel between them `up mid down` (LoCon's Tucker form)."""
    up, down = parts["up"].flatten(1), parts["down"].flatten(1)
    mid = parts.get("mid")
    if mid is None:
        return _product(up, down, shape), len(down)
    return _tucker(mid, up.t(), down, shape), len(down)


def _hadamard(parts: Mapping[str, Tensor], shape: torch.Size) -> tuple[Tensor, int]:
    """(w1_a @ w1_b) * (w2_a @ w2_b), entry by entry; in the Tucker form each factor has a kernel."""
    factors = []
    for n in "12":
        a, b, kernel = (parts.get(f"hada_{name}") for name in (f"w{n}_a", f"w{n}_b", f"t{n}"))
        assert a is not None and b is not None
        factors.append(_product(a, b, shape) if kernel is None else _tucker(kernel, a, b, shape))
    if factors[0].shape != factors[1].shape:
        raise Unfit("has two factors of unequal shape")
    return factors[0] * factors[1], len(parts["hada_w1_b"])


def _kronecker(parts: Mapping[str, Tensor], shape: torch.Size) -> tuple[Tensor, int | None]:
    """The Kronecker product w1 x w2; each is stored whole or as a product. With both whole, alpha has no meaning."""
    rank = None
    w1 = parts.get("lokr_w1")
    if w1 is None:
        w1 = _product(*_two(parts, "lokr_w1_a", "lokr_w1_b"), shape)
        rank = len(parts["lokr_w1_b"])
    w2 = parts.get("lokr_w2")
    if w2 is None:
        a, b = _two(parts, "lokr_w2_a", "lokr_w2_b")
        kernel = parts.get("lokr_t2")
        w2 = _product(a, b, shape) if kernel is None else _tucker(kernel, a, b, shape)
        rank = len(b)
    if not 2 == w1.ndim <= w2.ndim <= 4 or w1.numel() * w2.numel() > shape.numel():
        raise Unfit(f"does not fit it: {_said(w1)} x {_said(w2)} for {list(shape)}")
    return torch.kron(w1[(..., *[None] * (w2.ndim - 2))], w2.contiguous()), rank


def _product(a: Tensor, b: Tensor, shape: torch.Size) -> Tensor:
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != len(b) or len(b) > MOST_RANK:
        raise Unfit(f"does not fit together: {_said(a)} and {_said(b)}")
    if len(a) * b.shape[1] > shape.numel():
        raise Unfit(f"does not fit it: {_said(a)} and {_said(b)} for {list(shape)}")
    return a @ b


def _tucker(kernel: Tensor, a: Tensor, b: Tensor, shape: torch.Size) -> Tensor:
    """kernel [r, s, ..], a [r, out], b [s, in] -> [out, in, ..]."""
    if kernel.ndim < 3 or a.ndim != 2 or b.ndim != 2 or kernel.shape[:2] != (len(a), len(b)):
        raise Unfit(f"does not fit together: {_said(kernel)}, {_said(a)} and {_said(b)}")
    if max(kernel.shape[:2]) > MOST_RANK or a.shape[1] * b.shape[1] * kernel[0, 0].numel() > shape.numel():
        raise Unfit(f"does not fit it: {_said(kernel)}, {_said(a)} and {_said(b)} for {list(shape)}")
    return torch.einsum("rs...,ro,si->oi...", kernel, a, b)


def _two(parts: Mapping[str, Tensor], first: str, second: str) -> tuple[Tensor, Tensor]:
    if first not in parts or second not in parts:
        raise Unfit(f"lacks {first if first not in parts else second}")
    return parts[first], parts[second]


def _shaped(change: Tensor, shape: torch.Size) -> Tensor:
    """Return a change in the layer's own shape; one for four of eight input channels is zero in the other four."""
    if change.numel() == shape.numel() and (change.ndim < 2 or len(change) == shape[0]):
        return change.reshape(shape)
    if len(shape) == 4 and shape[1] == 8 and 2 * change.numel() == shape.numel() and len(change) == shape[0]:
        half = change.reshape(shape[0], shape[1] // 2, *shape[2:])
        return F.pad(half, (0, 0, 0, 0, 0, shape[1] - half.shape[1]))
    raise Unfit(f"does not fit it: {_said(change)} for {list(shape)}")


def _said(tensor: Tensor) -> str:
    return str([*tensor.shape]) if math.prod(tensor.shape) else "nothing"
