"""How each form of LoRA changes one weight: against the formulas, written out in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from instruct_pix2pix.engine.beside.low_rank import Unfit, bias_change, weight_change

CONV, LINEAR = torch.Size([8, 6, 3, 3]), torch.Size([8, 6])
R, ALPHA = 2, 3.0


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def close(ours: Tensor | None, theirs: Tensor) -> bool:
    assert ours is not None and ours.dtype == torch.float32 and ours.shape == theirs.shape
    return torch.allclose(ours.double(), theirs, atol=1e-5)


def tucker(kernel: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Sum over r and s of kernel[r, s] a[r, out] b[s, in], entry by entry."""
    whole = torch.zeros(a.shape[1], b.shape[1], *kernel.shape[2:], dtype=torch.float64)
    for r in range(kernel.shape[0]):
        for s in range(kernel.shape[1]):
            outer = a[r].double()[:, None] * b[s].double()[None]
            whole += outer[..., None, None] * kernel[r, s].double()
    return whole


def test_a_pair_with_a_kernel_between_it():
    """LoCon's Tucker form: down to R channels, the kernel among them, up again, as three convolutions."""
    down, mid, up = random(R, 6, 1, 1), random(R, R, 3, 3), random(8, R, 1, 1)
    change = weight_change({"down": down, "mid": mid, "up": up, "alpha": torch.tensor(ALPHA)}, CONV)
    assert change is not None
    x = random(1, 6, 5, 5)
    conv = torch.nn.functional.conv2d
    assert torch.allclose(conv(x, change), ALPHA / R * conv(conv(conv(x, down), mid), up), atol=1e-4)


def test_a_pair_of_matrices_for_a_convolution_of_one_pixel_and_the_other_way_round():
    a, b = random(8, R), random(R, 6)
    expected = (a.double() @ b.double()).view(8, 6, 1, 1)
    assert close(weight_change({"up": a, "down": b}, torch.Size([8, 6, 1, 1])), expected)
    ones = {"up": a[..., None, None], "down": b[..., None, None]}
    assert close(weight_change(ones, LINEAR), expected.view(8, 6))


def test_half_precision_is_computed_in_float32():
    a, b = random(8, R).half(), random(R, 6).bfloat16()
    assert close(weight_change({"up": a, "down": b}, LINEAR), a.double() @ b.double())


def test_a_hadamard_product_with_kernels():
    parts = {f"hada_{name}": random(*shape) for n in "12" for name, shape in (
        (f"t{n}", (R, R, 3, 3)), (f"w{n}_a", (R, 8)), (f"w{n}_b", (R, 6)))}  # fmt: skip
    factors = [tucker(parts[f"hada_t{n}"], parts[f"hada_w{n}_a"], parts[f"hada_w{n}_b"]) for n in "12"]
    change = weight_change({**parts, "alpha": torch.tensor(ALPHA)}, CONV)
    assert close(change, ALPHA / R * factors[0] * factors[1])


@pytest.mark.parametrize("whole", ["neither", "first", "second", "both"])
def test_a_kronecker_product_of_factors_whole_or_not(whole):
    """With both whole alpha has no meaning (LyCORIS)."""
    w1_a, w1_b, w2_a, w2_b = random(2, R), random(R, 3), random(4, R), random(R, 2)
    w1, w2 = w1_a @ w1_b, w2_a @ w2_b
    first = {"lokr_w1": w1} if whole in ("first", "both") else {"lokr_w1_a": w1_a, "lokr_w1_b": w1_b}
    second = {"lokr_w2": w2} if whole in ("second", "both") else {"lokr_w2_a": w2_a, "lokr_w2_b": w2_b}
    expected = torch.zeros(8, 6, dtype=torch.float64)
    for i in range(2):
        for j in range(3):
            expected[4 * i : 4 * i + 4, 2 * j : 2 * j + 2] = w1[i, j].double() * w2.double()
    scale = 1.0 if whole == "both" else ALPHA / R
    assert close(weight_change({**first, **second, "alpha": torch.tensor(ALPHA)}, LINEAR), scale * expected)


def test_a_kronecker_product_with_a_kernel():
    w1, kernel, a, b = random(2, 3), random(R, R, 3, 3), random(R, 4), random(R, 2)
    w2 = tucker(kernel, a, b)
    expected = torch.zeros(8, 6, 3, 3, dtype=torch.float64)
    for i in range(2):
        for j in range(3):
            expected[4 * i : 4 * i + 4, 2 * j : 2 * j + 2] = w1[i, j].double() * w2
    parts = {"lokr_w1": w1, "lokr_t2": kernel, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": torch.tensor(ALPHA)}
    assert close(weight_change(parts, CONV), ALPHA / R * expected)


def test_differences_are_added_as_they_are():
    diff, bias = random(8, 6), random(8)
    assert close(weight_change({"diff": diff, "diff_b": bias, "alpha": torch.tensor(9.0)}, LINEAR), diff.double())
    assert close(bias_change({"diff": diff, "diff_b": bias}, torch.Size([8])), bias.double())
    assert close(weight_change({"w_norm": bias, "b_norm": bias}, torch.Size([8])), bias.double())
    assert bias_change({"diff": diff}, torch.Size([8])) is None
    assert weight_change({"diff_b": bias}, LINEAR) is None


@pytest.mark.parametrize(
    "parts",
    [
        {"up": random(8, 5000), "down": random(5000, 6)},  # a rank beyond reason
        {"up": random(4, R), "down": random(R, 6)},
        {"up": random(4, R), "down": random(R, 12)},  # as many numbers, in another shape
        {"hada_w1_a": random(8, R), "hada_w1_b": random(R, 6), "hada_w2_a": random(8, R)},
        {"lokr_w1": random(2, 3), "lokr_w2_a": random(4, R)},
        {"lokr_w1": random(2, 3, 1), "lokr_w2": random(4, 2)},
        {"lokr_w1": random(8, 6), "lokr_w2": random(8, 6)},
        {"diff": random(8, 7)},
        {"diff": random(1000, 1000), "alpha": torch.ones(1)},
        {"up": random(8, R), "down": random(R, 6), "alpha": random(2)},
        {"up": random(8, R), "down": random(R, 6), "dora_scale": random(8, 1)},
        {"up": random(8, R).int(), "down": random(R, 6)},
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(parts):
    with pytest.raises(Unfit):
        weight_change(parts, LINEAR)


def test_a_bias_for_a_layer_without_one_is_refused():
    with pytest.raises(Unfit):
        bias_change({"diff_b": random(8)}, torch.Size([0]))
