"""Pictures whose pixels are sound although other things in the file are not, and infotexts without any pixels."""

import io
import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, PngImagePlugin, features

from instruct_pix2pix.batch.animation import read_header
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.images import Picture, open_picture, read_infotext
from instruct_pix2pix.jpeg import MOST_MISSING

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LEFT_OUT = "Metadata in The picture is damaged or too large: it was left out."


def busy(mode: str = "RGB", size: tuple[int, int] = (160, 96)) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    return Image.fromarray(values).resize(size).convert(mode)


def encoded(image: Image.Image, fmt: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


def exif(**more: int) -> bytes:
    made = Image.Exif()
    made[0x010F], made[0x0112] = "Maker", more.get("orientation", 1)
    return made.tobytes()


def same(picture: Picture, image: Image.Image) -> bool:
    return np.array_equal(np.asarray(picture.image), np.asarray(image.convert("RGB")))


# --- PNG ---


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def with_chunk(png: bytes, extra: bytes, *, behind: bool) -> bytes:
    place = png.index(b"IEND") - 4 if behind else 33
    return png[:place] + extra + png[place:]


def zeros(size: int) -> bytes:
    return zlib.compress(bytes(size))


BROKEN_CHUNKS = {
    "a profile of two megabytes": chunk(b"iCCP", b"k\0\0" + zeros(2_000_000)),
    "a profile that is no zlib data": chunk(b"iCCP", b"k\0\0junk"),
    "an empty profile": chunk(b"iCCP", b""),
    "a text of two megabytes": chunk(b"zTXt", b"k\0\0" + zeros(2_000_000)),
    "a text of another compression": chunk(b"zTXt", b"k\0\x07junk"),
    "an international text of two megabytes": chunk(b"iTXt", b"k\0\1\0\0\0" + zeros(2_000_000)),
    "a text with a wrong checksum": chunk(b"tEXt", b"parameters\0hello")[:-4] + b"oops",
    "EXIF that is none": chunk(b"eXIf", b"junk"),
    "transparency of the wrong size": chunk(b"tRNS", b"1"),
    "animation control of the wrong size": chunk(b"acTL", b"1"),
}
UNUSED_CHUNKS = {
    "a wrong checksum": chunk(b"gAMA", b"abcd")[:-4] + b"oops",
    "a short gamma": chunk(b"gAMA", b"1"),
    "a short density": chunk(b"pHYs", b"1"),
    "an empty sRGB": chunk(b"sRGB", b""),
    "a frame too short": chunk(b"fcTL", b"1"),
    "a frame without data": chunk(b"fdAT", b"1"),
}


@pytest.mark.parametrize("behind", [False, True], ids=["in front of the pixels", "behind them"])
@pytest.mark.parametrize("name", [*BROKEN_CHUNKS, *UNUSED_CHUNKS])
def test_a_png_is_read_whatever_its_other_chunks_hold(name: str, behind: bool) -> None:
    extra = BROKEN_CHUNKS.get(name) or UNUSED_CHUNKS[name]
    picture = open_picture(with_chunk(encoded(busy(), "PNG"), extra, behind=behind))
    assert same(picture, busy())
    assert picture.notes == ((LEFT_OUT,) if name in BROKEN_CHUNKS else ())


def test_sound_chunks_beside_a_broken_one_are_used() -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "make it winter")
    png = encoded(busy(), "PNG", pnginfo=info, icc_profile=ICC, exif=exif())
    picture = open_picture(with_chunk(png, BROKEN_CHUNKS["a text of two megabytes"], behind=False))
    assert (picture.infotext, picture.icc, b"Maker" in (picture.exif or b"")) == ("make it winter", ICC, True)


