"""The command line: `python launch.py …` in a checkout, `ip2p …` once installed."""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

from .. import __version__
from ..errors import Remedy, UserError, out_of_memory
from .arguments import add_arguments

EXAMPLES = """examples:
  edit photo.jpg "make it winter"
  edit photo.jpg "turn the horse into a dragon" --count 4 --text-cfg 9 -o dragon.png
  grid photo.jpg "make it winter" --text-cfg 3:12:4 --image-cfg 1:2:3
  batch photos winter "make it winter" --recursive
  inspect instruct-pix2pix.safetensors
"""


WORDS = {Remedy.SMALLER: ": choose a smaller --size or --batch-size."}
"""How this door words a remedy."""


def main(argv: list[str] | None = None) -> int:
    """Run one command; return 0 when all that was asked for is done, 1 after a sentence on stderr, 2 for bad usage.

    130 when the person stopped it. A traceback is shown only with --debug.
    """
    args = _parser().parse_args(_with_command(sys.argv[1:] if argv is None else argv))
    warnings.filterwarnings("ignore", module="PIL")  # what it says of odd files, our own sentences say better
    try:
        return args.run(args)
    except UserError as error:
        return _failed(args, error.told(WORDS))
    except KeyboardInterrupt:
        print("Stopped.", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if short := out_of_memory(error):
            return _failed(args, short.told(WORDS))
        return _failed(
            args, f"Something went wrong in this program ({type(error).__name__}: {error}): --debug shows where."
        )


def _with_command(argv: list[str]) -> list[str]:
    """Return the words with `serve` in front where they name no command."""
    words = [word for word in argv if word != "--debug"]
    named = bool(words) and (not words[0].startswith("-") or words[0] in ("-h", "--help", "--version"))
    return argv if named else ["serve", *argv]


def _failed(args: argparse.Namespace, sentence: str) -> int:
    if args.debug:
        raise  # noqa: PLE0704 - only called while an exception is handled
    print(" ".join(sentence.split()), file=sys.stderr)
    return 1


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="show tracebacks")
    parser = argparse.ArgumentParser(
        prog="python launch.py" if Path(sys.argv[0]).name == "launch.py" else "ip2p",
        description="Edit pictures by saying what to change.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
    )
    parser.set_defaults(debug=False)
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    models = argparse.ArgumentParser(add_help=False)
    models.add_argument(
        "--models-dir", type=Path, action="append", default=[], metavar="DIR", help="look for models here too"
    )
    machine = argparse.ArgumentParser(add_help=False)
    machine.add_argument("--model", metavar="NAME", help="a file, or a name that `models` shows")
    machine.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default auto)")
    machine.add_argument("--precision", default="auto", help="auto, fp32, fp16 or bf16 (default auto)")

    def command(
        name: str, help: str, run: Callable[[argparse.Namespace], int], *shared: argparse.ArgumentParser
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help, parents=[common, *shared])
        made.set_defaults(run=run)
        return made

    about = "Serve the page and the API, on this machine alone unless told otherwise; so does no command at all."
    serve = command("serve", about, _serve, models, machine)
    serve.add_argument("--port", type=_port, metavar="PORT", help="default 7860, or the next free one")
    serve.add_argument("--listen", action="store_true", help="let other machines in; asks for --auth")
    serve.add_argument("--auth", metavar="USER:PASSWORD", help="ask for a name and password")
    serve.add_argument("--insecure", action="store_true", help="allow --listen without --auth")
    about = "a name by which others call this machine, such as that of a tunnel"
    serve.add_argument("--allow-host", action="append", default=[], metavar="NAME", help=about)
    about = "a folder that visitors from elsewhere may edit too, besides outputs/ and inputs/"
    serve.add_argument("--allow-dir", type=Path, action="append", default=[], metavar="DIR", help=about)

    edit = command("edit", "Edit a picture.", _edit, models, machine)
    edit.add_argument("image", type=Path, metavar="IMAGE")
    edit.add_argument("instruction", metavar="INSTRUCTION", help="what to change, in words")
    edit.add_argument("-o", "--output", type=Path, metavar="OUT", help="file or folder (default IMAGE-edited.png)")
    edit.add_argument("--mask", type=Path, metavar="FILE", help="a picture: white is edited, black is kept")
    edit.add_argument("--json", action="store_true", help="print one JSON object for each picture")
    add_arguments(edit)

    about = "Edit a picture at several scales, and show them in one picture."
    grid = command("grid", about, _grid, models, machine)
    grid.add_argument("image", type=Path, metavar="IMAGE")
    grid.add_argument("instruction", metavar="INSTRUCTION", help="what to change, in words")
    grid.add_argument("-o", "--output", type=Path, metavar="OUT", help="file or folder (default IMAGE-grid.png)")
    about = "first:last:count, or values with commas (default {})"
    grid.add_argument("--text-cfg", default="3:12:4", metavar="VALUES", help=about.format("3:12:4"))
    grid.add_argument("--image-cfg", default="1:2:3", metavar="VALUES", help=about.format("1:2:3"))
    grid.add_argument("--mask", type=Path, metavar="FILE", help="a picture: white is edited, black is kept")
    grid.add_argument("--json", action="store_true", help="print one JSON object for each picture")
    add_arguments(grid, leave=("text_cfg", "image_cfg", "count", "batch_size", "randomize_cfg"))

    about = "Edit a folder of pictures; the same command again goes on where it was cut off."
    batch = command("batch", about, _batch, models, machine)
    batch.add_argument("input", type=Path, metavar="IN_DIR")
    batch.add_argument("output", type=Path, metavar="OUT_DIR", help="another folder, also one inside IN_DIR")
    about = "what to change, where nothing nearer says so: see --instructions"
    batch.add_argument("instruction", nargs="?", metavar="INSTRUCTION", help=about)
    about = "CSV or JSONL: name, instruction, any setting; else NAME.txt beside the picture, else its own infotext"
    batch.add_argument("--instructions", type=Path, metavar="FILE", help=about)
    batch.add_argument("--ignore-infotext", action="store_true", help="take no instruction out of the pictures")
    batch.add_argument("--recursive", action="store_true", help="look into the folders in IN_DIR too")
    batch.add_argument("--masks", type=Path, metavar="DIR", help="masks of the pictures' names: white is edited")
    batch.add_argument("--format", metavar="ENDING", help="png, jpg, webp, tif or avif (default: as each picture)")
    batch.add_argument("--quality", type=int, default=95, help="of jpg, webp and avif, 1 to 100 (default 95)")
    batch.add_argument("--contact-sheet", action="store_true", help="also make a sheet of all, before and after")
    batch.add_argument("--overwrite", action="store_true", help="replace files that come from other settings")
    batch.add_argument("--retry-failed", action="store_true", help="try again what failed before")
    about = "use many machines or GPUs: auto for those here, or HOST:PORT of a Ray cluster (docs/many-machines.md)"
    batch.add_argument("--cluster", metavar="auto|ADDRESS", help=about)
    batch.add_argument("--json", action="store_true", help="print one JSON object for each picture")
    add_arguments(batch, batch_size="by the size of the pictures")

    listing = command("models", "List the models that are here.", _models, models)
    listing.add_argument("--json", action="store_true", help="print JSON")

    inspect = command("inspect", "Say what a model file is, and how that is known.", _inspect)
    inspect.add_argument("file", type=Path, metavar="FILE")
    inspect.add_argument("--json", action="store_true", help="print JSON")

    download = command("download", "Download a model into the models folder.", _download)
    download.add_argument("name", metavar="NAME", help="a known name, OWNER/REPO or OWNER/REPO/FILE")
    download.add_argument("--models-dir", type=Path, metavar="DIR", help="put it here")

    about = "Measure this machine: seconds for a row and an edit, memory, load time."
    bench = command("bench", about, _bench, models, machine)
    bench.add_argument("--size", type=int, metavar="PIXELS", help="side of the picture (default: the model's)")
    bench.add_argument("--steps", type=int, default=4, help="steps of the measured edits (default 4)")
    bench.add_argument("--repeat", type=int, default=3, help="edits to take the median of (default 3)")
    about = "compare with diffusers at full size, in turns; takes minutes, and needs requirements-dev.txt"
    bench.add_argument("--peers", action="store_true", help=about)
    about = "edits by each with --peers (default 3); python -m benchmarks.peers --help lists what else it takes"
    bench.add_argument("--rounds", type=int, default=3, help=about)
    bench.add_argument("--json", action="store_true", help="print JSON")
    return parser


