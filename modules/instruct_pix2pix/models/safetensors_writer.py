"""Writes a safetensors file tensor by tensor: its header is known beforehand, from names, shapes and dtypes.

The `safetensors` package writes only what lies in memory as a whole, which for two models of 7 GB nobody has.
The format: https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from ..errors import UserError
from .bounded import MOST_JSON
from .tensor_pickle import ITEM_SIZE
from .weights_files import SAFETENSORS_DTYPE, Stacked, TensorInfo, read_weights

if TYPE_CHECKING:
    import torch

Rows = Callable[..., "torch.Tensor"]
"""From the same rows (of the first dimension) of each source to those of the result; its dtype may be wider."""

_NAMES = {dtype: name for name, dtype in SAFETENSORS_DTYPE.items()}
_ROWS_AT_ONCE = 2**22  # numbers that are computed in one piece
_MOST_IN_A_ROW = 2**26
_BYTES_AT_ONCE = 64 * 2**20  # of the result, after which the files are unmapped and mapped anew


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor to be written: its shape and dtype, the tensors that it is made of, and how."""

    info: TensorInfo
    sources: tuple[Stacked, ...]
    rows: Rows


def planned_number(value: float) -> PlannedTensor:
    """Return a number that no file holds as a tensor, in float32, without a dimension."""

    def rows() -> torch.Tensor:
        import torch

        return torch.tensor([value])

    return PlannedTensor(TensorInfo((), "float32"), (), rows)


@dataclass(frozen=True)
class SafetensorsPlan:
    """A file to be written, from its header to the order of its data."""

    head: bytes
    tensors: Mapping[str, PlannedTensor]
    """In the order of their data."""

    @property
    def size(self) -> int:
        """The bytes of the whole file."""
        return len(self.head) + sum(_bytes(one.info) for one in self.tensors.values())


def plan_file(tensors: Mapping[str, PlannedTensor], texts: Mapping[str, str]) -> SafetensorsPlan:
    """Return what a file with these tensors and these texts as its metadata will be.

    Wider numbers lie first, as the package orders them, so that all lie at multiples of their size. Raises UserError
    for a tensor that the format has no name for, and for more than this program would read.
    """
    order = sorted(tensors, key=lambda name: (-ITEM_SIZE[tensors[name].info.dtype], name))
    entries: dict[str, object] = {"__metadata__": dict(texts)} if texts else {}
    end = 0
    for name in order:
        info = tensors[name].info
        if name == "__metadata__" or info.dtype not in _NAMES:
            raise UserError(f"The tensor {ascii(name)[:100]} ({info.dtype}) has no place in a safetensors file.")
        begin, end = end, end + _bytes(info)
        entries[name] = {"dtype": _NAMES[info.dtype], "shape": info.shape, "data_offsets": (begin, end)}
    try:
        text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise UserError("A tensor's name is not text: this file is damaged, download it again.") from error
    text += b" " * (-len(text) % 8)
    if len(text) > MOST_JSON:
        raise UserError("The names and texts of this file take more room than those of any model: take another.")
    return SafetensorsPlan(struct.pack("<Q", len(text)) + text, {name: tensors[name] for name in order})


def write_planned(plan: SafetensorsPlan, file: IO[bytes], progress: Callable[[int, int], None]) -> None:
    """Write the planned file; `progress(bytes done, bytes in all)` is called on the way.

    Takes memory for some 64 MB of each of the files that it reads, or for its largest tensor, and for a few million
    numbers. Raises UserError as `read_weights` does, and for a number that the format of the result cannot hold;
    OSError where the disk is full.
    """
    file.write(plan.head)
    done = len(plan.head)
    for names in _groups(plan):
        wanted: dict[Path, set[str]] = {}
        for part in (part for name in names for source in plan.tensors[name].sources for part in source):
            wanted.setdefault(part.file, set()).add(part.name)
        mapped = {path: read_weights(path, found) for path, found in wanted.items()}
        for name in names:
            planned = plan.tensors[name]
            for piece in _pieces(name, planned, [_stacked(source, mapped) for source in planned.sources]):
                done += file.write(piece)
                progress(done, plan.size)
    if done != plan.size:
        raise RuntimeError(f"{done:,} bytes were written in place of {plan.size:,}")


def _stacked(source: Stacked, mapped: Mapping[Path, Mapping[str, torch.Tensor]]) -> torch.Tensor:
    import torch

    parts = [part.of(mapped[part.file][part.name]) for part in source]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _pieces(name: str, planned: PlannedTensor, tensors: list[torch.Tensor]) -> Iterator[memoryview]:
    """Yield the bytes of a tensor, some rows at a time. Raises UserError for numbers that they cannot hold."""
    import torch

    dtype = getattr(torch, planned.info.dtype)
    shape = planned.info.shape or (1,)
    width = math.prod(shape[1:])
    if width > _MOST_IN_A_ROW:
        raise UserError(f"The tensor {ascii(name)[:100]} is larger than a layer of any model: take another file.")
    tensors = [tensor if tensor.ndim else tensor.reshape(1) for tensor in tensors]
    step = max(1, _ROWS_AT_ONCE // max(1, width))
    for start in range(0, shape[0] if width else 0, step):
        exact = planned.rows(*(tensor[start : start + step] for tensor in tensors))
        rounded = exact.to(dtype)
        if dtype.is_floating_point and dtype.itemsize < exact.dtype.itemsize:
            lost = ~rounded.float().isfinite() & exact.isfinite()
            if lost.any():
                raise UserError(
                    f"The tensor {ascii(name)[:100]} has numbers that {planned.info.dtype} cannot hold: "
                    "keep the precision, or take bf16."
                )
        yield rounded.contiguous().reshape(-1).view(torch.uint8).numpy().data


def _groups(plan: SafetensorsPlan) -> Iterator[list[str]]:
    """Yield the names in groups of about `_BYTES_AT_ONCE`."""
    group: list[str] = []
    size = 0
    for name, planned in plan.tensors.items():
        group.append(name)
        size += _bytes(planned.info)
        if size >= _BYTES_AT_ONCE:
            yield group
            group, size = [], 0
    if group:
        yield group


def _bytes(info: TensorInfo) -> int:
    return math.prod(info.shape) * ITEM_SIZE[info.dtype]
