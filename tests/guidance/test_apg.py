"""Adaptive projected guidance against diffusers' own for two rows, and at its neutral values against the plain sum."""

from __future__ import annotations

import pytest
import torch
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance

from instruct_pix2pix.guidance.apg import ProjectedGuidance, Projection
from instruct_pix2pix.guidance.dual import DualGuidance
from instruct_pix2pix.guidance.inputs import GuidanceInputs, Prompt
from instruct_pix2pix.guidance.rows import Scales
from tools.reference_networks import random_model


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    "projection",
    [Projection(0.0), Projection(0.3, 15.0), Projection(1.0, 2.0, -0.5), Projection(0.0, 5.0, 0.4)],
)
def test_with_two_rows_it_is_diffusers_over_several_steps(projection):
    ours, theirs = ProjectedGuidance(projection), MomentumBuffer(projection.momentum)
    for step in range(4):
        full, rest = noise(3, 4, 8, 6, seed=step), noise(3, 4, 8, 6, seed=step + 100)
        expected = normalized_guidance(
            full,
            rest,
            7.5 - 1,  # their original formulation is full + (scale - 1) * D
            theirs,
            projection.eta,
            projection.threshold,
            use_original_formulation=True,
        )
        torch.testing.assert_close(ours(rest + 7.5 * (full - rest), full, 7.5), expected, rtol=1e-4, atol=1e-4)


def test_three_rows_are_the_formula_of_three_rows():
    """D = full + ((s_I - s_T) image_only + (1 - s_I) null) / (s_T - 1), written out row by row."""
    full, image_only, null = (noise(1, 4, 6, 5, seed=seed) for seed in range(3))
    text, image, eta, most = 9.0, 1.4, 0.25, 8.0
    pull = full + ((image - text) * image_only + (1 - image) * null) / (text - 1)
    pull = pull * min(1.0, most / float(pull.norm()))
    pull = pull + (eta - 1) * float((full * pull).sum() / (full * full).sum()) * full
    guided = text * full + (image - text) * image_only + (1 - image) * null
    ours = ProjectedGuidance(Projection(eta, most))(guided, full, text)
    torch.testing.assert_close(ours, full + (text - 1) * pull, rtol=1e-4, atol=1e-4)


def test_a_model_s_guidance_is_the_plain_sum_at_the_neutral_values_and_another_at_others():
    model = random_model()
    image, texts = noise(1, 4, 8, 8), [noise(1, 77, model.config.text.width, seed=seed) for seed in (1, 2)]
    given = GuidanceInputs((Prompt(((10**9, texts[0]),)),), Prompt(((10**9, texts[1]),)), image)
    sigmas, x = torch.tensor([3.0, 0.0]), noise(2, 4, 8, 8, seed=4)

    def guided(projection: Projection | None) -> torch.Tensor:
        return DualGuidance(model, given, Scales(7.5, 1.5), sigmas, projection=projection)(x, sigmas[0])

    assert torch.equal(guided(Projection()), guided(None))
    nearly = Projection(1.0, 1e9, 0.0)  # the formula runs, and changes nothing
    torch.testing.assert_close(guided(nearly), guided(None), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(guided(Projection(0.0)), guided(None), atol=1e-2)


def test_a_threshold_bounds_what_is_added_to_each_picture_of_a_batch_by_itself():
    full, guided = noise(2, 4, 8, 8), noise(2, 4, 8, 8, seed=1) * torch.tensor([0.1, 100.0]).view(2, 1, 1, 1)
    added = ProjectedGuidance(Projection(threshold=15.0))(guided, full, 7.5) - full
    assert added[1].norm() == pytest.approx(15.0 * 6.5, rel=1e-4)
    torch.testing.assert_close(added[0] + full[0], guided[0], rtol=1e-4, atol=1e-4)
