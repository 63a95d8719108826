"""HEIC: read as pillow-heif decodes it, upright and in 8 bits, or named with advice."""

import io
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from instruct_pix2pix.batch.animation import read_header
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.images import encode_picture, open_picture, read_infotext

HEADER = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SIZE = (96, 64)


@pytest.fixture
def heif() -> Any:
    """pillow-heif, which also writes."""
    return pytest.importorskip("pillow_heif")


def scene() -> Image.Image:
    """A soft picture, no two corners alike, that HEVC hardly changes."""
    x, y = np.meshgrid(np.linspace(0, 1, SIZE[0]), np.linspace(0, 1, SIZE[1]))
    return Image.fromarray(np.rint(np.stack([255 * x, 255 * y, 255 * x * (1 - y)], -1)).astype(np.uint8))


def heic(heif: Any, image: Image.Image, **options: object) -> bytes:
    data = io.BytesIO()
    heif.from_pillow(image).save(data, quality=95, **options)
    return data.getvalue()


def distance(one: Image.Image | np.ndarray, other: Image.Image | np.ndarray) -> float:
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())


def exif_with(tags: dict[int, object]) -> bytes:
    exif = Image.Exif()
    for tag, value in tags.items():
        exif[tag] = value
    return exif.tobytes()


def test_heic_is_read_with_its_camera_and_its_profile(heif: Any) -> None:
    data = heic(heif, scene(), exif=exif_with({0x010F: "Camera Works"}), icc_profile=PROFILE)
    picture = open_picture(data)
    assert distance(picture.image, heif.open_heif(io.BytesIO(data)).to_pillow()) == 0
    assert distance(picture.image, scene()) < 3 and picture.image.mode == "RGB" and picture.alpha is None
    kept = Image.Exif()
    kept.load(picture.exif or b"")
    assert kept[0x010F] == "Camera Works" and picture.notes == ()


@pytest.mark.parametrize("turn", range(2, 9))
def test_heic_comes_upright_and_once_only(heif: Any, turn: int) -> None:
    exif, stored = exif_with({0x0112: turn}), scene()
    data = heic(heif, scene(), exif=exif)
    stored.info["exif"] = exif
    expected = ImageOps.exif_transpose(stored)
    picture = open_picture(data)
    assert picture.image.size == expected.size == read_header(data).size
    assert distance(picture.image, expected) < 3


def test_ten_bits_become_eight(heif: Any) -> None:
    deep = np.asarray(scene()).astype("<u2") * 257
    data = io.BytesIO()
    heif.from_bytes("RGB;16", SIZE, deep.tobytes()).save(data, quality=95)
    assert heif.open_heif(io.BytesIO(data.getvalue()), convert_hdr_to_8bit=False).info["bit_depth"] == 10
    picture = open_picture(data.getvalue(), deep=True)
    assert distance(picture.image, scene()) < 3 and picture.deep is None


def test_transparency_in_heic_is_kept(heif: Any) -> None:
    clear = scene()
    clear.putalpha(Image.new("L", SIZE, 255))
    clear.paste((0, 0, 0, 0), (0, 0, 40, 64))
    alpha = open_picture(heic(heif, clear)).alpha
    assert alpha is not None and alpha.getpixel((5, 30)) == 0 and alpha.getpixel((90, 30)) == 255


def test_a_container_of_another_name_is_told_by_its_brands(heif: Any) -> None:
    data = heic(heif, scene())
    assert data[8:12] == b"heic" and b"heic" in data[16:40]
    assert distance(open_picture(data[:8] + b"mif1" + data[12:]).image, scene()) < 3


def test_an_infotext_in_heic_is_found(heif: Any) -> None:
    jpeg = encode_picture(scene(), "JPEG", "make it winter\nSteps: 20, Seed: 1")
    with Image.open(io.BytesIO(jpeg)) as written:
        data = heic(heif, scene(), exif=written.info["exif"])
    assert read_infotext(data) == "make it winter\nSteps: 20, Seed: 1"


def test_reading_heic_leaves_pillow_as_it_was(heif: Any) -> None:
    Image.init()
    before = dict(Image.OPEN)
    open_picture(heic(heif, scene()))
    assert before == Image.OPEN


@pytest.mark.parametrize("part", [0.02, 0.3, 0.5, 0.9])
def test_heic_that_is_cut_short_is_named(heif: Any, part: float) -> None:
    whole = heic(heif, scene())
    with pytest.raises(UserError, match=r"^The picture is (cut short|damaged \(.+\)): copy it again"):
        open_picture(whole[: max(24, int(len(whole) * part))])


def test_heic_too_large_is_refused_by_its_header(heif: Any) -> None:
    with pytest.raises(UserError, match="is 96 x 64 pixels, but at most"):
        open_picture(heic(heif, scene()), most_pixels=96 * 64 - 1)


def test_heic_larger_than_its_header_says_is_refused(heif: Any) -> None:
    """Or a small picture by its header could take any memory."""
    data = heic(heif, scene().resize((512, 512)))
    lying = data.replace(struct.pack(">II", 512, 512), struct.pack(">II", 64, 64))
    assert lying != data
    with pytest.raises(UserError, match="is damaged"):
        open_picture(lying)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_heic_with_nonsense_for_exif_is_read(heif: Any) -> None:
    picture = open_picture(heic(heif, scene(), exif=b"Exif\0\0II*\0\xff\xff\xff\xff nonsense"))
    assert distance(picture.image, scene()) < 3 and picture.exif is None


def test_without_pillow_heif_the_advice_is_to_save_it_as_jpeg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    monkeypatch.setitem(sys.modules, "pillow_heif.as_plugin", None)
    (tmp_path / "IMG_1.HEIC").write_bytes(HEADER)
    with pytest.raises(UserError, match=r"^IMG_1\.HEIC is a HEIC picture.* save it as JPEG, or install"):
        open_picture(tmp_path / "IMG_1.HEIC")
