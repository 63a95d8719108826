"""An edit of a small copy, made on the picture at its own size: what is kept, what is gained, what it costs."""

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from skimage import data

from instruct_pix2pix.engine.full_size import enlarge
from instruct_pix2pix.errors import Interrupted

FACTOR = 4
Edit = Callable[[np.ndarray], np.ndarray]


def smaller(picture: np.ndarray) -> Image.Image:
    image = Image.fromarray(picture)
    return image.resize((image.width // FACTOR, image.height // FACTOR), Image.Resampling.LANCZOS)


def through_a_vae(image: Image.Image) -> Image.Image:
    values = gaussian_filter(np.asarray(image, np.float32), (0.6, 0.6, 0), mode="nearest")
    values += np.random.default_rng(1).normal(0, 2, values.shape)
    return Image.fromarray(np.rint(np.clip(values, 0, 255)).astype(np.uint8))


def eight_bit(values: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(np.float32) - b) ** 2)))


def night(p: np.ndarray) -> np.ndarray:
    return p**1.3 * [0.3, 0.38, 0.6]


def black_and_white(p: np.ndarray) -> np.ndarray:
    return np.repeat((p @ [0.299, 0.587, 0.114])[..., None], 3, 2)


def snow_below(p: np.ndarray) -> np.ndarray:
    amount = np.clip((np.linspace(0, 1, len(p)) - 0.5) * 6, 0, 1)[:, None, None]
    return p * (1 - amount) + amount * (0.65 + 0.35 * black_and_white(p))


def turned_colours(p: np.ndarray) -> np.ndarray:
    inside = disc(p)[..., None]
    return p * (1 - inside) + inside * p[..., [2, 0, 1]]


