"""The dual guidance against three separate model calls, written as the paper writes it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from instruct_pix2pix.guidance.apg import Projection
from instruct_pix2pix.guidance.dual import DualGuidance
from instruct_pix2pix.guidance.inputs import GuidanceInputs, Prompt, join_prompts
from instruct_pix2pix.guidance.rows import Row, Scales, rows, same_length
from tests.helpers.analytic_rows import AnalyticRows, noise
from tools.reference_networks import random_model

SIGMAS = torch.tensor([14.6, 7.7, 3.1, 1.0, 0.2, 0.0])


def prompt(seed: int, weight: float = 1.0, length: int = 77) -> Prompt:
    return Prompt(((10**9, noise(1, length, 6, seed=seed) + 0.1 * seed),), weight)


IMAGE = noise(1, 4, 6, 5, seed=9)
CONDITIONS = GuidanceInputs((prompt(1),), prompt(2), IMAGE)


def by_the_paper(model, x: Tensor, sigma: float, given: GuidanceInputs, text_cfg: float, image_cfg: float) -> Tensor:
    """Return eq. 3 of arXiv 2211.09800 from separate calls; with AND, each part pulls away from the same i."""
    ones, image = x.new_ones(len(x)), given.image.expand(len(x), -1, -1, -1)

    def call(text: Tensor, picture: Tensor) -> Tensor:
        condition = model.condition(text.expand(len(x), -1, -1))
        return model(x, ones * sigma, condition, picture, range(len(x)))

    u = call(given.negative.at(0), torch.zeros_like(image))
    i = call(given.negative.at(0), image)
    pulls = [(part.weight, call(part.at(0), image) - i) for part in given.prompts]
    return u + image_cfg * (i - u) + text_cfg * sum(weight * pull for weight, pull in pulls)


def guided(conditions: GuidanceInputs, text_cfg: float, image_cfg: float, **options) -> DualGuidance:
    return DualGuidance(AnalyticRows(), conditions, Scales(text_cfg, image_cfg), SIGMAS, **options)


@pytest.mark.parametrize(
    ("text_cfg", "image_cfg"), [(7.5, 1.5), (7.5, 1.0), (1.5, 1.5), (1, 1), (0, 1.2), (3, 0), (30, 5), (1, 0.5)]
)
@pytest.mark.parametrize("batch", [1, 3])
def test_it_is_the_formula_of_the_paper(text_cfg, image_cfg, batch):
    x = noise(batch, 4, 6, 5)
    ours = guided(CONDITIONS, text_cfg, image_cfg)(x, torch.tensor(3.1).expand(batch))
    theirs = by_the_paper(AnalyticRows(), x, 3.1, CONDITIONS, text_cfg, image_cfg)
    assert torch.allclose(ours, theirs, atol=1e-5 * max(1.0, text_cfg), rtol=1e-5)


@pytest.mark.parametrize(("text_cfg", "image_cfg"), [(5.0, 1.25), (7.5, 0.5), (0.5, 1.5), (1, 1)])
@pytest.mark.parametrize("batch", [1, 2])
def test_the_guidance_of_instructdiffusion_is_that_of_its_authors(text_cfg, image_cfg, batch):
    """The sum in edit_cli.py of cientgu/InstructDiffusion, from three separate calls."""
    x, sigma = noise(batch, 4, 6, 5), torch.full([batch], 3.1)
    model, image = AnalyticRows(), IMAGE.expand(batch, -1, -1, -1)

    def call(text: Tensor, picture: Tensor) -> Tensor:
        return model(x, sigma, model.condition(text.expand(batch, -1, -1)), picture, range(batch))

    words, empty = CONDITIONS.prompts[0].at(0), CONDITIONS.negative.at(0)
    full, of_image, of_text = call(words, image), call(empty, image), call(words, torch.zeros_like(image))
    theirs = 0.5 * (of_image + of_text) + text_cfg * (full - of_image) + image_cfg * (full - of_text)
    ours = guided(CONDITIONS, text_cfg, image_cfg, formula="instruct-diffusion")
    assert torch.allclose(ours(x, torch.tensor(3.1)), theirs, atol=1e-4)
    assert ours.rows_evaluated == 3 - (text_cfg == 0.5) - (image_cfg == 0.5)


def test_with_and_every_part_pulls_by_its_weight():
    conditions = GuidanceInputs((prompt(1), prompt(3, 0.6), prompt(4, -0.5)), prompt(2), IMAGE)
    x = noise(2, 4, 6, 5)
    theirs = by_the_paper(AnalyticRows(), x, 1.0, conditions, 5.0, 1.4)
    assert torch.allclose(guided(conditions, 5.0, 1.4)(x, torch.tensor(1.0)), theirs, atol=1e-4)


def test_every_picture_of_a_batch_may_have_its_own_input():
    images = noise(2, 4, 6, 5, seed=7)
    x = noise(2, 4, 6, 5)
    together = guided(GuidanceInputs((prompt(1),), prompt(2), images), 7.5, 1.5)(x, torch.tensor(1.0))
    for k in range(2):
        alone = guided(GuidanceInputs((prompt(1),), prompt(2), images[k : k + 1]), 7.5, 1.5)
        assert torch.allclose(together[k : k + 1], alone(x[k : k + 1], torch.tensor(1.0)), atol=1e-5)


@pytest.mark.parametrize(
    ("text_cfg", "image_cfg", "weights", "count"),
    [
        (7.5, 1.5, (1.0,), 3),
        (7.5, 1.0, (1.0,), 2),
        (1.5, 1.5, (1.0,), 2),
        (1.0, 1.0, (1.0,), 1),
        (0.0, 1.5, (1.0,), 2),
        (0.0, 1.0, (1.0,), 1),
        (0.0, 0.0, (1.0,), 1),
        (7.5, 1.5, (1.0, 1.0), 4),
        (7.5, 1.5, (1.0, 0.0), 3),
        (3.0, 1.5, (0.25, 0.25), 3),
    ],
)
def test_a_row_of_weight_zero_is_not_evaluated(text_cfg, image_cfg, weights, count):
    conditions = GuidanceInputs(tuple(prompt(k + 3, weight) for k, weight in enumerate(weights)), prompt(2), IMAGE)
    guidance = guided(conditions, text_cfg, image_cfg)
    guidance(noise(2, 4, 6, 5), torch.tensor(1.0))
    guidance(noise(2, 4, 6, 5), torch.tensor(0.2))
    assert guidance.evaluator.model.calls == [2 * count, 2 * count]  # pyright: ignore[reportAttributeAccessIssue]
    assert guidance.rows_evaluated == 2 * count  # of one picture, over two evaluations


scale = st.floats(0, 30, allow_nan=False)


@given(scale, scale, st.lists(st.floats(-3, 3, allow_nan=False), min_size=1, max_size=5))
def test_the_weights_add_up_to_one(text_cfg, image_cfg, weights):
    found = rows(Scales(text_cfg, image_cfg), weights)
    assert found and all(row.weight != 0 for row in found)
    assert math.fsum(row.weight for row in found) == pytest.approx(1, abs=1e-9)
    assert [row for row in found if row.prompt is None] == found[len(found) - sum(r.prompt is None for r in found) :]


@given(scale, scale)
def test_a_model_that_heeds_no_condition_is_left_as_it_is(text_cfg, image_cfg):
    conditions = GuidanceInputs((prompt(1),), prompt(1), torch.zeros(1, 4, 2, 2))
    x = noise(1, 4, 2, 2)
    ours = guided(conditions, text_cfg, image_cfg)(x, torch.tensor(1.0))
    plain = AnalyticRows()(x, torch.ones(1), conditions.negative.at(0), conditions.image, range(1))
    assert torch.allclose(ours, plain, atol=1e-4)


def test_the_rows_are_named_by_what_they_are_shown():
    assert rows(Scales(7.5, 1.5)) == [Row(0, True, 7.5), Row(None, True, -6.0), Row(None, False, -0.5)]


# --- rescale ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("sigma", [14.6, 1.0])
def test_rescale_is_that_of_diffusers(amount, sigma):
    pytest.importorskip("diffusers")
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg

    x = noise(2, 4, 6, 5) * sigma
    level = torch.tensor(sigma)
    model, ones = AnalyticRows(), torch.ones(2)
    # diffusers speaks of the predicted noise, (x - denoised) / sigma
    full = model(x, ones * sigma, prompt(1).at(0).expand(2, -1, -1), IMAGE.expand(2, -1, -1, -1), (0, 1))
    plain = guided(CONDITIONS, 7.5, 1.5)(x, level)
    theirs = x - sigma * rescale_noise_cfg((x - plain) / sigma, (x - full) / sigma, guidance_rescale=amount)
    ours = guided(CONDITIONS, 7.5, 1.5, rescale=amount)(x, level)
    assert torch.allclose(ours, theirs, atol=1e-4)
    assert not torch.allclose(ours, plain, atol=1e-2)


def test_rescale_without_an_instruction_row_changes_nothing():
    x, sigma = noise(1, 4, 6, 5), torch.tensor(1.0)
    assert torch.equal(guided(CONDITIONS, 0, 1.5, rescale=0.7)(x, sigma), guided(CONDITIONS, 0, 1.5)(x, sigma))


# --- steps --------------------------------------------------------------------------------------------


def test_a_step_is_known_from_its_sigma():
    guidance = guided(CONDITIONS, 7.5, 1.5)
    assert [guidance.step_of(sigma) for sigma in SIGMAS[:-1].tolist()] == [0, 1, 2, 3, 4]
    assert [guidance.step_of(float(sigma.double())) for sigma in SIGMAS[:-1]] == [0, 1, 2, 3, 4]
    assert guidance.step_of(5.0) == 1  # a second evaluation, between two levels, belongs to the step it is of
    assert guidance.step_of(100.0) == 0 and guidance.step_of(1e-9) == 4


def test_a_scheduled_prompt_changes_after_its_step():
    early, late = noise(1, 77, 6, seed=1), noise(1, 77, 6, seed=5) + 1
    scheduled = GuidanceInputs((Prompt(((1, early), (4, late))),), prompt(2), IMAGE)
    guidance = guided(scheduled, 7.5, 1.5)
    x = noise(1, 4, 6, 5)
    for step, sigma in enumerate(SIGMAS[:-1]):
        now = Prompt(((0, early if step <= 1 else late),))
        plain = by_the_paper(AnalyticRows(), x, float(sigma), GuidanceInputs((now,), prompt(2), IMAGE), 7.5, 1.5)
        assert torch.allclose(guidance(x, sigma), plain, atol=1e-4), step


def test_rows_that_differ_in_text_alone_are_known_to_be_the_same_until_then():
    for count, conditions, different in (
        (1, CONDITIONS, 2),
        (3, CONDITIONS, 6),
        (2, GuidanceInputs((prompt(1), prompt(3, 0.5)), prompt(2), IMAGE), 4),
        (2, GuidanceInputs((prompt(1),), prompt(2), noise(2, 4, 6, 5, seed=8)), 4),
    ):
        model = AnalyticRows()
        DualGuidance(model, conditions, Scales(7.5, 1.5), SIGMAS)(noise(count, 4, 6, 5), SIGMAS[0])
        assert model.different == [different]


def test_what_the_model_makes_of_texts_is_made_once_for_all_steps_with_the_same_rows():
    early, late = noise(1, 77, 6, seed=1), noise(1, 77, 6, seed=2)
    for inputs, made in (
        (CONDITIONS, 1),
        (GuidanceInputs((Prompt(((1, early), (9, late))),), prompt(2), IMAGE), 2),
        (GuidanceInputs((Prompt(((1, early), (9, early.clone()))),), prompt(2), IMAGE), 2),
    ):
        model = AnalyticRows()
        guidance = DualGuidance(model, inputs, Scales(7.5, 1.5), SIGMAS)
        for sigma in SIGMAS[:-1]:
            guidance(noise(2, 4, 6, 5), sigma)
        assert len(model.conditions) == made


# --- texts of different length ------------------------------------------------------------------------


def test_a_row_keeps_its_value_beside_a_longer_text():
    """Through real attention: 77 tokens said three times beside 231 are still the 77 tokens."""
    model = random_model()
    conditions = GuidanceInputs(
        (Prompt(((9, noise(1, 154, 24, seed=1)),)), Prompt(((9, noise(1, 231, 24, seed=2)),), 0.5)),
        Prompt(((9, noise(1, 77, 24, seed=3)),)),
        noise(1, 4, 8, 8, seed=4),
    )
    x = noise(1, 4, 8, 8)
    ours = DualGuidance(model, conditions, Scales(4.0, 1.5), SIGMAS)(x, torch.tensor(1.0))
    theirs = by_the_paper(model, x, 1.0, conditions, 4.0, 1.5)
    assert torch.allclose(ours, theirs, atol=1e-4)


@given(st.lists(st.integers(1, 6), min_size=1, max_size=4))
def test_texts_are_repeated_whole_to_one_length(chunks):
    texts = [noise(1, n * 7, 2, seed=n) for n in chunks]
    longer = same_length(texts)
    assert len({text.shape for text in longer}) == 1
    for text, long in zip(texts, longer, strict=True):
        assert all(torch.equal(part, text) for part in long.split(text.shape[1], dim=1))


def test_prompts_of_a_batch_keep_their_own_schedules_and_lengths() -> None:
    short, long = torch.randn(1, 2, 4), torch.randn(1, 6, 4)
    first = Prompt(((3, short), (9, short + 1)), 0.5)
    second = Prompt(((1, long), (5, long + 1), (9, long + 2)), 0.5)
    joined = join_prompts([first, second])
    assert joined.weight == 0.5
    for step in range(12):
        both = joined.at(step)
        assert torch.equal(both[0], first.at(step).repeat(1, both.shape[1] // 2, 1)[0])
        assert torch.equal(both[1], second.at(step)[0])


def test_prompts_of_different_weights_do_not_share_a_batch() -> None:
    text = torch.zeros(1, 2, 4)
    with pytest.raises(ValueError):
        join_prompts([Prompt(((9, text),), 1.0), Prompt(((9, text),), 0.5)])


# --- pictures of scales of their own ------------------------------------------------------------------


class ExactRows(AnalyticRows):
    """The same in float64."""

    def denoised(self, x: Tensor, sigma: Tensor, text: Tensor, image: Tensor) -> Tensor:
        return super().denoised(x.double(), sigma.double(), text.double(), image.double())


EACH = [Scales(7.5, 1.5), Scales(3.0, 1.0), Scales(1.5, 1.5), Scales(12.0, 2.0), Scales(1.0, 1.0)]
"""They need 3, 2, 2, 3 and 1 rows."""


@pytest.mark.parametrize("together", [None, 1, 2, 3])
@pytest.mark.parametrize("formula", ["instruct-pix2pix", "instruct-diffusion"])
def test_each_picture_of_a_batch_has_its_own_scales(together, formula):
    """Against separate calls in float64."""
    conditions = GuidanceInputs((prompt(1), prompt(3, 0.6)), prompt(2), noise(5, 4, 6, 5, seed=7).double())
    x = noise(5, 4, 6, 5).double()
    made = DualGuidance(ExactRows(), conditions, EACH, SIGMAS, formula=formula, together=together)(x, SIGMAS[2])
    for k, each in enumerate(EACH):
        own = GuidanceInputs(conditions.prompts, conditions.negative, conditions.image[k : k + 1])
        if formula == "instruct-pix2pix":
            theirs = by_the_paper(ExactRows(), x[k : k + 1], float(SIGMAS[2]), own, each.text, each.image)
        else:  # which is held to its authors' sum above
            theirs = DualGuidance(ExactRows(), own, each, SIGMAS, formula=formula)(x[k : k + 1], SIGMAS[2])
        torch.testing.assert_close(made[k : k + 1], theirs, atol=1e-9, rtol=0)


def test_each_picture_is_asked_only_for_the_rows_that_it_needs():
    model = AnalyticRows()
    guidance = DualGuidance(model, CONDITIONS, EACH, SIGMAS)
    guidance(noise(5, 4, 6, 5), SIGMAS[0])
    assert sum(model.calls) == 3 + 2 + 2 + 3 + 1
    assert [guidance.rows_of(k) for k in range(5)] == [3, 2, 2, 3, 1]
    assert guidance.rows_in_all == 11


def test_pictures_of_equal_scales_give_the_bits_of_one_pair_for_all():
    x = noise(3, 4, 6, 5)
    one = DualGuidance(AnalyticRows(), CONDITIONS, Scales(7.5, 1.5), SIGMAS)(x, SIGMAS[1])
    assert torch.equal(DualGuidance(AnalyticRows(), CONDITIONS, [Scales(7.5, 1.5)] * 3, SIGMAS)(x, SIGMAS[1]), one)


@pytest.mark.parametrize("options", [{"rescale": 0.7}, {"speed": "fast"}, {"projection": Projection(0.0, 15.0, -0.5)}])
def test_what_follows_the_sum_is_done_to_each_picture_by_its_own_scales(options):
    together = DualGuidance(AnalyticRows(), CONDITIONS, EACH, SIGMAS, **options)
    alone = [DualGuidance(AnalyticRows(), CONDITIONS, each, SIGMAS, **options) for each in EACH]
    for step, sigma in enumerate(SIGMAS[:-1]):
        x = noise(5, 4, 6, 5, seed=step) * sigma
        made = together(x, sigma)
        for k, guidance in enumerate(alone):
            torch.testing.assert_close(made[k : k + 1], guidance(x[k : k + 1], sigma), atol=1e-4, rtol=1e-4)
    assert [together.rows_of(k) for k in range(5)] == [guidance.rows_evaluated for guidance in alone]


def test_pictures_that_begin_alike_share_the_rows_of_the_first_call():
    model = AnalyticRows()
    guidance = DualGuidance(model, CONDITIONS, EACH, SIGMAS, leaders=[0, 0, 2, 0, 2])
    x = noise(2, 4, 6, 5)[[0, 0, 1, 0, 1]]
    made = guidance(x, SIGMAS[0])
    assert sum(model.calls) == 3 + 2 and guidance.rows_in_all == 5  # the second pair have no null row
    for k, each in enumerate(EACH):
        alone = DualGuidance(AnalyticRows(), CONDITIONS, each, SIGMAS)(x[k : k + 1], SIGMAS[0])
        torch.testing.assert_close(made[k : k + 1], alone, atol=1e-5, rtol=1e-5)
    guidance(noise(5, 4, 6, 5), SIGMAS[1])
    assert sum(model.calls) == 5 + 11


def test_pictures_that_are_given_up_cost_nothing_and_stay_as_they_were():
    model = AnalyticRows()
    guidance = DualGuidance(model, CONDITIONS, EACH, SIGMAS, rescale=0.5, projection=Projection(0.0, 15.0))
    before = guidance(noise(5, 4, 6, 5), SIGMAS[0])
    guidance.give_up([0, 3])
    after = guidance(noise(5, 4, 6, 5, seed=1), SIGMAS[1])
    assert sum(model.calls) == 11 + 5
    assert torch.equal(after[[0, 3]], before[[0, 3]]) and not torch.equal(after[1], before[1])
    alone = DualGuidance(AnalyticRows(), CONDITIONS, EACH[1], SIGMAS, rescale=0.5, projection=Projection(0.0, 15.0))
    torch.testing.assert_close(after[1:2], alone(noise(5, 4, 6, 5, seed=1)[1:2], SIGMAS[1]), atol=1e-4, rtol=1e-4)


def test_between_the_calls_of_a_step_its_share_is_told():
    told: list[float] = []
    DualGuidance(AnalyticRows(), CONDITIONS, [EACH[0]] * 4, SIGMAS, together=1, between=told.append)(
        noise(4, 4, 6, 5), SIGMAS[0]
    )
    assert told == [0.25, 0.5, 0.75]


def test_what_the_model_makes_of_a_text_for_all_is_made_once_for_calls_of_one_form():
    model = AnalyticRows()
    guidance = DualGuidance(model, CONDITIONS, [EACH[0]] * 6 + [EACH[1]] * 2, SIGMAS, together=2)
    for sigma in SIGMAS[:-1]:
        guidance(noise(8, 4, 6, 5), sigma)
    assert len(model.calls) == 4 * 5 and len(model.conditions) == 2
