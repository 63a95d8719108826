"""Pictures of 16 bits a channel: what comes in goes out, to the last bit, for other programs too."""

import io
import random
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms

from instruct_pix2pix.deep_pixels import with_alpha
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.images import encode_picture, open_picture, read_infotext, save_picture
from tests.helpers.programs import in_child

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
INFOTEXT = "make it “winter” ☃\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, Seed: 1"
ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
"""First row, first column, step of rows and step of columns of each pass (PNG 3rd edition, 8.1)."""


def values(channels: int = 3, height: int = 37, width: int = 53) -> np.ndarray:
    return np.random.default_rng(channels).integers(0, 65536, (height, width, channels), dtype=np.uint16)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def paeth(left: int, above: int, corner: int) -> int:
    guess = left + above - corner
    return min((left, above, corner), key=lambda one: abs(guess - one))


def predicted(kind: int, row: bytearray, above: bytes, place: int, step: int) -> int:
    """What a filter of PNG (9.2) takes from, or adds to, the byte at this place."""
    left, corner = (row[place - step], above[place - step]) if place >= step else (0, 0)
    return [0, left, above[place], (left + above[place]) // 2, paeth(left, above[place], corner)][kind]


def png_of(samples: np.ndarray, *extra: bytes, interlaced: bool = False) -> bytes:
    """A PNG by the letter of its standard, whose rows have each kind of filter in turn."""
    height, width, channels = samples.shape
    passes = ADAM7 if interlaced else [(0, 0, 1, 1)]
    packed = bytearray()
    for top, left, down, right in passes:
        part = samples[top::down, left::right]
        above = bytes(part.shape[1] * 2 * channels)
        for number, line in enumerate(part if part.shape[1] else []):
            row = bytearray(line.astype(">u2").tobytes())
            kind = number % 5
            packed.append(kind)
            packed += bytes(
                (row[place] - predicted(kind, row, above, place, 2 * channels)) % 256 for place in range(len(row))
            )
            above = bytes(row)
    header = struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, interlaced)
    body = chunk(b"IDAT", zlib.compress(packed)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + b"".join(extra) + body


def chunks_of(png: bytes) -> list[tuple[bytes, bytes]]:
    found, place = [], 8
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        found.append((png[place + 4 : place + 8], png[place + 8 : place + 8 + length]))
        assert chunk(*found[-1]) == png[place : place + 12 + length]
        place += 12 + length
    return found


def samples_of(png: bytes) -> np.ndarray:
    """The samples of a PNG of 16 bits a channel, by the letter of its standard."""
    chunks = chunks_of(png)
    width, height, depth, colour, *_ = struct.unpack(">IIBBBBB", dict(chunks)[b"IHDR"])
    assert depth == 16
    channels = {2: 3, 6: 4}[colour]
    data = zlib.decompress(b"".join(data for kind, data in chunks if kind == b"IDAT"))
    size = width * channels * 2
    above, rows = bytes(size), bytearray()
    for start in range(0, len(data), size + 1):
        row = bytearray(data[start + 1 : start + 1 + size])
        for place in range(size):
            row[place] = (row[place] + predicted(data[start], row, above, place, 2 * channels)) % 256
        above = bytes(row)
        rows += row
    return np.frombuffer(rows, ">u2").reshape(height, width, channels)


def tiff_of(samples: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    kind = "minisblack" if samples.ndim == 2 else "rgb"
    tifffile.imwrite(file, samples, **{"photometric": kind, **options})
    return file.getvalue()


def deep_of(data: bytes) -> np.ndarray:
    """What is read in 16 bits; in 8 the picture is the same whether they are asked for or not."""
    picture, plain = open_picture(data, deep=True), open_picture(data)
    assert plain.deep is None and plain == picture
    assert picture.deep is not None and picture.deep.dtype == np.uint16
    assert picture.deep.shape == (picture.image.height, picture.image.width, 3)
    return picture.deep


def on_white(samples: np.ndarray) -> np.ndarray:
    """Samples [H, W, colours + 1] laid on white by the last of them, in the 8 bits in which alpha is kept."""
    alpha = (samples[..., -1:] >> 8) / 255
    return np.rint(samples[..., :-1] * alpha + 65535 * (1 - alpha))


# --- in ---


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("tile", [None, (16, 32)], ids=["strips", "tiles"])
@pytest.mark.parametrize(
    "packed",
    [{}, {"compression": "zlib"}, {"compression": "zlib", "predictor": True}, {"compression": "lzma"}],
    ids=["plain", "deflate", "predicted", "lzma"],
)
def test_a_tiff_is_read_without_loss(order: str, tile: tuple[int, int] | None, packed: dict[str, Any]) -> None:
    options = {"byteorder": order, "tile": tile, "rowsperstrip": None if tile else 8, **packed}
    colour, grey = values(), values(1)[..., 0]
    data = tiff_of(colour, **options)
    assert np.array_equal(deep_of(data), colour)
    assert np.array_equal(np.asarray(open_picture(data).image), colour >> 8)
    assert np.array_equal(deep_of(tiff_of(grey, **options)), np.dstack([grey] * 3))
    unused = deep_of(tiff_of(values(4), extrasamples=["unspecified"], **options))
    assert np.array_equal(unused, values(4)[..., :3])
    clear = deep_of(tiff_of(values(4), extrasamples=["unassalpha"], **options))
    assert np.array_equal(clear, on_white(values(4)))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_png_is_read_without_loss(channels: int, interlaced: bool) -> None:
    samples = values(channels, 13, 21)
    expected = on_white(samples) if channels in (2, 4) else samples
    assert np.array_equal(deep_of(png_of(samples, interlaced=interlaced)), np.broadcast_to(expected, (13, 21, 3)))


def test_planes_that_lie_apart_are_read() -> None:
    for order in "<>":
        for channels in (3, 4):
            planes = np.moveaxis(values(channels), -1, 0)
            extra = {"extrasamples": ["unassalpha"]} if channels == 4 else {}
            data = tiff_of(planes, planarconfig="separate", byteorder=order, rowsperstrip=8, **extra)
            expected = on_white(values(4)) if channels == 4 else values()
            assert np.array_equal(deep_of(data), expected)
            assert np.abs(np.asarray(open_picture(data).image) - expected / 257).max() <= 2
    packed = tiff_of(np.moveaxis(values(), -1, 0), planarconfig="separate", compression="zlib")
    picture = open_picture(packed, deep=True)
    assert picture.deep is None and np.array_equal(np.asarray(picture.image), values() >> 8)


def test_colours_multiplied_by_alpha_are_divided_by_it() -> None:
    straight = values(4)
    straight[..., 3] |= 0x4000  # of darker ones rounding leaves less
    product = straight.copy()
    product[..., :3] = np.rint(straight[..., :3] * (straight[..., 3:] / 65535))
    for packed in ({}, {"compression": "zlib"}):
        deep = deep_of(tiff_of(product, extrasamples=["assocalpha"], **packed))
        assert np.abs(deep - on_white(straight)).max() <= 2


def test_a_transparent_colour_lies_on_white() -> None:
    samples = values(height=8, width=8)
    samples[2, 3] = 1000, 2000, 3000
    marked = png_of(samples, chunk(b"tRNS", struct.pack(">3H", 1000, 2000, 3000)))
    samples[2, 3] = 65535
    assert np.array_equal(deep_of(marked), samples)


def test_a_picture_that_is_transparent_everywhere_is_read_as_if_it_were_opaque() -> None:
    samples = values(4)
    samples[..., 3] = 0
    assert np.array_equal(deep_of(png_of(samples[:9, :9])), samples[:9, :9, :3])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_it_is_turned_as_the_picture_is(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    for samples in (values(3, 16, 24), values(4, 16, 24), values(1, 16, 24)):
        data = png_of(samples, chunk(b"eXIf", exif.tobytes()[6:]))
        assert np.abs((deep_of(data) >> 8) - np.asarray(open_picture(data).image).astype(int)).max() <= 1
    data = tiff_of(values(), extratags=[(0x0112, "H", 1, orientation, True)])
    assert np.array_equal(deep_of(data) >> 8, np.asarray(open_picture(data).image))


def test_of_a_tiff_with_reduced_versions_the_full_size_is_read() -> None:
    file = io.BytesIO()
    with tifffile.TiffWriter(file) as tiff:
        tiff.write(values()[::4, ::4], photometric="rgb", subfiletype=1)
        tiff.write(values(), photometric="rgb", compression="zlib")
    assert np.array_equal(deep_of(file.getvalue()), values())


def encoded(image: Image.Image, fmt: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, fmt, **options)
    return file.getvalue()


GREY_PROFILE = SRGB[:16] + b"GRAY" + SRGB[20:]
EIGHT_BITS = {
    "a PNG": encoded(Image.new("RGB", (9, 9), "red"), "PNG"),
    "grey": encoded(Image.new("L", (9, 9), 77), "PNG"),
    "a palette": encoded(Image.new("P", (9, 9)), "PNG"),
    "a JPEG": encoded(Image.new("RGB", (9, 9), "red"), "JPEG"),
    "a TIFF": encoded(Image.new("RGB", (9, 9), "red"), "TIFF"),
    "printing colours": tiff_of(values(4), photometric="separated"),
    "floats": tiff_of(values(1)[..., 0].astype(np.float32) / 65535),
    "signed": tiff_of(values(1)[..., 0].astype(np.int16)),
    "a profile of grey": tiff_of(values(1)[..., 0], iccprofile=GREY_PROFILE),
}


@pytest.mark.parametrize("kind", EIGHT_BITS)
def test_a_picture_whose_numbers_are_not_rgb_of_sixteen_bits_has_none(kind: str) -> None:
    assert open_picture(EIGHT_BITS[kind], deep=True).deep is None


# --- out ---


def camera() -> bytes:
    exif = Image.Exif()
    exif[0x010F], exif[0x013B] = "Maker", "Ann"
    exif[0x8769] = {0x9003: "2020:01:02 03:04:05", 0x8827: 100}
    exif[0x8825] = {1: "N", 2: (48.0, 1.0, 2.5)}
    return exif.tobytes()


@pytest.mark.parametrize("infotext", [INFOTEXT, "plain\nSteps: 1", None])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [3, 4])
def test_what_is_written_comes_back(channels: int, suffix: str, infotext: str | None, tmp_path: Path) -> None:
    samples = values(channels)
    path = save_picture(samples, tmp_path / f"a{suffix}", infotext, exif=camera(), icc=SRGB)
    picture = open_picture(path, deep=True)
    assert picture.deep is not None
    assert np.array_equal(picture.deep, on_white(samples) if channels == 4 else samples)
    assert (picture.infotext, read_infotext(path), picture.icc) == (infotext, infotext, SRGB)
    exif = Image.open(path).getexif()
    assert exif[0x010F] == "Maker" and exif.get_ifd(0x8769)[0x9003] == "2020:01:02 03:04:05"
    assert [float(part) for part in exif.get_ifd(0x8825)[2]] == [48, 1, 2.5]
    assert open_picture(save_picture(samples, tmp_path / f"b{suffix}")).exif is None


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("order", [np.ascontiguousarray, lambda samples: np.flip(np.flip(samples).copy())])
def test_other_programs_read_what_is_written(channels: int, order: Any) -> None:
    samples = order(values(channels))
    png = encode_picture(samples, "PNG", INFOTEXT, exif=camera(), icc=SRGB)
    assert np.array_equal(samples_of(png), samples)
    tiff = encode_picture(samples, "TIFF", INFOTEXT, exif=camera(), icc=SRGB)
    with tifffile.TiffFile(io.BytesIO(tiff)) as file:
        assert np.array_equal(file.asarray(), samples)
        page = file.pages.first
        assert (page.photometric, page.iccprofile) == (tifffile.PHOTOMETRIC.RGB, SRGB)
        assert page.extrasamples == ((tifffile.EXTRASAMPLE.UNASSALPHA,) if channels == 4 else ())


@pytest.mark.parametrize("infotext", [INFOTEXT, "café\nSteps: 1", None])
def test_a_png_says_what_one_of_eight_bits_says_in_the_same_order(infotext: str | None) -> None:
    deep = chunks_of(encode_picture(values(), "PNG", infotext, exif=camera(), icc=SRGB))
    plain = chunks_of(encode_picture(Image.new("RGB", (53, 37)), "PNG", infotext, exif=camera(), icc=SRGB))

    def told(chunks: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        return [(kind, data) for kind, data in chunks[1:] if kind != b"IDAT"]

    assert told(deep) == told(plain) and deep[0][0] == b"IHDR" and deep[-1] == (b"IEND", b"")


def test_large_and_flat_pictures_are_written_in_pieces() -> None:
    samples = np.zeros((1500, 2000, 3), np.uint16)
    samples[700:, 900:] = 65535
    assert np.array_equal(deep_of(encode_picture(samples, "PNG")), samples)
    assert np.array_equal(tifffile.imread(io.BytesIO(encode_picture(samples, "TIFF"))), samples)
    tracemalloc.start()
    try:
        encode_picture(samples, "PNG")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < samples.nbytes


def test_formats_of_eight_bits_get_the_nearest() -> None:
    for value, nearest in ((0, 0), (0x01FF, 2), (32896, 128), (65535, 255)):
        picture = Image.open(io.BytesIO(encode_picture(np.full((16, 16, 3), value, np.uint16), "JPEG")))
        assert np.unique(np.asarray(picture)).tolist() == [nearest]
    clear = np.full((16, 16, 4), (65535, 0, 0, 0x01FF), np.uint16)
    assert np.asarray(Image.open(io.BytesIO(encode_picture(clear, "WEBP"))))[3, 3, 3] == 2
    assert Image.open(io.BytesIO(encode_picture(clear, "JPEG"))).getpixel((3, 3)) == pytest.approx(
        (255, 253, 253), abs=1
    )


def test_alpha_of_eight_bits_goes_along() -> None:
    alpha = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16))
    data = encode_picture(with_alpha(values(3, 16, 16), alpha), "PNG")
    assert np.array_equal(samples_of(data)[..., :3], values(3, 16, 16))
    found = open_picture(data).alpha
    assert found is not None and found.tobytes() == alpha.tobytes()


@pytest.mark.parametrize("wrong", [np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint16)])
def test_another_array_is_a_mistake_of_the_programmer(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint16"):
        encode_picture(wrong, "PNG")


# --- hostile files ---


SOUND = {
    "png": encode_picture(values(), "PNG", INFOTEXT, exif=camera(), icc=SRGB),
    "transparent.png": png_of(values(2, 13, 21)),
    "tif": encode_picture(values(), "TIFF", INFOTEXT, exif=camera(), icc=SRGB),
    "packed.tif": tiff_of(values(4), extrasamples=["assocalpha"], compression="zlib", rowsperstrip=8),
    "planes.tif": tiff_of(np.moveaxis(values(), -1, 0), planarconfig="separate", rowsperstrip=8),
}


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.95])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_file_that_is_cut_short_is_named(name: str, part: float, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(SOUND[name][: max(13, int(len(SOUND[name]) * part))])
    with pytest.raises(UserError, match=rf"^{name} is (cut short|damaged \(.+\)|of a kind of TIFF that .+): "):
        open_picture(path, deep=True)


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_scrambled_files_never_raise_anything_else(name: str) -> None:
    draw = random.Random(7)
    whole = SOUND[name]
    for _ in range(80):
        scrambled = bytearray(whole)
        # what says how the pixels lie is at one end of a file
        places = draw.choice([range(12, len(whole)), range(8, 300), range(len(whole) - 300, len(whole))])
        for _ in range(draw.choice([1, 3, 12])):
            scrambled[draw.choice(places)] = draw.randrange(256)
        try:
            picture = open_picture(bytes(scrambled), deep=True)
        except UserError as error:
            assert str(error).startswith("The picture is ") and str(error).endswith(".")
        else:
            assert picture.deep is None or picture.deep.shape[1::-1] == picture.image.size


MEMORY = """
import resource, sys
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.images import open_picture
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
open_picture(sys.argv[1], deep=True)
before = peak()
try:
    print(open_picture(sys.argv[2], deep=True).deep.shape[1])
except UserError as error:
    print(error)
print(peak() - before)
"""


def memory_of(data: bytes, folder: Path) -> tuple[str, int]:
    """Read a file in a program of its own; return what it prints and the bytes of memory that it took."""
    pytest.importorskip("resource")
    (folder / "small").write_bytes(SOUND["transparent.png"])
    (folder / "large").write_bytes(data)
    told, taken = in_child(MEMORY, folder / "small", folder / "large").splitlines()
    return told, int(taken)


def test_a_bomb_takes_memory_by_its_pixels_and_no_more(tmp_path: Path) -> None:
    bomb = encode_picture(np.broadcast_to(np.array([1, 2, 3, 4], np.uint16), (3000, 3000, 4)), "PNG")
    told, taken = memory_of(bomb, tmp_path)
    assert told == "3000" and taken < 30 * 3000**2


def with_size(tiff: bytes, width: int, height: int) -> bytes:
    """The same TIFF, of little endian, with another size in its tags."""
    data = bytearray(tiff)
    (place,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, place)
    for entry in range(place + 2, place + 2 + 12 * count, 12):
        size = {256: width, 257: height}.get(struct.unpack_from("<H", data, entry)[0])
        if size:
            struct.pack_into("<HII", data, entry + 2, 4, 1, size)
    return bytes(data)


def test_a_header_that_promises_too_much_takes_next_to_nothing(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 14_000, 14_000, 16, 2, 0, 0, 0)
    empty = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\1")) + chunk(b"IEND", b"")
    assert memory_of(empty, tmp_path)[1] < 50 << 20
    for name in ("tif", "packed.tif", "planes.tif"):
        told, taken = memory_of(with_size(SOUND[name], 10_000, 14_000), tmp_path)
        assert "is cut short" in told or "is damaged" in told
        assert taken < 50 << 20
