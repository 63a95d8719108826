"""Judges the demo model on scenes that it never saw: per kind of edit, how many come out right.

    python -m tools.demo_model.evaluate --first-seed 0 --count 200 --sheet docs/demo-model.png

The judge is not a model: it compares the edited picture with the true after-picture, which the world can draw.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from instruct_pix2pix.conditioning import to_images
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.noise import ImageNoise
from instruct_pix2pix.engine.precision import choose_machine
from instruct_pix2pix.engine.samplers import find_sampler
from instruct_pix2pix.engine.schedules import get_sigmas
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.guidance import Conditions, DualGuidance, Prompt, Scales
from instruct_pix2pix.settings import EditSettings

from . import world
from .train import DEMO, FIRST_TRAINING_SEED, to_tensor

LOCAL = ("colour", "add", "remove", "replace")
"""Kinds of edit that change one thing and should leave the rest alone."""


@dataclass(frozen=True)
class Case:
    """One edit to judge; pictures are uint8 [96, 96, 3]."""

    seed: int
    kind: str
    instruction: str
    before: np.ndarray
    after: np.ndarray


@dataclass(frozen=True)
class Verdict:
    """What the judge measured on one edited picture; distances are mean absolute differences in 0..255."""

    kind: str
    success: bool
    """In the edited region, closer to the true after-picture than to the before-picture."""
    exact: bool
    """A success whose distance to the true after-picture, in the edited region, is at most 40."""
    error: float
    """Distance to the true after-picture in the edited region."""
    outside: float
    """Distance to the before-picture outside the edited region."""
    moved: float
    """Distance to the before-picture overall."""
    rms: float
    """The same as a root mean square over pixels and channels, to which strong changes count more."""


def cases(first_seed: int, count: int, held_out_phrasing: bool = False) -> list[Case]:
    """Return one edit of each possible kind for `count` scenes.

    Raises UserError for seeds that training uses.
    """
    if first_seed + count > FIRST_TRAINING_SEED:
        raise UserError(f"Seeds from {FIRST_TRAINING_SEED} on were trained on: choose smaller ones.")
    found = []
    for seed in range(first_seed, first_seed + count):
        scene = world.scene(seed)
        before = world.draw(scene)
        for edit in world.edits(scene, random.Random(seed), held_out_phrasing):
            found.append(Case(seed, edit.kind, edit.instruction, before, world.draw(edit.after)))
    return found


def run(model: EditModel, wanted: Sequence[Case], settings: EditSettings, batch: int = 32) -> list[np.ndarray]:
    """Edit every case with its own seed, many cases at a time -> uint8 pictures [96, 96, 3]."""
    edited: list[np.ndarray] = []
    sampler, _ = find_sampler(settings.sampler)
    sigmas = get_sigmas(settings.schedule, settings.steps, model.levels, settings.sampler)
    for i in range(0, len(wanted), batch):
        some = wanted[i : i + batch]
        latent = model.encode_image(to_tensor(np.stack([case.before for case in some])))
        texts = [model.encode_text(case.instruction, settings.negative, settings.steps) for case in some]
        together = _stack([prompts[0] for prompts, _ in texts])
        conditions = Conditions((together,), texts[0][1], latent)
        guidance = DualGuidance(
            model, conditions, Scales(settings.text_cfg, settings.image_cfg), sigmas, rescale=settings.rescale
        )
        noise = ImageNoise([case.seed for case in some], latent.shape[1:], model.machine.device)
        x = sampler(guidance, noise.draw() * float(sigmas[0]), sigmas, noise)
        edited += [np.asarray(picture) for picture in to_images(model.decode(x))]
    return edited


def _stack(prompts: Sequence[Prompt]) -> Prompt:
    """Join plain prompts of one length each into one whose embedding has a row for each picture."""
    embeddings: list[Tensor] = [prompt.schedule[-1][1] for prompt in prompts]
    return Prompt(((prompts[0].schedule[-1][0], torch.cat(embeddings)),))


def judge(case: Case, edited: np.ndarray) -> Verdict:
    """Compare an edited picture with what it should be."""
    region = world.mask(case.before, case.after)
    to_after, to_before = _distance(edited, case.after), _distance(edited, case.before)
    error = float(to_after[region].mean())
    success = error < float(to_before[region].mean())
    outside = float(to_before[~region].mean()) if not region.all() else 0.0
    rms = float(np.sqrt(np.square(edited.astype(np.float32) - case.before).mean()))
    return Verdict(case.kind, success, success and error <= 40, error, outside, float(to_before.mean()), rms)


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(np.float32) - b.astype(np.float32)).mean(axis=2)


def summary(verdicts: Sequence[Verdict]) -> dict[str, dict[str, float]]:
    """Return the figures per kind of edit, for the local kinds together and for all."""
    groups = {kind: [v for v in verdicts if v.kind == kind] for kind in world.KINDS}
    groups["local"] = [v for v in verdicts if v.kind in LOCAL]
    groups["all"] = list(verdicts)
    return {
        name: {
            "edits": len(group),
            "success": float(np.mean([v.success for v in group])),
            "exact": float(np.mean([v.exact for v in group])),
            "error": float(np.mean([v.error for v in group])),
            "outside": float(np.mean([v.outside for v in group])),
            "moved": float(np.mean([v.moved for v in group])),
            "rms": float(np.mean([v.rms for v in group])),
        }
        for name, group in groups.items()
        if group
    }


def table(figures: dict[str, dict[str, float]]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| edit | count | success | within 40/255 | error in region | change outside | distance from input |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {name} | {f['edits']} | {f['success']:.1%} | {f['exact']:.1%} | {f['error']:.1f} "
        f"| {f['outside']:.1f} | {f['moved']:.1f} |"
        for name, f in figures.items()
    ]
    return "\n".join(lines)


def sheet(wanted: Sequence[Case], edited: Sequence[np.ndarray], columns: int = 6, zoom: int = 2) -> Image.Image:
    """Lay out before, edited and true after in threes, the instruction above each, two triples a row."""
    side = world.SIZE * zoom
    width, height = 3 * side + 24, side + 34
    across = max(1, columns // 3)
    down = -(-len(wanted) // across)
    page = Image.new("RGB", (across * width, down * height + 4), "white")
    pen = ImageDraw.Draw(page)
    for i, (case, picture) in enumerate(zip(wanted, edited, strict=True)):
        left, top = i % across * width + 6, i // across * height + 4
        pen.text((left, top + 6), case.instruction, fill="black", font_size=16)
        for j, pixels in enumerate((case.before, picture, case.after)):
            large = Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)
            page.paste(large, (left + j * (side + 4), top + 28))
    return page


def main() -> None:
    """Judge, print the table, write the sheet."""
    about = (__doc__ or "").split("\n", 1)[0]
    parser = argparse.ArgumentParser(prog="python -m tools.demo_model.evaluate", description=about)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=200, help="scenes; each is edited in every way it allows")
    parser.add_argument("--model", type=Path, default=DEMO)
    parser.add_argument("--text-cfg", type=float, nargs="+", default=[7.5])
    parser.add_argument("--image-cfg", type=float, nargs="+", default=[1.5])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--sampler", default="Euler a")
    parser.add_argument("--held-out-phrasing", action="store_true", help="only wordings that were never trained on")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--sheet", type=Path, help="write a picture of the first edits here")
    args = parser.parse_args()
    try:
        model = EditModel.load(args.model, choose_machine(args.device, args.precision))
        wanted = cases(args.first_seed, args.count, args.held_out_phrasing)
        results = []
        for text_cfg in args.text_cfg:
            for image_cfg in args.image_cfg:
                settings = EditSettings(
                    text_cfg=text_cfg, image_cfg=image_cfg, steps=args.steps, sampler=args.sampler
                )
                edited = run(model, wanted, settings)
                figures = summary([judge(case, picture) for case, picture in zip(wanted, edited, strict=True)])
                results.append({"text_cfg": text_cfg, "image_cfg": image_cfg, "figures": figures})
                if not args.json:
                    print(f"\nText CFG {text_cfg:g}, Image CFG {image_cfg:g}, {args.steps} steps, {args.sampler}\n")
                    print(table(figures), flush=True)
        if args.json:
            print(json.dumps(results, indent=1))
        if args.sheet:
            sheet(wanted[:24], edited[:24]).save(args.sheet)  # pyright: ignore[reportPossiblyUnboundVariable]
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
