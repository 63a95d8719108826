"""Packed weights, MLPs in parts, rows that share a picture, and attention head by head, against plain torch."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from instruct_pix2pix.engine.loading.config import CONFIGS, load_config
from instruct_pix2pix.engine.networks import layers
from instruct_pix2pix.engine.networks.layers import Conv2d, GatedLinear, Linear, attention, packs, prepare
from instruct_pix2pix.engine.networks.unet import Condition, FeedForward, UNet
from instruct_pix2pix.engine.networks.vae import VAE
from instruct_pix2pix.engine.precision import Machine, cpu_multiplies_bf16
from tools.reference_networks import DEMO, random_model

CPU = torch.device("cpu")
slow = pytest.mark.skipif(not cpu_multiplies_bf16(), reason="bf16 is emulated here")
FORMATS = [torch.float32, pytest.param(torch.bfloat16, marks=slow)]
packed_here = pytest.mark.skipif(not packs(Machine(CPU, torch.float32)), reason="oneDNN packs nothing here")


def close(ours: Tensor, theirs: Tensor) -> bool:
    """Within a few roundings of the format."""
    error = (ours.double() - theirs.double()).norm() / theirs.double().norm()
    return bool(error < 4 * torch.finfo(ours.dtype).eps)


@packed_here
@pytest.mark.parametrize("dtype", FORMATS)
@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_a_packed_convolution_gives_what_a_plain_one_gives(dtype: torch.dtype, kernel: int, stride: int) -> None:
    torch.manual_seed(0)
    plain = nn.Conv2d(24, 40, kernel, stride, kernel // 2).to(dtype)
    ours = Conv2d(24, 40, kernel, stride, kernel // 2).to(dtype)
    ours.load_state_dict(plain.state_dict())
    ours.requires_grad_(False)
    prepare(ours, Machine(CPU, dtype))
    for size in ((2, 24, 12, 20), (1, 24, 7, 9)):  # the second shape meets weights packed for the first
        x = torch.randn(size).to(dtype, memory_format=torch.channels_last)
        with torch.inference_mode():
            expected = plain(x)
            add, bias = torch.randn_like(expected), torch.randn(40).to(dtype)
            assert close(ours(x), expected)
            assert close(ours(x, add=add), expected + add)
            shifted = F.conv2d(x, plain.weight, bias, stride, kernel // 2)
            assert close(ours(x, bias=bias), shifted)
    assert ours.weight.is_mkldnn
    assert (ours.state_dict()["weight"] == plain.weight).all()


@packed_here
@pytest.mark.parametrize("dtype", FORMATS)
def test_a_packed_linear_layer_gives_what_a_plain_one_gives(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(48, 96).to(dtype)
    ours = Linear(48, 96).to(dtype)
    ours.load_state_dict(plain.state_dict())
    ours.requires_grad_(False)
    prepare(ours, Machine(CPU, dtype))
    for size in ((2, 30, 48), (1, 48), (3, 7, 48)):
        x = torch.randn(size).to(dtype)
        with torch.inference_mode():
            expected = plain(x)
            other = torch.randn_like(expected)
            assert close(ours(x), expected)
            assert close(ours(x, add=other), expected + other)
    assert (ours.state_dict()["weight"] == plain.weight).all()


@packed_here
@pytest.mark.parametrize("dtype", FORMATS)
def test_a_packed_gate_gives_what_a_plain_one_gives(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = nn.Linear(48, 96).to(dtype)
    ours = GatedLinear(48, 96).to(dtype)
    ours.load_state_dict(plain.state_dict())
    ours.requires_grad_(False)
    x = torch.randn(2, 30, 48).to(dtype)
    value, gate = F.linear(x.double(), plain.weight.double(), plain.bias.double()).chunk(2, dim=-1)
    with torch.inference_mode():
        assert close(ours(x), value * F.gelu(gate))
        prepare(ours, Machine(CPU, dtype))
        assert close(ours(x), value * F.gelu(gate))
        assert ours.weight.is_mkldnn
        assert ours.state_dict().keys() == plain.state_dict().keys()
        assert (ours.state_dict()["weight"] == plain.weight).all()
        assert torch.allclose(ours.double()(x.double()), value * F.gelu(gate))


def test_a_large_feed_forward_in_parts_gives_what_it_gives_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    layer = FeedForward(16).requires_grad_(False)
    x, add = torch.randn(2, 3, 50, 16)
    with torch.inference_mode():
        at_once = layer(x, add)
        monkeypatch.setattr(layers, "MLP_IN_PARTS_FROM", 0)
        monkeypatch.setattr(layers, "MLP_PART", 1000)
        assert torch.allclose(layer(x, add), at_once, atol=1e-6)


@packed_here
def test_weights_are_packed_anew_for_sizes_that_want_another_layout() -> None:
    """With the layout for another size a call takes several times as long: oneDNN reorders the weight at each."""
    layer = Conv2d(1280, 1280, 3, padding=1).requires_grad_(False)
    plain = nn.Conv2d(1280, 1280, 3, padding=1).requires_grad_(False)
    plain.load_state_dict(layer.state_dict())
    prepare(layer, Machine(CPU, torch.float32))

    def descriptor(size: int) -> list[int]:
        weight, one = plain.weight.detach().to_mkldnn(), [1, 1]
        reorder = torch._C._nn.mkldnn_reorder_conv2d_weight  # pyright: ignore[reportAttributeAccessIssue]
        packed = reorder(weight, one, one, one, 1, torch.Size([1, 1280, size, size]))
        return torch.ops.mkldnn._get_mkldnn_serialized_md(packed).tolist()[112:]

    for size in (2, 8, 4, 32, 32, 8):
        x = torch.randn(1, 1280, size, size).to(memory_format=torch.channels_last)
        with torch.inference_mode():
            assert (layer(x) - plain(x)).norm() < 1e-5 * plain(x).norm()
        assert torch.ops.mkldnn._get_mkldnn_serialized_md(layer.weight.detach()).tolist()[112:] == descriptor(size)


AVX2 = """
import torch
from instruct_pix2pix.engine.networks.layers import Conv2d, block_layout, prepare
from instruct_pix2pix.engine.precision import Machine

