"""The models on this machine, the one that a name means, and their hashes, cached between runs."""

from __future__ import annotations

import difflib
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..paths import DATA, PACKAGE, checkout_of, home_of
from ..text import writable
from .checkpoints import Checkpoint, inspect, model_files, short_hash
from .user_cache import read_table, write_table

DEMO = DATA / "demo" / "demo.safetensors"

_SUFFIXES = (".safetensors", ".ckpt")  # those that A1111 lists
_SHOWN = 10  # names in one sentence

BESIDE_MODELS = ("Lora", "LyCORIS", "VAE", "VAE-approx", "VAE-taesd")
"""Folders within one of models that hold what is loaded beside them; see `add_ons`."""


@dataclass(frozen=True)
class ModelEntry:
    """A model in the list: `checkpoint` says what it is, or `problem` is a sentence about what is wrong with it."""

    name: str
    path: Path
    checkpoint: Checkpoint | None
    problem: str | None


def model_dirs(extra: Sequence[Path] = (), package: Path = PACKAGE) -> list[Path]:
    """Return the folders to look for models in, existing or not; the first after `extra` is the program's own.

    `extra` come first. `package` is this package's folder: in a checkout, models/ lies beside launch.py,
    and a checkout in the extensions/ folder of a host also sees the host's models/Stable-diffusion.
    """
    dirs = [*extra, home_of(package) / "models"]
    root = checkout_of(package)
    if root and root.parent.name == "extensions":
        dirs.append(root.parents[1] / "models" / "Stable-diffusion")
    return dirs


def find_models(dirs: Sequence[Path]) -> list[ModelEntry]:
    """Return every model below `dirs`, identified by its header, sorted by name; the demo model comes last.

    Listed are .safetensors and .ckpt files and diffusers folders (those with model_index.json), not the
    files inside such folders, nor those of `BESIDE_MODELS`. A file that cannot be read is listed with its problem, a
    VAE or LoRA as what it is. A name is the path below its folder without the suffix; with it, or in full, where two
    would be the same.
    """
    seen: set[str] = set()
    found = [(folder, path) for folder in dirs for path in _paths(folder, seen)]
    short = [writable(_relative(folder, path)) for folder, path in found]
    long = [name + path.suffix if path.is_file() else name for name, (_, path) in zip(short, found, strict=True)]
    count = Counter(name.casefold() for name in ["demo", *short])
    count_long = Counter(name.casefold() for name in long)
    entries: list[ModelEntry] = []
    for (_, path), name, with_suffix in zip(found, short, long, strict=True):
        if count[name.casefold()] > 1:
            clash = with_suffix == "demo" or count_long[with_suffix.casefold()] > 1
            name = writable(str(path.absolute())) if clash else with_suffix
        entries.append(_entry(name, path))
    return [*sorted(entries, key=lambda entry: (entry.name.casefold(), entry.name)), _entry("demo", DEMO)]


def resolve(name_or_path: str | None, dirs: Sequence[Path]) -> Path:
    """Return the path of the model that a name means.

    None means the first model that can edit, or else the demo. Otherwise it is a path, a listed name with or
    without suffix (also without its folder), or a part that occurs in one listed name alone; see `named`.
    Raises UserError that lists the models there are, the most similar names first.
    """
    if name_or_path is None:
        entries = find_models(dirs)
        return next((e.path for e in entries if e.checkpoint and e.checkpoint.editable), DEMO)
    path = _existing(name_or_path)
    if path is not None and (path.is_file() or (path / "model_index.json").is_file()):
        return path
    entries = find_models(dirs)
    matches = _matches(name_or_path, entries)
    if len(matches) == 1:
        return matches[0].path
    if path is not None and not matches:
        return path  # a folder of another kind: whoever opens it will say what it lacks
    raise _no_model(name_or_path, matches, entries, dirs)


def model_hash(path: Path) -> str:
    """A1111's 'Model hash' of a file or a diffusers folder (of its UNet): 10 hex digits.

    Computed once for each state of a file, then read from the user's cache folder; a cache that cannot be
    read or written is no error. Raises UserError for a model that cannot be read.
    """
    try:
        stats = [(file.stat().st_size, file.stat().st_mtime_ns) for file in model_files(path)]
        key, state = str(path.resolve()), repr(stats)
    except (OSError, RuntimeError) as error:
        raise UserError(f"'{path.name}' cannot be read: {getattr(error, 'strerror', error)}.") from error
    known = _read_hashes()
    if key in known and known[key][0] == state:
        return known[key][1]
    found = short_hash(path)
    write_table(_HASHES, {**known, key: (state, found)})
    return found


# --- looking for files ---


