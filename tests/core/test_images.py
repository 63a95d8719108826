"""Pictures of every kind in, whole files with their infotext out, and a sentence for what cannot be read."""

import errno
import io
import os
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from instruct_pix2pix import images
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.files import write_whole
from instruct_pix2pix.images import open_picture, read_infotext, save_picture

AVIF = bool(features.check("avif"))
FORMATS = ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"] + ["AVIF"] * AVIF
SUFFIXES = [".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"] + [".avif"] * AVIF
INFOTEXT = "make it “winter” ☃ 🐉 naïve\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, Seed: 1"


def noise(width: int = 48, height: int = 32, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def encoded(image: Image.Image, format_name: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format_name, **options)
    return file.getvalue()


def png(width: int, height: int, depth: int, colour: int, samples: list[int], extra: bytes = b"") -> bytes:
    """A PNG of one row written by hand; `depth` is 8 or 16."""
    row = struct.pack(f">{len(samples)}{'B' if depth == 8 else 'H'}", *samples)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra + body + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def grey(picture: images.Picture) -> list[int]:
    values = np.asarray(picture.image)
    assert (values[..., 0] == values[..., 1]).all() and (values[..., 0] == values[..., 2]).all()
    return values[..., 0].ravel().tolist()


# Reading ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_name", ["PNG", "BMP", "TIFF"])
def test_a_lossless_picture_keeps_every_pixel(format_name: str):
    picture = open_picture(encoded(noise(), format_name))
    assert picture.image.mode == "RGB"
    assert np.array_equal(np.asarray(picture.image), np.asarray(noise()))
    assert (picture.alpha, picture.exif, picture.icc, picture.infotext, picture.notes) == (
        None,
        None,
        None,
        None,
        (),
    )


@pytest.mark.parametrize("format_name", FORMATS)
def test_every_format_is_read_from_a_path_from_bytes_and_from_a_file(format_name: str, tmp_path: Path):
    flat = Image.new("RGB", (40, 30), (200, 40, 90))
    path = tmp_path / "no-matter-the-ending"
    path.write_bytes(encoded(flat, format_name))
    with path.open("rb") as file:
        pictures = [
            open_picture(path),
            open_picture(str(path)),
            open_picture(path.read_bytes()),
            open_picture(file),
        ]
    for picture in pictures:
        assert picture.image.size == (40, 30)
        assert np.abs(np.asarray(picture.image).astype(int) - (200, 40, 90)).max() <= 6
    assert [picture.name for picture in pictures] == [path.name, path.name, "The picture", path.name]


def test_sixteen_bit_grey_is_scaled_not_clipped():
    picture = open_picture(png(6, 1, 16, 0, [0, 128, 257, 32896, 65407, 65535]))
    assert grey(picture) == [0, 0, 1, 128, 255, 255]
    ramp = np.arange(256, dtype="<u2").reshape(16, 16) * 257
    deep = Image.frombytes("I;16", (16, 16), ramp.astype("<u2").tobytes())
    assert grey(open_picture(encoded(deep, "PNG"))) == list(range(256))


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_sixteen_bit_tiff_is_scaled_not_clipped(mode: str):
    dtype = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[mode]
    deep = Image.frombytes(mode, (3, 1), np.array([0, 32896, 65535], dtype).tobytes())
    assert grey(open_picture(encoded(deep, "TIFF"))) == [0, 128, 255]


def test_sixteen_bit_colour_is_within_one_level():
    samples = [65535, 0, 32896, 1000, 20000, 64000]
    picture = open_picture(png(2, 1, 16, 2, samples))
    found = np.asarray(picture.image).ravel()
    assert np.abs(found - np.array(samples) / 257).max() <= 1


@pytest.mark.parametrize(
    ("values", "expected", "noted"),
    [
        ([0, 0.5, 1], [0, 128, 255], False),
        ([0, 100, 255], [0, 100, 255], False),
        ([-1, 0, 1], [0, 128, 255], True),
    ],
)
def test_a_float_picture_is_scaled_by_its_range(values: list[float], expected: list[int], noted: bool):
    deep = Image.fromarray(np.array([values], np.float32))
    picture = open_picture(encoded(deep, "TIFF"))
    assert grey(picture) == expected
    assert bool(picture.notes) is noted


def test_a_float_picture_with_nan_and_infinity_is_read():
    deep = Image.fromarray(np.array([[np.nan, np.inf, 1.0, 0.0]], np.float32))
    assert grey(open_picture(encoded(deep, "TIFF"))) == [0, 0, 255, 0]


@pytest.mark.parametrize(("mode", "white"), [("1", 1), ("L", 255), ("P", 255)])
def test_one_bit_grey_and_palette_pictures_become_rgb(mode: str, white: int):
    picture = Image.new(mode, (4, 2))
    if mode == "P":
        picture.putpalette([value for value in range(256) for _ in range(3)])
    picture.putpixel((1, 1), white)
    assert grey(open_picture(encoded(picture, "PNG"))) == [0, 0, 0, 0, 0, 255, 0, 0]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_a_transparent_picture_lies_on_white_and_its_alpha_is_remembered(mode: str):
    options: dict = {}
    if mode == "P":
        made = Image.new("P", (2, 1))
        made.putpalette([100, 100, 100, 30, 30, 30])
        made.putpixel((1, 0), 1)
        options["transparency"] = 0
    elif mode == "RGB":
        made = Image.new("RGB", (2, 1), (100, 100, 100))
        made.putpixel((1, 0), (30, 30, 30))
        options["transparency"] = (100, 100, 100)
    else:
        made = Image.new(mode, (2, 1), {"RGBA": (100, 100, 100, 0), "LA": (100, 0)}[mode])
        made.putpixel((1, 0), {"RGBA": (30, 30, 30, 255), "LA": (30, 255)}[mode])
    picture = open_picture(encoded(made, "PNG", **options))
    assert grey(picture) == [255, 30]
    assert picture.alpha is not None and list(picture.alpha.tobytes()) == [0, 255]


def test_half_transparency_is_mixed_with_white():
    picture = open_picture(encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 51)), "PNG"))
    assert grey(picture) == [204]  # 255 * (1 - 51 / 255)