torch.set_num_threads(2)
layer = Conv2d(640, 640, 3, stride=2, padding=1).requires_grad_(False)
weight, x = layer.weight.clone(), torch.randn(5, 640, 32, 32).to(memory_format=torch.channels_last)
with torch.inference_mode():
    plain = torch.nn.functional.conv2d(x, weight, layer.bias, 2, 1)
    add = torch.randn_like(plain)
    prepare(layer, Machine(torch.device("cpu"), torch.float32))
    for rows in (3, 1, 5):
        expected = plain[:rows] + add[:rows]
        assert (layer(x[:rows], add=add[:rows]) - expected).norm() < 1e-5 * expected.norm()
    reorder = torch._C._nn.mkldnn_reorder_conv2d_weight
    for rows, fits in ((1, True), (2, True), (3, False)):
        wanted = reorder(weight.to_mkldnn(), [1, 1], [2, 2], [1, 1], 1, [rows, 640, 32, 32])
        assert (block_layout(wanted) == block_layout(layer.weight)) == fits, rows
"""


@packed_here
@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="this processor has no AVX2")
def test_with_avx2_alone_weights_have_the_layout_that_any_number_of_rows_wants() -> None:
    """With the layout for another number of rows a call takes up to ten times as long: oneDNN reorders it at each."""
    limits = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", AVX2], check=True, env={**os.environ, **limits})


@packed_here
def test_a_packed_layer_can_change_its_format() -> None:
    ours = Conv2d(8, 8, 3, padding=1).requires_grad_(False)
    x = torch.randn(1, 8, 5, 5)
    prepare(ours, Machine(CPU, torch.float32))
    with torch.inference_mode():
        before = ours(x)
        assert torch.allclose(ours.double()(x.double()).float(), before, atol=1e-5)


RES_BLOCK, VAE_BLOCK = ("in_layers.2", "out_layers.3"), ("conv1", "conv2")
FINE = {
    "SD1's UNet": {
        *(f"input_blocks.{i}.0.{conv}" for i in (1, 2, 4, 5) for conv in RES_BLOCK),
        *(f"output_blocks.{i}.0.{conv}" for i in range(6, 12) for conv in RES_BLOCK),
        "output_blocks.5.2.conv",
        "output_blocks.8.2.conv",
    },
    "SD1's VAE": {
        *(f"encoder.down.{i}.block.{j}.{conv}" for i in range(2) for j in range(2) for conv in VAE_BLOCK),
        *(f"decoder.up.{i}.block.{j}.{conv}" for i in range(2) for j in range(3) for conv in VAE_BLOCK),
        "decoder.up.1.upsample.conv",
        "decoder.up.2.upsample.conv",
    },
    "the demo's UNet": {  # it has two levels
        *(f"input_blocks.{i}.0.{conv}" for i in (1, 3) for conv in RES_BLOCK),
        *(f"middle_block.{i}.{conv}" for i in (0, 2) for conv in RES_BLOCK),
        *(f"output_blocks.{i}.0.{conv}" for i in range(4) for conv in RES_BLOCK),
        "output_blocks.1.2.conv",
    },
    "the demo's VAE": {
        *(f"encoder.down.{i}.block.0.{conv}" for i in range(2) for conv in VAE_BLOCK),
        *(f"decoder.up.{i}.block.{j}.{conv}" for i in range(2) for j in range(2) for conv in VAE_BLOCK),
        "decoder.up.1.upsample.conv",
        "decoder.up.2.upsample.conv",
    },
}


@packed_here
@pytest.mark.parametrize("name", FINE)
def test_the_3x3_convolutions_of_the_two_finest_levels_may_use_winograds_algorithm(name: str) -> None:
    config = DEMO if "demo" in name else load_config(CONFIGS / "sd1.yaml")
    with torch.device("meta"):
        network = UNet(config.unet) if "UNet" in name else VAE(config.vae)
    convolutions = {name: layer for name, layer in network.named_modules() if isinstance(layer, Conv2d)}
    assert not any(layer.may_use_winograd for layer in convolutions.values())
    prepare(network, Machine(CPU, torch.float32))
    wide = {each for each in FINE[name] if min(convolutions[each].weight.shape[:2]) >= 128}
    assert {name for name, layer in convolutions.items() if layer.may_use_winograd} == wide


@packed_here
@pytest.mark.parametrize("has_kernel", [True, False])
def test_in_bf16_they_may_where_there_is_a_kernel(monkeypatch: pytest.MonkeyPatch, has_kernel: bool) -> None:
    if not packs(Machine(CPU, torch.bfloat16)):
        pytest.skip("this processor does not multiply bf16")
    monkeypatch.setattr(layers.winograd_bf16, "available", lambda: has_kernel)
    with torch.device("meta"):
        network = UNet(DEMO.unet).bfloat16()
    prepare(network, Machine(CPU, torch.bfloat16))
    convolutions = {name: layer for name, layer in network.named_modules() if isinstance(layer, Conv2d)}
    allowed = {name for name, layer in convolutions.items() if layer.may_use_winograd}
    wide = {name for name in FINE["the demo's UNet"] if min(convolutions[name].weight.shape[:2]) >= 128}
    assert allowed == (wide if has_kernel else set())


@packed_here
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "out"), [(8, 8), (96, 96), (128, 144), (192, 136), (128, 192)])
def test_a_weight_of_any_width_comes_back_as_the_checkpoint_has_it(
    dtype: torch.dtype, channels: int, out: int
) -> None:
    """As for a LoRA, which reads the weights of layers that Winograd's kernels do not take too."""
    if not packs(Machine(CPU, dtype)):
        pytest.skip("this processor does not multiply bf16")
    torch.manual_seed(0)
    levels = _OneLevel(Conv2d(channels, out, 3, padding=1).to(dtype).requires_grad_(False))
    weight = levels.layer.weight.detach().clone()
    prepare(levels, Machine(CPU, dtype))
    before = layers.plain_weight(levels.layer)
    assert (before - weight).float().norm() / weight.float().norm() < (0.01 if dtype == torch.bfloat16 else 1e-5)
    with torch.inference_mode():
        levels.layer(torch.randn(1, channels, 32, 32, dtype=dtype))
    assert torch.equal(layers.plain_weight(levels.layer), before)


