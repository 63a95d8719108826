"""The command `completion`: a script by which a shell completes the words of this program."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from ..errors import UserError
from .arguments import Command

SHELLS = ("bash", "zsh", "fish")
EXPLANATION = """bash: add  eval "$(ip2p completion bash)"  to ~/.bashrc.
zsh: ip2p completion zsh > DIR/_ip2p, where DIR is a folder in $fpath.
fish: ip2p completion fish > ~/.config/fish/completions/ip2p.fish.
In a checkout, alias ip2p to `python launch.py` with its whole path."""


def command(make_parser: Callable[[], argparse.ArgumentParser]) -> Command[str]:
    """Return the command, for the parser of the whole program."""
    about = "Print what lets a shell complete the words of ip2p."
    return Command("completion", about, add_arguments, lambda args: args.shell, partial(run, make_parser))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXPLANATION
    parser.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))


def run(make_parser: Callable[[], argparse.ArgumentParser], shell: str) -> int:
    """Print the script for a shell; it does not start this program. Raises UserError without shtab, which writes it."""
    try:
        shtab = importlib.import_module("shtab")
    except ImportError as error:
        raise UserError("The script is written by shtab, which is not here: python -m pip install shtab.") from error
    parser = make_parser()
    for action in _actions_of(parser):
        if action.type is Path or action.dest == "model":
            is_folder = "DIR" in str(action.metavar)
            action.complete = shtab.DIRECTORY if is_folder else shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, shell))
    return 0


def _actions_of(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from _actions_of(one)
