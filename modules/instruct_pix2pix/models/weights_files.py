"""Read weights files: names, shapes and places of the tensors from the header, and the tensors, mapped, on request.

There are three formats, recognised by their first bytes and never by the file's name: safetensors, torch's zip
(.ckpt, .pt, .pth, .bin) and torch's older bare pickle. Each becomes an `_Index`; one function maps
them all. A file is hostile input: every length and offset is checked before it is used, and a pickle
is read by `tensor_pickle`, which runs nothing.
"""

from __future__ import annotations

import io
import json
import math
import os
import struct
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from ..errors import UserError
from .tensor_pickle import ITEM_SIZE, BadPickle, ForeignName, Storage, StoredTensor, check_sizes, unpickle

if TYPE_CHECKING:
    import torch  # at run time only `read_weights` needs it, and its import costs seconds

_HEADER_LIMIT = 100_000_000  # bytes; the safetensors library has the same limit, real headers are below 1 MB

_SAFETENSORS_DTYPE = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "BOOL": "bool", "C64": "complex64",
}  # fmt: skip

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
)  # fmt: skip


@dataclass(frozen=True)
class TensorInfo:
    """What a header says about a tensor: its shape, and torch's name for its dtype."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class _Index:
    """The tensors of a file, and where in the file (in bytes) the storage of each begins."""

    tensors: dict[str, StoredTensor]
    start: Callable[[Storage], int]


class _Broken(Exception):  # noqa: N818 - becomes a UserError that names the file
    """The rest of a sentence that begins with the file's name."""


def header(path: str | Path) -> dict[str, TensorInfo]:
    """Return shape and dtype of the tensors in a safetensors or torch file by name, without reading their data.

    A nested 'state_dict' is unwrapped. Raises UserError for a file that is missing, truncated, not a
    weights file, or a pickle that names code.
    """
    with _opened(path) as (file, size):
        return {name: TensorInfo(t.shape, t.dtype) for name, t in _index(file, size).tensors.items()}


def read_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a safetensors or torch file, mapped from it (CPU, copy on write): no memory until used.

    Same names and the same UserErrors as `header`. The file must stay as it is while the tensors live.
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
        raise UserError(f"'{path.name}' cannot be read: {error}.") from error


def _index(file: BinaryIO, size: int) -> _Index:
    file.seek(0)
    first = file.read(32)
    if not first:
        raise _Broken("is empty: download it again")
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
    if length > _HEADER_LIMIT:
        raise _Broken(f"is not a safetensors file: its header claims {length:,} bytes")
    if 8 + length > size:
        raise _truncated(8 + length - size, "at least ")
    try:
        tensors = _parsed_safetensors(file.read(length))
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
    return _Index(tensors, lambda storage: begin + int(storage.key))


@lru_cache(maxsize=4)
def _parsed_safetensors(text: bytes) -> dict[str, StoredTensor]:
    """Parse a header into its tensors; cached, as a loader asks many times."""
    entries = json.loads(text)
    entries.pop("__metadata__", None)
    return {name: _safetensor(entry) for name, entry in entries.items()}


def _safetensor(entry: dict[str, object]) -> StoredTensor:
    """Parse one entry of a header. The storage's key is the start of its data, counted from the header's end."""
    dtype = _SAFETENSORS_DTYPE[entry["dtype"]]  # type: ignore[index] - a wrong type is a TypeError for the caller
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


def _index_zip(file: BinaryIO, size: int) -> _Index:
    try:
        entries = {entry.filename: entry for entry in zipfile.ZipFile(file).infolist()}
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
    if length > _HEADER_LIMIT:
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
    return _state_dict(unpickle(io.BytesIO(text)))


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
    # A bare pickle that is not torch's still passes through the same machine, which names hostile code.
    if unpickle(file) != _LEGACY_MAGIC:
        raise _Broken("is a pickle but not a checkpoint: pick a .safetensors or .ckpt file")
    for _ in range(2):
        unpickle(file)  # the protocol's number; the sizes of C types on the writer's machine
    tensors = _state_dict(unpickle(file))
    keys = unpickle(file)
    sizes = {t.storage.key: t.storage.count * ITEM_SIZE[t.storage.dtype] for t in tensors.values()}
    starts: dict[str, int] = {}
    position = file.tell()
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
    """Return the tensors of an unpickled object: those of its 'state_dict', or its own and those one level below."""
    if isinstance(top, dict) and isinstance(top.get("state_dict"), dict):
        top = top["state_dict"]
    tensors: dict[str, StoredTensor] = {}
    for name, value in top.items() if isinstance(top, dict) else ():
        if isinstance(value, StoredTensor):
            tensors[name] = value
        elif isinstance(value, dict):
            tensors.update((f"{name}.{key}", v) for key, v in value.items() if isinstance(v, StoredTensor))
    return tensors
