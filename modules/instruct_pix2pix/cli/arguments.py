"""The settings of an edit as options of a command."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection

from ..errors import UserError
from ..settings import KNOBS, EditSettings
from ..text import number_text


def settings_of(namespace: argparse.Namespace) -> EditSettings:
    """Return the settings in parsed arguments, whatever else the namespace holds. Raises UserError."""
    return EditSettings.from_mapping({name: getattr(namespace, name, None) for name in KNOBS})


def add_arguments(parser: argparse.ArgumentParser, *, leave: Collection[str] = (), **defaults: str) -> None:
    """Add one option per knob that has a flag; an option not given is None (see from_namespace).

    Those to `leave` have no option here; `defaults` are words for what a command takes in place of a knob's own
    default.
    """
    for name, one in KNOBS.items():
        if one.flag is None or name in leave:
            continue
        about = one.help.replace("%", "%%")
        if isinstance(one.default, bool):
            parser.add_argument(one.flag, dest=name, action="store_true", default=None, help=about)
            continue
        default = number_text(one.default) if isinstance(one.default, (int, float)) else one.default or "none"
        shown = defaults.get(name, default)
        limits = f"; {one.range_text}" if one.range_text else ""
        parser.add_argument(
            one.flag,
            dest=name,
            type=_argument_reader(name),
            choices=one.choices,
            default=None,
            metavar=one.flag.lstrip("-").upper().replace("-", "_"),
            help=f"{about} (default {shown}{limits})",
        )


def _argument_reader(name: str) -> Callable[[str], object]:
    def read(text: str) -> object:
        try:
            return KNOBS[name].parse(text)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return read
