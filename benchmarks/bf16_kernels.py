"""A UNet evaluation in bf16 with our kernels for CPUs without AMX and without them, in turns.

The SD1-size UNet of instruct-pix2pix with random weights. With `--busy` one thread's processor time is counted instead
of the clock, for a machine that has other things to do; `--exact` compares both with float32 at 256 pixels.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor

from instruct_pix2pix.engine.kernels import amx_attention
from instruct_pix2pix.engine.loading.config import CONFIGS, load_config
from instruct_pix2pix.engine.networks import layers
from instruct_pix2pix.engine.networks.layers import Conv2d, prepare
from instruct_pix2pix.engine.networks.unet import Condition, UNet
from instruct_pix2pix.engine.precision import Machine

CPU = torch.device("cpu")
WAYS = {"neither": (False, False), "both": (True, True), "attention": (True, False)}
"""Which of the kernels are used: that of attention, that of convolutions."""


def random_unet() -> UNet:
    """Return SD1's UNet with random weights, bf16: the same million numbers again and again."""
    with torch.device("meta"):
        unet = UNet(load_config(CONFIGS / "sd1.yaml").unet).eval().requires_grad_(False).bfloat16()
    unet.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    pool = torch.randn(2**20 + 7, generator=generator).bfloat16()  # an odd count: channels differ
    for name, weight in unet.named_parameters():
        if weight.ndim == 1:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            numbers = (pool * weight[0].numel() ** -0.5).repeat(-(-weight.numel() // len(pool)))
            weight.copy_(numbers[: weight.numel()].view_as(weight))
    return unet


def inputs(rows: int, size: int, dtype: torch.dtype = torch.bfloat16) -> tuple[Tensor, Tensor, Condition]:
    """Return a latent with its picture, the timesteps and the condition of `rows` rows."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(rows, 8, size // 8, size // 8, generator=generator)
    text = torch.randn(rows, 77, 768, generator=generator)
    return (
        x.bfloat16().to(dtype, memory_format=torch.channels_last),
        torch.full((rows,), 500.0),
        Condition(text.bfloat16().to(dtype)),
    )


@contextmanager
def attention_kernel(used: bool) -> Iterator[None]:
    """Use our attention kernel or leave attention to torch."""
    if used:
        yield
    else:
        with mock.patch.object(amx_attention, "applies", lambda *_: False):
            yield


def main() -> None:
    """Measure as the command line says and print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=512, help="pixels")
    parser.add_argument("--rows", type=int, nargs="+", default=[3, 1])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--levels", type=int, default=2, help="levels, from the finest, that are convolved so")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--busy", action="store_true", help="count one thread's processor time")
    parser.add_argument("--exact", action="store_true", help="compare with float32 at 256 pixels instead")
    options = parser.parse_args()
    if options.busy:
        torch.set_num_threads(1)
    direct, winograd = random_unet(), random_unet()
    exact = copy.deepcopy(direct).float() if options.exact else None
    for unet, levels in ((direct, 0), (winograd, options.levels)):
        with mock.patch.object(layers, "WINOGRAD_LEVELS", levels):
            prepare(unet, Machine(CPU, torch.bfloat16))
    ways = {name: (attention, winograd if conv else direct) for name, (attention, conv) in WAYS.items()}
    ways = {name: ways[name] for name in options.ways}
    with torch.inference_mode():
        if exact is not None:
            expected = exact(*inputs(1, 256, torch.float32))
            for name, (attention, unet) in ways.items():
                with attention_kernel(attention):
                    found = unet(*inputs(1, 256)).float()
                print(f"{name}: differs by {float((found - expected).norm() / expected.norm()):.4f}", flush=True)
            return
        for rows in options.rows:
            measure(ways, rows, options.size, options.rounds, time.process_time if options.busy else time.perf_counter)
    used = [layer for layer in winograd.modules() if isinstance(layer, Conv2d) and layer.weight.ndim == 5]
    print(f"{len(used)} convolutions by Winograd's algorithm")


def measure(ways: dict[str, tuple[bool, UNet]], rows: int, size: int, rounds: int, clock) -> None:  # noqa: ANN001
    """Print the medians of all ways, which take turns; the first round does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + 1):
        for name, (attention, unet) in ways.items():
            arguments = inputs(rows, size)
            with attention_kernel(attention):
                start = clock()
                unet(*arguments)
                seconds[name].append(clock() - start)
    first = statistics.median(next(iter(seconds.values()))[1:])
    for name, times in seconds.items():
        median = statistics.median(times[1:])
        each = ", ".join(f"{one:.2f}" for one in times)
        print(f"{rows} rows, {name}: {median:.2f} s, faster by {first / median:.2f} ({each})", flush=True)


if __name__ == "__main__":
    main()