class _OneLevel(torch.nn.Module):
    """One layer, at the finest level."""

    def __init__(self, layer: Conv2d) -> None:
        super().__init__()
        self.layer = layer

    def by_level(self) -> list[tuple[torch.nn.Module, int]]:
        return [(self.layer, 0)]


def test_attention_head_by_head_is_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layers, "multiplies_heads", lambda device: True)
    monkeypatch.setattr(layers.amx_attention, "applies", lambda q, k, v: False)  # as without llvmlite
    torch.manual_seed(0)
    q, k, v = (torch.randn(2, length, 3, 20).bfloat16().transpose(1, 2) for length in (600, 150, 150))
    with torch.inference_mode():
        ours = attention(q, k, v)
    theirs = F.scaled_dot_product_attention(q.double(), k.double(), v.double()).transpose(1, 2).flatten(2)
    assert (ours.double() - theirs).norm() / theirs.norm() < 0.01
    short = attention(q[:, :, :5], k, v)
    assert torch.equal(short, F.scaled_dot_product_attention(q[:, :, :5], k, v).transpose(1, 2).flatten(2))


def test_rows_that_differ_in_text_alone_begin_as_one_and_end_as_they_would() -> None:
    network = random_model().unet
    pictures, texts = torch.randn(2, 8, 16, 16), torch.randn(3, 7, network.config.context_dim)
    t = torch.tensor([500.0])
    seen: list[int] = []
    network.input_blocks[0].register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    with torch.inference_mode():
        apart = network(pictures[[0, 0, 1]], t.expand(3), texts)
        together = network(pictures, t, Condition(texts), (0, 0, 1))
    assert seen == [3, 2]
    assert torch.allclose(apart, together, atol=1e-5)


