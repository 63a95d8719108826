"""Draws the pictures in examples/, with --pairs what becomes of them; with --readme the README's and a link's pictures.

    python -m tools.demo_model.examples
    python -m tools.demo_model.examples --pairs
    python -m tools.demo_model.examples --readme
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from instruct_pix2pix.engine.edit import edit
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.precision import choose_machine
from instruct_pix2pix.server.page import link_preview
from instruct_pix2pix.server.page.panes.examples import EXAMPLES as SHOWN
from instruct_pix2pix.server.page.panes.examples import pair_of, picture_of
from instruct_pix2pix.settings import EditSettings
from tools.demo_model import scenes
from tools.demo_model.autoencoder import DEMO

ROOT = Path(__file__).parent.parent.parent



def _scene(look: int, time: str, season: str, sky: str, *things: scenes.Thing) -> scenes.Scene:
    return scenes.Scene(time, season, sky, things, scenes.scene(look).look)


EXAMPLES = {
    "house": _scene(7, "day", "summer", "clouds", scenes.Thing("house", "white", 0), scenes.Thing("tree", "green", 2)),
    "car": _scene(11, "day", "autumn", "clear", scenes.Thing("car", "red", 1), scenes.Thing("tree", "green", 2)),
    "ball": _scene(23, "sunset", "summer", "clear", scenes.Thing("cube", "blue", 0), scenes.Thing("ball", "yellow", 2)),
    "night": _scene(5, "night", "winter", "clear", scenes.Thing("car", "green", 0), scenes.Thing("house", "orange", 2)),
}

README = [
    ("house", "make it winter"),
    ("house", "turn day into night"),
    ("house", "paint the house red"),
    ("car", "make the car blue"),
    ("car", "replace the tree with a yellow ball"),
    ("ball", "add a tree in the middle"),
    ("ball", "remove the ball"),
    ("night", "make it summer"),
]
PREVIEW = [README[i] for i in (0, 1, 3, 6)]


def write_pairs(seed: int, zoom: int = 2) -> None:
    """Write what the page shows of its examples: each beside what the demo model makes of it."""
    model = EditModel.load(DEMO, choose_machine())
    side, gap = scenes.SIZE * zoom, 4
    for name, instruction in SHOWN:
        before = Image.open(ROOT / "examples" / picture_of(name))
        (edited,) = edit(model, before, EditSettings(instruction=instruction, seed=seed))
        pair = Image.new("RGBA", (2 * side + gap, side))
        for left, picture in ((0, before), (side + gap, edited.image)):
            pair.paste(picture.resize((side, side), Image.Resampling.BICUBIC), (left, 0))
        pair.save(ROOT / "examples" / pair_of(name), quality=85, method=6)


def strip(seed: int, edits: list[tuple[str, str]], across: int = 4, zoom: int = 2) -> Image.Image:
    """Edit examples with the demo model and lay the pairs out with their instructions."""
    model = EditModel.load(DEMO, choose_machine())
    side, gap, text = scenes.SIZE * zoom, 6, 26
    width, height = 2 * side + gap, side + text
    down = -(-len(edits) // across)
    page = Image.new("RGB", (across * (width + 3 * gap) - gap, down * (height + 2 * gap)), "white")
    pen = ImageDraw.Draw(page)
    for i, (name, instruction) in enumerate(edits):
        before = Image.fromarray(scenes.draw(EXAMPLES[name]))
        (edited,) = edit(model, before, EditSettings(instruction=instruction, seed=seed))
        left, top = i % across * (width + 3 * gap) + gap, i // across * (height + 2 * gap)
        pen.text((left + 2, top + 4), f"“{instruction}”", fill="black", font_size=16)
        for j, picture in enumerate((before, edited.image)):
            page.paste(picture.resize((side, side), Image.Resampling.BICUBIC), (left + j * (side + gap), top + text))
    return page


def main() -> None:
    """Write the files."""
    about = (__doc__ or "").split("\n", 1)[0]
    parser = argparse.ArgumentParser(prog="python -m tools.demo_model.examples", description=about)
    parser.add_argument("--readme", action="store_true", help="edit them, for docs/edits.png and the link preview")
    parser.add_argument("--pairs", action="store_true", help="edit those of the page, for its first view")
    parser.add_argument("--seed", type=int, default=3)
    args = parser.parse_args()
    if args.readme:
        strip(args.seed, README).save(ROOT / "docs" / "edits.png", optimize=True)
        strip(args.seed, PREVIEW, across=2, zoom=3).save(link_preview.PICTURE, quality=88)
        return
    if args.pairs:
        write_pairs(args.seed)
        return
    (ROOT / "examples").mkdir(exist_ok=True)
    for name, scene in EXAMPLES.items():
        Image.fromarray(np.ascontiguousarray(scenes.draw(scene))).save(ROOT / "examples" / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
