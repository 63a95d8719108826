"""The command `serve`: the page and the API. It is also what runs when no command is named."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import UserError
from ..server.options import ServeOptions
from .arguments import Command, add_model, model_options_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_model(parser)
    parser.add_argument("--port", type=_port, metavar="PORT", help="default 7860, or the next free one")
    parser.add_argument("--listen", action="store_true", help="let other machines in; asks for --auth")
    parser.add_argument("--auth", metavar="USER:PASSWORD", help="ask for a name and password")
    parser.add_argument("--insecure", action="store_true", help="allow --listen without --auth")
    about = "a name by which others call this machine, such as that of a tunnel"
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help=about)
    about = "a folder that visitors from elsewhere may edit too, besides outputs/ and inputs/"
    parser.add_argument("--allow-dir", type=Path, action="append", default=[], metavar="DIR", help=about)


def options_of(args: argparse.Namespace) -> ServeOptions:
    """Return what the arguments ask for. Raises UserError for arguments that do not go together."""
    if args.listen and args.auth is None and not args.insecure:
        raise UserError(
            "--listen lets everyone on the network use this program: add --auth USER:PASSWORD, or --insecure if that "
            "is what you want."
        )
    model = model_options_of(args)
    return ServeOptions(
        port=args.port,
        listen=args.listen,
        credentials=None if args.auth is None else _credentials(args.auth),
        host_names=tuple(args.allow_host),
        edit_folders=tuple(args.allow_dir),
        model=model.model,
        model_folders=model.folders,
        device=model.device,
        precision=model.precision,
        debug=args.debug,
    )


def run(options: ServeOptions) -> int:
    """Serve until stopped. Raises UserError."""
    try:
        from ..server.serve import run as serve  # here: `--help` need not wait for torch
    except ModuleNotFoundError as error:
        raise UserError(
            f"The page needs {error.name}, which is not installed here: pip install 'instruct-pix2pix-studio[gui]'."
        ) from error
    return serve(options)


def _port(text: str) -> int:
    if text.isdecimal() and 0 < int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port: choose one from 1 to 65535")


def _credentials(text: str) -> tuple[str, str]:
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise UserError("--auth takes a name and a password: write them as USER:PASSWORD.")
    return user, password


COMMAND = Command(
    "serve",
    "Serve the page and the API, on this machine alone unless told otherwise; so does no command at all.",
    add_arguments,
    options_of,
    run,
)
