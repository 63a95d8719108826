"""Keeping the rest: the map against NumPy and SciPy, and what is held of pictures that a plain function edits."""

from __future__ import annotations

import itertools
from typing import Any, cast

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from instruct_pix2pix.guidance.dual import DualGuidance
from instruct_pix2pix.guidance.inputs import GuidanceInputs, Prompt
from instruct_pix2pix.guidance.relevance import SMOOTH, Keeper, Region, grown, inside, map_steps, relevance
from instruct_pix2pix.guidance.rows import Scales
from tests.helpers.analytic_rows import AnalyticRows, noise

STEPS = 10
SIGMAS = torch.linspace(10.0, 0.0, STEPS + 1)


def by_numpy(differences: list[np.ndarray]) -> np.ndarray:
    """Return the map of one picture [h, w] from differences [C, h, w]."""

    def stretched(values: np.ndarray) -> np.ndarray:
        return (values - values.min()) / (values.max() - values.min())

    squares = []
    for difference in differences:
        size = np.abs(difference).sum(0)
        low, high = np.quantile(size, [0.25, 0.75])
        squares.append(stretched(stretched(np.minimum(size, high + 1.5 * (high - low))) ** 2))
    mean = np.mean(squares, axis=0)
    return stretched(ndimage.gaussian_filter(mean, SMOOTH, mode="mirror", truncate=3.75))


def test_the_map_is_the_formula():
    steps = [noise(2, 4, 12, 9, seed=seed).abs() ** 3 for seed in range(4)]
    ours = relevance(steps)
    assert ours.shape == (2, 1, 12, 9)
    for place in range(2):
        expected = by_numpy([step[place].double().numpy() for step in steps])
        np.testing.assert_allclose(ours[place, 0].numpy(), expected, atol=2e-3)


def test_the_map_is_the_same_in_any_unit_and_beside_any_other_picture():
    steps = [noise(3, 4, 8, 8, seed=seed) for seed in range(3)]
    together = relevance(steps)
    alone = relevance([1000 * step[1:2] for step in steps])
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (1, 4, 1, 40), (1, 4, 2, 3), (1, 4, 128, 96)])
def test_every_shape_has_a_finite_map(shape):
    for values in (noise(*shape), torch.zeros(shape), torch.full(shape, 3.0)):
        made = relevance([values, values])
        assert made.isfinite().all() and made.min() >= 0 and made.max() <= 1


def test_a_higher_amount_keeps_more_from_all_to_nothing():
    relevant = torch.linspace(0, 1, 200).view(1, 1, 10, 20)
    shares = [float(inside(relevant, amount).mean()) for amount in (0, 0.25, 0.5, 0.75, 1)]
    assert shares[0] == 1 and shares[-1] == 0
    assert all(more > less for more, less in itertools.pairwise(shares))
    assert float(inside(torch.tensor([[[[0.5]]]]), 0.5)) == pytest.approx(0.5)


def test_the_map_grows_over_what_changes_beside_it_as_scipy_labels_it():
    seed = torch.zeros(1, 1, 14, 14)
    seed[..., 3:5, 3:5] = 1
    change = torch.full((1, 1, 14, 14), 0.01)
    change[..., 2:9, 3:6] = 1.0  # the rest of the thing
    change[..., 11:13, 10:13] = 1.0  # another thing, far away
    made = grown(seed, change)[0, 0] >= 0.5
    labels = np.asarray(cast(Any, ndimage.label((change[0, 0] > 0.5).numpy()))[0])
    thing = labels == labels[3, 3]
    assert made.numpy()[thing].all()
    assert not made.numpy()[labels == labels[12, 11]].any()
    assert made.sum() < thing.sum() + 30  # no more than a seam around it


def test_a_picture_that_is_unclear_all_over_does_not_let_the_map_grow():
    seed = torch.zeros(1, 1, 14, 14)
    seed[..., 3:6, 3:6] = 1
    unclear = 0.5 + 0.1 * noise(1, 1, 14, 14).abs()
    assert torch.equal(grown(seed, unclear), seed)


class Edits(AnalyticRows):
    """A denoiser whose full row paints a square, or everything, and whose other rows give the picture back."""

    def __init__(self, start: Tensor, where: Tensor, value: float = 3.0) -> None:
        super().__init__()
        self.start, self.where, self.value = start, where, value

    def denoised(self, x: Tensor, sigma: Tensor, text: Tensor, image: Tensor) -> Tensor:
        said = (text[:, 0, 0] > 0.5).to(x).view(-1, 1, 1, 1)
        seen = self.start.expand(len(x), -1, -1, -1)
        wobble = 0.02 * noise(*seen.shape, seed=len(self.calls))
        return seen + wobble + said * self.where * self.value


def prompt(value: float) -> Prompt:
    return Prompt(((10**9, torch.full((1, 77, 6), value)),))


def edited(keeper: Keeper | None, model: Edits, image_cfg: float = 1.5, text_cfg: float = 7.5) -> Tensor:
    """Walk down the levels as Euler's method does, and return the latent at the end."""
    given = GuidanceInputs((prompt(1.0),), prompt(0.0), model.start)
    guidance = DualGuidance(model, given, Scales(text_cfg, image_cfg), SIGMAS, watcher=keeper)
    x = noise(*model.start.shape, seed=5) * float(SIGMAS[0])
    for sigma, after in itertools.pairwise(SIGMAS):
        denoised = guidance(x, sigma)
        x = denoised + (x - denoised) * float(after / sigma)
    return x


