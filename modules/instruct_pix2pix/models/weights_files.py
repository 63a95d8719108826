"""Read weights files: names, shapes and places of the tensors from the header, and the tensors, mapped, on request.

There are three formats, recognised by their first bytes and never by the file's name: safetensors, torch's zip
(.ckpt, .pt, .pth, .bin) and torch's older bare pickle. Each becomes an `_Index`; one function maps
them all. A file is hostile input: every length and offset is checked before it is used, and a pickle
is read by `tensor_pickle`, which runs nothing.
"""

from __future__ import annotations

import io
import math
import os
import re
import struct
import zipfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from ..errors import UserError
from ..text import reason_of
from .bounded import MOST_JSON, TooMuch, parse_json
from .tensor_pickle import ITEM_SIZE, BadPickle, ForeignName, Storage, StoredTensor, check_sizes, unpickled

if TYPE_CHECKING:
    import torch  # at run time only `read_weights` needs it, and its import costs seconds

_MOST_TENSORS = 30_000  # SDXL with its moving averages has 5,000
_MOST_PICKLED = 16_000_000  # bytes of a pickle without the numbers; those of SD1 and SDXL have 0.2 to 1 MB
_MOST_ZIP_DIRECTORY = 4_000_000  # bytes; about 75 for each tensor
_MOST_BYTES = 100_000_000_000  # of a file that may be read to its end, for its hash

SAFETENSORS_DTYPE = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "BOOL": "bool", "C64": "complex64",
}  # fmt: skip
"""torch's name for each type of numbers that safetensors names and this program reads."""

# Types that safetensors knows besides (its 0.8, tensor.rs): numbers smaller than a byte, those that only AMD's
# processors have, and the scales of block-wise formats such as MXFP4.
_SAFETENSORS_UNREAD = ("F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ")

_DEPTH = 3  # of the dicts in a pickle that are looked into

# The first number in a torch file older than the zip format (torch.serialization.MAGIC_NUMBER).
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C

# What people find in place of a model (its first bytes in lower case), and what to say about it.
_IMPOSTORS = (
    (b"version https://git-lfs", "is a Git LFS pointer and not the model itself: run 'git lfs pull'"),
    (b"<!doctype", "is a web page and not a model: download it again, signed in if the site asks"),
    (b"<html", "is a web page and not a model: download it again, signed in if the site asks"),
    (b"\xff\xd8\xff", "is a JPEG picture and not a model: pick a .safetensors or .ckpt file"),
    (b"\x89png", "is a PNG picture and not a model: pick a .safetensors or .ckpt file"),
    (b"gguf", "is a GGUF file, which this program does not read: pick a .safetensors or .ckpt file"),
    (b"\x1f\x8b", "is packed with gzip: unpack it"),
    (b"7z\xbc\xaf", "is a 7z archive: unpack it"),
    (b"rar!", "is a RAR archive: unpack it"),
)  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """What a header says about a tensor: its shape, and torch's name for its dtype."""

    shape: tuple[int, ...]
    dtype: str


def fits(stored: Sequence[int], wanted: Sequence[int]) -> bool:
    """Whether two shapes agree; a 1x1 convolution may be written as a matrix and the other way round."""
    stored, wanted = tuple(stored), tuple(wanted)
    return stored == wanted or (*stored, 1, 1) == wanted or stored == (*wanted, 1, 1)


