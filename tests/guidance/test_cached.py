"""Cheaper guidance against a loop that evaluates each row by itself, and against the exact edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from instruct_pix2pix.engine.edit import edit
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.guidance.cached import SHARES, whole_steps
from instruct_pix2pix.guidance.dual import DualGuidance
from instruct_pix2pix.guidance.inputs import GuidanceInputs, Prompt
from instruct_pix2pix.guidance.rows import Scales, rescale_noise
from instruct_pix2pix.settings import SPEEDS, EditSettings
from tests.helpers.analytic_rows import AnalyticRows, noise

ROOT = Path(__file__).parents[2]
SIGMAS = torch.tensor([14.6, 10.7, 8.1, 6.3, 5.0, 4.0, 3.3, 2.7, 2.2, 1.9, 1.6, 1.3, 1.1, 0.9, 0.8, 0.6, 0.5, 0.3, 0.2])
LEVELS = SIGMAS.tolist()
SIGMAS = torch.cat([SIGMAS, SIGMAS.new_tensor([0.03, 0.0])])
WHOLE = {"balanced": {0, 3, 5, 8, 10, 12, 14, 16, 18, 19}, "fast": {0, 6, 11, 16, 19}}


def prompt(seed: int, weight: float = 1.0) -> Prompt:
    return Prompt(((10**9, noise(1, 77, 6, seed=seed) + 0.1 * seed),), weight)


IMAGE = noise(1, 4, 6, 5, seed=9)
CONDITIONS = GuidanceInputs((prompt(1),), prompt(2), IMAGE)


def guided(
    speed: str, conditions: GuidanceInputs = CONDITIONS, text_cfg: float = 7.5, image_cfg: float = 1.5, **options
) -> DualGuidance:
    return DualGuidance(AnalyticRows(), conditions, Scales(text_cfg, image_cfg), SIGMAS, speed=speed, **options)


def separate_rows(x: Tensor, sigma: float, given: GuidanceInputs, step: int) -> tuple[list[Tensor], Tensor, Tensor]:
    """Every row by a call of its own, as predicted noise: the full ones, image only, null."""

    def call(text: Tensor, image: Tensor) -> Tensor:
        level = x.new_full((len(x),), sigma)
        shown = image.expand(len(x), -1, -1, -1)
        return (x - AnalyticRows().denoised(x, level, text.expand(len(x), -1, -1), shown)) / sigma

    negative, image = given.negative.at(step), given.image
    full = [call(part.at(step), image) for part in given.prompts]
    return full, call(negative, image), call(negative, torch.zeros_like(image))


def reference(
    xs: Sequence[Tensor],
    whole: set[int],
    conditions: GuidanceInputs = CONDITIONS,
    text_cfg: float = 7.5,
    image_cfg: float = 1.5,
) -> list[Tensor]:
    """The denoised latents of all steps, the guidance taken apart into text and picture, in predicted noise."""
    found, parts_of = [], {}
    for step, x in enumerate(xs):
        sigma = float(SIGMAS[step])
        full, image_only, null = separate_rows(x, sigma, conditions, step)
        own = torch.stack(full).mean(dim=0)
        if step in whole:
            parts = zip(conditions.prompts, full, strict=True)
            parts_of["text"] = text_cfg * sum((part.weight * (row - image_only) for part, row in parts), 0 * own)
            parts_of["image"] = image_cfg * (image_only - null)
            parts_of["rest"] = null - own
        found.append(x - sigma * (own + sum(parts_of.values())))
    return found


def latents(batch: int = 1) -> list[Tensor]:
    return [noise(batch, 4, 6, 5, seed=step) * float(sigma) for step, sigma in enumerate(SIGMAS[:-1])]


def walk(guidance: DualGuidance, xs: Sequence[Tensor]) -> list[Tensor]:
    return [guidance(x, sigma) for x, sigma in zip(xs, SIGMAS, strict=False)]


def agree(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> None:
    for step, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3, msg=lambda said, step=step: f"step {step}: {said}")


# --- which steps --------------------------------------------------------------------------------------


def test_every_speed_has_its_share() -> None:
    assert tuple(SHARES) == SPEEDS


@pytest.mark.parametrize("speed", WHOLE)
def test_the_whole_steps_of_a_usual_edit(speed: str) -> None:
    assert whole_steps(speed, 20) == WHOLE[speed]


@given(st.integers(1, 150))
def test_whole_steps_reach_from_the_first_to_the_last_and_are_closer_at_the_end(steps: int) -> None:
    counts = []
    for speed in SPEEDS:
        chosen = sorted(whole_steps(speed, steps))
        assert chosen[0] == 0 and chosen[-1] == steps - 1
        gaps = [b - a for a, b in pairwise(chosen)]
        assert all(later <= earlier + 1 for earlier, later in pairwise(gaps))  # up to the rounding of steps
        counts.append(len(chosen))
    assert counts[0] == steps and sorted(counts, reverse=True) == counts
    if steps >= 10:
        assert counts[1] <= 0.5 * steps + 1 and counts[2] <= 0.25 * steps + 1


# --- the numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("speed", WHOLE)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize(("text_cfg", "image_cfg"), [(7.5, 1.5), (3.0, 3.0), (7.5, 1.0), (1.0, 1.5)])
def test_between_whole_steps_the_guided_noise_is_the_full_rows_and_the_cached_guidance(
    speed: str, batch: int, text_cfg: float, image_cfg: float
) -> None:
    xs = latents(batch)
    ours = walk(guided(speed, text_cfg=text_cfg, image_cfg=image_cfg), xs)
    agree(ours, reference(xs, WHOLE[speed], CONDITIONS, text_cfg, image_cfg))
    exact = walk(guided("exact", text_cfg=text_cfg, image_cfg=image_cfg), xs)
    same = {step for step, (a, b) in enumerate(zip(ours, exact, strict=True)) if torch.equal(a, b)}
    assert same == WHOLE[speed]


def test_every_picture_of_a_batch_has_a_guidance_of_its_own() -> None:
    xs, images = latents(2), noise(2, 4, 6, 5, seed=7)
    both = walk(guided("fast", replace(CONDITIONS, image=images)), xs)
    for k in range(2):
        alone = walk(guided("fast", replace(CONDITIONS, image=images[k : k + 1])), [x[k : k + 1] for x in xs])
        agree([x[k : k + 1] for x in both], alone)


def test_with_and_every_full_row_is_evaluated_at_every_step() -> None:
    conditions = GuidanceInputs((prompt(1), prompt(3, 0.6), prompt(4, -0.5)), prompt(2), IMAGE)
    guidance, xs = guided("fast", conditions, 5.0, 1.4), latents()
    agree(walk(guidance, xs), reference(xs, WHOLE["fast"], conditions, 5.0, 1.4))
    assert guidance.rows_evaluated == 5 * 5 + 15 * 3


def test_rescale_looks_at_the_full_row_of_the_step() -> None:
    xs = latents()
    plain = reference(xs, WHOLE["fast"])
    full = [separate_rows(x, level, CONDITIONS, 0)[0][0] for x, level in zip(xs, SIGMAS.tolist(), strict=False)]
    expected = [
        x - level * rescale_noise((x - guided) / level, own, 0.7)
        for x, guided, own, level in zip(xs, plain, full, SIGMAS.tolist(), strict=False)
    ]
    agree(walk(guided("fast", rescale=0.7), xs), expected)


# --- what is evaluated --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text_cfg", "image_cfg", "exact", "balanced", "fast"),
    [(7.5, 1.5, 60, 40, 30), (7.5, 1.0, 40, 30, 25), (1.5, 1.5, 40, 30, 25), (1, 1, 20, 20, 20), (0, 1.5, 40, 40, 40)],
)
def test_rows_that_are_evaluated(text_cfg: float, image_cfg: float, exact: int, balanced: int, fast: int) -> None:
    counted = []
    for speed in SPEEDS:
        guidance = guided(speed, text_cfg=text_cfg, image_cfg=image_cfg)
        walk(guidance, latents())
        counted.append(guidance.rows_evaluated)
    assert counted == [exact, balanced, fast]


@given(st.lists(st.sampled_from([*LEVELS, 5.5, 1.0, 0.04, 20.0]), min_size=1, max_size=30), st.sampled_from(SPEEDS))
def test_every_call_is_evaluated_whole_or_takes_the_guidance_of_the_last_whole_one(
    levels: list[float], speed: str
) -> None:
    """However a sampler asks: levels repeated, out of order, or between those of the schedule."""
    guidance, kept, found_at = guided(speed), None, 0.0
    for level in levels:
        x, before = IMAGE * level, guidance.rows_evaluated
        found = guidance(x, torch.tensor(level))
        (full,), image_only, null = separate_rows(x, level, CONDITIONS, 0)
        if guidance.rows_evaluated - before == 3:
            kept, found_at = 6.5 * full - 6.0 * image_only - 0.5 * null, level
        else:
            assert guidance.rows_evaluated - before == 1 and level <= found_at * 1.001
        assert kept is not None
        torch.testing.assert_close(found, x - level * (full + kept), rtol=1e-4, atol=1e-3)
    if speed == "exact":
        assert guidance.rows_evaluated == 3 * len(levels)


def counts(guidance: DualGuidance, calls: Sequence[tuple[Tensor, float]]) -> list[int]:
    found = []
    for x, level in calls:
        before = guidance.rows_evaluated
        guidance(x, torch.tensor(level))
        found.append(guidance.rows_evaluated - before)
    return found


def test_a_call_at_a_higher_level_or_another_size_is_evaluated_whole() -> None:
    x, small = noise(1, 4, 6, 5), noise(1, 4, 6, 5)[..., :3]
    assert counts(guided("fast"), [(x, 14.6), (x, 10.7), (x, 10.7), (x, 8.1), (x, 10.7)]) == [3, 1, 1, 1, 1]
    assert counts(guided("fast"), [(x, 2.2), (x, 1.9), (x, 2.5), (x, 1.9)]) == [3, 1, 3, 1]
    either = guided("fast")
    assert counts(either, [(x, 14.6), (x, 10.7)]) == [3, 1]
    either.evaluator.given = replace(CONDITIONS, image=IMAGE[..., :3])
    assert counts(either, [(small, 8.1), (small, 6.3)]) == [3, 1]


def test_a_text_that_changes_on_the_way_is_evaluated_whole_at_once() -> None:
    early, late = noise(1, 77, 6, seed=1), noise(1, 77, 6, seed=5) + 1
    for conditions in (
        GuidanceInputs((Prompt(((6, early), (19, late))),), prompt(2), IMAGE),
        GuidanceInputs((prompt(1),), Prompt(((6, early), (19, late))), IMAGE),
    ):
        guidance, xs = guided("fast", conditions), latents()
        agree(walk(guidance, xs), reference(xs, WHOLE["fast"] | {7}, conditions))
        assert guidance.rows_evaluated == 30 + 2


def test_scales_that_change_on_the_way_are_evaluated_whole_at_once() -> None:
    guidance, xs = guided("fast"), latents()
    ours = walk(guidance, xs[:12])
    guidance.scales = [Scales(7.5, 2.0)]
    ours += [guidance(x, sigma) for x, sigma in list(zip(xs, SIGMAS, strict=False))[12:]]
    assert torch.allclose(ours[12], walk(guided("exact", image_cfg=2.0), xs)[12], atol=1e-4)
    assert guidance.rows_evaluated == 30 + 2


# --- pictures of the demo model -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def house() -> Image.Image:
    return Image.open(ROOT / "examples" / "house.png").convert("RGB")


def psnr(a: Image.Image, b: Image.Image) -> float:
    error = np.mean((np.asarray(a, dtype=np.float64) - np.asarray(b)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


WINTER = EditSettings(instruction="make it winter", seed=3)  # at the size the model was made for


def made(model: EditModel, picture: Image.Image, settings: EditSettings, **options) -> tuple[Image.Image, int]:
    (one,) = edit(model, picture, settings, **options)
    return one.image, one.rows


@pytest.mark.parametrize(("steps", "rows"), [(20, (60, 40, 30)), (10, (30, 20, 16))])
def test_the_picture_is_that_of_the_exact_edit(model, house, steps, rows) -> None:
    exact, *others = (made(model, house, replace(WINTER, speed=speed, steps=steps)) for speed in SPEEDS)
    assert (exact[1], *(count for _, count in others)) == rows
    for (picture, _), least in zip(others, (32, 27) if steps == 20 else (28, 21), strict=True):
        assert psnr(picture, exact[0]) > least
        assert psnr(picture, exact[0]) < 90  # and yet another one


@pytest.mark.parametrize("sampler", ["Euler", "DPM++ 2M", "Heun", "DPM2", "DPM++ SDE", "DPM++ 3M SDE", "UniPC", "LCM"])
def test_with_every_sampler(model, house, sampler) -> None:
    settings = replace(WINTER, sampler=sampler, steps=12)
    exact, fast = (made(model, house, replace(settings, speed=speed)) for speed in ("exact", "fast"))
    assert psnr(fast[0], exact[0]) > 20
    assert fast[1] < 0.6 * exact[1]


def test_a_mask_and_a_start_from_the_picture(model, house) -> None:
    mask = Image.new("L", house.size)
    mask.paste(255, (0, 0, house.width // 2, house.height))
    settings = replace(WINTER, denoise=0.7)
    exact, balanced, fast = (made(model, house, replace(settings, speed=speed), mask=mask) for speed in SPEEDS)
    assert psnr(balanced[0], exact[0]) > 35
    assert psnr(fast[0], exact[0]) > 22  # so near to the picture's own noise the guidance changes fast
    assert (exact[1], fast[1]) == (45, 23)  # 15 steps, 4 of them whole
    right = (house.width * 3 // 4, 0, house.width, house.height)
    assert np.array_equal(np.asarray(fast[0].crop(right)), np.asarray(exact[0].crop(right)))
