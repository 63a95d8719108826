"""The commands about model files: `models` lists them, `inspect` says what one is, `download` brings one."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..models.checkpoints import Checkpoint, inspect
from ..models.download import download
from ..models.registry import find_models, model_dirs
from ..text import printable, say
from .arguments import Command, add_models_dir, model_folders_of

# --- models ---


@dataclass(frozen=True)
class ModelsOptions:
    """What `models` is asked to do: list the models of some folders."""

    folders: tuple[Path, ...]
    as_json: bool


def add_models_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `models`."""
    add_models_dir(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def models_options_of(args: argparse.Namespace) -> ModelsOptions:
    """Return what the arguments of `models` ask for."""
    return ModelsOptions(model_folders_of(args), args.json)


def run_models(options: ModelsOptions) -> int:
    """List the models."""
    entries = find_models(options.folders)
    if options.as_json:
        _print_json([_described(entry.name, entry.path, entry.checkpoint, entry.problem) for entry in entries])
        return 0
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        what = entry.checkpoint.label if entry.checkpoint else entry.problem
        mark = "*" if entry.checkpoint and entry.checkpoint.editable else " "
        print(f"{mark} {printable(entry.name):{width}}  {what}")
    print("\n* can edit. Looked in: " + ", ".join(map(str, options.folders)))
    return 0


MODELS = Command("models", "List the models that are here.", add_models_arguments, models_options_of, run_models)


# --- inspect ---


@dataclass(frozen=True)
class InspectOptions:
    """What `inspect` is asked to do: say what a file is."""

    file: Path
    as_json: bool


def add_inspect_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `inspect`."""
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--json", action="store_true", help="print JSON")


def inspect_options_of(args: argparse.Namespace) -> InspectOptions:
    """Return what the arguments of `inspect` ask for."""
    return InspectOptions(args.file, args.json)


def run_inspect(options: InspectOptions) -> int:
    """Say what the file is. Raises UserError."""
    found = inspect(options.file)
    if options.as_json:
        _print_json(_described(options.file.stem, options.file, found, None))
        return 0
    print(f"{printable(options.file.name)}: {found.label}")
    print(f"  because {found.reason}")
    ema = ", with EMA weights" if found.has_ema else ""
    print(f"  {found.size_bytes / 1e9:.2f} GB, {found.dtype}{ema}")
    if found.missing:
        print(f"  It has no {' and no '.join(found.missing)}.")
    suits = f" {found.suited.text} suit it." if found.suited.size else ""
    print(f"  It can edit pictures.{suits}" if found.editable else f"  {found.advice}")
    return 0


INSPECT = Command(
    "inspect",
    "Say what a model file is, and how that is known.",
    add_inspect_arguments,
    inspect_options_of,
    run_inspect,
)


# --- download ---


@dataclass(frozen=True)
class DownloadOptions:
    """What `download` is asked to do: bring a model into a folder."""

    name: str
    folder: Path


def add_download_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `download`."""
    parser.add_argument("name", metavar="NAME", help="a known name, OWNER/REPO or OWNER/REPO/FILE")
    parser.add_argument("--models-dir", type=Path, metavar="DIR", help="put it here")


def download_options_of(args: argparse.Namespace) -> DownloadOptions:
    """Return what the arguments of `download` ask for."""
    return DownloadOptions(args.name, args.models_dir or model_dirs()[0])


def run_download(options: DownloadOptions) -> int:
    """Download the model and print its path. Raises UserError."""
    print(download(options.name, options.folder, report=say))
    return 0


DOWNLOAD = Command(
    "download",
    "Download a model into the models folder.",
    add_download_arguments,
    download_options_of,
    run_download,
)


# --- JSON ---


def _described(name: str, path: Path, checkpoint: Checkpoint | None, problem: str | None) -> dict[str, object]:
    keys = ("kind", "family", "layout", "in_channels", "context_dim", "has_ema", "dtype", "size_bytes", "reason")
    facts = {key: getattr(checkpoint, key, None) for key in (*keys, "missing", "label", "editable")}
    suited = asdict(checkpoint.suited) if checkpoint and checkpoint.editable else None
    return {"name": name, "path": str(path), **facts, "suited": suited, "problem": problem}


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=1))
