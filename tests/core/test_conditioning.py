"""A picture comes back from the model framed as it went in, whatever its size."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from instruct_pix2pix.conditioning import fit, join, to_images, to_tensor

side = st.integers(1, 20_000)
target = st.integers(64, 4096)


def picture(width: int, height: int) -> Image.Image:
    """Return a picture with a smooth colour ramp along each side."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


# --- sizes --------------------------------------------------------------------------------------------


@given(side, side, target, st.sampled_from([8, 64]))
@example(1, 1, 512, 8)
@example(20_000, 10, 512, 8)
@example(277, 321, 512, 64)
def test_a_longest_side_keeps_all_of_the_picture_in_its_shape(width, height, longest, multiple):
    plan = fit(width, height, longest, multiple)
    assert plan.whole == (width, height) and plan.crop == (0, 0, width, height)
    assert max(plan.size) == longest
    # both sides are scaled by one factor, to the nearest pixel and never to nothing
    factor = Fraction(longest, max(width, height))
    for before, after in zip((width, height), plan.size, strict=True):
        assert abs(after - before * factor) <= Fraction(1, 2) or after == 1


@given(side, side, st.one_of(target, st.tuples(target, target)), st.sampled_from([8, 64]))
def test_the_model_sees_the_next_multiple(width, height, wanted, multiple):
    plan = fit(width, height, wanted, multiple)
    for size, padded in zip(plan.size, plan.padded, strict=True):
        assert padded % multiple == 0 and 0 <= padded - size < multiple


@pytest.mark.parametrize(
    ("size", "longest", "multiple", "edited", "padded"),
    [
        ((1, 1), 512, 8, (512, 512), (512, 512)),
        ((20_000, 10), 512, 8, (512, 1), (512, 8)),
        ((10, 20_000), 512, 64, (1, 512), (64, 512)),
        ((277, 321), 512, 8, (442, 512), (448, 512)),  # a float's rounding here loses 64 pixels elsewhere
        ((277, 321), 512, 64, (442, 512), (448, 512)),
        ((512, 512), 512, 64, (512, 512), (512, 512)),
        ((96, 64), 96, 8, (96, 64), (96, 64)),
        ((640, 480), 512, 8, (512, 384), (512, 384)),
    ],
)
def test_known_sizes(size, longest, multiple, edited, padded):
    plan = fit(size[0], size[1], longest, multiple)
    assert (plan.size, plan.padded) == (edited, padded)


@given(side, side, target, target)
def test_a_width_and_height_cut_out_the_largest_middle_of_that_shape(width, height, wide, high):
    plan = fit(width, height, (wide, high), 8)
    left, top, right, bottom = plan.crop
    assert plan.size == (wide, high)
    assert 0 <= left < right <= width and 0 <= top < bottom <= height
    assert right - left == width or bottom - top == height  # nothing is cut that need not be
    assert abs(left - (width - right)) <= 1 and abs(top - (height - bottom)) <= 1
    shape = Fraction(right - left, bottom - top) / Fraction(wide, high)
    # the shape is kept to the pixel that rounding may cost the shorter side
    slack = Fraction(1, 2 * (right - left)) + Fraction(1, 2 * (bottom - top))
    assert abs(shape - 1) <= 2 * slack or min(right - left, bottom - top) == 1


def test_a_shape_that_fits_is_not_cut():
    assert fit(640, 480, (512, 384), 8).crop == (0, 0, 640, 480)
    assert fit(600, 400, (400, 400), 8).crop == (100, 0, 500, 400)
    assert fit(400, 600, (400, 200), 8).crop == (0, 200, 400, 400)


# --- pictures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(1, 1), (20_000, 10), (3, 500), (277, 321), (96, 96), (100, 60)])
def test_the_result_has_the_framing_of_the_input(size):
    image = picture(*size)
    plan = fit(size[0], size[1], 96, 8)
    shown = plan.apply(image)
    assert shown.size == plan.padded
    back = plan.undo(shown)
    assert back.size == plan.size
    wanted = image.resize(plan.size, Image.Resampling.LANCZOS)
    assert np.array_equal(np.asarray(back), np.asarray(wanted))


def test_what_fills_up_the_sides_repeats_the_edge():
    plan = fit(100, 61, 100, 8)
    shown = np.asarray(plan.apply(picture(100, 61)))
    assert shown.shape == (64, 104, 3)
    assert (shown[:61, 100:] == shown[:61, 99:100]).all()
    assert (shown[61:] == shown[60:61]).all()


def test_a_width_and_height_show_the_middle_of_the_picture():
    image = picture(300, 100)
    plan = fit(300, 100, (64, 64), 8)
    shown = plan.undo(plan.apply(image))
    wanted = image.crop((100, 0, 200, 100)).resize((64, 64), Image.Resampling.LANCZOS)
    assert np.abs(np.asarray(shown).astype(int) - np.asarray(wanted)).max() <= 2


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
def test_pictures_of_other_modes_and_masks_are_fitted_alike(mode):
    shown = fit(50, 30, 100, 8).apply(picture(50, 30).convert(mode))
    assert (shown.size, shown.mode) == ((104, 64), mode)


def test_pixels_become_numbers_from_minus_one_to_one_and_come_back_exactly():
    levels = Image.fromarray(np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3))
    tensor = to_tensor(levels)
    assert tensor.shape == (1, 3, 16, 16) and tensor.dtype == torch.float32
    assert (float(tensor.min()), float(tensor.max())) == (-1.0, 1.0)
    assert np.array_equal(np.asarray(to_images(tensor)[0]), np.asarray(levels))


def test_numbers_beyond_the_range_are_clipped_and_the_nearest_level_is_taken():
    values = torch.tensor([-5.0, -1.0, 0.0, 0.5, 1.0, 5.0]).view(1, 1, 1, 6).expand(2, 3, 1, 6)
    for image in to_images(values.half()):
        assert np.asarray(image)[0, :, 0].tolist() == [0, 0, 128, 191, 255, 255]


def test_grey_pictures_and_pictures_with_alpha_become_three_channels():
    for mode in ("L", "RGBA", "P", "1"):
        assert to_tensor(picture(8, 8).convert(mode)).shape == (1, 3, 8, 8)


def test_the_unet_gets_the_noise_first_and_the_picture_after_it():
    x, image = torch.zeros(2, 4, 3, 5), torch.ones(2, 4, 3, 5, dtype=torch.float64)
    joined = join(x.half(), image)
    assert joined.shape == (2, 8, 3, 5) and joined.dtype == torch.float16
    assert (joined[:, :4] == 0).all() and (joined[:, 4:] == 1).all()
