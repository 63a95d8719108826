"""Deep features that serve twice: what is evaluated, when, and that it makes no difference who is beside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from instruct_pix2pix.engine.edit import edit
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.precision import choose_machine
from instruct_pix2pix.guidance.cached import whole_steps
from instruct_pix2pix.guidance.deep import DeepFeatures
from instruct_pix2pix.settings import EditSettings
from tools.browser import EXAMPLES
from tools.reference_networks import random_model

WINTER = EditSettings(instruction="make it winter", seed=3, speed="fast")


@pytest.fixture(scope="module")
def model() -> EditModel:
    return EditModel.load("demo", choose_machine("cpu", "fp32"))


@pytest.fixture(scope="module")
def house() -> Image.Image:
    return Image.open(EXAMPLES / "house.png").convert("RGB")


@contextmanager
def evaluated(model: EditModel) -> Iterator[tuple[list[int], list[int]]]:
    """Count the rows of each call of the UNet's innermost block, and of its last."""
    inner: list[int] = []
    outer: list[int] = []
    hooks = [
        block.register_forward_hook(lambda _, __, out, rows=rows: rows.append(len(out)))
        for block, rows in ((model.unet.middle_block, inner), (model.unet.output_blocks[-1], outer))
    ]
    yield inner, outer
    for hook in hooks:
        hook.remove()


def made(model: EditModel, picture: Image.Image, settings: EditSettings) -> list[np.ndarray]:
    return [np.asarray(one.image).astype(int) for one in edit(model, picture, settings)]


@pytest.mark.parametrize("entries", [None, [0, 0, 1]])
def test_above_deep_features_lies_what_the_last_block_makes_of_them(entries: Sequence[int] | None) -> None:
    unet = random_model().unet
    x, other = torch.randn(2, 3 if entries is None else 2, 8, 12, 12)
    texts = torch.randn(3, 7, unet.config.context_dim)
    early, late = torch.tensor([700.0]), torch.tensor([650.0])
    with torch.inference_mode():
        asked = DeepFeatures()
        assert torch.equal(unet(x, early, texts, entries, asked), unet(x, early, texts, entries))
        assert asked.rows is not None and len(asked.rows) == 3
        found = unet(other, late, texts, entries, DeepFeatures(asked.rows))
        # the same by other means: a network evaluated whole, in which what comes up is exchanged
        hook = unet.output_blocks[-2].register_forward_hook(lambda *_: asked.rows)
        expected = unet(other, late, texts, entries)
        hook.remove()
        whole = unet(other, late, texts, entries)
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found, whole, atol=1e-3)


@pytest.mark.parametrize("steps", [20, 10, 3])
def test_every_other_step_of_one_row_evaluates_the_last_block_alone(
    model: EditModel, house: Image.Image, steps: int
) -> None:
    with evaluated(model) as (inner, outer):
        made(model, house, replace(WINTER, steps=steps))
    whole = whole_steps("fast", steps)
    expected, served = [], False
    for step in range(steps):
        served = step not in whole and not served
        expected += [] if served else [3 if step in whole else 1]
    assert inner == expected
    assert outer == [3 if step in whole else 1 for step in range(steps)]


@pytest.mark.parametrize(
    "changes",
    [
        {"speed": "exact"},
        {"speed": "balanced"},
        {"sampler": "LCM", "steps": 4, "text_cfg": 1, "image_cfg": 1},
        {"steps": 2},
    ],
    ids=str,
)
def test_other_edits_evaluate_all_layers_at_every_step(
    model: EditModel, house: Image.Image, changes: dict
) -> None:
    with evaluated(model) as (inner, outer):
        made(model, house, replace(WINTER, **{"steps": 8, **changes}))
    assert inner == outer


def test_a_picture_is_the_same_alone_in_a_batch_and_where_memory_is_short(
    model: EditModel, house: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(WINTER, instruction="make it winter AND make it night", steps=12, count=3, batch_size=3)
    batch = made(model, house, settings)
    alone = [made(model, house, replace(settings, seed=seed, count=1))[0] for seed in (3, 4, 5)]
    assert max(np.abs(one - other).max() for one, other in zip(batch, alone, strict=True)) <= 1
    monkeypatch.setattr(EditModel, "is_room_for_rows", lambda self, count, x: count == 1)
    with evaluated(model) as (inner, outer):
        short = made(model, house, settings)
    assert {*inner, *outer} == {1} and len(inner) < len(outer)
    assert max(np.abs(one - other).max() for one, other in zip(batch, short, strict=True)) <= 1