@dataclass(frozen=True)
class TensorSource:
    """Where one tensor is stored: the file, and its name there."""

    file: Path
    name: str
    third: int | None = None
    """Which third of the stored rows it is: OpenCLIP keeps queries, keys and values in one tensor."""
    transposed: bool = False
    """Whether the stored matrix is the other way round."""

    def shape_of(self, stored: Sequence[int]) -> tuple[int, ...]:
        """Return the shape of the tensor, from that of what is stored."""
        if self.third is not None and stored:
            return (stored[0] // 3, *stored[1:])
        return tuple(reversed(stored)) if self.transposed else tuple(stored)

    def of(self, stored: torch.Tensor) -> torch.Tensor:
        """Return the tensor, as a view of what is stored."""
        if self.third is not None:
            return stored.chunk(3)[self.third]
        return stored.t() if self.transposed else stored


Stacked = tuple[TensorSource, ...]
"""The tensors whose rows, one below the other, are those of a tensor: mostly one."""


@dataclass(frozen=True)
class _Index:
    """The tensors of a file, and where in the file (in bytes) the storage of each begins."""

    tensors: dict[str, StoredTensor]
    start: Callable[[Storage], int]
    metadata: Mapping[str, str] = field(default_factory=dict)


class _Broken(Exception):  # noqa: N818 - becomes a UserError that names the file
    """The rest of a sentence that begins with the file's name."""


def header(path: str | Path) -> dict[str, TensorInfo]:
    """Return shape and dtype of the tensors in a safetensors or torch file by name, without reading their data.

    What trainers wrap a model in is taken off, dicts ('state_dict', 'model') and prefixes ('module.', '_orig_mod.').
    Raises UserError for a file that is missing, truncated, not a weights file, larger than any model, or a pickle that
    names code. Takes at most some 100 MB and a second or two, whatever the file holds.
    """
    with _opened(path) as (file, size):
        return {name: TensorInfo(t.shape, t.dtype) for name, t in _index(file, size).tensors.items()}


def metadata(path: str | Path) -> Mapping[str, str]:
    """Return the texts that a safetensors file holds beside its tensors; none of another format.

    Raises the same UserErrors as `header`.
    """
    with _opened(path) as (file, size):
        return _index(file, size).metadata


def read_weights(path: str | Path, names: Collection[str] | None = None) -> dict[str, torch.Tensor]:
    """Return tensors of a safetensors or torch file, mapped from it (CPU, copy on write): no memory until used.

    All of them, or those of `names` alone. Where torch's older format has put one at an odd place, it is copied. Same
    names and the same UserErrors as `header`. The file must stay as it is while the tensors live.
    """
    import torch

    with _opened(path) as (file, size):
        index = _index(file, size)
        try:
            whole = torch.UntypedStorage.from_file(os.fspath(path), False, size)
        except RuntimeError as error:
            raise _Broken(f"cannot be mapped into memory ({error})") from error
        parts: dict[Storage, torch.UntypedStorage] = {}
        tensors: dict[str, torch.Tensor] = {}
        for name, tensor in index.tensors.items():
            if names is not None and name not in names:
                continue
            storage = tensor.storage
            if storage not in parts:
                start, item = index.start(storage), ITEM_SIZE[storage.dtype]
                end = start + storage.count * item
                if end > size:
                    raise _Broken("is truncated: download it again")
                part = cast("torch.UntypedStorage", whole[start:end])
                # Numbers must lie at multiples of their size. The formats see to it, all but the oldest one.
                parts[storage] = part if start % ITEM_SIZE[tensor.dtype] == 0 else part.clone()
            empty = torch.empty(0, dtype=getattr(torch, tensor.dtype))
            tensors[name] = empty.set_(parts[storage], tensor.offset, tensor.shape, tensor.stride)
        return tensors


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[BinaryIO, int]]:
    """Open a file and yield it with its size; whatever is wrong with it is raised as a UserError that names it."""
    path = Path(path)
    try:
        if not path.is_file():  # before open: a pipe or device would block
            raise _Broken("is not a file" if path.exists() else "does not exist: check the path")
        with path.open("rb") as file:
            yield file, file.seek(0, os.SEEK_END)
    except _Broken as error:
        raise UserError(f"'{path.name}' {error}.") from error
    except ForeignName as error:
        raise UserError(
            f"'{path.name}' was refused: it wants to run code ({str(error)[:80]!a}), which no model needs. "
            "Nothing of it was run; use a .safetensors file instead."
        ) from error
    except BadPickle as error:
        raise UserError(f"'{path.name}' cannot be read: {error}; download it again.") from error
    except OSError as error:
        raise UserError(f"'{path.name}' cannot be read: {reason_of(error)}.") from error


def _index(file: BinaryIO, size: int) -> _Index:
    index = _index_as_stored(file, size)
    if len(index.tensors) > _MOST_TENSORS:
        raise _Broken(f"lists {len(index.tensors):,} tensors, more than a model has: pick another file")
    return replace(index, tensors=_unwrapped(index.tensors))


# What trainers put before the names of a whole model, and between them: DataParallel, torch.compile, FSDP, Lightning.
_WRAPPER = r"(?:module|model|state_dict|net|_orig_mod|_forward_module)\."
_WRAPPED_WITHIN = re.compile(r"(?:_orig_mod|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_FIRST_LAYER = re.compile(
    rf"((?:{_WRAPPER})*?)"
    r"(?:(?:(?:model\.)?diffusion_model\.)?(?:input_blocks\.0\.0|conv_in)|(?:first_stage_model\.)?encoder\.conv_in)"
    r"\.weight"
)


