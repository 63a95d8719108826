"""The command line: `python launch.py …` in a checkout, `ip2p …` once installed."""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

from .. import __version__
from ..errors import Remedy, UserError, out_of_memory
from ..text import say, say_problem, telling_ends_nothing
from . import batch, bench, completion, convert, edit, grid, merge, models, serve, workflow
from .arguments import Command
from .parser import Parser, nearest

EXAMPLES = """examples:
  edit photo.jpg "make it winter"
  edit photo.jpg "turn the horse into a dragon" --count 4 --text-cfg 9 -o dragon.png
  grid photo.jpg "make it winter" --text-cfg 3:12:4 --image-cfg 1:2:3
  batch photos winter "make it winter" --recursive
  inspect instruct-pix2pix.safetensors
  merge instruct-pix2pix.safetensors dreamshaper.safetensors v1-5-pruned.safetensors -o my-edit.safetensors
"""


COMMANDS: tuple[Command, ...] = (
    serve.COMMAND,
    edit.COMMAND,
    grid.COMMAND,
    batch.COMMAND,
    models.MODELS,
    models.INSPECT,
    models.DOWNLOAD,
    merge.COMMAND,
    convert.COMMAND,
    bench.COMMAND,
    workflow.COMMAND,
    completion.command(lambda: _parser("ip2p")),
)
LAUNCHER = "python launch.py"

WORDS = {
    Remedy.SMALLER: ": choose a smaller --size or --batch-size.",
    Remedy.OTHER_PORT: ": choose another --port.",
    Remedy.DOWNLOAD_AGAIN: "run the same command again",
    Remedy.MODELS_FOLDER: " with --models-dir",
}
"""How this door words a remedy."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; return 0 when all of the request is done, 1 after a sentence on stderr, 2 for bad usage.

    130 when the person stopped it. A traceback is shown only with --debug.
    """
    with telling_ends_nothing():
        return _run(sys.argv[1:] if argv is None else argv)


def _run(argv: list[str]) -> int:
    args = _parsed(_with_command(argv))
    warnings.filterwarnings("ignore", module="PIL")  # our own sentences about odd files say more
    try:
        return args.command(args)
    except UserError as error:
        return _failed(args, error.told(WORDS))
    except KeyboardInterrupt:
        say("Stopped.")
        return 130
    except Exception as error:
        if short := out_of_memory(error):
            return _failed(args, short.told(WORDS))
        return _failed(
            args, f"Something went wrong in this program ({type(error).__name__}: {error}): --debug shows where."
        )


def _parsed(words: list[str]) -> argparse.Namespace:
    program = LAUNCHER if Path(sys.argv[0]).name == "launch.py" else "ip2p"
    parser, names = _parser(program), [command.name for command in COMMANDS]
    names += ["test"] if program == LAUNCHER else []
    named = next((word for word in words if not word.startswith("-")), names[0])
    if named not in names:
        parser.error(f"There is no command {named!r}{nearest(named, names)}: choose one of {', '.join(names)}")
    args, unknown = parser.parse_known_args(words)
    if unknown:
        args.parser.refuse(unknown)  # by that of the command, which knows what comes near them
    return args


def _with_command(argv: list[str]) -> list[str]:
    """Return the words with `serve` in front where they name no command."""
    words = [word for word in argv if word != "--debug"]
    named = bool(words) and (not words[0].startswith("-") or words[0] in ("-h", "--help", "--version"))
    return argv if named else ["serve", *argv]


def _failed(args: argparse.Namespace, sentence: str) -> int:
    if args.debug:
        raise  # noqa: PLE0704 - only called while an exception is handled
    say_problem(" ".join(sentence.split()))
    return 1


def _parser(program: str) -> Parser:
    """Return the parser of all commands; `program` is what a person types to start it."""
    common = Parser(add_help=False)
    common.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
    parser = Parser(
        prog=program,
        description="Edit pictures by saying what to change.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
    )
    parser.set_defaults(debug=False)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        about = command.about
        words = commands.add_parser(command.name, help=about, description=about, parents=[common])
        command.add_arguments(words)
        words.set_defaults(command=command, parser=words)
    if program == LAUNCHER:
        words = commands.add_parser("test", help="Check this checkout: linter, types, tests; --quick for a part.")
        words.set_defaults(command=_test, parser=words)
    return parser


def _test(_: argparse.Namespace) -> int:
    """Tell who comes here how to get there: launch.py itself runs the checks. Raises UserError."""
    raise UserError(f"Only launch.py runs the tests, where that is its first word: {LAUNCHER} test.")


if __name__ == "__main__":
    sys.exit(main())
