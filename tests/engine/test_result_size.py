"""Results at the size that is asked for, with what was not edited as it was; run with the demo model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw

from instruct_pix2pix.conditioning import fit
from instruct_pix2pix.engine.edit import edit, edit_each, fitted, resolved
from instruct_pix2pix.engine.edit_batch import Edited, Progress
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.precision import choose_machine
from instruct_pix2pix.engine.region import region_of
from instruct_pix2pix.engine.result_size import framed, size_of, to_write
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.settings import EditSettings
from tools.demo_model import scenes
from tools.demo_model.autoencoder import DEMO

SCENE = scenes.scene(400003)  # a red ball and a blue house
PAINT = EditSettings("paint the ball pink", seed=5, steps=8)


@pytest.fixture(scope="module")
def model() -> EditModel:
    return EditModel.load(DEMO, choose_machine("cpu", "fp32"))


@pytest.fixture(scope="module")
def large() -> Image.Image:
    return Image.fromarray(scenes.draw(SCENE, 384))


def mask_of_the_ball(size: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", size)
    width, height = size
    ImageDraw.Draw(mask).ellipse((0.34 * width, 0.56 * height, 0.66 * width, 0.94 * height), fill=255)
    return mask


@pytest.mark.parametrize(
    ("asked", "whole", "expected"),
    [
        ("auto", (4000, 3000), (4000, 3000)),  # larger than the model's
        ("auto", (300, 200), (512, 341)),  # smaller: the model's
        ("auto", (512, 512), (512, 512)),
        ("own", (300, 200), (300, 200)),
        ("model", (4000, 3000), (512, 384)),
        ("2000", (4000, 3000), (2000, 1500)),
        ("6000", (4000, 3000), (6000, 4500)),
    ],
)
def test_the_size_of_a_result(asked, whole, expected):
    assert size_of(fit(whole[0], whole[1], 512, 8), EditSettings(result_size=asked)) == expected


def test_a_part_that_a_size_cuts_out_comes_back_at_its_own_pixels():
    plan = fit(3000, 1000, (512, 512), 8)
    assert size_of(plan, EditSettings()) == (1000, 1000)
    ramp = Image.linear_gradient("L").resize((3000, 1000))
    assert framed(ramp, plan, EditSettings()).tobytes() == ramp.crop(plan.crop).tobytes()


def test_a_result_may_not_be_larger_than_a_picture_may_be():
    with pytest.raises(UserError, match="32000 x 24000 pixels is too large"):
        size_of(fit(400, 300, 512, 8), EditSettings(result_size="32000"))


@pytest.mark.parametrize("bad", ["", "huge", "0", "63", "40000", "1e3", None, True, 2.5])
def test_a_result_size_that_is_none_is_told(bad):
    with pytest.raises(UserError, match="Result size is"):
        EditSettings(result_size=bad)


def test_a_large_picture_comes_back_at_its_own_size_and_a_small_one_at_the_model_s(model, large):
    [own] = edit(model, large, PAINT)
    [small] = edit(model, large, replace(PAINT, result_size="model"))
    assert own.image.size == large.size and small.image.size == (96, 96)
    assert "Size: 96x96," in own.infotext("demo", None)  # who reads it edits at that size again
    shrunk = np.asarray(own.image.resize((96, 96), Image.Resampling.LANCZOS), float)
    assert np.abs(shrunk - np.asarray(small.image)).mean() < 4  # the same edit
    [tiny] = edit(model, large.resize((48, 48)), replace(PAINT, result_size="own"))
    assert tiny.image.size == (48, 48)


def test_outside_a_mask_the_pixels_are_the_input_s(model, large):
    mask = mask_of_the_ball(large.size)
    [made] = edit(model, large, PAINT, mask=mask)
    before, after = np.asarray(large), np.asarray(made.image)
    outside = np.asarray(mask) == 0
    assert outside.mean() > 0.5 and (before[outside] == after[outside]).all()
    assert np.abs(before.astype(int) - after)[np.asarray(mask) == 255].mean() > 20


def test_keeping_the_rest_leaves_most_of_a_large_picture_bit_for_bit(model, large):
    [made] = edit(model, large, replace(PAINT, keep_rest="automatic"))
    same = (np.asarray(large) == np.asarray(made.image)).all(axis=2)
    assert made.relevance is not None and 0.6 < made.kept < 0.97
    assert same.mean() > 0.6
    house = same[230:330, 280:370]
    assert house.all()
    [night] = edit(model, large, replace(PAINT, instruction="make it night", keep_rest="automatic"))
    assert night.kept == 0.0


def test_a_mask_and_the_map_meet(model, large):
    left = Image.new("L", large.size)
    left.paste(255, (0, 0, large.width // 2, large.height))
    both = replace(PAINT, keep_rest="always")
    [made] = edit(model, large, both, mask=left)
    [by_map] = edit(model, large, both)
    inside, alone = np.asarray(made.made.inside, int), np.asarray(by_map.made.inside, int)
    assert not (np.asarray(made.image) != np.asarray(large))[:, 192:].any()
    assert inside[:, :44].mean() < 0.7 * 255 and alone.any()


def test_sixteen_bits_a_channel_stay(model, large):
    deep = np.asarray(large).astype(np.uint16) * 257 + 3  # values that 8 bits do not have
    mask = mask_of_the_ball(large.size)
    picture = replace(fitted(model, large, PAINT, mask), deep=deep)
    [made] = edit_each(model, picture, [resolved(PAINT)])
    assert made.deep is not None and made.deep.dtype == np.uint16
    outside = np.asarray(mask) == 0
    assert (made.deep[outside] == deep[outside]).all()
    assert np.abs((made.deep >> 8).astype(int) - np.asarray(made.image)).max() == 0
    assert to_write(made, None, "PNG") is made.deep and to_write(made, None, "JPEG") is made.image
    assert np.asarray(to_write(made, Image.new("L", large.size, 7), "PNG")).shape == (384, 384, 4)


# --- only the region ---


def test_the_region_is_the_box_of_the_edit_with_its_surroundings():
    plan, inside = fit(4000, 2000, 512, 8), Image.new("L", (512, 256))
    assert region_of(inside, plan) is None
    inside.paste(255, (200, 100, 264, 132))
    left, top, right, bottom = region_of(inside, plan) or (0, 0, 0, 0)
    scale = 4000 / 512
    assert left < 200 * scale - 100 and right > 264 * scale + 100 and top < 100 * scale and bottom > 132 * scale
    assert right - left < 1500 and left >= 0 and right <= 4000 and bottom <= 2000


def seen(edits: list[Edited]) -> Edited:
    [one] = edits
    return one


def test_only_the_region_is_edited_at_the_model_s_full_size(model, large):
    """A mask of a fifth of the side: the model sees it several times as large, and the rest stays bit for bit."""
    mask = Image.new("L", large.size)
    mask.paste(255, (150, 250, 240, 340))
    steps: list[Progress] = []
    made = seen([*edit(model, large, replace(PAINT, zoom=True), mask=mask, on_step=steps.append)])
    assert made.image.size == large.size and [one.step for one in steps] == [*range(1, 9)]
    part = steps[0].plan
    assert max(part.size) == 96 and part.crop[2] - part.crop[0] < 200
    same = (np.asarray(large) == np.asarray(made.image)).all(axis=2)
    assert same[np.asarray(mask) == 0].all() and not same[250:340, 150:240].all()
    assert made.made.inside is not None and made.made.inside.size == (96, 96)
    assert made.kept == pytest.approx(1 - (90 / 384) ** 2, abs=0.02)


def test_without_a_mask_a_first_edit_finds_the_region(model, large):
    steps: list[Progress] = []
    made = seen([*edit(model, large, replace(PAINT, zoom=True), on_step=steps.append)])
    assert [(one.step, one.steps) for one in steps] == [(i, 16) for i in range(1, 17)]
    assert made.rows == 2 * 8 * 3 and made.settings.zoom and made.settings.keep_rest == "off"
    same = (np.asarray(large) == np.asarray(made.image)).all(axis=2)
    assert same.mean() > 0.5 and not same.all()


@pytest.mark.parametrize("by", ["mask", "first edit"])
def test_sixteen_bits_a_channel_stay_around_the_region(model, large, by):
    deep = np.asarray(large).astype(np.uint16) * 256 + 3
    mask = mask_of_the_ball(large.size) if by == "mask" else None
    picture = replace(fitted(model, large, PAINT, mask), deep=deep)
    made = seen([*edit_each(model, picture, [resolved(replace(PAINT, zoom=True))])])
    assert made.deep is not None
    assert np.abs((made.deep >> 8).astype(int) - np.asarray(made.image)).max() <= 1
    same = (made.deep == deep).all(axis=2)
    assert same.mean() > 0.5 and not same.all()


def test_an_edit_of_the_whole_picture_has_no_region(model, large):
    plain = replace(PAINT, instruction="make it night")
    zoomed = seen([*edit(model, large, replace(plain, zoom=True))])
    whole = seen([*edit(model, large, plain)])
    assert zoomed.image.tobytes() == whole.image.tobytes()
    assert zoomed.settings == replace(whole.settings, zoom=True)


def test_the_region_of_a_small_picture_comes_back_in_it(model):
    small = Image.fromarray(scenes.draw(SCENE, 96))
    made = seen([*edit(model, small, replace(PAINT, zoom=True))])
    assert made.image.size == small.size