def _port(text: str) -> int:
    if text.isdecimal() and 0 < int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no port: choose one from 1 to 65535")


# Each command imports what it runs: `--help` and `inspect` need not wait for torch.


def _serve(args: argparse.Namespace) -> int:
    try:
        from ..server.serve import run
    except ModuleNotFoundError as error:
        raise UserError(
            f"The page needs {error.name}, which is not installed here: pip install 'instruct-pix2pix-studio[gui]'."
        ) from error
    return run(args)


def huge_pages() -> None:
    """Let torch ask for huge pages: packing the weights of a large model takes little more than half as long then.

    For commands that end soon; torch reads it when it is first imported. It is Linux alone that knows them.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def _edit(args: argparse.Namespace) -> int:
    huge_pages()
    from .edit import run

    return run(args)


def _grid(args: argparse.Namespace) -> int:
    from .grid import run

    return run(args)


def _batch(args: argparse.Namespace) -> int:
    from .batch import run

    return run(args)


def _models(args: argparse.Namespace) -> int:
    from ..models.registry import find_models, model_dirs

    dirs = model_dirs(args.models_dir)
    entries = find_models(dirs)
    if args.json:
        _print_json([_described(e.name, e.path, e.checkpoint, e.problem) for e in entries])
        return 0
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        what = entry.checkpoint.label if entry.checkpoint else entry.problem
        mark = "*" if entry.checkpoint and entry.checkpoint.editable else " "
        print(f"{mark} {entry.name:{width}}  {what}")
    print("\n* can edit. Looked in: " + ", ".join(str(folder) for folder in dirs))
    return 0


def _inspect(args: argparse.Namespace) -> int:
    from ..models.checkpoints import inspect

    found = inspect(args.file)
    if args.json:
        _print_json(_described(args.file.stem, args.file, found, None))
        return 0
    print(f"{args.file.name}: {found.label}")
    print(f"  because {found.reason}")
    ema = ", with EMA weights" if found.has_ema else ""
    print(f"  {found.size_bytes / 1e9:.2f} GB, {found.dtype}{ema}")
    print("  It can edit pictures." if found.editable else f"  {found.advice}")
    return 0


def _download(args: argparse.Namespace) -> int:
    from ..models.download import download
    from ..models.registry import model_dirs

    folder = args.models_dir or model_dirs()[0]
    path = download(args.name, folder, report=lambda line: print(line, file=sys.stderr))
    print(path)
    return 0


def _bench(args: argparse.Namespace) -> int:
    huge_pages()
    from .bench import run, run_peers

    if args.peers:
        return run_peers(args)
    return run(args)


def _described(name: str, path: Path, checkpoint: object, problem: str | None) -> dict[str, object]:
    keys = ("kind", "family", "layout", "in_channels", "context_dim", "has_ema", "dtype", "size_bytes", "reason")
    facts = {key: getattr(checkpoint, key, None) for key in (*keys, "label", "editable")}
    return {"name": name, "path": str(path), **facts, "problem": problem}


def _print_json(value: object) -> None:
    import json

    print(json.dumps(value, indent=1))


if __name__ == "__main__":
    sys.exit(main())
