"""The masked text term against the formula of Focus on Your Instruction, from separate model calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from instruct_pix2pix.guidance.dual import DualGuidance
from instruct_pix2pix.guidance.focus import Focus
from instruct_pix2pix.guidance.inputs import GuidanceInputs, Prompt
from instruct_pix2pix.guidance.relevance import inside, relevance
from instruct_pix2pix.guidance.rows import Scales
from tests.helpers.analytic_rows import AnalyticRows, noise

SIGMAS = torch.tensor([14.6, 7.7, 3.1, 1.0, 0.2, 0.0])
IMAGE = noise(1, 4, 6, 5, seed=9)
TEXTS = noise(1, 7, 6, seed=1) + 0.1, noise(1, 7, 6, seed=2)
GIVEN = GuidanceInputs((Prompt(((10**9, TEXTS[0]),)),), Prompt(((10**9, TEXTS[1]),)), IMAGE)
MASK = (torch.arange(5) > 2).float().expand(1, 1, 6, 5)


def three_rows(x: Tensor, sigma: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the rows c, i and u of the paper, each from a call of its own."""
    level, picture = torch.full([len(x)], sigma), IMAGE.expand(len(x), -1, -1, -1)
    return tuple(  # pyright: ignore[reportReturnType]
        AnalyticRows()(x, level, text.expand(len(x), -1, -1), image, range(len(x)))
        for text, image in ((TEXTS[0], picture), (TEXTS[1], picture), (TEXTS[1], torch.zeros_like(picture)))
    )


def guided(model: AnalyticRows, text: float, image: float, focus: Focus, **options: Any) -> DualGuidance:
    return DualGuidance(model, GIVEN, Scales(text, image), SIGMAS, focus=focus, **options)


@pytest.mark.parametrize(("text", "image", "rows"), [(7.5, 1.5, 3), (7.5, 1.0, 2), (1.5, 1.5, 3), (1.0, 1.0, 2)])
@pytest.mark.parametrize("batch", [1, 3])
def test_with_a_mask_it_is_the_formula_of_its_paper(text, image, rows, batch):
    x, model = noise(batch, 4, 6, 5), AnalyticRows()
    c, i, u = three_rows(x, 3.1)
    expected = u + image * (i - u) + text * MASK * (c - i)
    made = guided(model, text, image, Focus(5, mask=MASK))(x, torch.tensor(3.1))
    torch.testing.assert_close(made, expected, atol=1e-5 * text, rtol=1e-5)
    assert model.calls == [rows * batch]


def test_a_mask_that_is_white_everywhere_changes_nothing():
    x = noise(2, 4, 6, 5)
    plain = DualGuidance(AnalyticRows(), GIVEN, Scales(7.5, 1.5), SIGMAS)(x, torch.tensor(3.1))
    white = guided(AnalyticRows(), 7.5, 1.5, Focus(5, mask=MASK * 0 + 1))
    torch.testing.assert_close(white(x, torch.tensor(3.1)), plain)


def test_a_mask_is_found_in_the_first_step_and_acts_in_the_others():
    model = AnalyticRows()
    denoiser = guided(model, 7.5, 1.5, Focus(5, amount=0.5))
    xs = [noise(1, 4, 6, 5, seed=step) * level for step, level in enumerate(SIGMAS[:-1].tolist())]
    c, i, u = three_rows(xs[0], float(SIGMAS[0]))
    mask = inside(relevance([c - i]), 0.5)
    assert 0 < float(mask.mean()) < 1
    torch.testing.assert_close(denoiser(xs[0], SIGMAS[0]), u + 1.5 * (i - u) + 7.5 * (c - i), atol=1e-4, rtol=1e-4)
    for x, sigma in zip(xs[1:], SIGMAS[1:-1], strict=True):
        c, i, u = three_rows(x, float(sigma))
        expected = u + 1.5 * (i - u) + 7.5 * mask * (c - i)
        torch.testing.assert_close(denoiser(x, sigma), expected, atol=1e-4, rtol=1e-4)


def test_with_a_speed_nothing_from_before_the_mask_is_used_after_it():
    """The second step of a fast sampling would take what the first one found, where no mask was known yet."""
    sigmas = torch.cat([torch.linspace(14, 1, 20), torch.zeros(1)])
    counts = {}
    for focus in (None, Focus(20)):
        model = AnalyticRows()
        denoiser = DualGuidance(model, GIVEN, Scales(7.5, 1.5), sigmas, focus=focus, speed="fast")
        for sigma in sigmas[:-1]:
            denoiser(noise(1, 4, 6, 5) * sigma, sigma)
        counts[focus is None] = model.calls
    assert counts[True].count(3) < 20
    first = next(step for step in range(4, 20) if counts[False][step] == 3)
    assert first == 4  # the map is made of the steps 0 to 3