def _paths(folder: Path, seen: set[str]) -> Iterator[Path]:
    """Find the models below a folder. `seen` holds the real paths of visited folders: links can form circles."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        here = Path(parent)
        real = os.path.realpath(parent)
        folders[:] = () if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real in seen:
            continue
        if here == folder:
            folders[:] = (name for name in folders if name not in BESIDE_MODELS)
        seen.add(real)
        if "model_index.json" in files:
            folders.clear()
            yield here
            continue
        for name in sorted(files):
            if name.lower().endswith(_SUFFIXES) and not name.startswith("."):
                yield here / name


def _relative(folder: Path, path: Path) -> str:
    """Return the path below `folder` with '/' between its parts, without the suffix of a file."""
    if path == folder:
        return path.absolute().name
    below = path.relative_to(folder)
    return (below.with_suffix("") if path.is_file() else below).as_posix()


def _entry(name: str, path: Path) -> ModelEntry:
    try:
        return ModelEntry(name, path, inspect(path), None)
    except UserError as error:
        return ModelEntry(name, path, None, writable(str(error)))
    except OSError as error:
        return ModelEntry(name, path, None, writable(f"'{path.name}' cannot be read: {error.strerror}."))


# --- names ---


def _existing(text: str) -> Path | None:
    try:
        path = Path(text).expanduser()
        return path if text and path.exists() else None
    except (OSError, RuntimeError, ValueError):  # too long for a path, a ~user that is unknown, a NUL
        return None


def named(text: str, entries: Sequence[ModelEntry]) -> list[ModelEntry]:
    """Return the entries that a whole name may mean, by the strictest rule that any of them satisfies.

    Case does not count, nor does a hash behind the name; suffix and folder may be left out; a backslash is a slash:
    clients of the web UI write 'folder\\name.safetensors [0123456789]'. Of entries with one name the first is meant.
    """
    entries = list({entry.name.casefold(): entry for entry in reversed(entries)}.values())[::-1]
    for wanted in _spellings(text):
        exact = [entry for entry in entries if entry.name.casefold() == wanted]
        whole = [entry for entry in entries if wanted in _names(entry)]
        last = [entry for entry in entries if wanted in (name.rpartition("/")[2] for name in _names(entry))]
        if found := exact or whole or last:
            return found
    return []


def _matches(text: str, entries: Sequence[ModelEntry]) -> list[ModelEntry]:
    """Return the entries that a name or a part of one may mean."""
    parts = ([entry for entry in entries if wanted in _names(entry)[1]] for wanted in _spellings(text))
    return named(text, entries) or next(filter(None, parts), [])


def _spellings(text: str) -> list[str]:
    """Return a name as it is compared, and without the hash behind it; none that is empty."""
    whole = writable(text).strip().replace("\\", "/").casefold()
    return list(filter(None, dict.fromkeys([whole, re.sub(r"\s*\[[0-9a-f]*\]$", "", whole)])))


def _names(entry: ModelEntry) -> tuple[str, str]:
    """Return the name of an entry as it is compared, without and with its suffix."""
    name, suffix = entry.name.replace("\\", "/").casefold(), entry.path.suffix.casefold()
    return name.removesuffix(suffix), name.removesuffix(suffix) + suffix


def _no_model(text: str, matches: list[ModelEntry], entries: list[ModelEntry], dirs: Sequence[Path]) -> UserError:
    looked = "looked in " + ", ".join(str(folder) for folder in dirs)
    if matches:
        names = _listed([entry.name for entry in matches])
        return UserError(f"'{text}' may be {names}: write more of the name ({looked}).")
    if len(entries) == 1:
        return UserError(
            f"There is no model '{text}', only the one named demo: put a model into a models folder, or get one "
            f"with 'download instruct-pix2pix' ({looked})."
        )

    def likeness(entry: ModelEntry) -> float:
        return difflib.SequenceMatcher(None, text.casefold(), entry.name.casefold()).ratio()

    names = _listed([entry.name for entry in sorted(entries, key=likeness, reverse=True)])
    return UserError(f"There is no model '{text}': name a file, or one of these: {names} ({looked}).")


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


# --- the cache of hashes: {path: [sizes and times of its files, hash]} ---

_HASHES = "hashes.json"


def _read_hashes() -> dict[str, tuple[str, str]]:
    """Return the cached hashes, without entries that are not in the form that this program writes."""
    try:
        pairs = {key: tuple(map(str, value)) for key, value in read_table(_HASHES).items()}
    except TypeError:
        return {}
    return {k: (v[0], v[1]) for k, v in pairs.items() if len(v) == 2 and re.fullmatch("[0-9a-f]{10}", v[1])}