def test_an_alpha_channel_without_transparency_is_none():
    picture = open_picture(encoded(Image.new("RGBA", (2, 2), (1, 2, 3, 255)), "PNG"))
    assert picture.alpha is None
    assert picture.image.getpixel((0, 0)) == (1, 2, 3)


def test_sixteen_bit_transparency_is_kept():
    marked = png(2, 1, 16, 0, [257, 65535], chunk(b"tRNS", struct.pack(">H", 257)))
    picture = open_picture(marked)
    assert grey(picture) == [255, 255]
    assert picture.alpha is not None and list(picture.alpha.tobytes()) == [0, 255]


@pytest.mark.parametrize(
    ("ink", "paint"),
    [
        ((0, 0, 0, 0), "white"),
        ((255, 255, 0, 0), "blue"),
        ((0, 255, 255, 0), "red"),
        ((0, 0, 0, 255), "black"),
        ((255, 0, 255, 0), "green"),
    ],
)
@pytest.mark.parametrize("format_name", ["JPEG", "TIFF"])
def test_printing_colours_look_right(ink: tuple[int, ...], paint: str, format_name: str):
    picture = open_picture(encoded(Image.new("CMYK", (16, 16), ink), format_name))
    red, green, blue = np.asarray(picture.image).mean((0, 1))
    assert {
        "white": min(red, green, blue) > 240,
        "black": max(red, green, blue) < 40,
        "red": red > 200 > 60 > max(green, blue),
        "green": green > 100 > max(red, blue),
        "blue": blue > 100 > max(red, green),
    }[paint]


