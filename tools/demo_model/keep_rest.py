"""Judges 'Keep the rest' on drawn scenes: how much less changes beside an edit, and whether the edit itself suffers.

    python -m tools.demo_model.keep_rest --local 300 --whole 100 --sheet docs/keep-the-rest.png

Every scene gets one edit, of the kinds in turn; off and automatic get the same seeds. The true region of an edit is
known, as the scenes are drawn: see `scenes.mask`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from instruct_pix2pix.conditioning import fit
from instruct_pix2pix.engine.edit_batch import Edited, FittedPicture, PromptCache, edit_batch, encode_pictures
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.precision import choose_machine
from instruct_pix2pix.engine.shared_cores import SharedCores
from instruct_pix2pix.settings import EditSettings
from tools.demo_model import scenes
from tools.demo_model.autoencoder import DEMO
from tools.demo_model.evaluate import LOCAL, Case, Verdict, cases, judge

FIRST_SEED = 500_000
WHOLE = ("time", "season")
CELL = 8
"""Pixels of a latent cell: maps are compared in these."""


@dataclass(frozen=True)
class Judged:
    """One edit without and with the rest kept."""

    case: Case
    off: Edited
    kept: Edited

    def verdicts(self) -> tuple[Verdict, Verdict]:
        """What the judge says of both."""
        return judge(self.case, np.asarray(self.off.image)), judge(self.case, np.asarray(self.kept.image))

    def overlap(self) -> float:
        """Intersection over union, 0..1, of what was edited and the true region, in cells."""
        true = scenes.mask(self.case.before, self.case.after)
        rows, columns = true.shape[0] // CELL, true.shape[1] // CELL
        true = true.reshape(rows, CELL, columns, CELL).any(axis=(1, 3))
        made = self.kept.made.inside
        found = np.ones_like(true)
        if made is not None:
            found = np.asarray(made.resize((columns, rows), Image.Resampling.BOX)) >= 128
        return float((found & true).sum() / max(1, (found | true).sum()))


def one_each(first_seed: int, count: int, kinds: Sequence[str]) -> list[Case]:
    """Return one edit for each of `count` scenes, of these kinds in turn."""
    chosen = []
    for place in range(count):
        found = cases(first_seed + place, 1, kinds=kinds)
        chosen.append(next((one for one in found if one.kind == kinds[place % len(kinds)]), found[0]))
    return chosen


def judged(model: EditModel, wanted: Sequence[Case], settings: EditSettings, batch: int = 16) -> list[Judged]:
    """Edit every case with its own seed, without and with the rest kept."""
    plan, texts, results = fit(scenes.SIZE, scenes.SIZE, scenes.SIZE, CELL), PromptCache(model), []
    for start in tqdm(range(0, len(wanted), batch), desc="edits", disable=None, leave=False):
        some = wanted[start : start + batch]
        pictures = [FittedPicture.by(plan, Image.fromarray(one.before), None, CELL) for one in some]
        asked = [replace(settings, instruction=one.instruction, seed=one.seed) for one in some]
        latents = encode_pictures(model, pictures, settings)
        off, kept = (
            edit_batch(model, pictures, latents, [replace(one, keep_rest=how) for one in asked], texts)
            for how in ("off", "automatic")
        )
        results += map(Judged, some, off, kept)
    return results


def table(results: Sequence[Judged]) -> str:
    """Return the figures as a Markdown table."""
    lines = [
        "| edits | count | success off / kept | change outside off / kept | overlap | whole picture |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    groups = {kind: [kind] for kind in (*LOCAL, *WHOLE)} | {"one thing": list(LOCAL), "whole picture": list(WHOLE)}
    for name, kinds in groups.items():
        some = [one for one in results if one.case.kind in kinds]
        if not some:
            continue
        pairs = [one.verdicts() for one in some]
        success = [np.mean([pair[i].success for pair in pairs]) for i in (0, 1)]
        outside = [np.mean([pair[i].outside for pair in pairs]) for i in (0, 1)]
        whole = np.mean([one.kept.kept == 0 for one in some])
        lines.append(
            f"| {name} | {len(some)} | {success[0]:.1%} / {success[1]:.1%} | {outside[0]:.2f} / {outside[1]:.2f} "
            f"| {np.mean([one.overlap() for one in some]):.2f} | {whole:.1%} |"
        )
    return "\n".join(lines)


def sheet(results: Sequence[Judged], zoom: int = 2) -> Image.Image:
    """Lay out input, map, off and kept in fours, the instruction above each."""
    side = scenes.SIZE * zoom
    page = Image.new("RGB", (4 * side + 12, len(results) * (side + 28)), "white")
    pen = ImageDraw.Draw(page)
    for row, one in enumerate(results):
        top = row * (side + 28)
        pen.text((2, top + 4), one.case.instruction, fill="black", font_size=16)
        parts = (Image.fromarray(one.case.before), one.kept.relevance, one.off.image, one.kept.image)
        for column, part in enumerate(parts):
            if part is not None:
                large = part.convert("RGB").resize((side, side), Image.Resampling.LANCZOS)
                page.paste(large, (column * (side + 4), top + 24))
    return page


def main() -> None:
    """Judge, print the table, write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--local", type=int, default=300, help="edits of one thing")
    parser.add_argument("--whole", type=int, default=100, help="edits of the whole picture")
    parser.add_argument("--first-seed", type=int, default=FIRST_SEED)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    model = EditModel.load(DEMO, choose_machine("auto", "auto"))
    wanted = one_each(args.first_seed, args.local, LOCAL) + one_each(args.first_seed + args.local, args.whole, WHOLE)
    with SharedCores():
        results = judged(model, wanted, EditSettings(steps=args.steps))
    print(table(results))
    if args.sheet:
        examples = [next(one for one in results if one.case.kind == kind) for kind in (*LOCAL, *WHOLE)]
        sheet(examples).save(args.sheet)


if __name__ == "__main__":
    main()
