"""The command `edit`: one picture, one instruction, one file for each result."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..settings import EditSettings
from ..text import printable, say
from .arguments import (
    MAP_HELP,
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
from .huge_pages import use_huge_pages


@dataclass(frozen=True)
class EditOptions:
    """What `edit` is asked to do."""

    image: Path
    settings: EditSettings
    asked: frozenset[str]
    """The names of the settings that were given; the others are to suit the model."""
    output: Path | None
    """A file or a folder; None is a new name after the picture's."""
    mask: Path | None
    save_map: Path | None
    """Where to write the relevance map; with several results, their numbers follow the name."""
    map_only: Path | None
    """Where to write the map in place of any edit."""
    model: ModelOptions
    as_json: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_model(parser)
    parser.add_argument("image", type=Path, metavar="IMAGE")
    parser.add_argument("instruction", metavar="INSTRUCTION", help="what to change, in words")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="file or folder (default IMAGE-edited.png)")
    parser.add_argument("--save-map", type=Path, metavar="FILE", help=MAP_HELP)
    parser.add_argument("--map-only", type=Path, metavar="FILE", help="write such a map, before any edit, and end")
    parser.add_argument("--mask", type=Path, metavar="FILE", help=MASK_HELP)
    parser.add_argument("--json", action="store_true", help="print one JSON object for each picture")
    add_settings(parser)


def options_of(args: argparse.Namespace) -> EditOptions:
    """Return what the arguments ask for. Raises UserError."""
    return EditOptions(
        image=args.image,
        settings=settings_of(args).require_instruction(),
        asked=asked_of(args),
        output=args.output,
        mask=args.mask,
        save_map=args.save_map,
        map_only=args.map_only,
        model=model_options_of(args),
        as_json=args.json,
    )


def run(options: EditOptions) -> int:
    """Edit as asked; every finished picture is written before the next is begun.

    Whatever can be wrong with the request is found before the model is loaded. Raises UserError.
    """
    use_huge_pages()
    # Imported here: `--help` need not wait for torch.
    from ..engine.edit import edit_each, fitted, map_of, resolved
    from ..engine.precision import choose_machine
    from ..engine.process_memory import tune_memory
    from ..engine.result_size import framed, to_write
    from ..images import format_of, open_picture, save_picture
    from .loading import load
    from .output import output_names, print_result, step_bar

    tune_memory()
    settings = resolved(options.settings)
    picture = open_picture(options.image, deep=settings.result_size in ("auto", "own"))
    mask = open_picture(options.mask) if options.mask else None
    outputs = output_names(options.image, options.output, settings.count)
    maps = output_names(options.image, options.save_map, settings.count) if options.save_map else [None] * len(outputs)
    if options.save_map and settings.keep_rest == "off" and not settings.zoom:
        raise UserError("There is no map without keeping the rest: add --keep-rest.")
    machine = choose_machine(options.model.device, options.model.precision)
    path = options.model.find()
    settings = suited_to(path, settings, options.asked)
    for note in picture.notes + (mask.notes if mask else ()):
        say(note)

    model, hash_ = load(path, machine, options.model.folders)
    fit = fitted(model, picture.image, settings, mask and mask.mask, picture.deep)
    if options.map_only is not None:
        found = map_of(model, fit, settings.for_image(settings.seeds()[0]))
        written = save_picture(found, options.map_only)
        print_result({"map": str(written)}, printable(str(written)), as_json=options.as_json)
        return 0
    alpha = picture.alpha and framed(picture.alpha, fit.plan, settings)
    chosen = [settings.for_image(seed) for seed in settings.seeds()]
    with step_bar(settings.steps, settings.count) as show:
        results = edit_each(model, fit, chosen, show)
        for number, (result, output, map_) in enumerate(zip(results, outputs, maps, strict=True)):
            for note in () if number else result.beside.notes:
                say(note)
            seed, text = result.settings.seed, result.infotext(model.name, hash_)
            pixels = to_write(result, alpha, format_of(output))
            written = save_picture(pixels, output, text, exif=picture.exif, icc=picture.icc)
            facts = {"path": str(written), "seed": seed, "size": list(result.image.size), "rows": result.rows}
            if map_ is not None and result.relevance is not None:
                facts["map"] = str(save_picture(result.relevance, map_))
            kept = "" if result.relevance is None else f", {result.kept:.0%} kept"
            print_result(
                {**facts, "seconds": round(result.seconds, 3), "kept": round(result.kept, 3)},
                f"{printable(str(written))}  (seed {seed}, {result.seconds:.1f} s{kept})",
                as_json=options.as_json,
            )
    return 0


COMMAND = Command("edit", "Edit a picture.", add_arguments, options_of, run)