def test_a_printing_profile_that_cannot_be_read_is_passed_over():
    broken = b"\0" * 16 + b"CMYK" + b"\0" * 200
    picture = open_picture(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", icc_profile=broken))
    red, green, blue = np.asarray(picture.image).mean((0, 1))
    assert red > 200 > 60 > max(green, blue)
    assert picture.icc is None


def test_lab_white_is_white_and_lab_black_is_black():
    white = open_picture(encoded(Image.new("LAB", (4, 4), (255, 128, 128)), "TIFF"))
    black = open_picture(encoded(Image.new("LAB", (4, 4), (0, 128, 128)), "TIFF"))
    assert np.asarray(white.image).min() >= 252 and np.asarray(black.image).max() <= 3


def test_an_rgb_profile_is_handed_on_and_written_again(tmp_path: Path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = open_picture(encoded(noise(), "PNG", icc_profile=profile))
    assert picture.icc == profile
    for suffix in SUFFIXES:
        path = save_picture(picture.image, tmp_path / f"a{suffix}", icc=picture.icc)
        assert open_picture(path).icc == profile, suffix
    assert open_picture(save_picture(picture.image, tmp_path / "b.png")).icc is None


def upright() -> np.ndarray:
    """A picture whose four quarters differ: [h w 3], 32 x 48."""
    values = np.zeros((32, 48, 3), np.uint8)
    values[:16, :24], values[:16, 24:], values[16:, :24], values[16:, 24:] = 0, 80, 160, 240
    return values


@pytest.mark.parametrize("format_name", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_says(orientation: int, format_name: str):
    # Exif 2.3, tag 0x0112: which side of the scene is the stored picture's first row and first column.
    first_row, first_column = {
        1: ("top", "left"),
        2: ("top", "right"),
        3: ("bottom", "right"),
        4: ("bottom", "left"),
        5: ("left", "top"),
        6: ("right", "top"),
        7: ("right", "bottom"),
        8: ("left", "bottom"),
    }[orientation]
    stored = upright()
    if first_row in ("left", "right"):
        stored = stored.transpose(1, 0, 2)
    if first_row in ("bottom", "right"):
        stored = stored[::-1]
    if first_column in ("right", "bottom"):
        stored = stored[:, ::-1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), format_name, exif=exif.tobytes())
    picture = open_picture(data)
    assert picture.image.size == (48, 32)
    assert np.abs(np.asarray(picture.image).astype(int) - upright()).mean() < 5
    again = Image.open(io.BytesIO(encoded(picture.image, "PNG", exif=picture.exif or b"")))
    assert again.getexif().get(0x0112) is None


def test_transparency_is_turned_with_the_picture():
    made = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    made.putpixel((1, 0), (0, 0, 0, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # the stored first row is the right side of the scene
    picture = open_picture(encoded(made, "PNG", exif=exif.tobytes()))
    assert picture.alpha is not None and picture.alpha.size == (1, 2)
    assert list(picture.alpha.tobytes()) == [0, 255]


@pytest.mark.parametrize("format_name", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken_and_that_is_said(format_name: str):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    picture = open_picture(encoded(frames[0], format_name, save_all=True, append_images=frames[1:]))
    red, green, blue = np.asarray(picture.image).mean((0, 1))
    assert red > 240 and green < 20 and blue < 20
    assert picture.notes == ("The picture has several frames: the first one is used.",)


def test_the_second_view_in_a_camera_file_is_no_animation():
    picture = open_picture(encoded(noise(), "MPO", save_all=True, append_images=[noise(seed=1)]))
    assert picture.notes == ()


@pytest.mark.parametrize("size", [(1, 1), (1, 16), (16, 1)])
def test_a_tiny_picture_is_taken(size: tuple[int, int]):
    assert open_picture(encoded(Image.new("RGB", size), "PNG")).image.size == size


def test_a_side_of_twenty_thousand_pixels_is_taken():
    assert open_picture(encoded(Image.new("1", (20_000, 1250)), "BMP")).image.size == (20_000, 1250)


@pytest.mark.parametrize(
    ("size", "sentence"),
    [
        ((20_000, 20_000), "is 20000 x 20000 pixels, but at most 200 megapixels"),
        ((40_000, 4000), "is 40000 x 4000 pixels, but at most 200 megapixels and 32768 pixels a side"),
        ((2**31 - 1, 2**31 - 1), "pixels, but at most 200 megapixels"),
        ((17, 1), "is 17 x 1 pixels, but its sides may differ by 16 to 1 at most"),
        ((1, 17), "is 1 x 17 pixels, but its sides may differ by 16 to 1 at most"),
        ((0, 5), r"is damaged|is 0 x 5 pixels"),
    ],
)
def test_a_picture_of_impossible_size_is_refused_by_its_header(size: tuple[int, int], sentence: str):
    limit = Image.MAX_IMAGE_PIXELS
    with pytest.raises(UserError, match=sentence):
        open_picture(png(*size, 8, 0, [0]))
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_photo_of_a_hundred_megapixels_is_read_whole(tmp_path: Path):
    Image.new("L", (11_600, 8600), 77).save(tmp_path / "large.jpg")
    picture = open_picture(tmp_path / "large.jpg")
    assert (picture.image.size, picture.notes) == ((11_600, 8600), ())


def test_a_photo_of_still_more_megapixels_is_read_at_half_size(tmp_path: Path):
    Image.new("L", (12_000, 8400), 77).save(tmp_path / "huge.jpg")
    picture = open_picture(tmp_path / "huge.jpg")
    assert picture.image.size == (6000, 4200)
    assert picture.notes == ("huge.jpg is 12000 x 8400 pixels: it was read at half size.",)
    assert np.abs(np.asarray(picture.image.crop((0, 0, 9, 9))).astype(int) - 77).max() <= 1


def test_a_photo_of_two_hundred_megapixels_is_not_refused_by_pillow():
    # Made of a small one by its header alone; the decoder fills in the rest. Pillow's limit is 179 million.
    small = encoded(Image.new("L", (160, 120)), "JPEG")
    large = small.replace(struct.pack(">HH", 120, 160), struct.pack(">HH", 12_240, 16_320))
    assert open_picture(large).image.size == (8160, 6120)


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.parametrize("part", [0.02, 0.3, 0.5, 0.9])
def test_a_picture_that_is_cut_short_is_named(format_name: str, part: float, tmp_path: Path):
    whole = encoded(noise(), format_name)
    path = tmp_path / "photo.jpg"
    path.write_bytes(whole[: max(13, int(len(whole) * part))])
    with pytest.raises(UserError, match=r"^photo.jpg is (cut short|damaged \(.+\)): copy it again"):
        open_picture(path)


@pytest.mark.parametrize("format_name", FORMATS)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_scrambled_pictures_never_raise_anything_else(format_name: str):
    draw = random.Random(5)
    whole = encoded(noise(16, 16), format_name, exif=Image.Exif().tobytes())
    for _ in range(60):
        scrambled = bytearray(whole)
        for _ in range(draw.choice([1, 4, 30])):
            scrambled[draw.randrange(12, len(whole))] = draw.randrange(256)
        try:
            picture = open_picture(bytes(scrambled))
        except UserError as error:
            assert str(error).startswith("The picture is ") and str(error).endswith(".")
        else:
            assert picture.image.mode == "RGB"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "note.png is empty"),
        (b"Dear Ann,\n", "note.png is not a picture that can be read here: use PNG, JPEG"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is not a picture that can be read here"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is not a picture that can be read here"),
        (b"\x89PNG\r\n\x1a\n" + b"junk" * 50, r"note.png is (damaged|cut short)"),
    ],
)
def test_what_is_not_a_picture_is_said(content: bytes, sentence: str, tmp_path: Path):
    path = tmp_path / "note.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        open_picture(path)


def test_a_file_that_is_not_there_a_folder_and_a_pipe_are_told_apart(tmp_path: Path):
    with pytest.raises(UserError, match=r"missing.png does not exist: check the name\."):
        open_picture(tmp_path / "missing.png")
    with pytest.raises(UserError, match="is a folder: give the name of a picture"):
        open_picture(tmp_path)
    with pytest.raises(UserError, match="is no name that a file can have: check it"):
        open_picture("a\0b.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(UserError, match=r"pipe.png is not a file"):
            open_picture(tmp_path / "pipe.png")


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="permissions of this kind do not exist here")
def test_a_file_one_may_not_read_is_said(tmp_path: Path):
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(noise(), "PNG"))
    path.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # who may read everything
            os.seteuid(65534)
        with pytest.raises(UserError, match=r"secret.png may not be read: change its permissions"):
            open_picture(path)
    finally:
        os.seteuid(user)


def test_a_name_cannot_upset_the_terminal():
    with pytest.raises(UserError) as caught:
        open_picture("\x1b[31mred\udcff.png")
    assert str(caught.value).isprintable()


# Metadata --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("infotext", [INFOTEXT, "plain\nSteps: 1", "x" * 20_000, "a\tb  "])
def test_the_infotext_comes_back_from_every_format(suffix: str, infotext: str, tmp_path: Path):
    path = save_picture(noise(), tmp_path / f"a{suffix}", infotext)
    assert read_infotext(path) == infotext
    assert read_infotext(path.read_bytes()) == infotext
    assert read_infotext(Image.open(path)) == infotext
    picture = open_picture(path)
    assert picture.infotext == infotext == picture.info["parameters"]


def test_latin_text_in_a_png_is_a_plain_text_chunk_as_the_web_ui_writes_it(tmp_path: Path):
    plain = save_picture(noise(), tmp_path / "plain.png", "café\nSteps: 1").read_bytes()
    assert b"tEXtparameters\0caf\xe9\nSteps: 1" in plain
    wide = save_picture(noise(), tmp_path / "wide.png", "☃\nSteps: 1").read_bytes()
    assert b"iTXtparameters\0\0\0\0\0" + "☃\nSteps: 1".encode() in wide


@pytest.mark.parametrize("suffix", [".jpg", ".webp", ".tif"])
def test_elsewhere_it_is_the_user_comment_that_the_web_ui_reads(suffix: str, tmp_path: Path):
    data = save_picture(noise(), tmp_path / f"a{suffix}", INFOTEXT).read_bytes()
    comment = b"UNICODE\0" + INFOTEXT.encode("utf-16-be")
    assert comment in data
    # Tag 0x9286, type UNDEFINED (7), count in bytes: the web UI reads with piexif, which insists on the type.
    order = ">" if b"MM\0*" in data else "<"
    assert struct.pack(f"{order}HHI", 0x9286, 7, len(comment)) in data


@pytest.mark.parametrize(
    ("comment", "text"),
    [
        (b"UNICODE\0" + "☃ plain".encode("utf-16-be"), "☃ plain"),
        (b"UNICODE\0" + "☃ plain".encode("utf-16-le"), "☃ plain"),
        (b"ASCII\0\0\0plain", "plain"),
        (b"\0" * 8 + b"plain\0\0", "plain"),
        ("Steps: ☃ bare".encode(), "Steps: ☃ bare"),
        (b"ASCII\0\0\0" + b" " * 30, None),
        (b"\0" * 60, None),
        (b"short", "short"),
    ],
)
def test_user_comments_of_other_programs_are_read(comment: bytes, text: str | None):
    exif = Image.Exif()
    exif[0x8769] = {0x9286: comment}
    assert read_infotext(encoded(noise(), "JPEG", exif=exif.tobytes())) == text


def test_a_picture_without_infotext_has_none(tmp_path: Path):
    assert read_infotext(save_picture(noise(), tmp_path / "a.png")) is None
    assert read_infotext(save_picture(noise(), tmp_path / "a.jpg")) is None


def camera() -> Image.Exif:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110], exif[0x0112], exif[0x013B] = "Maker", "Model 1", 6, "Ann"
    exif[0x8769] = {
        0x829A: 0.0125,
        0x9003: "2020:01:02 03:04:05",
        0xA002: 48,
        0x9286: b"UNICODE\0" + "old".encode("utf-16-be"),
        0x927C: b"x" * 50,
    }
    exif[0x8825] = {1: "N", 2: (48.0, 1.0, 2.5)}
    return exif


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif"])
def test_camera_date_and_place_go_along_and_what_is_stale_does_not(suffix: str, tmp_path: Path):
    picture = open_picture(encoded(noise(), "JPEG", exif=camera().tobytes()))
    assert picture.infotext == "old"
    path = save_picture(picture.image, tmp_path / f"a{suffix}", "new ☃", exif=picture.exif)
    exif = Image.open(path).getexif()
    assert (exif[0x010F], exif[0x0110], exif[0x013B], exif.get(0x0112)) == ("Maker", "Model 1", "Ann", None)
    details, place = exif.get_ifd(0x8769), exif.get_ifd(0x8825)
    assert details[0x829A] == pytest.approx(0.0125) and details[0x9003] == "2020:01:02 03:04:05"
    assert 0xA002 not in details and 0x927C not in details
    assert place[1] == "N" and [float(part) for part in place[2]] == [48, 1, 2.5]
    assert read_infotext(path) == "new ☃"


