"""Precision int8 beside another: steps of a full-size UNet in turns, its weights, and how far edits are from exact.

    python -m benchmarks.int8 [--model FILE] [--beside bf16] [--pixels 512] [--rows 3 1] [--rounds 5] [--busy] [--json]
    python -m benchmarks.int8 --edit 8 --pixels 256

Without `--model` a full-size SD1 checkpoint of random weights is made once, as for `benchmarks.peers`. A step is one
evaluation of the UNet, after one in which weights are packed; the ratio is that of the medians. `--edit` makes the same
edit of so many steps in float32, in the format beside and in int8 instead, and tells the PSNR of the last two. `--busy`
counts the processor's time, for a machine that has other things to do: with OMP_NUM_THREADS=1 it is that of a step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.peers import CHECKPOINT, make_checkpoint
from benchmarks.random_inputs import random_rows, soft_picture
from instruct_pix2pix.engine.edit import edit
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.precision import INT8, choose_machine
from instruct_pix2pix.settings import EditSettings


def bytes_of(network: nn.Module) -> int:
    """Return the bytes of a network's weights, packed ones among them."""
    return sum(t.numel() * t.element_size() for t in (*network.parameters(), *network.buffers()))


@torch.inference_mode()
def steps(path: Path, beside: str, pixels: int, rows: list[int], rounds: int, busy: bool) -> dict[str, Any]:
    """Return the seconds of a UNet evaluation in both formats, medians of `rounds` in turns, by the number of rows."""
    clock = time.process_time if busy else time.perf_counter
    models = {name: EditModel.load(path, choose_machine("cpu", name)) for name in (beside, INT8)}
    cases = []
    for count in rows:
        seconds: dict[str, list[float]] = {name: [] for name in models}
        for turn in range(rounds + 1):
            for name, model in models.items():
                rows_of_it = random_rows(model, count, pixels)
                began = clock()
                model.unet(*rows_of_it)
                if turn:  # weights are packed in the first
                    seconds[name].append(clock() - began)
        medians = {name: statistics.median(values) for name, values in seconds.items()}
        cases.append({"rows": count, **medians, "ratio": medians[beside] / medians[INT8]})
    sizes = {f"unet_mb_{name}": round(bytes_of(model.unet) / 1e6) for name, model in models.items()}
    return {"pixels": pixels, "threads": torch.get_num_threads(), "steps": cases, **sizes}


def distances(path: Path, beside: str, pixels: int, count: int) -> dict[str, float]:
    """Return the PSNR to the edit in float32, in dB, of the same edit in both formats."""
    settings = EditSettings(instruction="make it winter", seed=1, steps=count, size=str(pixels), sampler="Euler")
    results = {}
    for name in ("fp32", beside, INT8):  # one after the other: together they need not fit into memory
        (edited,) = edit(EditModel.load(path, choose_machine("cpu", name)), soft_picture(pixels), settings)
        results[name] = np.asarray(edited.image).astype(float)
    exact = results.pop("fp32")
    return {name: 10 * float(np.log10(255**2 / np.square(r - exact).mean())) for name, r in results.items()}


def main() -> int:
    """Measure what the command line asks for, and print it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.int8", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="a full-size checkpoint (default: random weights)")
    parser.add_argument("--beside", choices=("bf16", "fp32"), default="bf16")
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--rows", type=int, nargs="+", default=[3, 1])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--edit", type=int, metavar="STEPS", help="tell how far whole edits are from exact instead")
    parser.add_argument("--busy", action="store_true", help="count the processor's time")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    path = args.model or make_checkpoint(CHECKPOINT)
    if args.edit:
        report: dict[str, Any] = {"psnr_db": distances(path, args.beside, args.pixels, args.edit)}
    else:
        report = steps(path, args.beside, args.pixels, args.rows, args.rounds, args.busy)
    print(json.dumps(report, indent=None if args.json else 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
