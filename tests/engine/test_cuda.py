"""On a CUDA GPU: the same edits as on the processor, and nothing changed by what is recorded there."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file

from instruct_pix2pix.engine import free_memory
from instruct_pix2pix.engine.edit import edit
from instruct_pix2pix.engine.free_memory import DRIVER, hold_to_limit
from instruct_pix2pix.engine.kernels import fused
from instruct_pix2pix.engine.loading.config import CONFIGS, load_config
from instruct_pix2pix.engine.loading.loader import load_networks
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.networks.unet import Condition, UNet
from instruct_pix2pix.engine.offload import Kept, Offloaded
from instruct_pix2pix.engine.placement import unet_work
from instruct_pix2pix.engine.precision import Machine
from instruct_pix2pix.models.registry import DEMO
from instruct_pix2pix.settings import EditSettings
from tools.demo_model import scenes

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")

SETTINGS = EditSettings(instruction="make it winter", seed=3, steps=8)


def load(device: str, dtype: torch.dtype = torch.float32) -> EditModel:
    return EditModel.load(DEMO, Machine(torch.device(device), dtype))


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.fromarray(np.asarray(scenes.draw(scenes.scene(900_000)), dtype=np.uint8))


def pixels(model: EditModel, picture: Image.Image, settings: EditSettings) -> np.ndarray:
    return np.stack([np.asarray(one.image) for one in edit(model, picture, settings)]).astype(float)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return 10 * np.log10(255**2 / max(np.square(a - b).mean(), 1e-9))


def unrecorded(model: EditModel) -> EditModel:
    graphs = model.unet_graphs
    graphs.forward = lambda x, t, condition, entries, is_room, deep=None: model.unet(x, t, condition, entries, deep)
    return model


@pytest.mark.parametrize("speed", ["exact", "balanced", "fast"])
@pytest.mark.parametrize("dtype, near", [(torch.float32, 45), (torch.bfloat16, 35), (torch.float16, 35)])
def test_an_edit_is_that_of_the_processor(picture, dtype, near, speed):
    settings = replace(SETTINGS, speed=speed, steps=20)
    assert psnr(pixels(load("cuda", dtype), picture, settings), pixels(load("cpu"), picture, settings)) > near


def test_a_lora_acts_through_what_was_recorded_and_leaves_no_trace(picture, tmp_path):
    pair = {"up": torch.full((96, 1, 1, 1), 0.1), "down": torch.full((1, 8, 3, 3), 0.3)}
    words = {"up": torch.full((640, 1), 0.1), "down": torch.full((1, 160), 0.1)}
    layers = {"lora_unet_conv_in": pair, "lora_te_text_model_encoder_layers_0_mlp_fc1": words}
    file = {f"{layer}.lora_{side}.weight": one for layer, sides in layers.items() for side, one in sides.items()}
    (tmp_path / "Lora").mkdir()
    save_file(file, tmp_path / "Lora" / "night.safetensors")
    with_it = replace(SETTINGS, instruction="make it winter <lora:night>")
    machine = Machine(torch.device("cuda"), torch.float32)
    model = EditModel.load(DEMO, machine, [tmp_path])
    plain, changed, again = (pixels(model, picture, one) for one in (SETTINGS, with_it, SETTINGS))
    assert model.unet_graphs.recorded and np.array_equal(plain, again)
    on_cpu = EditModel.load(DEMO, Machine(torch.device("cpu"), torch.float32), [tmp_path])
    assert psnr(changed, pixels(on_cpu, picture, with_it)) > 45 > psnr(changed, plain)


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
    assert recorded.unet_graphs.recorded


FORMATS = pytest.mark.parametrize(
    "dtype, near", [(torch.float32, 1e-5), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)]
)


def random(dtype: torch.dtype, *shape: int, around: float = 0.0) -> torch.Tensor:
    x = (torch.randn(shape) * 2 + around).to("cuda", dtype)
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def is_near(found: torch.Tensor, wanted: torch.Tensor, near: float, dtype: torch.dtype) -> bool:
    assert found.dtype == dtype
    assert found.shape == wanted.shape
    assert found.ndim < 4 or found.is_contiguous(memory_format=torch.channels_last)
    return bool((found.double() - wanted).norm() < near * wanted.norm())


@pytest.mark.parametrize(
    "shape", [(2, 320, 9, 7), (1, 960, 8, 8), (2, 96, 12, 12), (3, 128, 64, 64), (1, 64, 300, 200), (1, 5120, 2, 2)]
)
@pytest.mark.parametrize("shifts", [0, 1, None])
@FORMATS
@torch.inference_mode()
def test_group_norms_are_those_of_the_formula(shape, shifts, dtype, near):
    x, norm = random(dtype, *shape, around=30), torch.nn.GroupNorm(32, shape[1]).to("cuda", dtype)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    shift = None if shifts == 0 else random(dtype, shifts or shape[0], shape[1])

    def plain(x: torch.Tensor) -> torch.Tensor:
        return F.group_norm(x, 32, norm.weight.double(), norm.bias.double(), norm.eps)

    assert is_near(fused.group_norm(norm, x), plain(x.double()), near, dtype)
    shifted = x.double() if shift is None else x.double() + shift.double()[:, :, None, None]
    assert is_near(fused.norm_silu(norm, x, shift), F.silu(plain(shifted)), near, dtype)


@FORMATS
@torch.inference_mode()
def test_what_lies_between_products_is_as_the_formulas_have_it(dtype, near):
    x, norm = random(dtype, 3, 17, 320, around=3), torch.nn.LayerNorm(320).to("cuda", dtype)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    plain = F.layer_norm(x.double(), (320,), norm.weight.double(), norm.bias.double(), norm.eps)
    assert is_near(fused.layer_norm(norm, x), plain, near, dtype)
    x = random(dtype, 3, 17, 320)
    value, gate = x.double().chunk(2, dim=-1)
    assert is_near(fused.geglu(x), value * F.gelu(gate), near, dtype)
    x, bias, other = random(dtype, 2, 96, 7, 5), random(dtype, 96), random(dtype, 2, 96, 7, 5)
    biased = x.double() + bias.double()[:, None, None]
    assert is_near(fused.add_bias(x, bias, None), biased, near, dtype)
    assert is_near(fused.add_bias(x, bias, other), biased + other.double(), near, dtype)
    assert torch.equal(fused.upsample_2x(x), F.interpolate(x, scale_factor=2.0))


def test_an_edit_of_one_step_records_nothing(picture):
    model = load("cuda")
    pixels(model, picture, replace(SETTINGS, steps=1))
    assert not model.unet_graphs.recorded


def test_where_memory_is_short_rows_run_one_by_one(picture, monkeypatch: Any):
    model, before = load("cuda"), pixels(load("cuda"), picture, SETTINGS)
    monkeypatch.setattr(free_memory, "available", lambda device: 1000)
    assert psnr(pixels(model, picture, SETTINGS), before) > 45


def test_a_model_that_moves_leaves_its_recordings(picture):
    model = load("cuda")
    before = pixels(model, picture, SETTINGS)
    model.unet_graphs.half()
    model.machine = Machine(model.machine.device, torch.float16)
    assert psnr(pixels(model, picture, SETTINGS), before) > 35


# --- small cards --------------------------------------------------------------------------------------


@pytest.fixture
def limits():
    """Whatever a test lets torch take of the card, others may have all of it."""
    torch.cuda.empty_cache()
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


def test_an_edit_with_weights_that_come_and_go_is_that_of_a_large_card(picture, limits):
    card = Machine(torch.device("cuda"), torch.float32)
    networks = load_networks(DEMO, Machine(torch.device("cpu"), torch.float32))[1]
    home = Offloaded(card, sum(p.numel() for p in networks.unet.parameters()) * 2)  # half of the UNet's weights
    small = EditModel(networks, card, home=home)
    whole = unrecorded(load("cuda"))
    for settings in (SETTINGS, replace(SETTINGS, count=2, batch_size=2), SETTINGS):
        assert psnr(pixels(small, picture, settings), pixels(whole, picture, settings)) > 60
        assert home.copied_each_call(small.unet) > 0


@torch.inference_mode()
def test_the_unet_of_sd1_runs_on_a_card_with_less_memory_than_it_has_weights(limits):
    card = Machine(torch.device("cuda"), torch.float16, 2 * 2**30)
    config = load_config(CONFIGS / "sd1.yaml")
    with torch.device("cuda"):
        torch.manual_seed(0)
        unet = UNet(config.unet).half().eval().requires_grad_(False)
    x = torch.randn(3, 8, 64, 64, device="cuda").half().contiguous(memory_format=torch.channels_last)
    t, texts = torch.full((1,), 500.0, device="cuda"), torch.randn(3, 77, 768, device="cuda").half()
    whole = Kept(card)
    with whole.using([unet], 0):
        wanted = unet(x, t, Condition(texts)).float()
    unet.to("cpu")
    torch.cuda.empty_cache()
    hold_to_limit(card)  # more than this torch does not give
    torch.cuda.reset_peak_memory_stats()
    home = Offloaded(card)
    home.prepare(unet)
    condition = Condition(texts)
    for _ in range(3):
        with home.using([unet], unet_work(config, 3 * 64 * 64, 2)):
            found = unet(x, t, condition).float()
        assert (found - wanted).norm() < 0.01 * wanted.norm()
    assert home.copied_each_call(unet) > 0
    assert torch.cuda.max_memory_allocated() <= 2 * 2**30 - DRIVER
