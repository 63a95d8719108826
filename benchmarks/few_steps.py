"""Few steps of one row beside the exact edit, from Enter to file in a warm process, and where the time goes.

    python -m benchmarks.few_steps [--model FILE] [--pixels 512] [--steps 4 8] [--exact 20] [--precision bf16 int8]
                                   [--rounds 3] [--json]

Sampler LCM with both scales at 1, as with a LoRA distilled for few steps, which is merged into the weights and costs a
step nothing; decoded by the model's own VAE and by the tiny decoder; `--exact` is the number of steps of three rows
that are made beside, 0 for none. All take turns, after an edit that warms up. Without `--model` a full-size SD1
checkpoint of random weights is made once, as for `benchmarks.peers`; the tiny decoder is of random weights in any case.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.peers import CHECKPOINT, make_checkpoint
from benchmarks.random_inputs import soft_picture
from instruct_pix2pix.conditioning import to_tensor
from instruct_pix2pix.engine.beside.tiny_vae import TinyDecoder
from instruct_pix2pix.engine.edit import edit
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.precision import choose_machine
from instruct_pix2pix.images import open_picture, save_picture
from instruct_pix2pix.settings import EditSettings


def few(steps: int, pixels: int, vae: str) -> EditSettings:
    """Return the settings of an edit by a model that was distilled for few steps."""
    return EditSettings(
        "make it winter", seed=1, steps=steps, sampler="LCM", size=str(pixels), vae=vae, text_cfg=1, image_cfg=1
    )


def seconds_of(action: Callable[[], object]) -> float:
    """Return the seconds that something takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def parts(model: EditModel, photograph: Path) -> dict[str, float]:
    """Return the seconds of what an edit does beside its steps."""
    picture = to_tensor(open_picture(photograph).image)
    latent = model.encode_image(picture)
    found = {
        "text": seconds_of(lambda: model.encode_text("make it winter", "", 4)),
        "encode": seconds_of(lambda: model.encode_image(picture)),
    }
    for vae in ("automatic", "taesd"):
        model.add_ons.put_on(EditSettings("make it winter", vae=vae))
        model.decode(latent)
        found[f"decode, {vae}"] = seconds_of(lambda: model.decode(latent))
    model.add_ons.take_off()
    return found


def measure(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Make the edits in turns, and return the medians of their seconds."""
    (folder / "VAE-approx").mkdir()
    save_file(TinyDecoder().state_dict(), folder / "VAE-approx" / "taesd_decoder.safetensors")
    photograph = folder / "photograph.png"
    soft_picture(args.pixels).save(photograph)

    path = args.model or make_checkpoint(CHECKPOINT)
    names = args.precision or [choose_machine("cpu").precision]
    models = {name: EditModel.load(path, choose_machine("cpu", name), models=[folder]) for name in names}
    cases = {
        f"{name}, {steps} steps, {vae}": (model, few(steps, args.pixels, vae))
        for name, model in models.items()
        for steps in args.steps
        for vae in ("automatic", "taesd")
    }
    if args.exact:
        exact = EditSettings("make it winter", seed=1, steps=args.exact, size=str(args.pixels))
        cases[f"{names[0]}, {args.exact} steps of three rows"] = models[names[0]], exact

    def run(model: EditModel, settings: EditSettings) -> None:
        (edited,) = edit(model, open_picture(photograph), settings)
        save_picture(edited.image, folder / "result.png")

    for model in models.values():
        run(model, few(1, args.pixels, "taesd"))
        run(model, few(1, args.pixels, "automatic"))
    found: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(args.rounds):
        for name, case in cases.items():
            found[name].append(seconds_of(lambda case=case: run(*case)))
            print(f"{name}: {found[name][-1]:.2f} s", file=sys.stderr)
    seconds = {name: statistics.median(each) for name, each in found.items()}
    beside = {name: parts(model, photograph) for name, model in models.items()}
    return {"pixels": args.pixels, "threads": torch.get_num_threads(), "edit_s": seconds, "parts_s": beside}


def main() -> int:
    """Measure what the command line asks for, and print it as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.few_steps", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, help="a full-size checkpoint (default: random weights)")
    parser.add_argument("--pixels", type=int, default=512)
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--exact", type=int, default=20, metavar="STEPS")
    parser.add_argument("--precision", nargs="+", help="one or more (default: what suits this machine)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with TemporaryDirectory() as folder:
        report = measure(args, Path(folder))
    print(json.dumps(report, indent=None if args.json else 2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
