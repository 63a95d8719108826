"""Camera raw files are refused, whatever they are called, and TIFFs of several pages are read at full size."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instruct_pix2pix.errors import UserError
from instruct_pix2pix.images import open_picture

TYPES = {1: "B", 3: "H", 4: "I"}
RAW = "is a camera's raw file: save it as JPEG, PNG or TIFF with the camera's own program"


def directory(order: str, place: int, tags: dict[int, tuple[int, tuple[int, ...]]], following: int = 0) -> bytes:
    """An IFD that lies at `place`: {tag: (type, values)} (TIFF 6.0, section 2)."""
    table, beyond = struct.pack(f"{order}H", len(tags)), b""
    behind = place + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        data = struct.pack(f"{order}{len(values)}{TYPES[kind]}", *values)
        if len(data) > 4:
            beyond, data = beyond + data, struct.pack(f"{order}I", behind + len(beyond))
        table += struct.pack(f"{order}HHI", tag, kind, len(values)) + data.ljust(4, b"\0")
    return table + struct.pack(f"{order}I", following) + beyond


def tiff(order: str, *, kind: int = 0, deeper: int | None = None, photometric: int = 2, dng: bool = False) -> bytes:
    """A TIFF of 160 x 120 red pixels, and where `deeper` is a photometric interpretation, a larger picture in it."""
    pixels = bytes([255, 0, 0]) * (160 * 120)
    tags = {
        254: (4, (kind,)),
        256: (4, (160,)),
        257: (4, (120,)),
        258: (3, (8, 8, 8)),
        259: (3, (1,)),
        262: (3, (photometric,)),
        273: (4, (0,)),
        277: (3, (3,)),
        278: (4, (120,)),
        279: (4, (len(pixels),)),
    }
    if dng:
        tags[0xC612] = (1, (1, 4, 0, 0))
    if deeper is not None:
        tags[330] = (4, (0,))
    strip = 8 + len(directory(order, 8, tags))
    tags[273] = (4, (strip,))
    inner = b""
    if deeper is not None:
        tags[330] = (4, (strip + len(pixels),))
        inner = directory(order, strip + len(pixels), {256: (4, (4000,)), 257: (4, (3000,)), 262: (3, (deeper,))})
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8)
    return head + directory(order, 8, tags) + pixels + inner


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    "more",
    [
        {"dng": True, "kind": 1, "deeper": 32803},
        {"dng": True},
        {"kind": 1, "deeper": 32803},
        {"deeper": 34892},
        {"kind": 1, "deeper": 2},
        {"photometric": 32803},
        {"photometric": 34892},
    ],
    ids=["DNG with a thumbnail", "DNG", "NEF", "linear", "thumbnail of what lies deeper", "PEF", "linear alone"],
)
@pytest.mark.parametrize("name", ["photo.dng", "photo.tif", "photo.jpg"])
def test_what_the_sensor_saw_is_refused_whatever_the_file_is_called(
    order: str, more: dict, name: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(tiff(order, **more))
    with pytest.raises(UserError, match=f"^{name} {RAW}"):
        open_picture(tmp_path / name)


@pytest.mark.parametrize(
    "head",
    [
        b"II*\0\x10\0\0\0CR\x02\0",
        b"II\x1a\0\0\0HEAPCCDR",
        b"\0\0\0\x18ftypcrx \0\0\0\1",
        b"FUJIFILMCCD-RAW 0201",
        b"IIRO\x08\0\0\0",
        b"IIRS\x08\0\0\0",
        b"IIU\0\x18\0\0\0",
        b"FOVb\0\0\2\0",
        b"\0MRM\0\0\0\0",
    ],
    ids=["CR2", "CRW", "CR3", "RAF", "ORF", "ORF of another year", "RW2", "X3F", "MRW"],
)
def test_makers_own_formats_are_told_by_how_they_begin(head: bytes) -> None:
    with pytest.raises(UserError, match=RAW):
        open_picture(head + bytes(200))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("name", ["scan.tif", "scan.dng", "scan.nef"])
@pytest.mark.parametrize("more", [{}, {"deeper": 2}, {"kind": 1}], ids=["plain", "pyramid", "reduced and alone"])
def test_a_tiff_is_read_whatever_it_is_called(order: str, name: str, more: dict, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(tiff(order, **more))
    picture = open_picture(tmp_path / name)
    assert picture.image.size == (160, 120) and picture.image.getpixel((0, 0)) == (255, 0, 0)
    assert picture.notes == ()


def test_where_a_reduced_page_comes_first_the_full_one_is_read(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    pixels = np.full((96, 128, 3), 200, np.uint8)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(pixels[::4, ::4], subfiletype=1, photometric="rgb")
        file.write(pixels, photometric="rgb")
    picture = open_picture(tmp_path / "a.tif")
    assert picture.image.size == (128, 96) and picture.notes == ()


def test_of_several_full_pages_the_first_is_read_and_that_is_said(tmp_path: Path) -> None:
    Image.new("RGB", (20, 10), "red").save(
        tmp_path / "a.tif", save_all=True, append_images=[Image.new("RGB", (30, 30), "blue")]
    )
    picture = open_picture(tmp_path / "a.tif")
    assert picture.image.size == (20, 10)
    assert picture.notes == ("a.tif has several frames: the first one is used.",)