def ball(p: np.ndarray) -> np.ndarray:
    inside = disc(p)[..., None]
    stripes = np.where(np.arange(p.shape[1]) // 40 % 2, 0.2, 0.9)[None, :, None]
    return p * (1 - inside) + inside * stripes * [1, 0.6, 0.2]


def disc(p: np.ndarray) -> np.ndarray:
    """The coverage of a disc in the middle, [h, w], 0..1."""
    return np.asarray(disc_mask(p.shape[1], p.shape[0]), np.float32) / 255


def disc_mask(width: int, height: int, share: float = 0.25) -> Image.Image:
    mask, radius = Image.new("L", (width, height)), share * min(width, height)
    ImageDraw.Draw(mask).ellipse(
        (width / 2 - radius, height / 2 - radius, width / 2 + radius, height / 2 + radius), fill=255
    )
    return mask


def well_inside(side: int) -> np.ndarray:
    """Where a disc's edge is far, [side, side]."""
    return np.asarray(disc_mask(side, side, 0.25 - 18 / side)) > 0


def photograph(name: str) -> np.ndarray:
    picture = getattr(data, name)()
    return picture[: len(picture) // 32 * 32, : picture.shape[1] // 32 * 32]


def edited(picture: np.ndarray, edit: Edit) -> tuple[np.ndarray, Image.Image, Image.Image]:
    """What an edit makes of a picture, and the small copy before and after, as a model gives it."""
    truth = eight_bit(edit(picture / 255))
    return truth, smaller(picture), through_a_vae(smaller(truth))


def gradient(width: int, height: int, dtype: type = np.uint8) -> np.ndarray:
    x, y = np.linspace(0.2, 0.7, width), np.linspace(-0.1, 0.2, height)
    plane = x[None] + y[:, None]
    return np.rint(np.stack([plane, 0.9 * plane, 0.8 * plane], -1) * np.iinfo(dtype).max).astype(dtype)


# --- what is gained ---


@pytest.mark.parametrize("name", ["coffee", "astronaut"])
@pytest.mark.parametrize(
    ("edit", "gain"), [(night, 7.5), (black_and_white, 15), (snow_below, 7.5), (turned_colours, 7.5), (ball, 5)]
)
def test_a_result_is_nearer_to_the_true_one_than_an_enlarged_edit(name: str, edit: Edit, gain: float) -> None:
    picture = photograph(name)
    truth, before, after = edited(picture, edit)
    plain = np.asarray(after.resize(picture.shape[1::-1], Image.Resampling.LANCZOS))
    assert psnr(enlarge(picture, before, after), truth) > psnr(plain, truth) + gain


@pytest.mark.parametrize("name", ["cat", "retina"])
def test_so_is_a_new_object_in_a_photograph_whose_own_detail_is_little(name: str) -> None:
    """There an enlarged edit is wrong nowhere but in the object, whose edges have to be sharper than it."""
    picture = photograph(name)
    truth, before, after = edited(picture, ball)
    plain = np.asarray(after.resize(picture.shape[1::-1], Image.Resampling.LANCZOS))
    assert psnr(enlarge(picture, before, after), truth) > psnr(plain, truth) + 5


def test_within_a_mask_a_new_object_is_sharper_than_the_edit_enlarged_and_laid_there() -> None:
    picture = photograph("coffee")
    truth, before, after = edited(picture, ball)
    mask = disc_mask(picture.shape[1], picture.shape[0], 0.27)
    plain = after.resize(mask.size, Image.Resampling.LANCZOS)
    laid = np.asarray(Image.composite(plain, Image.fromarray(picture), mask))
    assert psnr(enlarge(picture, before, after, mask), truth) > psnr(laid, truth) + 1


def test_a_picture_that_the_model_leaves_as_it_is_keeps_its_detail() -> None:
    picture = photograph("coffee")
    _, before, after = edited(picture, lambda p: p)
    assert psnr(enlarge(picture, before, after), picture) > 40


# --- masks ---


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("size", [(600, 400), (150, 100), (1200, 800)])
def test_outside_a_mask_every_bit_is_kept(size: tuple[int, int], dtype: type) -> None:
    picture = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (400, 600, 3), dtype)
    before = Image.fromarray(np.random.default_rng(1).integers(0, 255, (100, 150, 3), np.uint8))
    mask = disc_mask(*size)
    result = enlarge(picture, before, Image.new("RGB", before.size, "red"), mask)
    outside = np.asarray(mask.resize((600, 400), Image.Resampling.BILINEAR)) == 0
    assert result.dtype == dtype
    assert np.array_equal(result[outside], picture[outside])
    assert (result[~outside] != picture[~outside]).any(-1).mean() > 0.8


def test_an_empty_mask_keeps_the_picture() -> None:
    picture = gradient(64, 48)
    result = enlarge(picture, Image.new("RGB", (16, 12)), Image.new("RGB", (16, 12), "red"), Image.new("L", (16, 12)))
    assert np.array_equal(result, picture)


@pytest.mark.parametrize("drift", [(0, 0, 0), (6, -5, 4), (-9, -9, -9)])
def test_no_step_is_seen_at_the_edge_of_a_mask(drift: tuple[int, int, int]) -> None:
    """A VAE changes colours by a few levels: on a smooth picture the edge of that would be seen."""
    picture = gradient(1024, 768)
    before = smaller(picture)
    after = through_a_vae(Image.fromarray((np.asarray(before, np.int16) + drift).astype(np.uint8)))
    mask = disc_mask(1024, 768, 0.35)
    change = enlarge(picture, before, after, mask).astype(int) - picture
    for axis in (0, 1):
        crossing = np.diff(np.asarray(mask) > 0, axis=axis)
        assert np.abs(np.diff(change, axis=axis))[crossing].max() <= 2
        assert np.abs(np.diff(change, axis=axis)).max() <= 2
    assert np.abs(change[384, 512] - drift).max() <= 2  # in the middle it may be the edit


def test_at_the_edge_of_a_mask_there_is_no_halo() -> None:
    picture = np.full((512, 512, 3), 90, np.uint8)
    before = smaller(picture)
    after = through_a_vae(Image.new("RGB", before.size, (200, 150, 60)))
    result = enlarge(picture, before, after, disc_mask(512, 512)).astype(int)
    row = result[256]
    assert row.min(0).tolist() >= [90 - 3, 90 - 3, 60 - 3]
    assert row.max(0).tolist() <= [200 + 3, 150 + 3, 90 + 3]
    assert np.abs(row[256] - [200, 150, 60]).max() <= 3
    edge = np.flatnonzero(row[:, 0] > 90)[0]
    assert abs(row[edge + 16] - [200, 150, 60]).max() <= 3  # four pixels of the small copy within


def test_a_thin_stroke_of_a_mask_is_edited() -> None:
    picture = np.full((256, 256, 3), 90, np.uint8)
    before = smaller(picture)
    mask = Image.new("L", (256, 256))
    ImageDraw.Draw(mask).line((0, 128, 256, 128), fill=255, width=5)
    result = enlarge(picture, before, Image.new("RGB", before.size, (200, 150, 60)), mask)
    assert np.abs(result[128, 128].astype(int) - [200, 150, 60]).max() < 30


def test_a_grey_of_a_mask_blends() -> None:
    picture = np.full((256, 256, 3), 50, np.uint8)
    before = smaller(picture)
    result = enlarge(picture, before, Image.new("RGB", before.size, (250, 250, 250)), Image.new("L", (64, 64), 128))
    assert np.abs(result.astype(int) - 150).max() <= 2


# --- 16 bits, grey, noise ---


def test_16_bits_a_channel_keep_their_precision() -> None:
    """A half as bright gradient has as many levels as half of them, not 128."""
    picture = gradient(2048, 32, np.uint16)
    small = Image.fromarray((picture >> 8).astype(np.uint8)).resize((512, 8), Image.Resampling.BOX)
    half = Image.fromarray(np.asarray(small) // 2)
    result = enlarge(picture, small, half)
    assert result.dtype == np.uint16
    assert len(np.unique(result[..., 0])) > 5000
    assert np.abs(result.astype(float) / 65535 - picture / 131070).max() < 2 / 255


@pytest.mark.parametrize("level", [0, 128, 255])
def test_noise_of_the_sensor_on_an_even_surface_is_not_made_larger(level: int) -> None:
    """The small copy has next to none of it, so that windows there could say anything of the colours."""
    noise = np.random.default_rng(0).normal(0, 6, (512, 512, 3))
    picture = np.clip(level + noise, 0, 255).astype(np.uint8)
    before = smaller(picture)
    after = through_a_vae(Image.new("RGB", before.size, (90, 110, 130)))
    result = enlarge(picture, before, after).astype(float)
    assert np.abs(result.mean((0, 1)) - [90, 110, 130]).max() < 2
    assert result.std((0, 1)).max() < 1.5 * picture.std((0, 1)).max() + 2


def test_what_a_new_object_hides_does_not_shine_through() -> None:
    picture = np.random.default_rng(0).normal(0, 1, (512, 512))
    picture = np.clip(gaussian_filter(picture, 1) * 140 + 128, 0, 255).astype(np.uint8)[..., None].repeat(3, 2)
    colour = np.array([0.9, 0.5, 0.2])
    _, before, after = edited(picture, lambda p: np.where(disc(p)[..., None] > 0, colour, p))
    result = enlarge(picture, before, after)[well_inside(512)]
    assert picture.std() > 30
    assert np.abs(result - colour * 255).max() < 15


def test_beside_a_new_object_the_surface_stays_even() -> None:
    picture = np.full((512, 512, 3), 215, np.uint8)
    picture[::64] = picture[:, ::64] = 225
    truth, before, after = edited(picture, ball)
    outside = np.asarray(disc_mask(512, 512, 0.25 + 12 / 512)) == 0
    assert (
        np.abs(enlarge(picture, before, after).astype(int) - truth)[outside].max() < 20
    )  # by enlarged offsets of another shape than the gains: 40


def test_stripes_on_a_slope_are_not_taken_for_its_contrast() -> None:
    """Edges along a faint slope look like steep contrast: with it the noise of the sensor would grow."""
    slope = np.broadcast_to(np.linspace(60, 180, 512)[:, None], (256, 512, 3))
    picture = np.rint(slope + np.random.default_rng(0).normal(0, 5, slope.shape)).astype(np.uint8)
    stripes = np.where(np.arange(512) // 64 % 2, 0.6, 0)[:, None]
    _, before, after = edited(picture, lambda p: p * 0.3 + stripes)
    result = enlarge(picture, before, after)
    assert (result - result.mean(0)).std(0).max() < 1.3 * (picture - picture.mean(0)).std(0).max()


# --- shapes, strips, being stopped ---


@pytest.mark.parametrize(
    ("size", "small"),
    [((4000, 1), (512, 1)), ((1, 4000), (1, 512)), ((130, 97), (64, 48)), ((9, 7), (2, 2)), ((3, 2), (1, 1))],
)
@pytest.mark.parametrize("masked", [False, True])
def test_any_shape_comes_out(size: tuple[int, int], small: tuple[int, int], masked: bool) -> None:
    picture = np.full((size[1], size[0], 3), 100, np.uint8)
    before, after = Image.new("RGB", small, (100, 100, 100)), Image.new("RGB", small, (150, 100, 50))
    result = enlarge(picture, before, after, Image.new("L", small, 255) if masked else None)
    assert result.shape == picture.shape
    assert np.abs(result.astype(int) - [150, 100, 50]).max() <= 2


def test_strips_leave_no_trace() -> None:
    """Rows depend only on what is near them: a piece of a tall picture is as it is in a low one."""
    wide = 8192
    picture = np.broadcast_to(gradient(wide, 1), (256, wide, 3)).copy()  # more than one strip
    before = Image.fromarray(picture).resize((512, 16))
    after = Image.fromarray(255 - np.asarray(before))
    result = enlarge(picture, before, after).astype(int)
    assert np.abs(np.diff(result, axis=0)).max() <= 1


def test_progress_is_told_and_the_work_can_be_stopped() -> None:
    picture = gradient(4096, 512)
    before = smaller(picture)
    told: list[float] = []
    enlarge(picture, before, before, None, told.append)
    assert len(told) > 2
    assert told == sorted(told)
    assert told[-1] == 1

    def stop(share: float) -> None:
        raise Interrupted

    with pytest.raises(Interrupted):
        enlarge(picture, before, before, None, stop)


def test_memory_is_that_of_the_result_and_some_strips() -> None:
    picture = np.zeros((4000, 4000, 3), np.uint8)  # 48 MB
    before = Image.new("RGB", (256, 256))
    tracemalloc.start()
    enlarge(picture, before, before, Image.new("L", (256, 256), 255))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < picture.nbytes + 60e6