def test_without_a_new_infotext_the_old_one_is_not_passed_off_as_it(tmp_path: Path):
    picture = open_picture(encoded(noise(), "JPEG", exif=camera().tobytes()))
    assert read_infotext(save_picture(picture.image, tmp_path / "a.jpg", exif=picture.exif)) is None


def test_metadata_in_the_image_object_is_not_written_unasked(tmp_path: Path):
    made = noise()
    made.info |= {
        "parameters": "old",
        "exif": camera().tobytes(),
        "icc_profile": b"x" * 200,
        "comment": b"old",
    }
    for suffix in SUFFIXES:
        data = save_picture(made, tmp_path / f"a{suffix}").read_bytes()
        assert b"old" not in data and b"Maker" not in data and b"xxxx" not in data, suffix
    assert made.info["parameters"] == "old"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_exif_that_makes_no_sense_does_not_keep_a_picture_from_being_read(tmp_path: Path):
    draw = random.Random(3)
    for _ in range(50):
        junk = bytearray(camera().tobytes())
        for _ in range(12):
            junk[draw.randrange(6, len(junk))] = draw.randrange(256)
        picture = open_picture(encoded(Image.new("RGB", (16, 16)), "JPEG", exif=bytes(junk)))
        assert save_picture(picture.image, tmp_path / "a.jpg", "text", exif=picture.exif)
    assert save_picture(noise(), tmp_path / "b.jpg", "text", exif=b"junk")


