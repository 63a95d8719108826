"""What the commands share: a command and its arguments, those for models, and those for the settings of an edit."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from ..engine.candidates import Search
from ..engine.sampling.names import SAMPLER_NAMES, SCHEDULE_NAMES, find_schedule, read_sampler
from ..errors import UserError
from ..models.checkpoints import SUITED, inspect
from ..models.registry import model_dirs, resolve
from ..prompts import network_notes
from ..settings import BEST_OF, KNOBS, STRENGTH, EditSettings, Knob, seed_notes
from ..text import number_text, printable, say

MASK_HELP = "a picture: white is edited, black is kept; of one with transparency the opaque part is edited"

NAMES = {"sampler": SAMPLER_NAMES, "schedule": SCHEDULE_NAMES}
"""Knobs whose names may be spelt in many ways, and how they are listed."""

MAP_HELP = "write here where the instruction means to change the picture (white), as --keep-rest found it"

Options = TypeVar("Options")


@dataclass(frozen=True)
class Command(Generic[Options]):
    """A command of the program: its arguments, and what it does with them."""

    name: str
    about: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    options_of: Callable[[argparse.Namespace], Options]
    run: Callable[[Options], int]

    def __call__(self, namespace: argparse.Namespace) -> int:
        """Run with parsed arguments and return the exit status. Raises UserError."""
        return self.run(self.options_of(namespace))


# --- models and machines ---


@dataclass(frozen=True)
class ModelOptions:
    """Which model to load, and how."""

    model: str | None
    """A file, a listed name or a part of one; None is the first model that can edit."""
    folders: tuple[Path, ...]
    """Where to look for models, in this order."""
    device: str
    precision: str
    memory: float | None
    """The most of a card's memory to take, in GB; None is what is free."""

    def find(self) -> Path:
        """Return the path of the model. Raises UserError."""
        return resolve(self.model, self.folders)


def add_models_dir(parser: argparse.ArgumentParser) -> None:
    """Add the folders to look for models in."""
    about = "look for models here too"
    parser.add_argument("--models-dir", type=Path, action="append", default=[], metavar="DIR", help=about)


def model_folders_of(namespace: argparse.Namespace) -> tuple[Path, ...]:
    """Return the folders to look for models in: those given, then the program's own."""
    return tuple(model_dirs(namespace.models_dir))


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the choice of a model, of a device with a limit on its memory, and of a precision."""
    add_models_dir(parser)
    parser.add_argument("--model", metavar="NAME", help="a file, or a name that `models` shows")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, xpu or mps (default auto)")
    parser.add_argument(
        "--precision",
        default="auto",
        help="auto (what this machine runs fast, measured once), fp32, fp16, bf16, int8 (faster than bf16 in half the "
        "memory, less exact, on x86 CPUs), or measure (auto, measured again)",
    )
    about = "take no more of the graphics card's memory, e.g. 3, 4, 6 or 8 (default: what is free)"
    parser.add_argument("--memory", type=float, metavar="GB", help=about)


def model_options_of(namespace: argparse.Namespace) -> ModelOptions:
    """Return what the arguments say of the model."""
    folders = model_folders_of(namespace)
    return ModelOptions(namespace.model, folders, namespace.device, namespace.precision, namespace.memory)


# --- settings ---


def add_settings(parser: argparse.ArgumentParser, *, leave: Collection[str] = (), **defaults: str) -> None:
    """Add one option per knob that has a flag; an option not given is None (see `settings_of`).

    The knobs named in `leave` get no option; `defaults` are words for what a command takes in place of a knob's own
    default.
    """
    for name, one in KNOBS.items():
        if one.flag is None or name in leave:
            continue
        about = one.help.replace("%", "%%")
        if name in NAMES:
            about = f"{about} One of {', '.join(NAMES[name])}"
        if name == "keep_rest":
            about = f"{about} A number from 0 to 1 is always, with this --keep-amount (default off; alone, automatic)"
            kinds = {"nargs": "?", "const": "automatic", "type": _keep_rest, "metavar": "AMOUNT"}
            parser.add_argument(one.flag, dest=name, default=None, help=about, **kinds)
            continue
        if name == "randomize_cfg":
            about = f"{about} Of text, image, both (default off; alone, both)"
            kinds = {"nargs": "?", "const": "both", "choices": one.choices, "metavar": "WHICH"}
            parser.add_argument(one.flag, dest=name, default=None, help=about, **kinds)
            continue
        if isinstance(one.default, bool):
            parser.add_argument(one.flag, dest=name, action="store_true", default=None, help=about)
            continue
        default = number_text(one.default) if isinstance(one.default, (int, float)) else one.default or "none"
        shown = defaults.get(name, f"{default}, or what suits the model" if name in SUITED else default)
        limits = f"; {one.range_text}" if one.range_text else ""
        parser.add_argument(
            one.flag,
            dest=name,
            type=argument_reader(one),
            choices=one.choices,
            default=None,
            metavar=None if one.choices else one.flag.lstrip("-").upper().replace("-", "_"),
            help=f"{about} (default {shown}{limits})",
        )


def add_search(parser: argparse.ArgumentParser) -> None:
    """Add how each result is found."""
    about = f"{BEST_OF.help} (default 1; {BEST_OF.range_text})"
    parser.add_argument("--best-of", type=argument_reader(BEST_OF), default=1, metavar="N", help=about)
    about = f"{STRENGTH.help} (default off)"
    parser.add_argument("--strength", type=argument_reader(STRENGTH), metavar="AMOUNT", help=about)


def search_of(namespace: argparse.Namespace) -> Search:
    """Return what the arguments say of how each result is found. Raises UserError for what cannot be combined."""
    return Search(namespace.best_of, namespace.strength)


def settings_of(namespace: argparse.Namespace, *, leave: Collection[str] = ()) -> EditSettings:
    """Return the settings in parsed arguments, without those to `leave`. Raises UserError."""
    values = {name: getattr(namespace, name, None) for name in KNOBS if name not in leave}
    if isinstance(values.get("keep_rest"), float):
        values |= {"keep_rest": "always", "keep_amount": values["keep_rest"]}
    settings = EditSettings.from_mapping(values)
    read_sampler(settings.sampler)  # a name that is wrong is told before torch is imported
    find_schedule(settings.schedule)
    for note in network_notes(settings.instruction, settings.negative):
        say(note)
    return settings


def asked_of(namespace: argparse.Namespace) -> frozenset[str]:
    """Return the names of the settings that the arguments give a value."""
    return frozenset(name for name in KNOBS if getattr(namespace, name, None) is not None)


def suited_to(path: Path, settings: EditSettings, asked: Collection[str]) -> EditSettings:
    """Return settings with those that suit this model in place of what was not `asked`; what they are is told.

    Raises UserError for a model that cannot be read.
    """
    chosen = inspect(path).suited.fill(settings, asked)
    changed = [name for name in SUITED if getattr(chosen, name) != getattr(settings, name)]
    if changed:
        values = ", ".join(f"{KNOBS[name].label} {number_text(getattr(chosen, name))}" for name in changed)
        say(f"As suits {printable(path.stem)}: {values}.")
    return chosen


def _keep_rest(text: str) -> str | float:
    try:
        return KNOBS["keep_amount"].parse(text) if text[:1].isdigit() else KNOBS["keep_rest"].parse(text)
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def argument_reader(one: Knob) -> Callable[[str], object]:
    """Return what reads the value of a knob from a word, for argparse."""

    def read(text: str) -> object:
        try:
            value = one.parse(text)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from error
        for note in seed_notes(text) if one is KNOBS["seed"] else ():
            say(note)
        return value

    return read
