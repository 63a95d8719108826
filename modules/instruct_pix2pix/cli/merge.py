"""The command `merge`: a model of two or three others, such as an edit model in the manner of any style."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from ..models.merge import Merge, merge
from ..models.registry import resolve
from ..models.stored_model import PRECISIONS
from .arguments import Command, add_models_dir, model_folders_of

EXPLANATION = """`merge EDIT STYLE BASE -o OUT` writes EDIT + (STYLE - BASE): EDIT is an instruct-pix2pix model, STYLE
a model of your choice, and BASE the one that STYLE was trained from, which for nearly all styles of SD1 is v1-5-pruned.
The result edits by instruction, in that style. Other programs call this 'add difference'. Without BASE, two models are
mixed: (1 - m) EDIT + m STYLE, a 'weighted sum'."""


@dataclass(frozen=True)
class MergeOptions:
    """What `merge` is asked to do."""

    models: tuple[str, ...]
    output: Path
    folders: tuple[Path, ...]
    asked: Merge


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.epilog = EXPLANATION
    about = "a file, a diffusers folder, or a name that `models` shows"
    parser.add_argument("models", metavar="EDIT", help=f"the model that edits: {about}")
    parser.add_argument("style", metavar="STYLE", help="the model whose style is wanted")
    parser.add_argument("base", metavar="BASE", nargs="?", help="the model that STYLE was trained from")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="the .safetensors to write")
    parser.add_argument(
        "-m",
        "--multiplier",
        type=float,
        metavar="M",
        help="how much of the style (default 1 with BASE, 0.3 without)",
    )
    parser.add_argument("--precision", choices=PRECISIONS, help="format of the numbers (default: as in EDIT)")
    parser.add_argument(
        "--ema",
        choices=("use", "drop"),
        default="use",
        help="use: where a model holds the moving average of its weights, merge that, as an edit uses it (default); "
        "drop: merge the weights, as AUTOMATIC1111 does",
    )
    parser.add_argument("--unet-only", action="store_true", help="leave EDIT's VAE and text encoder as they are")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is there")
    add_models_dir(parser)


def options_of(args: argparse.Namespace) -> MergeOptions:
    """Return what the arguments ask for."""
    models = tuple(name for name in (args.models, args.style, args.base) if name is not None)
    asked = Merge(args.multiplier, args.precision, args.ema, args.unet_only, args.overwrite)
    return MergeOptions(models, args.output, model_folders_of(args), asked)


def run(options: MergeOptions) -> int:
    """Merge the models and say what came of it. Raises UserError."""
    paths = [resolve(name, options.folders) for name in options.models]
    from ..engine.loading.single_file import as_single_file  # who names no model need not wait for torch
    from .output import byte_bars, tell_model

    models = [as_single_file(path) for path in paths]
    with byte_bars() as progress:
        path, checkpoint, notes = merge(models, options.output, options.asked, progress)
    tell_model(path, checkpoint, notes)
    return 0


COMMAND = Command("merge", "Make an edit model of any style, by merging it into one.", add_arguments, options_of, run)