def test_text_too_long_for_a_jpeg_is_said_and_camera_data_gives_way_first(tmp_path: Path):
    exif = Image.Exif()
    exif[0x010E] = "d" * 30_000
    path = save_picture(noise(), tmp_path / "a.jpg", "x" * 30_000, exif=exif.tobytes())
    assert read_infotext(path) == "x" * 30_000
    with pytest.raises(UserError, match=r"b.jpg cannot be saved as JPEG .*: save it as PNG"):
        save_picture(noise(), tmp_path / "b.jpg", "x" * 40_000)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.jpg"]


def test_text_with_bytes_that_are_not_text_is_still_written(tmp_path: Path):
    for suffix in SUFFIXES:
        path = save_picture(noise(), tmp_path / f"a{suffix}", "a\0b\udcff")
        assert read_infotext(path) == "a b?"


# Writing ---------------------------------------------------------------------------------------------


def test_lossless_formats_keep_every_pixel(tmp_path: Path):
    for suffix in (".png", ".tif"):
        path = save_picture(noise(), tmp_path / f"a{suffix}", INFOTEXT)
        assert np.array_equal(np.asarray(Image.open(path)), np.asarray(noise()))


@pytest.mark.parametrize(
    ("suffix", "format_name"), [(".PNG", "PNG"), (".jpg", "JPEG"), (".webp", "WEBP"), (".tif", "TIFF")]
)
def test_the_ending_of_the_name_chooses_the_format(suffix: str, format_name: str, tmp_path: Path):
    assert Image.open(save_picture(noise(), tmp_path / f"a{suffix}")).format == format_name


