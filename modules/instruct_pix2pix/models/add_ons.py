"""Files that people load beside a model, LoRAs, embeddings and VAEs: their folders, their names, their hashes.

The folders are AUTOMATIC1111's, beside the models: Lora, VAE and VAE-approx within `models`, embeddings next to it. A
name is looked up among the files that are there and never made into a path, so that none leads out of the folders.
"""

from __future__ import annotations

import difflib
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..errors import UserError
from ..paths import DATA
from ..prompts import lora_tags
from ..text import reason_of, writable
from ..variations import variations
from .registry import model_dirs
from .weights_files import metadata

_ANCESTORS = 4
"""How many folders above a checkpoint may be the one called 'models'."""
_SHOWN = 10  # names in one sentence


@dataclass(frozen=True)
class AddOnKind:
    """One kind of file: its name for people, its folders as seen from a `models` folder, the endings of its files."""

    name: str
    folders: tuple[str, ...]
    endings: tuple[str, ...]


LORA = AddOnKind("LoRA", ("Lora", "LyCORIS"), (".safetensors", ".pt", ".ckpt"))
EMBEDDING = AddOnKind("embedding", ("../embeddings", "embeddings"), (".safetensors", ".pt", ".bin"))
VAE_FILE = AddOnKind("VAE", ("VAE",), (".safetensors", ".pt", ".ckpt"))
TINY_VAE = AddOnKind("tiny VAE", ("VAE-approx", "VAE-taesd", "vae_approx"), (".safetensors", ".pth", ".pt"))


class AddOnFolders:
    """The files beside the models, by kind and name."""

    def __init__(self, roots: Sequence[Path]) -> None:
        """`roots` are `models` folders, existing or not; where two have a file of one name, the first counts."""
        self.roots = tuple(dict.fromkeys(root.absolute() for root in roots))

    @classmethod
    def near(cls, checkpoint: Path | None = None, models: Sequence[Path] = ()) -> AddOnFolders:
        """Return those of the `models` folder that a checkpoint lies in, of folders to look for models in, of a host.

        The program's own count in any case. A folder 'Stable-diffusion' has them beside it, as in AUTOMATIC1111.
        """
        parents = list(checkpoint.absolute().parents) if checkpoint else []
        named = [folder for folder in parents[:_ANCESTORS] if folder.name.lower() == "models"]
        own = [folder.parent if folder.name.lower() == "stable-diffusion" else folder for folder in model_dirs(models)]
        return cls([*named, *own, *([] if named else parents[:1])])

    def folders(self, kind: AddOnKind) -> list[Path]:
        """Return the folders of a kind, existing or not."""
        return [Path(os.path.normpath(root / name)) for root in self.roots for name in kind.folders]

    def files(self, kind: AddOnKind) -> dict[str, Path]:
        """Return the files of a kind by name: the path below its folder with '/', without the ending."""
        found: dict[str, Path] = {}
        seen: set[str] = set()
        for folder in self.folders(kind):
            paths = [path for path in _below(folder, seen) if path.suffix.lower() in kind.endings]
            for path in sorted(paths, key=lambda path: kind.endings.index(path.suffix.lower())):
                found.setdefault(writable(path.relative_to(folder).with_suffix("").as_posix()), path)
        return found

    def find(self, kind: AddOnKind, name: str) -> Path:
        """Return the file that a name means, as AUTOMATIC1111 does: by its stem, or by the name it was trained under.

        Case does not count; folder and ending may be given too. Raises UserError for a name that none or several have.
        """
        files, wanted = self.files(kind), writable(name).strip().replace("\\", "/").casefold()
        for spell in (_whole, _last, _alias):
            matches = {n: path for n, path in files.items() if wanted in spell(n, path)}
            if len(matches) == 1:
                return next(iter(matches.values()))
            if matches:
                shown = ", ".join(sorted(matches)[:_SHOWN])
                raise UserError(f"The {kind.name} '{name}' may be any of {shown}: write its folder too.")
        raise self._none(kind, name, files)

    def require_loras(self, instruction: str) -> None:
        """Raise UserError for a LoRA that an instruction asks for, in any of its variations, and that is not here."""
        names = dict.fromkeys(tag.name for text in variations(instruction) for tag in lora_tags(text))
        for name in names:
            self.find(LORA, name)

    def _none(self, kind: AddOnKind, name: str, files: Iterable[str]) -> UserError:
        folders = self.folders(kind)
        folders = [folder for folder in folders if DATA not in folder.parents] or folders  # not beside the demo model
        place = next((folder for folder in folders if folder.is_dir()), folders[0])

        def likeness(other: str) -> float:
            return difflib.SequenceMatcher(None, name.casefold(), other.casefold()).ratio()

        there = sorted(files, key=likeness, reverse=True)
        shown = "/".join(place.parts[-2:])  # whoever asks over a network need not know where that is
        known = f"there are {', '.join(there[:_SHOWN])}" if there else "there are none yet"
        return UserError(f"There is no {kind.name} '{name[:80]}': put its file into {shown} ({known}).")


def kohya_hash(path: Path) -> str:
    """Return the hash of a LoRA as AUTOMATIC1111 writes it into 'Lora hashes': 12 hex digits.

    The one that the trainer wrote into the file, else the SHA-256 of what follows a safetensors file's header (kohya's
    sd-scripts), of another file as a whole. Raises UserError for a file that cannot be read.
    """
    told = metadata(path).get("sshs_model_hash", "")
    if len(told) >= 12 and set(told) <= set("0123456789abcdef"):
        return told[:12]
    return _digest(path, *_state(path), skip_header=path.suffix.lower() == ".safetensors")[:12]


def file_hash(path: Path) -> str:
    """Return the hash of an embedding as AUTOMATIC1111 writes it into 'TI hashes': 12 hex digits of its SHA-256."""
    return _digest(path, *_state(path), skip_header=False)[:12]


def file_state(path: Path) -> tuple[str, int, int]:
    """Return what tells one content of a file from another: path, size and time. Raises UserError if it is gone."""
    return (str(path), *_state(path))


def _state(path: Path) -> tuple[int, int]:
    try:
        stat = path.stat()
    except OSError as error:
        raise UserError(f"'{path.name}' cannot be read: {error.strerror}.") from error
    return stat.st_size, stat.st_mtime_ns


@lru_cache(maxsize=256)
def _digest(path: Path, size: int, mtime_ns: int, *, skip_header: bool) -> str:
    """Return the SHA-256 of a file of this size and time."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            if skip_header:
                stream.seek(8 + int.from_bytes(stream.read(8), "little"))
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    except (OSError, OverflowError) as error:
        raise UserError(f"'{path.name}' cannot be read: {reason_of(error)}.") from error
    return digest.hexdigest()


def _below(folder: Path, seen: set[str]) -> Iterator[Path]:
    """Yield the files below a folder; links may form circles, so no real folder is visited twice."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        folders[:] = () if real in seen else sorted(name for name in folders if not name.startswith("."))
        if real not in seen:
            seen.add(real)
            yield from (Path(parent) / name for name in sorted(files) if not name.startswith("."))


def _whole(name: str, path: Path) -> set[str]:
    return {name.casefold(), (name + path.suffix).casefold()}


def _last(name: str, path: Path) -> set[str]:
    return {spelled.rpartition("/")[2] for spelled in _whole(name, path)}


def _alias(_: str, path: Path) -> set[str]:
    """Return the name that a LoRA was trained under, in the metadata that kohya's scripts write."""
    try:
        alias = metadata(path).get("ss_output_name", "").strip().casefold()
    except UserError:
        return set()
    return {alias} - {"", "none"}
