"""Convolutions by Winograd's algorithm: the numbers of plain ones, for all sizes, if memory suffices."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instruct_pix2pix.engine import free_memory
from instruct_pix2pix.engine.kernels import winograd
from instruct_pix2pix.engine.loading.config import CONFIGS, load_config
from instruct_pix2pix.engine.networks.layers import Conv2d, packs, prepare
from instruct_pix2pix.engine.networks.unet import UNet
from instruct_pix2pix.engine.precision import Machine

MACHINE = Machine(torch.device("cpu"), torch.float32)


@pytest.fixture(autouse=True)
def with_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    if not packs(MACHINE) or not winograd.available():
        pytest.skip("this processor has no AVX2, or llvmlite is not installed")
    monkeypatch.setattr(winograd, "SPARE_NUMBERS", 0)  # the tests' machine may have little free


def layers(channels: int, out: int) -> tuple[Conv2d, nn.Conv2d]:
    torch.manual_seed(0)
    ours, plain = Conv2d(channels, out, 3, padding=1), nn.Conv2d(channels, out, 3, padding=1)
    plain.load_state_dict(ours.state_dict())
    ours.may_use_winograd = True
    prepare(ours, MACHINE)
    return ours.requires_grad_(False), plain.requires_grad_(False).double()


def picture(batch: int, channels: int, h: int, w: int) -> Tensor:
    return torch.randn(batch, channels, h, w).to(memory_format=torch.channels_last)


def difference(out: Tensor, expected: Tensor) -> float:
    return float((out.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("batch", "channels", "out", "h", "w"),
    [
        (3, 128, 128, 32, 32),
        (1, 128, 160, 33, 47),  # tiles that reach beyond two sides
        (2, 144, 128, 1, 1030),
        (1, 256, 128, 100, 90),  # more tiles than are taken at once
    ],
)
def test_it_is_the_convolution(batch: int, channels: int, out: int, h: int, w: int) -> None:
    ours, plain = layers(channels, out)
    x = picture(batch, channels, h, w)
    expected = plain(x.double())
    add, bias = torch.randn_like(expected).float(), torch.randn(out)
    rounding = difference(F.conv2d(x, ours.weight, ours.bias, padding=1), expected)
    with torch.inference_mode():
        found = ours(x)
        assert ours.weight.shape == (36, channels, out), "the layer did not use it"
        assert difference(found, expected) < 6 * rounding < 1e-5
        assert difference(ours(x, add=add), expected + add) < 6 * rounding
        shifted = F.conv2d(x.double(), plain.weight, bias.double(), padding=1)
        assert difference(ours(x, bias=bias), shifted) < 6 * rounding
        assert difference(ours(x.contiguous()), expected) < 6 * rounding
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_threads_are_as_good_as_one() -> None:
    ours, _ = layers(128, 128)
    x = picture(2, 128, 40, 40)
    with torch.inference_mode():
        many, threads = ours(x), torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            assert difference(ours(x), many.double()) < 1e-6
        finally:
            torch.set_num_threads(threads)


def test_a_layer_meets_pictures_of_other_sizes() -> None:
    ours, plain = layers(128, 128)
    for size, transformed in ((7, False), (40, True), (7, True), (5, True)):
        x = picture(1, 128, size, size)
        with torch.inference_mode():
            assert difference(ours(x), plain(x.double())) < 3e-6
        assert (ours.weight.ndim == 3) == transformed


def test_its_weights_can_be_had_back() -> None:
    ours, plain = layers(128, 144)
    x = picture(1, 128, 32, 32)
    with torch.inference_mode():
        ours(x)
    assert difference(ours.state_dict()["weight"], plain.weight) < 1e-6
    ours.double()
    assert ours.weight.shape == plain.weight.shape
    assert difference(ours(x.double()), plain(x.double())) < 1e-6


def test_weights_are_not_transformed_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "available", lambda device: 2**20)
    ours, plain = layers(128, 128)
    x = picture(1, 128, 32, 32)
    with torch.inference_mode():
        assert difference(ours(x), plain(x.double())) < 1e-6
    assert ours.weight.is_mkldnn


def test_small_pictures_and_narrow_layers_are_convolved_directly() -> None:
    for channels, size in ((128, 7), (112, 32)):
        ours, _ = layers(channels, 128)
        with torch.inference_mode():
            ours(picture(1, channels, size, size))
        assert ours.weight.is_mkldnn


def test_of_a_unet_the_two_finest_levels_use_it() -> None:
    sd1 = load_config(CONFIGS / "sd1.yaml").unet
    with torch.device("meta"):
        unet = UNet(sd1)
    resolution = {name: level for level, size in enumerate((64, 32, 16, 8)) for name in _at(unet, size)}
    prepare(unet, MACHINE)
    layers = {name: layer for name, layer in unet.named_modules() if isinstance(layer, Conv2d)}
    wide = {name for name, level in resolution.items() if level < 2 and min(layers[name].weight.shape[:2]) >= 128}
    assert {name for name, layer in layers.items() if layer.may_use_winograd} == wide
    assert {resolution[name] for name in wide} == {0, 1}


def _at(unet: UNet, size: int) -> list[str]:
    """Return the names of the 3x3 convolutions that read latents of this size for a picture of 512 pixels."""
    found: list[str] = []
    handles = [
        layer.register_forward_hook(
            lambda _, inputs, __, name=name: found.append(name) if inputs[0].shape[-1] == size else None
        )
        for name, layer in unet.named_modules()
        if isinstance(layer, Conv2d) and layer.kernel_size == (3, 3) and layer.stride == (1, 1)
    ]
    unet(*(torch.empty(shape, device="meta") for shape in ((1, 8, 64, 64), (1,), (1, 77, 768))))
    for handle in handles:
        handle.remove()
    return found