@contextmanager
def little_memory(most: int) -> Iterator[None]:
    """Fail where the block takes so many bytes, at its peak, or more."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


def test_a_text_that_would_unpack_to_very_much_is_not_unpacked() -> None:
    bomb = zeros(100_000_000)
    png = encoded(busy(), "PNG")
    for kind, head in ((b"zTXt", b"k\0\0"), (b"iTXt", b"k\0\1\0\0\0"), (b"iCCP", b"k\0\0")):
        png = with_chunk(png, chunk(kind, head + bomb) * 3, behind=kind == b"iTXt")
    with little_memory(30_000_000):
        assert same(open_picture(png), busy())


@pytest.mark.parametrize("kind", [b"tEXt", b"IDAT", b"zzZz"])
def test_very_many_chunks_take_no_memory(kind: bytes) -> None:
    png = with_chunk(encoded(busy(), "PNG"), chunk(kind, b"") * 60_000, behind=True)
    with little_memory(5_000_000):
        assert same(open_picture(png), busy())


def test_very_many_segments_take_no_memory() -> None:
    jpeg = encoded(busy(), "JPEG")
    extra = segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0") * 30_000 + segment(0xDD, b"\0\0") * 30_000
    with little_memory(5_000_000):
        assert same(open_picture(jpeg[:2] + extra + jpeg[2:]), Image.open(io.BytesIO(jpeg)))


def test_a_png_whose_end_is_missing_behind_the_pixels_is_read() -> None:
    png = encoded(busy(), "PNG")
    assert same(open_picture(png[:-12]), busy())
    assert same(open_picture(with_chunk(png, b"\x7f\xff\xff\xfftEXtparameters", behind=True)), busy())


def test_a_png_without_all_of_its_pixels_is_still_refused() -> None:
    with pytest.raises(UserError, match="The picture is cut short"):
        open_picture(encoded(busy(), "PNG")[:-60])


@pytest.mark.parametrize(
    ("depth", "row", "key"),
    [(1, b"\x40", 1), (2, b"\x30", 3), (4, b"\x0f\x00", 15), (16, b"\0\0\x12\x34\0\0\0\0", 0x1234)],
)
def test_a_transparent_grey_is_found_at_every_depth(depth: int, row: bytes, key: int) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 4, 1, depth, 0, 0, 0, 0))
    data = chunk(b"tRNS", struct.pack(">H", key)) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    picture = open_picture(b"\x89PNG\r\n\x1a\n" + header + data)
    assert picture.alpha is not None and list(picture.alpha.tobytes()) == [255, 0, 255, 255]


def test_a_transparent_colour_of_sixteen_bits_is_found() -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
    colours = struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0, 0, 0)
    data = chunk(b"tRNS", colours[:6]) + chunk(b"IDAT", zlib.compress(b"\0" + colours)) + chunk(b"IEND", b"")
    picture = open_picture(b"\x89PNG\r\n\x1a\n" + header + data)
    assert picture.alpha is not None and list(picture.alpha.tobytes()) == [0, 255]


# --- other formats ---


def segment(kind: int, data: bytes) -> bytes:
    return bytes([0xFF, kind]) + struct.pack(">H", len(data) + 2) + data


@pytest.mark.parametrize(
    ("extra", "noted"),
    [
        (segment(0xE1, b"Exif\0\0junk"), True),
        (segment(0xE2, b"ICC_PROFILE\0"), True),
        (segment(0xEE, b"Adobe"), True),
        (segment(0xE0, b"JFIF"), False),
        (segment(0xE2, b"MPF\0junk"), False),
        (segment(0xED, b"Photoshop 3.0\x008BIM\xff\xff\xff\xff\xff"), False),
        (segment(0xFE, b"x" * 65_000) * 40, False),
    ],
)
def test_a_jpeg_is_read_whatever_its_other_segments_hold(extra: bytes, noted: bool) -> None:
    jpeg = encoded(busy(), "JPEG")
    picture = open_picture(jpeg[:2] + extra + jpeg[2:])
    assert same(picture, Image.open(io.BytesIO(jpeg)))
    assert picture.notes == ((LEFT_OUT,) if noted else ())


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("kind", ["junk", "longer than the file", "cut short"])
def test_a_webp_is_read_whatever_its_exif_holds(kind: str, lossless: bool) -> None:
    whole = encoded(busy(), "WEBP", exif=exif(orientation=6), icc_profile=ICC, lossless=lossless)
    place = whole.index(b"EXIF")
    broken = {
        "junk": whole[: place + 8] + b"\xff" * (len(whole) - place - 8),
        "longer than the file": whole[: place + 4] + struct.pack("<I", 1_000_000) + whole[place + 8 :],
        "cut short": whole[: place + 12],
    }[kind]
    picture = open_picture(broken)
    assert same(picture, Image.open(io.BytesIO(whole))) and picture.icc == ICC
    assert picture.notes == (LEFT_OUT,)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_an_avif_is_read_whatever_its_exif_holds() -> None:
    whole = encoded(busy(), "AVIF", exif=exif(), icc_profile=ICC)
    place = whole.rindex(b"MM\0*", 0, whole.index(b"Maker")) if b"MM\0*" in whole else whole.index(b"II*\0")
    picture = open_picture(whole[:place] + b"\xff" * 12 + whole[place + 12 :])
    assert same(picture, Image.open(io.BytesIO(whole))) and picture.icc == ICC
    assert picture.notes == (LEFT_OUT,)


# --- a JPEG without its end ---

KINDS = {
    "baseline": {},
    "fine": {"quality": 95, "subsampling": 0},
    "progressive": {"progressive": True},
    "restart markers by row": {"restart_marker_rows": 1},
    "restart markers by block": {"restart_marker_blocks": 3},
}


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cut", [1, 2])
def test_a_jpeg_that_lacks_only_its_end_mark_is_read(kind: str, mode: str, cut: int) -> None:
    whole = encoded(busy(mode), "JPEG", **KINDS[kind])
    picture = open_picture(whole[:-cut])
    assert same(picture, open_picture(whole).image)
    assert picture.notes == ("The picture is cut short: next to nothing is missing.",)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "progressive"])
def test_a_jpeg_is_read_as_long_as_little_of_it_is_missing(kind: str) -> None:
    """Each block of noise takes about as many bytes as any other, so bytes tell how much of the area is missing."""
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (320, 480, 3), dtype=np.uint8))
    whole = encoded(noise, "JPEG", **KINDS[kind])
    data = len(whole) - whole.index(b"\xff\xda")
    for part in (0.01, 0.02, 0.035):
        picture = open_picture(whole[: len(whole) - int(part * data)])
        assert picture.notes[0].startswith("The picture is cut short: about ")
        rows = int(320 * (1 - 2 * MOST_MISSING)) // 16 * 16 - 1
        assert np.array_equal(np.asarray(picture.image)[:rows], np.asarray(open_picture(whole).image)[:rows])
    for part in (0.07, 0.2, 0.5, 0.9, 0.99):
        with pytest.raises(UserError, match="The picture is cut short: copy it again"):
            open_picture(whole[: len(whole) - int(part * data)])


def test_a_progressive_jpeg_needs_the_beginning_of_each_of_its_scans() -> None:
    whole = encoded(busy(), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    assert open_picture(whole[: last + 40]).notes
    with pytest.raises(UserError, match="cut short"):
        open_picture(whole[:last])


def test_pillow_s_own_answer_to_cut_files_is_left_as_it_was() -> None:
    open_picture(encoded(busy(), "JPEG")[:-2])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


# --- infotexts alone ---


@pytest.mark.parametrize("size", [(10_240, 512), (40_000, 40), (1, 300)])
def test_an_infotext_is_read_from_a_picture_of_any_shape(size: tuple[int, int], tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a strip")
    Image.new("1", size).save(tmp_path / "strip.png", pnginfo=info)
    assert read_infotext(tmp_path / "strip.png") == "a strip"
    comment = Image.Exif()
    comment[0x8769] = {0x9286: b"ASCII\0\0\0a strip"}
    Image.new("L", size).save(tmp_path / "strip.jpg", exif=comment.tobytes())
    assert read_infotext(tmp_path / "strip.jpg") == "a strip"


@pytest.mark.parametrize("read", [read_infotext, lambda data: read_header(data).infotext], ids=["alone", "of a header"])
def test_an_infotext_behind_the_pixels_is_read_without_them(read: Callable[[bytes], str | None]) -> None:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 512, 512, 8, 2, 0, 0, 0))
    pixels = chunk(b"IDAT", b"these are no pixels") * 300
    text = chunk(b"tEXt", b"parameters\0make it winter")
    assert read(b"\x89PNG\r\n\x1a\n" + header + pixels + text + chunk(b"IEND", b"")) == "make it winter"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "WEBP", *(["AVIF"] if features.check("avif") else [])])
def test_scrambled_metadata_never_raises_anything_else(fmt: str) -> None:
    draw = random.Random(7)
    whole = encoded(busy(size=(32, 32)), fmt, exif=exif(orientation=6), icc_profile=ICC)
    for _ in range(150):
        scrambled = bytearray(whole)
        for _ in range(draw.choice([1, 3, 9])):
            scrambled[draw.randrange(12, len(whole))] = draw.randrange(256)
        for read in (open_picture, read_infotext):
            try:
                read(bytes(scrambled))
            except UserError as error:
                assert str(error).endswith(".")
