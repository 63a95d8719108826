"""The command `edit`: one picture, one instruction, one file for each result."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from pathlib import Path

from tqdm import tqdm

from ..engine.edit import Progress, edit, plan_for, resolved
from ..engine.model import EditModel
from ..engine.precision import Machine, choose_machine
from ..engine.process_memory import tune_memory
from ..errors import UserError
from ..images import format_of, open_picture, save_picture
from ..models.registry import model_dirs, model_hash, resolve
from ..text import say
from .arguments import settings_of


def run(args: argparse.Namespace) -> int:
    """Edit as asked; every finished picture is written before the next is begun.

    Whatever can be wrong with the request is found before the model is loaded. Raises UserError.
    """
    tune_memory()
    settings = resolved(settings_of(args).require_instruction())
    picture = open_picture(args.image)
    mask = open_picture(args.mask).image if args.mask else None
    outputs = output_names(args.image, args.output, settings.count)
    machine = choose_machine(args.device, args.precision)
    path = resolve(args.model, model_dirs(args.models_dir))
    for note in picture.notes:
        say(note)

    model, hash_ = load(path, machine)
    alpha = picture.alpha and plan_for(model, picture.image, settings).framed(picture.alpha)
    # disable=None: no bar where stderr is not a terminal
    with tqdm(total=settings.steps * settings.count, unit="step", leave=False, disable=None) as bar:

        def show(progress: Progress) -> None:
            bar.total = progress.steps * settings.count
            bar.update(len(progress.seeds))

        results = edit(model, picture.image, settings, mask=mask, on_step=show)
        for result, output in zip(results, outputs, strict=True):
            image = result.image
            if alpha is not None and output.suffix.lower() in (".png", ".webp"):
                image.putalpha(alpha)
            text = result.infotext(model.name, hash_)
            written = save_picture(image, output, text, exif=picture.exif, icc=picture.icc)
            with tqdm.external_write_mode(sys.stdout):
                if args.json:
                    facts = {"path": str(written), "seed": result.settings.seed, "size": list(result.image.size)}
                    print(json.dumps({**facts, "rows": result.rows, "seconds": round(result.seconds, 3)}), flush=True)
                else:
                    print(f"{written}  (seed {result.settings.seed}, {result.seconds:.1f} s)", flush=True)
    return 0


def load(path: Path, machine: Machine) -> tuple[EditModel, str | None]:
    """Load a model for a command, with its hash, and say so on stderr. Raises UserError."""
    began = time.perf_counter()
    say(f"Loading {path.stem} …")
    model = EditModel.load(path, machine)
    hash_ = model_hash(path)
    number = str(machine.dtype).removeprefix("torch.")
    say(f"Loaded in {time.perf_counter() - began:.1f} s; runs on {machine.device} in {number}.")
    return model, hash_


def output_names(image: Path, output: Path | None, count: int, what: str = "edited") -> list[Path]:
    """Return where the results go: OUT, or OUT-1, OUT-2 … for several.

    Without a name, or with a folder, they are called after the picture and replace nothing. Raises UserError for a
    name that no picture can be written to, or that is the picture's own.
    """
    if output is None or output.is_dir() or not output.suffix:
        stem = f"{image.stem}-{what}"
        stems = itertools.chain([stem], (f"{stem}-{number}" for number in itertools.count(2)))
        attempts = (_numbered((output or Path()) / f"{one}.png", count) for one in stems)
        return next(names for names in attempts if not any(name.exists() for name in names))
    format_of(output)
    names = _numbered(output, count)
    if any(name.resolve() == image.resolve() for name in names):
        raise UserError(f"The result would overwrite the picture {image.name}: choose another name with -o.")
    return names


def _numbered(path: Path, count: int) -> list[Path]:
    if count == 1:
        return [path]
    return [path.with_name(f"{path.stem}-{i + 1}{path.suffix}") for i in range(count)]
