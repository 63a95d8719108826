"""The command `serve`: the page and the API. It is also what runs when no command is named."""

from __future__ import annotations

import argparse
import os
import re
import stat
from pathlib import Path

from ..errors import UserError
from ..models.registry import resolve
from ..server.limits import Limits, described
from ..server.options import ServeOptions
from ..text import reason_of, say
from .arguments import Command, add_model, model_options_of

ENVIRONMENT = "IP2P_AUTH"
"""The environment variable that holds names and passwords, as lines of --auth-file."""
MOST_BYTES = 1 << 20
"""Of a file of passwords."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_model(parser)
    parser.add_argument("--port", type=_port, metavar="PORT", help="default 7860, or the next free one")
    parser.add_argument("--listen", action="store_true", help="let other machines in; asks for --auth-file")
    about = "a file with the names and passwords to ask for, a line USER:PASSWORD each"
    parser.add_argument("--auth-file", type=Path, metavar="FILE", help=f"{about}; or set {ENVIRONMENT} to such lines")
    about = "ask for this name and password, which other users of this machine can see in its list of processes"
    parser.add_argument("--auth", action="append", default=[], metavar="USER:PASSWORD", help=about)
    parser.add_argument("--insecure", action="store_true", help="allow --listen without a password")
    about = "a name by which others call this machine, such as that of a tunnel"
    parser.add_argument("--allow-host", action="append", default=[], metavar="NAME", help=about)
    about = "where a proxy in front of this server has put it, such as /edit; the proxy takes that off each address"
    parser.add_argument("--root-path", type=_root_path, default="", metavar="PATH", help=about)
    about = "a folder that visitors from elsewhere may edit too, besides outputs/ and inputs/"
    parser.add_argument("--allow-dir", type=Path, action="append", default=[], metavar="DIR", help=about)
    about = "serve people whom nobody knows: without passwords, folders, saved results and API, and within limits"
    parser.add_argument("--for-strangers", action="store_true", help=about)
    about = f"another limit for strangers, of {described()}".replace("%", "%%")
    parser.add_argument("--limit", type=_limit, action="append", default=[], metavar="NAME=NUMBER", help=about)
    about = "a network, such as 10.0.0.0/8, whose proxies are believed when they say for whom they forward"
    parser.add_argument("--behind", action="append", default=[], metavar="NETWORK", help=about)
    about = "another site that may show the page in a frame, such as https://huggingface.co"
    parser.add_argument("--allow-frame", type=_site, action="append", default=[], metavar="SITE", help=about)


def options_of(args: argparse.Namespace) -> ServeOptions:
    """Return what the arguments ask for. Raises UserError for arguments that do not go together."""
    users, limits = _users(args), _limits(args)
    if args.listen and not users and not args.insecure and limits is None:
        raise UserError(
            "--listen lets everyone on the network use this program: add --auth-file FILE (or --auth USER:PASSWORD), "
            "--for-strangers, or --insecure if that is what you want."
        )
    model = model_options_of(args)
    return ServeOptions(
        port=args.port,
        listen=args.listen,
        users=users,
        host_names=tuple(args.allow_host),
        root_path=args.root_path,
        edit_folders=tuple(args.allow_dir),
        model=model.model,
        model_folders=model.folders,
        device=model.device,
        precision=model.precision,
        memory=model.memory,
        debug=args.debug,
        limits=limits,
        proxies=tuple(args.behind),
        frames=tuple(args.allow_frame),
    )


def run(options: ServeOptions) -> int:
    """Serve until stopped. Raises UserError."""
    if options.model is not None:
        resolve(options.model, options.model_folders)  # told before torch and gradio are imported
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


def _limit(text: str) -> tuple[str, int]:
    name, _, number = text.partition("=")
    if name and number.isascii() and number.isdigit() and len(number) < 9:
        return name.strip(), int(number)
    raise argparse.ArgumentTypeError(f"{text!r} is not a limit: write it as steps=30")


def _site(text: str) -> str:
    if re.fullmatch(r"https?://[\w.*-]+(:\d+)?", text, re.ASCII):
        return text
    raise argparse.ArgumentTypeError(f"{text!r} is not a site: write it as https://huggingface.co")


def _limits(args: argparse.Namespace) -> Limits | None:
    if args.for_strangers:
        if args.allow_dir:
            raise UserError("Strangers may name no folders: leave --allow-dir out, or --for-strangers.")
        return Limits().changed(args.limit)
    if args.limit:
        raise UserError("--limit changes what strangers may ask for: add --for-strangers.")
    return None


def _root_path(text: str) -> str:
    path = text.strip("/")
    if re.fullmatch(r"[\w.~-]+(/[\w.~-]+)*|", path, re.ASCII):
        return path and f"/{path}"
    raise argparse.ArgumentTypeError(f"{text!r} is not a path of an address: write it as /edit")


def _users(args: argparse.Namespace) -> tuple[tuple[str, str], ...]:
    """Return all names and passwords to ask for. Raises UserError, which repeats no password."""
    users = [_user(text, "--auth") for text in args.auth]
    if ENVIRONMENT in os.environ:
        users += _listed(os.environ[ENVIRONMENT], ENVIRONMENT)
    if args.auth_file is not None:
        users += _listed(_text_of(args.auth_file), str(args.auth_file))
    names = [name for name, _ in users]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(f"{min(twice)!r} has two passwords: leave one of them out.")
    return tuple(users)


def _text_of(file: Path) -> str:
    """Return the text of a file of passwords; a word is said if others can read it too. Raises UserError."""
    try:
        with file.open("rb") as opened:
            data = opened.read(MOST_BYTES + 1)
        others = os.name == "posix" and file.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({reason_of(error)}): check --auth-file.") from error
    if others:
        say(f"Other users of this machine can read the passwords in {file}: chmod 600 keeps it to yourself.")
    try:
        if len(data) <= MOST_BYTES:
            return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        pass
    raise UserError(f"{file} is not a list of passwords: write a line USER:PASSWORD for each user.")


def _listed(text: str, where: str) -> list[tuple[str, str]]:
    """Return the users in lines of text; lines that are empty or begin with '#' do not count. Raises UserError."""
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    users = [_user(line, f"Line {number} of {where}") for number, line in lines if line and not line.startswith("#")]
    if not users:
        raise UserError(f"{where} names no user: write a line USER:PASSWORD for each.")
    return users


def _user(text: str, where: str) -> tuple[str, str]:
    user, colon, password = text.partition(":")
    if not (user and colon and password):
        raise UserError(f"{where} takes a name and a password: write them as USER:PASSWORD.")
    return user, password


COMMAND = Command(
    "serve",
    "Serve the page and the API, on this machine alone unless told otherwise; so does no command at all.",
    add_arguments,
    options_of,
    run,
)
