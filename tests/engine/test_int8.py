"""Precision int8: near the exact edit, in half the memory of bf16, with LoRAs, and told where it cannot be."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from instruct_pix2pix.engine.edit import edit
from instruct_pix2pix.engine.kernels import int8
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.networks.int8_layers import quantize
from instruct_pix2pix.engine.networks.layers import Conv2d, GatedLinear, Linear, plain_weight
from instruct_pix2pix.engine.networks.unet import Condition, UNet
from instruct_pix2pix.engine.precision import INT8, Machine, choose_machine, require_int8
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.infotext import parse
from instruct_pix2pix.models.registry import DEMO
from instruct_pix2pix.settings import EditSettings
from tools.demo_model import scenes
from tools.reference_networks import SDXL_SHAPED, SMALL, TINY, random_model, randomized

CAPABLE = ("AVX2", "AVX512")
needs_avx2 = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() not in CAPABLE, reason="this processor has no AVX2"
)
FORMATS = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
BOTH_WAYS = pytest.mark.parametrize("plainly", [False, True], ids=["kernels", "plain"], indirect=True)
EXACT = Machine(torch.device("cpu"), torch.float32)
SETTINGS = EditSettings(instruction="make it winter", seed=3, steps=20)


@pytest.fixture
def plainly(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is with our kernels, and as it is without llvmlite."""
    if request.param:
        monkeypatch.setattr(int8, "has_kernels", lambda: False)


def psnr(found: Tensor, exact: Tensor, peak: float) -> float:
    """In decibels, for numbers whose range is `peak`."""
    return float(10 * torch.log10(peak**2 / (found.double() - exact.double()).square().mean()))


def difference(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact.double()).norm() / exact.double().norm())


# --- numbers in 8 bits ---


@FORMATS
@BOTH_WAYS
@pytest.mark.usefixtures("plainly")
def test_rows_come_back_to_half_a_step_of_their_own_range(dtype: torch.dtype) -> None:
    x = torch.randn(50, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-6, 6, 50)[:, None]
    x[7], x[8] = 0, 3
    x = x.to(dtype)
    found = int8.quantize_rows(x)
    back = (found.q.double() - found.zeros.double()[:, None]) * found.scales.double()[:, None]
    edges = torch.cat([x.double(), torch.zeros(50, 1)], dim=1)
    step = (edges.amax(1) - edges.amin(1)) / int8.largest_byte()
    assert ((back - x.double()).abs() <= 0.501 * step[:, None] + 1e-30).all()


@FORMATS
@BOTH_WAYS
@pytest.mark.usefixtures("plainly")
def test_around_a_picture_lie_zeros(dtype: torch.dtype) -> None:
    x = torch.randn(2, 32, 5, 7, generator=torch.Generator().manual_seed(0)).to(dtype) + 1
    found = int8.quantize_pictures(x, 1)
    scales, zeros = (v.view(-1, 1, 1, 1) for v in (found.scales, found.zeros))
    back = (found.q.float() - zeros) * scales
    padded = torch.nn.functional.pad(x.float(), (1, 1, 1, 1))
    assert ((back - padded).abs() <= 0.501 * scales).all()
    outside = torch.ones_like(back, dtype=torch.bool)
    outside[:, :, 1:-1, 1:-1] = False
    assert (back[outside] == 0).all()


@BOTH_WAYS
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.usefixtures("plainly")
def test_what_is_no_number_does_not_become_one(bad: float) -> None:
    """The engine tells a person of results that are not finite; bytes always are."""
    x = torch.ones(4, 32)
    x[2, 5] = bad
    found = int8.quantize_rows(x)
    y = int8.rescale(found.q.float(), found, torch.ones(32), torch.zeros(32), torch.float32)
    assert y.isfinite().all(1).tolist() == [True, True, False, True]


# --- layers ---

LAYERS = {
    "linear": (Linear(64, 96), (2, 10, 64)),
    "linear without bias": (Linear(64, 96, bias=False), (2, 10, 64)),
    "odd width": (Linear(50, 70), (3, 50)),
    "gated": (GatedLinear(64, 2 * 96), (2, 10, 64)),
    "3x3": (Conv2d(64, 96, 3, padding=1), (2, 64, 9, 7)),
    "stride 2": (Conv2d(64, 96, 3, stride=2, padding=1), (2, 64, 9, 8)),
    "1x1": (Conv2d(64, 96, 1), (2, 64, 5, 6)),
}