def test_a_format_may_be_named_instead(tmp_path: Path):
    assert Image.open(save_picture(noise(), tmp_path / "a.part", fmt="jpeg")).format == "JPEG"


@pytest.mark.parametrize("name", ["a", "a.txt", "a.gif", ".png"])
def test_an_ending_that_names_no_format_is_explained(name: str, tmp_path: Path):
    with pytest.raises(UserError, match=r"does not name a format that can be written: end the name in \.png"):
        save_picture(noise(), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_quality_is_followed_and_checked(tmp_path: Path):
    sizes = [save_picture(noise(), tmp_path / f"{q}.jpg", quality=q).stat().st_size for q in (20, 60, 95)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[2] / 2
    with pytest.raises(UserError, match="Quality is 101, but must lie between 1 and 100"):
        save_picture(noise(), tmp_path / "a.jpg", quality=101)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_an_image_of_any_mode_can_be_written(mode: str, suffix: str, tmp_path: Path):
    path = save_picture(Image.new(mode, (20, 20)), tmp_path / f"a{suffix}", "text")
    assert Image.open(path).size == (20, 20)


def test_transparency_is_written_where_the_format_has_it_and_lies_on_white_elsewhere(tmp_path: Path):
    clear = Image.new("RGBA", (16, 16), (200, 0, 0, 0))
    assert Image.open(save_picture(clear, tmp_path / "a.png")).getpixel((0, 0)) == (200, 0, 0, 0)
    assert Image.open(save_picture(clear, tmp_path / "a.webp")).mode == "RGBA"
    assert Image.open(save_picture(clear, tmp_path / "a.jpg")).getpixel((0, 0)) == (255, 255, 255)


def test_a_picture_too_large_for_its_format_is_explained(tmp_path: Path):
    with pytest.raises(UserError, match=r"a.webp cannot be saved as WEBP .*: save it as PNG"):
        save_picture(Image.new("L", (16_400, 20)), tmp_path / "a.webp")


def test_missing_folders_are_made_and_the_path_is_returned(tmp_path: Path):
    path = save_picture(noise(), str(tmp_path / "new" / "deep" / "a.png"))
    assert path == tmp_path / "new" / "deep" / "a.png" and path.is_file()


def test_a_written_file_may_be_read_by_whom_any_new_file_may(tmp_path: Path):
    (tmp_path / "other").write_bytes(b"")
    path = save_picture(noise(), tmp_path / "a.png")
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_a_folder_is_never_taken_for_the_file(tmp_path: Path):
    folder = tmp_path / "a.png"
    folder.mkdir()
    with pytest.raises(UserError, match=r"a.png is a folder: give the name of a file in it"):
        save_picture(noise(), folder)
    assert not list(folder.iterdir())


def test_a_file_in_the_place_of_a_folder_is_explained(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match=r"a.png could not be written"):
        save_picture(noise(), tmp_path / "file" / "a.png")


def test_a_write_that_fails_halfway_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "a.png"
    path.write_bytes(b"the old one")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # the system stops every file at 1000 bytes
    try:
        with pytest.raises(UserError, match=r"a.png could not be written"):
            save_picture(noise(), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (errno.ENOSPC, "There is no room left on the disk for a.png: free some space"),
        (errno.EACCES, "a.png may not be written there: choose another folder"),
        (errno.EROFS, "a.png may not be written there: choose another folder"),
        (errno.EIO, "a.png could not be written"),
    ],
)
def test_a_full_or_forbidden_disk_is_said(code: int, sentence: str, tmp_path: Path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(images.os, "replace", refuse)
    with pytest.raises(UserError, match=sentence):
        save_picture(noise(), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


def test_an_interrupted_write_leaves_nothing_behind(tmp_path: Path, monkeypatch):
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(images.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "a.png", b"data")
    assert not list(tmp_path.iterdir())


def test_a_name_with_a_zero_in_it_is_explained(tmp_path: Path):
    with pytest.raises(UserError, match="could not be written"):
        save_picture(noise(), f"{tmp_path}/a\0b.png")
