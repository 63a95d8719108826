"""Attention by our own kernel on processors with AMX or AVX-512 bf16: the numbers of the formula, for all shapes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from instruct_pix2pix.engine.kernels import amx_attention
from instruct_pix2pix.engine.networks import layers


def heads(batch: int, count: int, length: int, width: int, scale: float = 1.0, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randn(batch, length, count * width, generator=generator) * scale
    return flat.bfloat16().unflatten(2, (count, width)).transpose(1, 2)


def formula(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = q.double() @ k.double().transpose(-1, -2) / q.shape[-1] ** 0.5
    return (scores.softmax(-1) @ v.double()).transpose(1, 2).flatten(2)


def difference(out: Tensor, expected: Tensor) -> float:
    return float((out.double() - expected).norm() / expected.norm())


@pytest.fixture(autouse=True)
def with_a_kernel() -> Iterator[None]:
    q = heads(1, 1, amx_attention.LEAST_QUERIES, 40)
    if not amx_attention.applies(q, q, q):
        pytest.skip("this processor has neither AMX nor AVX-512 bf16, or llvmlite is not installed")
    with torch.no_grad():
        yield


@pytest.mark.parametrize(
    ("batch", "count", "queries", "keys", "width"),
    [
        (3, 8, 1024, 1024, 40),  # SD1
        (2, 8, 1024, 77, 80),  # a text
        (1, 5, 640, 640, 64),  # SDXL, SD2
        (1, 2, 513, 1, 160),
        (2, 3, 999, 333, 8),
        (1, 1, 545, 65, 34),
        (1, 8, 2048, 2100, 40),
    ],
)
def test_it_is_the_formula(batch: int, count: int, queries: int, keys: int, width: int) -> None:
    q, k = heads(batch, count, queries, width, 2), heads(batch, count, keys, width, 2, seed=1)
    v = heads(batch, count, keys, width, seed=2)
    expected = formula(q, k, v)
    out = layers.attention(q, k, v)
    assert out.shape == (batch, queries, count * width)
    assert out.dtype == torch.bfloat16
    torch_s = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    assert difference(out, expected) < max(0.003, 1.3 * difference(torch_s, expected))
    assert torch.equal(amx_attention.attention(q, k, v), out), "the layers did not use it"  # pyright: ignore[reportArgumentType]


def test_one_thread_gives_the_same() -> None:
    q = heads(2, 4, 1056, 40)
    many = layers.attention(q, q, q)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert torch.equal(layers.attention(q, q, q), many)
    finally:
        torch.set_num_threads(before)


def test_peaks_are_kept_wherever_they_are() -> None:
    """A key far above those before it, and one far below: the first keys set the scale of the sums."""
    q, k, v = heads(1, 2, 512, 64), heads(1, 2, 512, 64, seed=1), heads(1, 2, 512, 64, seed=2)
    q[..., 0], k[..., 0] = 16, 0
    k[:, :, 300, 0], k[:, :, 10, 0] = 30, -200  # scores 60 above, 400 below
    assert difference(layers.attention(q, k, v), formula(q, k, v)) < 0.003


def test_what_float32_cannot_hold_is_left_to_torch() -> None:
    q, k, v = heads(1, 2, 512, 64), heads(1, 2, 512, 64, seed=1), heads(1, 2, 512, 64, seed=2)
    q[..., 0], k[..., 0] = 16, 0
    k[:, :, 300, 0] = 300  # 600 above the first
    assert amx_attention.attention(q, k, v) is None
    assert difference(layers.attention(q, k, v), formula(q, k, v)) < 0.003


def test_products_beside_it_stay_right() -> None:
    """The tiles belong to a thread, and oneDNN remembers how it left them."""
    q, a = heads(1, 4, 512, 40), heads(1, 1, 256, 256, seed=3)[0, 0]
    expected, product = formula(q, q, q), a.double() @ a.double()

    @torch.no_grad()
    def work(_: int) -> float:
        return max(difference(layers.attention(q, q, q), expected), difference(a @ a, product))

    with ThreadPoolExecutor(3) as pool:
        assert max(pool.map(work, range(24))) < 0.005


def test_training_does_not_use_it() -> None:
    with torch.enable_grad():
        q = heads(1, 1, 512, 40).requires_grad_()
        layers.attention(q, q, q).sum().backward()
        assert q.grad is not None
