"""The command `convert`: a model as one .safetensors file, in another precision or without its moving averages."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from ..models.convert import Conversion, convert
from ..models.registry import resolve
from ..models.stored_model import EMA_CHOICES, PRECISIONS
from .arguments import Command, add_models_dir, model_folders_of


@dataclass(frozen=True)
class ConvertOptions:
    """What `convert` is asked to do."""

    model: str
    output: Path
    folders: tuple[Path, ...]
    asked: Conversion


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "model",
        metavar="IN",
        help="a .safetensors or .ckpt file, a diffusers folder, or a name that `models` shows",
    )
    parser.add_argument("output", type=Path, metavar="OUT", help="the .safetensors to write")
    parser.add_argument("--precision", choices=PRECISIONS, help="format of the numbers (default: as they are)")
    choices = "; ".join(f"{name}: {about}" for name, about in EMA_CHOICES.items())
    parser.add_argument(
        "--ema",
        choices=EMA_CHOICES,
        default="use",
        help=f"the moving averages (EMA) that training leaves in a file. {choices} (default use: the same edits here, "
        "at half the size; averages that are not the weights' own are left out)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is there")
    add_models_dir(parser)


def options_of(args: argparse.Namespace) -> ConvertOptions:
    """Return what the arguments ask for."""
    asked = Conversion(args.precision, args.ema, args.overwrite)
    return ConvertOptions(args.model, args.output, model_folders_of(args), asked)


def run(options: ConvertOptions) -> int:
    """Convert the model and say what came of it. Raises UserError."""
    path = resolve(options.model, options.folders)
    from ..engine.loading.single_file import as_single_file  # who names no model need not wait for torch
    from .output import byte_bars, tell_model

    model = as_single_file(path)
    with byte_bars() as progress:
        path, checkpoint, notes = convert(model, options.output, options.asked, progress)
    tell_model(path, checkpoint, notes)
    return 0


COMMAND = Command(
    "convert",
    "Write a model as one .safetensors file: from .ckpt or a diffusers folder, without what training left.",
    add_arguments,
    options_of,
    run,
)