START = noise(1, 4, 16, 16, seed=2)
SQUARE = torch.zeros(1, 1, 16, 16)
SQUARE[..., 4:10, 5:11] = 1


@pytest.mark.parametrize("automatic", [True, False])
def test_an_edit_of_one_thing_leaves_the_rest_as_it_was(automatic):
    keeper = Keeper(START, STEPS, 0.5, automatic=automatic)
    made, plain = edited(keeper, Edits(START, SQUARE)), edited(None, Edits(START, SQUARE))
    assert keeper.region is not None
    kept = keeper.region.inside == 0
    far = np.asarray(ndimage.binary_dilation(SQUARE[0, 0].numpy() > 0, iterations=3), bool)
    assert kept[0, 0].numpy()[~far].all()
    torch.testing.assert_close(made.expand(1, 4, 16, 16)[kept.expand_as(made)], START[kept.expand_as(START)])
    core = SQUARE.bool().expand_as(made)
    torch.testing.assert_close(made[core], plain[core], atol=0.5, rtol=0)


def test_an_edit_of_the_whole_picture_is_let_go_by_automatic_alone():
    everywhere = torch.ones(1, 1, 16, 16)
    everywhere[..., :2] = 0.5  # not everywhere by the same amount
    automatic, always = (Keeper(START, STEPS, 0.5, automatic=one) for one in (True, False))
    made = edited(automatic, Edits(START, everywhere))
    assert automatic.region is not None and bool((automatic.region.inside == 1).all())
    assert torch.equal(made, edited(None, Edits(START, everywhere)))
    edited(always, Edits(START, everywhere))
    assert always.region is not None


def test_each_picture_of_a_batch_is_decided_by_itself():
    everywhere = torch.ones(1, 1, 16, 16)
    start = START.repeat(2, 1, 1, 1)
    keeper = Keeper(start, STEPS, 0.5, automatic=True)
    where = torch.cat([SQUARE, everywhere]).repeat(3, 1, 1, 1)  # three rows of two pictures
    model = Edits(start.repeat(3, 1, 1, 1), where)
    given = GuidanceInputs((prompt(1.0),), prompt(0.0), start)
    guidance = DualGuidance(model, given, Scales(7.5, 1.5), SIGMAS, watcher=keeper)
    x = noise(2, 4, 16, 16, seed=5) * float(SIGMAS[0])
    for sigma in SIGMAS[:-1]:
        guidance(x, sigma)
    assert keeper.region is not None
    assert float(keeper.region.inside[0].mean()) < 0.6 and float(keeper.region.inside[1].mean()) == 1


def test_the_map_costs_no_row_where_the_image_only_row_has_a_weight():
    kept, plain = Edits(START, SQUARE), Edits(START, SQUARE)
    edited(Keeper(START, STEPS, 0.5, automatic=True), kept)
    edited(None, plain)
    assert kept.calls == plain.calls


def test_where_that_row_has_no_weight_it_is_looked_at_in_the_first_steps_alone():
    kept = Edits(START, SQUARE)
    keeper = Keeper(START, STEPS, 0.5, automatic=True)
    edited(keeper, kept, image_cfg=7.5)
    assert kept.calls == [3] * map_steps(STEPS) + [2] * (STEPS - map_steps(STEPS))
    assert keeper.region is not None


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_few_steps_have_a_map_too(steps):
    keeper = Keeper(START, steps, 0.5, automatic=True)
    given = GuidanceInputs((prompt(1.0),), prompt(0.0), START)
    guidance = DualGuidance(
        Edits(START, SQUARE), given, Scales(7.5, 1.5), torch.linspace(10.0, 0.0, steps + 1), watcher=keeper
    )
    for sigma in torch.linspace(10.0, 0.0, steps + 1)[:-1]:
        guidance(noise(1, 4, 16, 16), sigma)
    assert keeper.region is not None and 0 < float(keeper.region.inside.mean()) < 1


def test_a_rest_that_a_mask_keeps_anyway_does_not_count():
    """Half the picture is masked off: an edit of all the other half is an edit of the whole."""
    half = torch.ones(1, 1, 16, 16)
    half[..., 8:] = 0
    part = half.clone()
    part[..., :3] = 0.4
    keeper = Keeper(START, STEPS, 0.5, automatic=True, free=half)
    edited(keeper, Edits(START, part, 1.0))
    assert keeper.region is not None and bool((keeper.region.inside == 1).all())


def test_frames_share_the_union_of_their_regions_and_the_whole_by_majority():
    parts = torch.zeros(3, 1, 8, 8)
    parts[0, :, 1:3], parts[1, :, 5:7] = 1, 1
    parts[2] = 1  # one frame of three is changed all over
    shared = Region(parts / 2, parts).shared()
    assert shared.inside.shape == shared.map.shape == (1, 1, 8, 8)
    assert torch.equal(shared.inside[0], torch.maximum(parts[0], parts[1]))
    parts[1] = 1
    assert bool((Region(parts, parts).shared().inside == 1).all())


def test_a_region_that_is_known_is_held_from_the_first_step_on():
    region = Region(SQUARE, SQUARE)
    keeper, model = Keeper(START, STEPS, 0.5, automatic=True, region=region), Edits(START, SQUARE)
    given = GuidanceInputs((prompt(1.0),), prompt(0.0), START)
    guidance = DualGuidance(model, given, Scales(7.5, 7.5), SIGMAS, watcher=keeper)
    made = guidance(noise(1, 4, 16, 16) * 10, SIGMAS[0])
    outside = (SQUARE == 0).expand_as(made)
    torch.testing.assert_close(made[outside], START[outside])
    assert model.calls == [2] and keeper.region is region