def _unwrapped(tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Return the tensors under the names that the model itself gives them: its first layer tells the prefix."""
    if any(_WRAPPED_WITHIN.search(name) for name in tensors):
        tensors = {_WRAPPED_WITHIN.sub("", name): tensor for name, tensor in tensors.items()}
    firsts = [match[1] for name in tensors if (match := _FIRST_LAYER.fullmatch(name))]
    prefix = min(firsts, key=len, default="")
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items()} if prefix else tensors


def _index_as_stored(file: BinaryIO, size: int) -> _Index:
    if size > _MOST_BYTES:
        raise _Broken(f"has {size / 1e9:,.0f} GB, more than any model that edits pictures: pick another file")
    file.seek(0)
    first = file.read(512)
    if not first:
        raise _Broken("is empty: download it again")
    if first[257:262] == b"ustar":
        raise _Broken("is a tar archive: unpack it, or convert it to .safetensors where it was made")
    if first[8:9] == b"{":
        return _index_safetensors(file, size)
    if first[:4] == b"PK\x03\x04":
        return _index_zip(file, size)
    if first[:1] == b"\x80" and first[1:2] in b"\x02\x03\x04\x05":
        return _index_legacy(file, size)
    for magic, sentence in _IMPOSTORS:
        if first.lstrip().lower().startswith(magic):
            raise _Broken(sentence)
    raise _Broken("is not a checkpoint: pick a .safetensors or .ckpt file")


# --- safetensors: 8 bytes of length, a JSON header, the data -----------------------------------------


def _index_safetensors(file: BinaryIO, size: int) -> _Index:
    file.seek(0)
    (length,) = struct.unpack("<Q", file.read(8))
    if length > MOST_JSON:
        raise _Broken(f"is not a safetensors file: its header claims {length:,} bytes")
    if 8 + length > size:
        raise _truncated(8 + length - size, "at least ")
    try:
        tensors, texts = _parsed_safetensors(file.read(length))
    except TooMuch as error:
        raise _Broken(f"is not a model ({error}): pick another file") from error
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _Broken("has a damaged safetensors header: download it again") from error
    begin = 8 + length
    end = 0
    for offset, item, count in sorted(
        (int(t.storage.key), ITEM_SIZE[t.dtype], t.storage.count) for t in tensors.values()
    ):
        if offset < end:
            raise _Broken("has a damaged safetensors header (tensors overlap): download it again")
        end = offset + count * item
    if begin + end > size:
        raise _truncated(begin + end - size)
    return _Index(tensors, lambda storage: begin + int(storage.key), texts)


@lru_cache(maxsize=4)
def _parsed_safetensors(text: bytes) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Parse a header into its tensors and its metadata; cached, as a loader asks many times."""
    entries = parse_json(text)
    texts = entries.pop("__metadata__", None) or {}
    tensors = {name: _safetensor(entry) for name, entry in entries.items()}
    return tensors, {name: value for name, value in texts.items() if isinstance(value, str)}


def _safetensor(entry: dict[str, object]) -> StoredTensor:
    """Parse one entry of a header. The storage's key is the start of its data, counted from the header's end."""
    if entry["dtype"] in _SAFETENSORS_UNREAD:
        raise _Broken(
            f"holds numbers of the type {entry['dtype']}, which this program does not read: take a file in fp16"
        )
    dtype = SAFETENSORS_DTYPE[entry["dtype"]]  # type: ignore[index] - a wrong type is a TypeError for the caller
    shape, offsets = tuple(entry["shape"]), tuple(entry["data_offsets"])  # type: ignore[arg-type]
    check_sizes(shape, offsets)
    begin, end = offsets
    count = math.prod(shape)
    if end - begin != count * ITEM_SIZE[dtype]:
        raise ValueError("data_offsets do not fit the shape")
    stride = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    return StoredTensor(dtype, shape, stride, 0, Storage(str(begin), dtype, count))


def _truncated(missing: int, at_least: str = "") -> _Broken:
    return _Broken(f"is truncated: {at_least}{missing:,} bytes are missing; download it again")


# --- torch's zip: NAME/data.pkl describes the tensors, NAME/data/KEY holds one storage each ---------


class _ShortReads:
    """A file of which `zipfile` can read only short pieces: it reads the directory of a zip in one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, count: int = -1) -> bytes:
        if count > _MOST_ZIP_DIRECTORY:
            raise _Broken("is a zip file of more entries than a model has: pick another file")
        return self._file.read(count if count >= 0 else _MOST_ZIP_DIRECTORY)


def _index_zip(file: BinaryIO, size: int) -> _Index:
    try:
        entries = {entry.filename: entry for entry in zipfile.ZipFile(cast("BinaryIO", _ShortReads(file))).infolist()}
    except (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, struct.error) as error:
        raise _Broken("is truncated or damaged (its end is missing): download it again") from error
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise _Broken("is a zip file without a model in it: pick a .safetensors or .ckpt file")
    root = pickles[0].removesuffix("data.pkl")

    def start(name: str, nbytes: int) -> int:
        """Where the data of an entry begins: past its local header, whose length only it knows."""
        entry = _plain_entry(entries, name, nbytes, size)
        file.seek(entry.header_offset)
        local = file.read(30)
        if len(local) < 30 or local[:4] != b"PK\x03\x04":
            raise _Broken("is damaged: download it again")
        return entry.header_offset + 30 + sum(struct.unpack("<HH", local[26:30]))

    if f"{root}byteorder" in entries:
        file.seek(start(f"{root}byteorder", 3))
        if file.read(3) == b"big":
            raise _Broken("was written on a big-endian machine: convert it to .safetensors there")
    length = entries[pickles[0]].file_size
    if length > _MOST_PICKLED:
        raise _Broken(f"is not a checkpoint: its list of tensors claims {length:,} bytes")
    file.seek(start(pickles[0], length))
    # Not through zipfile's own reader: torch can be told to write no checksums.
    tensors = _parsed_pickle(file.read(length))
    for tensor in tensors.values():
        storage = tensor.storage
        _plain_entry(entries, f"{root}data/{storage.key}", storage.count * ITEM_SIZE[storage.dtype], size)
    return _Index(tensors, lambda s: start(f"{root}data/{s.key}", s.count * ITEM_SIZE[s.dtype]))


@lru_cache(maxsize=4)
def _parsed_pickle(text: bytes) -> dict[str, StoredTensor]:
    """Return the tensors that a pickle lists; cached as well."""
    return _state_dict(next(unpickled(io.BytesIO(text))))


def _plain_entry(entries: dict[str, zipfile.ZipInfo], name: str, nbytes: int, size: int) -> zipfile.ZipInfo:
    """Return the entry, which must be stored as plain bytes (to be mapped), at least `nbytes` of them."""
    entry = entries.get(name)
    if entry is None:
        raise _Broken("is damaged (it lacks the data of a tensor): download it again")
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
        raise _Broken("was packed again with compression: unpack it, or convert it to .safetensors")
    if entry.file_size < nbytes or entry.header_offset < 0 or entry.header_offset + 30 + nbytes > size:
        raise _Broken("is damaged (a tensor reaches past the end): download it again")
    return entry


# --- torch's older format: five pickles, then each storage as a count and its numbers ---------------


def _index_legacy(file: BinaryIO, size: int) -> _Index:
    file.seek(0)
    text = io.BytesIO(file.read(_MOST_PICKLED))
    pickles = unpickled(text)
    # A bare pickle that is not torch's still passes through the same machine, which names hostile code.
    if next(pickles) != _LEGACY_MAGIC:
        raise _Broken("is a pickle but not a checkpoint: pick a .safetensors or .ckpt file")
    for _ in range(2):
        next(pickles)  # the protocol's number; the sizes of C types on the writer's machine
    tensors = _state_dict(next(pickles))
    keys = next(pickles)
    sizes = {t.storage.key: t.storage.count * ITEM_SIZE[t.storage.dtype] for t in tensors.values()}
    starts: dict[str, int] = {}
    position = text.tell()
    for key in keys if isinstance(keys, list) else []:
        if not isinstance(key, str) or key not in sizes:
            raise _Broken("is of torch's old format with extra data: convert it to .safetensors")
        starts[key] = position + 8
        position = starts[key] + sizes[key]
    if position > size:
        raise _truncated(position - size)
    if sizes.keys() - starts.keys():
        raise _Broken("is damaged (it lacks the data of a tensor): download it again")
    return _Index(tensors, lambda storage: starts[storage.key])


def _state_dict(top: object) -> dict[str, StoredTensor]:
    """Return the tensors of an unpickled object: those of its 'state_dict', or its own, and those in dicts below.

    Visits are counted: a dict that lies in many others is one dict in the file.
    """
    for _ in range(_DEPTH):
        if isinstance(top, dict) and isinstance(top.get("state_dict"), dict):
            top = top["state_dict"]
    tensors: dict[str, StoredTensor] = {}
    visits = 0

    def visit(prefix: str, values: dict[object, object], depth: int) -> None:
        nonlocal visits
        visits += len(values)
        if visits > 4 * _MOST_TENSORS:
            raise _Broken("lists more than a model has: pick another file")
        for name, value in values.items():
            if isinstance(value, StoredTensor):
                tensors[f"{prefix}{name}"] = value
            elif isinstance(value, dict) and depth < _DEPTH:
                visit(f"{prefix}{name}.", value, depth + 1)

    if isinstance(top, dict):
        visit("", top, 0)
    return tensors
