"""The command `edit`: one picture, one instruction, one file for each result."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine.candidates import Search
from ..errors import UserError
from ..settings import EditSettings
from ..text import printable, say
from .arguments import (
    MAP_HELP,
    MASK_HELP,
    Command,
    ModelOptions,
    add_model,
    add_search,
    add_settings,
    asked_of,
    model_options_of,
    search_of,
    settings_of,
    suited_to,
)
from .huge_pages import use_huge_pages

if TYPE_CHECKING:
    from ..engine.search import Winner


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
    contact_sheet: Path | None
    """Where to write one picture of all that was tried."""
    search: Search
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
    about = "also write one picture of all that was tried: the input, results, what was looked at"
    parser.add_argument("--contact-sheet", type=Path, metavar="FILE", help=about)
    add_search(parser)
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
        contact_sheet=args.contact_sheet,
        search=search_of(args),
        model=model_options_of(args),
        as_json=args.json,
    )


def run(options: EditOptions) -> int:
    """Edit as asked; every finished picture is written before the next is begun.

    Whatever can be wrong with the request is found before the model is loaded. Raises UserError.
    """
    use_huge_pages()
    # Imported here: `--help` need not wait for them, nor for torch who names a file that is not there.
    from ..images import format_of, open_picture, save_picture
    from ..models.add_ons import AddOnFolders
    from .output import output_names, print_result, result_text, say_new, step_bar
    from .tried_sheet import TriedSheet

    settings, search = options.settings, options.search
    settings = search.settled(settings, options.asked)
    picture = open_picture(options.image, deep=settings.result_size in ("auto", "own"))
    mask = open_picture(options.mask) if options.mask else None
    outputs = output_names(options.image, options.output, settings.results)
    maps = [None] * len(outputs)
    if options.save_map:
        maps = output_names(options.image, options.save_map, settings.results)
    if options.save_map and settings.keep_rest == "off" and not settings.zoom:
        raise UserError("There is no map without keeping the rest: add --keep-rest.")
    sheet = None
    if options.contact_sheet:
        sheet = TriedSheet(options.contact_sheet, options.image, outputs, settings, search)
    path = options.model.find()
    AddOnFolders.near(path, options.model.folders).require_loras(settings.instruction)

    from ..engine.edit import fitted, map_of, resolved
    from ..engine.precision import choose_machine
    from ..engine.process_memory import tune_memory
    from ..engine.result_size import framed, to_write
    from ..engine.search import find_each
    from .loading import load
    from .photo_advice import advise

    tune_memory()
    settings = resolved(settings)
    machine = choose_machine(options.model.device, options.model.precision, options.model.memory)
    settings = suited_to(path, settings, options.asked)
    for note in picture.notes + (mask.notes if mask else ()):
        say(note)
    advise(path, options.model.folders, [(options.image.name, picture.image)])

    model, hash_ = load(path, machine, options.model.folders)
    fit = fitted(model, picture.image, settings, mask and mask.mask, picture.deep)
    if options.map_only is not None:
        found = map_of(model, fit, settings.pictures()[0])
        written = save_picture(found, options.map_only)
        print_result({"map": str(written)}, printable(str(written)), as_json=options.as_json)
        return 0
    alpha = picture.alpha and framed(picture.alpha, fit.plan, settings)
    together = settings.batch_size if "batch_size" in options.asked else None
    halves = 1 if mask is not None else 2  # of an edit of the region alone

    notes: set[str] = set()

    def each(steps: int) -> int:
        return search.steps(steps, halves * steps if settings.zoom else 0)

    with step_bar(settings.steps, settings.results, each) as show:
        results = find_each(model, fit, settings, search, show, together)
        for found, output, map_ in zip(results, outputs, maps, strict=True):
            result = found.edited
            say_new(result.beside.notes, notes)
            own, text = result.settings, result.infotext(model.name, hash_)
            pixels = to_write(result, alpha, format_of(output))
            written = save_picture(pixels, output, text, exif=picture.exif, icc=picture.icc)
            facts = {"path": str(written), "seed": own.seed, "size": list(result.image.size), "rows": result.rows}
            if own.instruction != settings.instruction:
                facts["instruction"] = own.instruction
            if map_ is not None and result.relevance is not None:
                facts["map"] = str(save_picture(result.relevance, map_))
            kept = "" if result.relevance is None else f", {result.kept:.0%} kept"
            told = result_text(settings, own, search, result.seconds, found.cost)
            print_result(
                {**facts, "seconds": round(result.seconds, 3), "kept": round(result.kept, 3), **_facts(found)},
                f"{printable(str(written))}  ({told}{kept})",
                as_json=options.as_json,
            )
            if sheet is not None:
                sheet.add(found, result.made.before)
    if sheet is not None:
        written = sheet.write()
        print_result({"contact_sheet": str(written)}, printable(str(written)), as_json=options.as_json)
    return 0


def _facts(found: Winner) -> dict[str, object]:
    """Return what is printed of a result that was found among several."""
    if not found.looks:
        return {}
    own = found.edited.settings
    looks = [
        {
            "seed": one.settings.seed,
            "text_cfg": one.settings.text_cfg,
            "image_cfg": one.settings.image_cfg,
            "outside": round(one.outside, 2),
            "inside": round(one.inside, 2),
        }
        for one in found.looks
    ]
    return {
        "text_cfg": own.text_cfg,
        "image_cfg": own.image_cfg,
        "cost": round(found.cost, 2),
        "looked_at": looks,
    }


COMMAND = Command("edit", "Edit a picture.", add_arguments, options_of, run)