class Parts(nn.Module):
    """A network of one layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.block = nn.Sequential(layer)

    def by_level(self) -> list[tuple[nn.Module, int]]:
        return [(self.block, 0)]


def in_8_bits(layer: nn.Module) -> nn.Module:
    parts = Parts(copy.deepcopy(layer))
    quantize(parts)
    assert type(parts.block[0]) is not type(layer)
    return parts.block[0]


@needs_avx2
@FORMATS
@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_a_layer_is_near_the_exact_one(name: str, dtype: torch.dtype) -> None:
    layer, shape = LAYERS[name]
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected = layer.double()(x.double())
    layer.to(dtype)
    ours, more = in_8_bits(layer), {} if name == "gated" else {"add": torch.ones(expected.shape, dtype=dtype)}
    found = ours(x.to(dtype), **more)
    assert found.dtype == dtype and found.shape == expected.shape
    assert difference(found - len(more), expected) < 0.02


@needs_avx2
@pytest.mark.parametrize("name", LAYERS)
@torch.no_grad()
def test_a_row_of_a_batch_is_what_it_is_alone(name: str) -> None:
    layer, shape = LAYERS[name]
    ours = in_8_bits(layer.float())
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    x[0] *= 100
    assert torch.equal(ours(x)[1:2], ours(x[1:2]))


@needs_avx2
@torch.no_grad()
def test_many_rows_are_multiplied_in_parts_with_the_same_results(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("linear", "gated", "1x1"):
        layer, shape = LAYERS[name]
        ours, x = in_8_bits(layer.float()), torch.randn(shape)
        whole = ours(x)
        with monkeypatch.context() as patch:
            patch.setattr("instruct_pix2pix.engine.networks.int8_layers.PRODUCTS_AT_ONCE", 500)
            assert torch.equal(ours(x), whole)


# --- whole networks ---


@needs_avx2
@pytest.mark.parametrize("config", [SMALL.unet, SDXL_SHAPED], ids=["SD1", "SDXL"])
@FORMATS
@torch.no_grad()
def test_a_unet_of_random_weights_is_near_the_exact_one(config, dtype) -> None:
    exact: UNet = randomized(UNet(config))
    ours = copy.deepcopy(exact).to(dtype)
    quantize(ours)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, config.in_channels, 16, 16, generator=generator)
    text = torch.randn(3, 7, config.context_dim, generator=generator)
    label = None if config.adm_in_channels is None else torch.randn(1, config.adm_in_channels, generator=generator)
    t = torch.tensor([500.0])
    found, expected = (
        net(x.to(kind), t, Condition(text.to(kind), None if label is None else label.to(kind)))
        for net, kind in ((ours, dtype), (exact, torch.float32))
    )
    assert psnr(found, expected, float(expected.max() - expected.min())) > 30


def bytes_of(network: nn.Module) -> int:
    return sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))


@needs_avx2
def test_it_takes_half_the_memory_of_bf16() -> None:
    unet = randomized(UNet(replace(SMALL.unet, model_channels=96))).bfloat16()
    before = bytes_of(unet)
    quantize(unet)
    assert bytes_of(unet) < 0.56 * before  # vectors of the time are wider beside the pictures than in a large model


def winter(model: EditModel, settings: EditSettings = SETTINGS) -> Tensor:
    picture = Image.fromarray(np.asarray(scenes.draw(scenes.scene(920_000)), dtype=np.uint8))
    (edited,) = edit(model, picture, settings)
    assert parse(edited.infotext("demo", None)).fields["Precision"] == model.machine.precision
    return torch.from_numpy(np.array(edited.image)).float()


@needs_avx2
def test_an_edit_by_the_demo_model_is_near_the_exact_one() -> None:
    exact, ours = EditModel.load(DEMO, EXACT), EditModel.load(DEMO, choose_machine("cpu", INT8))
    assert psnr(winter(ours), winter(exact), 255) > 35


@needs_avx2
def test_a_lora_is_added_to_the_checkpoints_weights_and_leaves_no_trace() -> None:
    exact, ours = EditModel.load(DEMO, EXACT), EditModel.load(DEMO, choose_machine("cpu", INT8))
    settings = replace(SETTINGS, instruction="make it winter <lora:demo-lcm:3>", sampler="LCM", steps=4)
    before = winter(ours)
    changed, expected = winter(ours, settings), winter(exact, settings)
    without = winter(exact, replace(settings, instruction="make it winter"))
    assert psnr(changed, expected, 255) > 30 > psnr(changed, without, 255)
    assert torch.equal(winter(ours), before)


# --- where it cannot be ---


def test_it_is_never_chosen_by_itself() -> None:
    assert choose_machine("cpu").precision != INT8


def test_a_processor_without_the_instructions_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    with pytest.raises(UserError, match="needs an x86 processor with AVX2"):
        choose_machine("cpu", INT8)


@pytest.mark.parametrize("device", ["cuda", "mps", "xpu"])
def test_a_gpu_is_told(device: str) -> None:
    with pytest.raises(UserError, match="choose auto"):
        require_int8(torch.device(device))


@needs_avx2
def test_a_lora_on_a_model_of_no_file_is_told() -> None:
    model = random_model(TINY, choose_machine("cpu", INT8))
    layer = model.unet.get_submodule("middle_block.0.in_layers.2")
    with pytest.raises(UserError, match="takes no LoRA"):
        plain_weight(layer)
