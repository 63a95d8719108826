"""Measures cheaper speeds and number formats on scenes that the demo model never saw: against the exact edit, and by
the judge.

    python -m tools.demo_model.speeds --count 60 --every 3 --sampler "Euler a" Euler "DPM++ 2M" --steps 20 10
    python -m tools.demo_model.speeds --precision fp32 bf16 --speed exact

PSNR is that of the same edit with the same seed at the first speed in the first format, over whole pictures: the mean
of the pictures', the tenth percentile, and that of the mean squared error over all of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.precision import choose_machine
from instruct_pix2pix.guidance.cached import whole_steps
from instruct_pix2pix.settings import SPEEDS, EditSettings
from tools.demo_model.autoencoder import DEMO
from tools.demo_model.evaluate import cases, judge, run


def main() -> None:
    """Print a row of a Markdown table for each speed."""
    about = (__doc__ or "").split("\n", 1)[0]
    parser = argparse.ArgumentParser(prog="python -m tools.demo_model.speeds", description=about)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=60, help="scenes")
    parser.add_argument("--every", type=int, default=1, help="take only each Nth of their edits")
    parser.add_argument("--sampler", nargs="+", default=["Euler a"])
    parser.add_argument("--steps", type=int, nargs="+", default=[20])
    parser.add_argument("--speed", nargs="+", choices=SPEEDS, default=SPEEDS)
    parser.add_argument("--precision", nargs="+", default=["auto"], help="auto, fp32, fp16 or bf16, one or more")
    parser.add_argument("--text-cfg", type=float, default=7.5)
    parser.add_argument("--image-cfg", type=float, default=1.5)
    parser.add_argument("--model", type=Path, default=DEMO)
    args = parser.parse_args()
    machines = [choose_machine("auto", precision) for precision in args.precision]
    models = [EditModel.load(args.model, machine) for machine in machines]
    speeds: list[str] = args.speed
    wanted = cases(args.first_seed, args.count)[:: args.every]
    print(f"{len(wanted)} edits of {args.count} scenes, Text CFG {args.text_cfg:g}, Image CFG {args.image_cfg:g}\n")
    print("| sampler | steps | format | speed | with all rows | PSNR: mean | tenth percentile | of all | success |")
    print("|---|---:|---|---|---:|---:|---:|---:|---:|")
    for sampler, steps in product(args.sampler, args.steps):
        exact: list[np.ndarray] = []
        for model, speed in product(models, speeds):
            settings = EditSettings(
                text_cfg=args.text_cfg, image_cfg=args.image_cfg, sampler=sampler, steps=steps, speed=speed
            )
            edited = run(model, wanted, settings)
            success = np.mean([judge(case, picture).success for case, picture in zip(wanted, edited, strict=True)])
            found = _psnr(edited, exact) if exact else " | – | – | – "
            exact = exact or edited
            name = f"{sampler} | {steps} | {str(model.machine.dtype).removeprefix('torch.')} | {speed}"
            print(f"| {name} | {len(whole_steps(speed, steps))}{found}| {success:.1%} |", flush=True)


def _psnr(edited: Sequence[np.ndarray], exact: Sequence[np.ndarray]) -> str:
    errors = np.square(np.stack(edited).astype(np.float64) - np.stack(exact)).mean(axis=(1, 2, 3))
    each, whole = (10 * np.log10(255**2 / np.maximum(error, 1e-3)) for error in (errors, errors.mean()))
    return f" | {each.mean():.1f} | {np.percentile(each, 10):.1f} | {whole:.1f} "


if __name__ == "__main__":
    main()
