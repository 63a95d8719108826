"""Small files that are made to keep a reader busy: in a models folder each would delay the list of all the others."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

MB = 10**6


def _safetensors(path: Path, header: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header)


def empty_entries(path: Path) -> None:
    """A header of 1.6 million tensors without a description."""
    _safetensors(path, b"{" + b",".join(b'"%d":{}' % i for i in range(1_600_000)) + b"}")


def long_shape(path: Path) -> None:
    """A header with a shape of 30 million numbers."""
    _safetensors(path, b'{"a":{"dtype":"F32","data_offsets":[0,4],"shape":[' + b"1," * 30 * MB + b"1]}}")


def many_lists(path: Path) -> None:
    """A header, just small enough to be read, of five million lists."""
    _safetensors(path, b'{"a":{"shape":[' + b"[]," * 5_200_000 + b"[]]}}")


def many_texts(path: Path) -> None:
    """A header, just small enough to be read, whose metadata are 1.3 million texts."""
    _safetensors(path, b'{"__metadata__":{' + b",".join(b'"%d":""' % i for i in range(1_300_000)) + b"}}")


def raw_zip(path: Path, pickle: bytes) -> None:
    """Write a file as torch.save does, whose list of tensors are these instructions."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02" + pickle)


def legacy_pickle(path: Path, pickle: bytes) -> None:
    """Write a bare pickle of these instructions."""
    path.write_bytes(b"\x80\x02" + pickle)


def opcode_flood(path: Path) -> None:
    """A zip whose pickle is 17 million instructions."""
    raw_zip(path, b"N" * 17 * MB + b".")


def list_flood(path: Path) -> None:
    """A zip whose pickle makes 15 million lists."""
    raw_zip(path, b"]" * 15 * MB + b".")


def legacy_flood(path: Path) -> None:
    """The same in a bare pickle, the format before the zip."""
    legacy_pickle(path, b"]" * 20 * MB + b".")


def same_dict_many_times(path: Path) -> None:
    """A pickle of 3,000 dicts that are one dict of 3,000 tensors: it lists nine million."""
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n"
    tensor += b"X\x01\0\0\x000X\x03\0\0\0cpuK\1tQ"
    tensor += b"K\0K\1\x85K\1\x85\x89}tRq\1"
    inner = b"}q\2(" + b"".join(b"X\x06\0\0\0%06dh\1" % i for i in range(3_000)) + b"u0"
    outer = b"}(" + b"".join(b"X\x06\0\0\0%06dh\2" % i for i in range(3_000)) + b"u."
    raw_zip(path, tensor + b"0" + inner + outer)


def colliding_memo(path: Path) -> None:
    """A pickle that remembers 300,000 things at numbers that Python hashes alike."""
    step = 2**61 - 1
    path.write_bytes(b"\x80\x02N" + b"".join(b"p%d\n" % (i * step) for i in range(300_000)) + b".")


def endless_text(path: Path) -> None:
    """A bare pickle with a text of 40 GB, nearly all of it a hole on the disk."""
    path.write_bytes(b"\x80\x04\x8d" + struct.pack("<Q", 40_000 * MB))
    os.truncate(path, 40_000 * MB + 100)


def endless_line(path: Path) -> None:
    """A bare pickle with a line of 4 GB, nearly all of it a hole on the disk."""
    path.write_bytes(b"\x80\x02I1")
    os.truncate(path, 4_000 * MB)


def crowded_zip(path: Path) -> None:
    """A zip whose directory has 600,000 entries."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0)
    directory = b"".join(entry + b"%07d" % i for i in range(600_000))
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 0xFFFE, 0xFFFE, len(directory), 4, 0)
    path.write_bytes(b"PK\3\4" + directory + end)


def pipe(path: Path) -> None:
    """A pipe that nobody writes to."""
    os.mkfifo(path)


def _folder(path: Path, **files: Callable[[Path], object]) -> None:
    """A diffusers folder of four parts, with these files in place of those of unet/."""
    path.mkdir()
    (path / "model_index.json").write_text("{}")
    for part in ("unet", "vae", "text_encoder", "scheduler"):
        (path / part).mkdir()
    for name, make in files.items():
        make(path / "unet" / name.replace("__", "."))


INDEX = "diffusion_pytorch_model__safetensors__index__json"


def long_index(path: Path) -> None:
    """A diffusers folder with a list of shards longer than 16 MB."""
    shards = {f"{i:040d}": "diffusion_pytorch_model-1.safetensors" for i in range(250_000)}
    _folder(path, **{INDEX: lambda file: file.write_text(json.dumps({"weight_map": shards}))})


def many_shards(path: Path) -> None:
    """A diffusers folder with a list of 100,000 shards."""
    shards = {f"{i}": f"{i}.safetensors" for i in range(100_000)}
    _folder(path, **{INDEX: lambda file: file.write_text(json.dumps({"weight_map": shards}))})


def pipe_for_index(path: Path) -> None:
    """A diffusers folder with a pipe for a list of shards."""
    _folder(path, **{INDEX: os.mkfifo})


HOSTILE: dict[str, Callable[[Path], None]] = {
    "empty-entries.safetensors": empty_entries,
    "long-shape.safetensors": long_shape,
    "many-lists.safetensors": many_lists,
    "many-texts.safetensors": many_texts,
    "opcode-flood.ckpt": opcode_flood,
    "list-flood.ckpt": list_flood,
    "legacy-flood.ckpt": legacy_flood,
    "same-dict.ckpt": same_dict_many_times,
    "colliding-memo.ckpt": colliding_memo,
    "endless-text.ckpt": endless_text,
    "endless-line.ckpt": endless_line,
    "crowded-zip.ckpt": crowded_zip,
    "pipe.safetensors": pipe,
    "long-index": long_index,
    "many-shards": many_shards,
    "pipe-for-index": pipe_for_index,
}
"""What to write, by the name that it has in a models folder."""
