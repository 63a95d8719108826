"""The command `grid`: one picture, one instruction and seed, over Text CFG and Image CFG, in one picture."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..settings import EditSettings
from ..text import printable, say
from .arguments import (
    MASK_HELP,
    Command,
    ModelOptions,
    add_model,
    add_settings,
    asked_of,
    model_options_of,
    settings_of,
    suited_to,
)

if TYPE_CHECKING:
    from PIL import Image

    from ..engine.edit import Edited


@dataclass(frozen=True)
class GridOptions:
    """What `grid` is asked to do."""

    image: Path
    settings: EditSettings
    """Of every cell, but for the two scales."""
    asked: frozenset[str]
    """The names of the settings that were given; the others are to suit the model."""
    text_cfg: str
    image_cfg: str
    """The values of a scale, as `grid.values` reads them."""
    output: Path | None
    mask: Path | None
    model: ModelOptions
    as_json: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_model(parser)
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument("instruction", metavar="INSTRUCTION", help="what to change, in words")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="file or folder (default IMAGE-grid.png)")
    about = "first:last:count, or values with commas (default {})"
    parser.add_argument("--text-cfg", default="3:12:4", metavar="VALUES", help=about.format("3:12:4"))
    parser.add_argument("--image-cfg", default="1:2:3", metavar="VALUES", help=about.format("1:2:3"))
    parser.add_argument("--mask", type=Path, metavar="FILE", help=MASK_HELP)
    parser.add_argument("--json", action="store_true", help="print one JSON object for each picture")
    add_settings(parser, leave=("text_cfg", "image_cfg", "count", "batch_size", "randomize_cfg"))


def options_of(args: argparse.Namespace) -> GridOptions:
    """Return what the arguments ask for. Raises UserError."""
    return GridOptions(
        image=args.image,
        settings=settings_of(args, leave=("text_cfg", "image_cfg")),
        asked=asked_of(args),
        text_cfg=args.text_cfg,
        image_cfg=args.image_cfg,
        output=args.output,
        mask=args.mask,
        model=model_options_of(args),
        as_json=args.json,
    )


def run(options: GridOptions) -> int:
    """Make all edits and write their matrix. Raises UserError."""
    # Imported here: `--help` need not wait for them, nor for torch who names a file that is not there.
    from ..grid import cells, check, draw, plot_fields, values
    from ..images import open_picture, save_picture
    from ..models.add_ons import AddOnFolders
    from .output import output_names, print_result, say_new, step_bar

    text_cfg, image_cfg = values(options.text_cfg, "text_cfg"), values(options.image_cfg, "image_cfg")
    settings = options.settings.require_instruction()
    check(settings)
    picture = open_picture(options.image)
    mask = open_picture(options.mask) if options.mask else None
    (output,) = output_names(options.image, options.output, 1, "grid")
    path = options.model.find()
    AddOnFolders.near(path, options.model.folders).require_loras(settings.instruction)

    from ..engine.edit import fitted, resolved
    from ..engine.precision import choose_machine
    from ..engine.process_memory import tune_memory
    from ..engine.search import edit_together
    from .loading import load
    from .photo_advice import advise

    tune_memory()
    settings = resolved(settings)
    machine = choose_machine(options.model.device, options.model.precision, options.model.memory)
    for note in picture.notes + (mask.notes if mask else ()):
        say(note)
    advise(path, options.model.folders, [(options.image.name, picture.image)])
    settings = suited_to(path, settings, options.asked)
    model, hash_ = load(path, machine, options.model.folders)

    one = replace(settings, seed=settings.seeds()[0], result_size="model", zoom=False)
    asked = cells(one, text_cfg, image_cfg)
    fit = fitted(model, picture.image, one, mask and mask.mask)
    source = fit.plan.framed(picture.image)
    results: list[Edited] = []
    notes: set[str] = set()
    with step_bar(settings.steps, len(asked)) as show:
        for result in edit_together(model, fit, asked, show):
            say_new(result.beside.notes, notes)
            results.append(result)
            if options.as_json:
                print_result(_facts(result, source), "", as_json=True)
    text = results[0].infotext(model.name, hash_, plot_fields(text_cfg, image_cfg))
    drawn = draw([result.image for result in results], text_cfg, image_cfg, source)
    written = save_picture(drawn, output, text)
    sentence = f"{printable(str(written))}  (seed {one.seed})"
    print_result({"path": str(written), "seed": one.seed}, sentence, as_json=options.as_json)
    return 0


def _facts(result: Edited, source: Image.Image) -> dict[str, object]:
    """Return what is printed of a cell; `changed` is its mean distance from the picture, of 255."""
    import numpy as np

    change = np.asarray(result.image, dtype=np.float32) - np.asarray(source.convert("RGB"), dtype=np.float32)
    return {
        "text_cfg": result.settings.text_cfg,
        "image_cfg": result.settings.image_cfg,
        "changed": round(float(np.abs(change).mean()), 2),
        "rows": result.rows,
        "seconds": round(result.seconds, 3),
    }


COMMAND = Command(
    "grid", "Edit a picture at several scales, and show them in one picture.", add_arguments, options_of, run
)
