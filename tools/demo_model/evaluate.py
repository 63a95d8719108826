"""Judges the demo model on scenes that it never saw: per kind of edit, how many come out right.

    python -m tools.demo_model.evaluate --first-seed 0 --count 200 --sheet docs/demo-model.png
    python -m tools.demo_model.evaluate --steps 10 20 --sampler "Euler a" DDIM --phrasings trained unseen
    python -m tools.demo_model.evaluate --count 400 --check

The judge is not a model: it compares the edited picture with the true after-picture, which the world can draw.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from tqdm import tqdm

from instruct_pix2pix.conditioning import to_images
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.precision import choose_machine
from instruct_pix2pix.engine.sampling.noise import ImageNoise
from instruct_pix2pix.engine.sampling.samplers import SAMPLERS, find_sampler
from instruct_pix2pix.engine.sampling.schedules import get_sigmas
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.guidance.dual import DualGuidance
from instruct_pix2pix.guidance.inputs import GuidanceInputs, Prompt
from instruct_pix2pix.guidance.rows import Scales
from instruct_pix2pix.settings import EditSettings
from tools.demo_model import acceptance, scenes
from tools.demo_model.autoencoder import DEMO, FIRST_TRAINING_SEED, to_tensor

UNMOVED = 6.0
"""What counts as no change: less than this, of 255, on average. The autoencoder alone makes 1.7."""

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
    halves: tuple[np.ndarray, ...] = ()
    """Of two instructions in one: the pictures in which only one was obeyed."""


@dataclass(frozen=True)
class Verdict:
    """What the judge measured on one edited picture; distances are mean absolute differences in 0..255."""

    kind: str
    success: bool
    """In the edited region, closer to the true after-picture than to the before-picture. Of two instructions in one,
    the same for each of them: where it changes what the other leaves. Of an edit of something absent, that the
    picture moved by less than `UNMOVED`."""
    exact: bool
    """A success whose distance to the true after-picture, in each such region, is at most 40."""
    error: float
    """Distance to the true after-picture in the edited region; without one, in the whole picture."""
    outside: float
    """Distance to the before-picture outside the edited region."""
    moved: float
    """Distance to the before-picture overall."""
    rms: float
    """The same as a root mean square over pixels and channels, to which strong changes count more."""


def cases(
    first_seed: int, count: int, held_out_phrasing: bool = False, kinds: Sequence[str] = scenes.KINDS
) -> list[Case]:
    """Return one edit of each possible of these kinds for `count` scenes.

    Raises UserError for seeds that training uses.
    """
    if first_seed + count > FIRST_TRAINING_SEED:
        raise UserError(f"Seeds from {FIRST_TRAINING_SEED} on were trained on: choose smaller ones.")
    found = []
    for seed in range(first_seed, first_seed + count):
        scene = scenes.scene(seed)
        before = scenes.draw(scene)
        for edit in scenes.every_edit(scene, seed, held_out_phrasing):
            if edit.kind in kinds:
                halves = tuple(scenes.draw(half.after) for half in edit.halves)
                found.append(Case(seed, edit.kind, edit.instruction, before, scenes.draw(edit.after), halves))
    return found


def run(model: EditModel, wanted: Sequence[Case], settings: EditSettings, batch: int = 32) -> list[np.ndarray]:
    """Edit every case with its own seed, many cases at a time -> uint8 pictures [96, 96, 3]; shows progress.

    LoRAs that the settings' instruction names are put on for that time; the cases have instructions of their own.
    """
    edited: list[np.ndarray] = []
    model.add_ons.put_on(settings)
    for i in tqdm(range(0, len(wanted), batch), desc=describe(settings), disable=None, leave=False):
        some = wanted[i : i + batch]
        latents = sample(model, given(model, some, settings), [case.seed for case in some], settings)
        edited += [np.asarray(picture) for picture in to_images(model.decode(latents))]
    model.add_ons.take_off()
    return edited


def given(model: EditModel, some: Sequence[Case], settings: EditSettings) -> GuidanceInputs:
    """Return what the edits of these cases are conditioned on: one prompt that has a row for each."""
    image = model.encode_image(to_tensor(np.stack([case.before for case in some])))
    texts = [model.encode_text(case.instruction, settings.negative, settings.steps) for case in some]
    return GuidanceInputs((_stack([prompts[0] for prompts, _ in texts]),), texts[0][1], image)


def sample(model: EditModel, inputs: GuidanceInputs, seeds: Sequence[int], settings: EditSettings) -> Tensor:
    """Return the latents [N, 4, h, w] of edits, one for each seed."""
    sampler, _ = find_sampler(settings.sampler)
    sigmas = get_sigmas(settings.schedule, settings.steps, model.levels, sampler)
    scales = Scales(settings.text_cfg, settings.image_cfg)
    guidance = DualGuidance(model, inputs, scales, sigmas, rescale=settings.rescale, speed=settings.speed)
    noise = ImageNoise(seeds, inputs.image.shape[1:], model.machine.device)
    return sampler(guidance, noise.draw() * float(sigmas[0]), sigmas, noise)


def describe(settings: EditSettings) -> str:
    """Return what the edits were made with, in words."""
    scales = f"Text CFG {settings.text_cfg:g}, Image CFG {settings.image_cfg:g}"
    speed = "" if settings.speed == "exact" else f", {settings.speed}"
    lora = f", {settings.instruction}" if settings.instruction else ""
    return f"{settings.sampler}, {settings.steps} steps, {scales}{speed}{lora}"


def _stack(prompts: Sequence[Prompt]) -> Prompt:
    """Join plain prompts of one length each into one whose embedding has a row for each picture."""
    embeddings: list[Tensor] = [prompt.schedule[-1][1] for prompt in prompts]
    return Prompt(((prompts[0].schedule[-1][0], torch.cat(embeddings)),))


def judge(case: Case, edited: np.ndarray) -> Verdict:
    """Compare an edited picture with what it should be."""
    to_after, to_before = _distance(edited, case.after), _distance(edited, case.before)
    moved = float(to_before.mean())
    rms = float(np.sqrt(np.square(edited.astype(np.float32) - case.before).mean()))
    region = scenes.mask(case.before, case.after)
    if not region.any():
        return Verdict(case.kind, moved < UNMOVED, moved < UNMOVED, moved, moved, moved, rms)
    success, exact = True, True
    for rival in case.halves or (case.before,):
        where = scenes.mask(rival, case.after)
        away = float(to_after[where].mean())
        success &= away < float(_distance(edited, rival)[where].mean())
        exact &= success and away <= 40
    outside = float(to_before[~region].mean()) if not region.all() else 0.0
    return Verdict(case.kind, success, exact, float(to_after[region].mean()), outside, moved, rms)


def _distance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(np.float32) - b.astype(np.float32)).mean(axis=2)


def summary(verdicts: Sequence[Verdict]) -> dict[str, dict[str, float]]:
    """Return the figures per kind of edit, for the local kinds together and for all of `scenes.KINDS`."""
    groups = {kind: [v for v in verdicts if v.kind == kind] for kind in scenes.ALL_KINDS}
    groups["local"] = [v for v in verdicts if v.kind in LOCAL]
    groups["all"] = [v for v in verdicts if v.kind in scenes.KINDS]
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
    side = scenes.SIZE * zoom
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


def examples(wanted: Sequence[Case], each: int) -> list[int]:
    """Return the places of the first `each` cases of every kind, kind by kind."""
    return [i for kind in scenes.ALL_KINDS for i in [i for i, case in enumerate(wanted) if case.kind == kind][:each]]


def main() -> None:
    """Judge, print the tables, write the sheet; with --check, exit with 1 if a promise does not hold."""
    about = (__doc__ or "").split("\n", 1)[0]
    parser = argparse.ArgumentParser(prog="python -m tools.demo_model.evaluate", description=about)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=200, help="scenes; each is edited in every way it allows")
    kinds = scenes.ALL_KINDS
    parser.add_argument("--kinds", nargs="+", choices=kinds, default=kinds, help="only these edits")
    parser.add_argument("--model", type=Path, default=DEMO)
    parser.add_argument("--text-cfg", type=float, nargs="+", default=[7.5])
    parser.add_argument("--image-cfg", type=float, nargs="+", default=[1.5])
    parser.add_argument("--steps", type=int, nargs="+", default=[20])
    parser.add_argument("--sampler", nargs="+", default=["Euler a"], help="names, or all")
    parser.add_argument("--lora", default="", help="edit with this LoRA, at weight 1")
    parser.add_argument("--phrasings", nargs="+", choices=["trained", "unseen"], default=["trained"])
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--check", action="store_true", help="measure what is promised instead; takes hours on a CPU")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--sheet", type=Path, help="write a picture of the first edits of every kind here")
    parser.add_argument("--each", type=int, default=4, help="how many edits of a kind the sheet shows")
    args = parser.parse_args()
    try:
        model = EditModel.load(args.model, choose_machine(args.device, args.precision))
        if args.check:
            sys.exit(not _holds(model, args.first_seed, args.count))
        samplers = list(SAMPLERS) if args.sampler == ["all"] else args.sampler
        lora = f"<lora:{args.lora}:1>" if args.lora else ""
        setups = [
            EditSettings(lora, text_cfg=text_cfg, image_cfg=image_cfg, steps=steps, sampler=sampler)
            for sampler in samplers
            for steps in args.steps
            for text_cfg in args.text_cfg
            for image_cfg in args.image_cfg
        ]
        results = []
        for phrasing in args.phrasings:
            wanted = cases(args.first_seed, args.count, phrasing == "unseen", args.kinds)
            for settings in setups:
                edited = run(model, wanted, settings)
                figures = _judged(wanted, edited)
                made = {name: getattr(settings, name) for name in ("sampler", "steps", "text_cfg", "image_cfg")}
                results.append({"phrasings": phrasing, **made, "figures": figures})
                if not args.json:
                    print(f"\n{describe(settings)}, {phrasing} phrasings\n\n{table(figures)}", flush=True)
                if args.sheet and len(results) == 1:
                    shown = examples(wanted, args.each)
                    sheet([wanted[i] for i in shown], [edited[i] for i in shown]).save(args.sheet)
        if args.json:
            print(json.dumps(results, indent=1))
    except UserError as error:
        sys.exit(str(error))


def _judged(wanted: Sequence[Case], edited: Sequence[np.ndarray]) -> dict[str, dict[str, float]]:
    return summary([judge(case, picture) for case, picture in zip(wanted, edited, strict=True)])


def _holds(model: EditModel, first_seed: int, count: int) -> bool:
    def measure(settings: EditSettings, count: int, unseen: bool) -> dict[str, dict[str, float]]:
        wanted = cases(first_seed, count, unseen, scenes.ALL_KINDS)
        return _judged(wanted, run(model, wanted, settings))

    held = True
    for holds, line in acceptance.promises(measure, count):
        print("pass" if holds else "FAIL", line, flush=True)
        held &= holds
    return held


if __name__ == "__main__":
    main()