def test_keys_of_the_text_are_made_once_for_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model()
    made: list[int] = []
    layer: Any = next(m for name, m in model.unet.named_modules() if name.endswith("attn2"))
    layer.to_k.register_forward_hook(lambda module, inputs, output: made.append(len(output)))
    x, image = torch.randn(1, 4, 16, 16), torch.randn(1, 4, 16, 16)
    first, second = (torch.randn(1, 7, model.unet.config.context_dim) for _ in range(2))

    def once(condition: Condition, sigma: float) -> Tensor:
        return model(x, torch.tensor([sigma]), condition, image)

    one, two = model.condition(first), model.condition(second)
    a, b = once(one, 3.0), once(one, 2.0)
    assert made == [1]
    assert not torch.equal(a, b)
    other = once(two, 2.0)
    assert made == [1, 1]
    assert not torch.equal(b, other)
    assert torch.equal(once(one, 2.0), b)
    assert made == [1, 1]
    assert torch.equal(once(model.condition(first.clone()), 2.0), b)


def test_attention_by_plain_products_takes_few_queries_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """On cards for which torch has no better kernel, all scores of a large picture would not fit."""
    q, k, v = (torch.randn(2, 3, n, 16, generator=torch.Generator().manual_seed(n)) for n in (130, 70, 70))
    whole, plain = attention(q, k, v), F.scaled_dot_product_attention
    queries: list[int] = []

    def seen(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        queries.append(q.shape[2])
        return plain(q, k, v)

    monkeypatch.setattr(F, "scaled_dot_product_attention", seen)
    monkeypatch.setattr(layers, "SCORES_AT_ONCE", 2 * 3 * 70 * 4 * 40)  # of 40 queries
    attention(q, k, v)
    monkeypatch.setattr(layers, "holds_scores", lambda *_: True)
    assert close(attention(q, k, v), whole)
    assert queries == [130, 40, 40, 40, 10]
