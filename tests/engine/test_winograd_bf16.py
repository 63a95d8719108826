"""Convolutions in bf16 by Winograd's algorithm: those of plain ones within bf16's rounding, for all sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from instruct_pix2pix.engine import free_memory
from instruct_pix2pix.engine.kernels import winograd_bf16
from instruct_pix2pix.engine.networks.layers import Conv2d, packs, plain_weight, prepare
from instruct_pix2pix.engine.precision import Machine

MACHINE = Machine(torch.device("cpu"), torch.bfloat16)


@pytest.fixture(autouse=True)
def with_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    if not packs(MACHINE) or not winograd_bf16.available():
        pytest.skip("this processor has no AVX-512 bf16, or it has AMX, or llvmlite is not installed")
    monkeypatch.setattr(winograd_bf16, "SPARE_NUMBERS", 0)  # the tests' machine may have little free


def layers(channels: int, out: int) -> tuple[Conv2d, nn.Conv2d]:
    torch.manual_seed(0)
    ours, plain = Conv2d(channels, out, 3, padding=1).bfloat16(), nn.Conv2d(channels, out, 3, padding=1)
    plain.load_state_dict(ours.state_dict())
    ours.may_use_winograd = True
    prepare(ours, MACHINE)
    return ours.requires_grad_(False), plain.requires_grad_(False).double()


def picture(batch: int, channels: int, h: int, w: int) -> Tensor:
    """As the network's convolutions get them: behind a SiLU."""
    return nn.functional.silu(torch.randn(batch, channels, h, w)).bfloat16().to(memory_format=torch.channels_last)


def difference(out: Tensor, expected: Tensor) -> float:
    return float((out.double() - expected).norm() / expected.norm())


@pytest.mark.parametrize(
    ("batch", "channels", "out", "h", "w"),
    [
        (3, 128, 128, 16, 16),
        (1, 128, 192, 33, 47),  # tiles that reach beyond two sides
        (2, 144, 128, 1, 130),
        (1, 256, 320, 8, 8),  # fewer tiles than are taken at once
    ],
)
def test_it_is_the_convolution_within_rounding(batch: int, channels: int, out: int, h: int, w: int) -> None:
    ours, plain = layers(channels, out)
    x = picture(batch, channels, h, w)
    expected = plain(x.double())
    add, bias = torch.randn_like(expected).bfloat16(), torch.randn(out).bfloat16()
    rounding = difference(expected.bfloat16(), expected)
    with torch.inference_mode():
        found = ours(x)
        assert ours.weight.ndim == 5, "the layer did not use it"
        assert difference(found, expected) < 2.6 * rounding < 0.005
        assert difference(ours(x, add=add), expected + add.double()) < 2.6 * rounding
        shifted = nn.functional.conv2d(x.double(), plain.weight, bias.double(), padding=1)
        assert difference(ours(x, bias=bias), shifted) < 2.6 * rounding
        assert torch.equal(ours(x.contiguous()), found)
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_threads_and_rows_do_not_change_the_result() -> None:
    ours, _ = layers(128, 192)
    x = picture(3, 128, 20, 20)
    with torch.inference_mode():
        many, threads = ours(x), torch.get_num_threads()
        try:
            for count in (1, 2, 5):
                torch.set_num_threads(count)
                assert torch.equal(ours(x), many)
                assert torch.equal(ours(x[1:2]), many[1:2])
        finally:
            torch.set_num_threads(threads)


def test_its_weights_can_be_had_back_the_same_before_and_after() -> None:
    ours, plain = layers(128, 192)
    before = plain_weight(ours)
    with torch.inference_mode():
        ours(picture(1, 128, 16, 16))
    assert torch.equal(plain_weight(ours), before)
    assert torch.equal(ours.state_dict()["weight"], before)
    assert difference(before, plain.weight) < 0.0017, "more than the rounding of a bf16 number"


def test_weights_are_not_transformed_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(free_memory, "available", lambda device: 2**18)
    ours, plain = layers(128, 128)
    x = picture(1, 128, 16, 16)
    with torch.inference_mode():
        assert difference(ours(x), plain(x.double())) < 0.003
    assert ours.weight.is_mkldnn


def test_small_pictures_and_narrow_layers_are_convolved_directly() -> None:
    for channels, size in ((128, 7), (112, 16)):
        ours, _ = layers(channels, 128)
        with torch.inference_mode():
            ours(picture(1, channels, size, size))
        assert ours.weight.is_mkldnn
