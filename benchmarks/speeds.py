"""What a step of a full-size UNet takes by what it evaluates, and what an edit's steps come to at each speed.

    python -m benchmarks.speeds [--model FILE] [--pixels 512] [--steps 20] [--precision bf16] [--rounds 5]

Steps are of three rows, of one, and of one above deep features that are there (see `guidance.deep`); all take turns,
after a call of each in which weights are packed, and medians count. Without `--model` a full-size SD1 checkpoint of
random weights is made once, as for `benchmarks.peers`. How near the speeds come to exact tells
`python -m tools.demo_model.speeds`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.peers import CHECKPOINT, make_checkpoint
from benchmarks.random_inputs import random_rows
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.precision import choose_machine
from instruct_pix2pix.guidance.cached import REUSING, SHARES, whole_steps
from instruct_pix2pix.guidance.deep import DeepFeatures


@torch.inference_mode()
def seconds(model: EditModel, pixels: int, rounds: int) -> dict[str, float]:
    """Return the seconds of a step of each kind."""
    three, one, deep = random_rows(model, 3, pixels), random_rows(model, 1, pixels), DeepFeatures()
    model.unet(*one, None, deep)
    calls: dict[str, Callable[[], object]] = {
        "three rows": lambda: model.unet(*three),
        "one row": lambda: model.unet(*one),
        "one row above deep features": lambda: model.unet(*one, None, deep),
    }
    found: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if turn:
                found[name].append(time.perf_counter() - began)
    return {name: statistics.median(each) for name, each in found.items()}


def above_deep_features(speed: str, steps: int) -> int:
    """Return how many of an edit's steps have the deep features of the step before."""
    whole, served, count = whole_steps(speed, steps), False, 0
    for step in range(steps):
        served = speed in REUSING and step not in whole and not served
        count += served
    return count


def main() -> int:
    """Print two Markdown tables."""
    about = (__doc__ or "").split("\n", 1)[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.speeds", description=about)
    parser.add_argument("--model", type=Path, help="a full-size checkpoint (default: random weights)")
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    model = EditModel.load(args.model or make_checkpoint(CHECKPOINT), choose_machine("cpu", args.precision))
    took = seconds(model, args.pixels, args.rounds)
    three, one, above = took.values()
    print(f"{args.pixels} pixels, {model.machine.precision}, {torch.get_num_threads()} threads\n")
    print("| a step of | s |\n|---|---:|")
    print("".join(f"| {name} | {second:.3g} |\n" for name, second in took.items()))
    print("| speed | with all rows | one row | above deep features | s in all | faster than exact by |")
    print("|---|---:|---:|---:|---:|---:|")
    for speed in SHARES:
        whole, served = len(whole_steps(speed, args.steps)), above_deep_features(speed, args.steps)
        alone = args.steps - whole - served
        total = whole * three + alone * one + served * above
        print(f"| {speed} | {whole} | {alone} | {served} | {total:.1f} | {args.steps * three / total:.2f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
