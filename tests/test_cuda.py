"""On a CUDA GPU: the same edits as on the processor, and nothing changed by what is recorded there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from instruct_pix2pix.app.library import DEMO
from instruct_pix2pix.engine import model as model_module
from instruct_pix2pix.engine.edit import edit
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.norms import group_norm, norm_silu
from instruct_pix2pix.engine.precision import Machine
from instruct_pix2pix.settings import EditSettings
from tools.demo_model import world

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

SETTINGS = EditSettings(instruction="make it winter", seed=3, steps=8)


def load(device: str, dtype: torch.dtype = torch.float32) -> EditModel:
    return EditModel.load(DEMO, Machine(torch.device(device), dtype))


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.asarray(world.draw(world.scene(900_000)), dtype=np.uint8))


def pixels(model: EditModel, picture: Image.Image, settings: EditSettings) -> np.ndarray:
    return np.stack([np.asarray(one.image) for one in edit(model, picture, settings)]).astype(float)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / max(np.square(a - b).mean(), 1e-9))


def unrecorded(model: EditModel) -> EditModel:
    plain: Any = lambda x, t, context, is_room: model.unet(x, t, context)  # noqa: E731
    object.__setattr__(model, "noise", plain)
    return model


@pytest.mark.parametrize("speed", ["exact", "balanced", "fast"])
@pytest.mark.parametrize("dtype, near", [(torch.float32, 45), (torch.bfloat16, 35), (torch.float16, 35)])
def test_an_edit_is_that_of_the_processor(picture, dtype, near, speed):
    settings = replace(SETTINGS, speed=speed, steps=20)
    assert psnr(pixels(load("cuda", dtype), picture, settings), pixels(load("cpu"), picture, settings)) > near


def test_recordings_change_nothing_from_text_to_text_and_from_size_to_size(picture):
    recorded, plain = load("cuda"), unrecorded(load("cuda"))
    for change in (
        {},
        {"instruction": "make it night"},  # the same shapes, another text
        {"size": "64"},
        {"instruction": "make it night AND make it winter"},
        {"image_cfg": 1.0},
        {"count": 2, "batch_size": 2},
        {"instruction": "[make it night:make it winter:0.5]"},
        {"speed": "fast"},
        {},
    ):
        settings = replace(SETTINGS, **change)
        assert psnr(pixels(recorded, picture, settings), pixels(plain, picture, settings)) > 60, change
    assert any(one is not None for one in recorded.noise._met.values())


@pytest.mark.parametrize("shape", [(2, 320, 9, 7), (1, 960, 8, 8), (2, 96, 12, 12), (3, 128, 64, 64)])
@pytest.mark.parametrize("dtype, near", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
@torch.inference_mode()
def test_norms_are_those_of_the_formula(shape, dtype, near):
    x = (torch.randn(shape) * 2 + 30).to("cuda", dtype).contiguous(memory_format=torch.channels_last)
    norm = torch.nn.GroupNorm(32, shape[1]).to("cuda", dtype)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    plain = F.group_norm(x.double(), 32, norm.weight.double(), norm.bias.double(), norm.eps)
    for found, wanted in ((group_norm(norm, x), plain), (norm_silu(norm, x), F.silu(plain))):
        assert found.dtype == dtype
        assert found.is_contiguous(memory_format=torch.channels_last)
        assert (found.double() - wanted).norm() < near * wanted.norm()


def test_an_edit_of_one_step_records_nothing(picture):
    model = load("cuda")
    pixels(model, picture, replace(SETTINGS, steps=1))
    assert not any(model.noise._met.values())


def test_where_memory_is_short_rows_run_one_by_one(picture, monkeypatch: Any):
    model = load("cuda")
    before = pixels(model, picture, SETTINGS)
    monkeypatch.setattr(model_module, "is_room_for", lambda *what: False)
    assert psnr(pixels(load("cuda"), picture, SETTINGS), before) > 45


def test_a_model_that_moves_leaves_its_recordings(picture):
    model = load("cuda")
    before = pixels(model, picture, SETTINGS)
    model.noise.half()
    model.machine = Machine(model.machine.device, torch.float16)
    assert psnr(pixels(model, picture, SETTINGS), before) > 35
