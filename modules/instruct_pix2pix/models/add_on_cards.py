"""What a person needs of a LoRA or an embedding to write it into an instruction: its name, its size, its words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..text import printable
from .add_ons import EMBEDDING, LORA, AddOnFolders, AddOnKind
from .bounded import parse_json, read_small
from .weights_files import metadata

_MOST_NOTE = 100_000  # bytes of the json beside a LoRA
_MOST_WORDS = 200  # letters


@dataclass(frozen=True)
class AddOnCard:
    """A LoRA or an embedding that is here."""

    name: str
    size: int
    """Bytes."""
    text: str
    """What makes it act, in an instruction."""
    words: str
    """What it was trained to be called by, besides; empty where nothing says."""


def cards(kind: AddOnKind, folders: AddOnFolders) -> list[AddOnCard]:
    """Return the cards of all files of a kind, LORA or EMBEDDING, sorted by name; what cannot be read has no words."""
    files = {name: path for name, path in folders.files(kind).items() if _is_name(name)}
    count = Counter(name.rpartition("/")[2].casefold() for name in files)
    found: list[AddOnCard] = []
    for name, path in sorted(files.items(), key=lambda item: item[0].casefold()):
        last = name.rpartition("/")[2]
        short = last if count[last.casefold()] == 1 else name
        text, words = (f"<lora:{short}:1>", _words(path)) if kind is LORA else (last, "")
        try:
            found.append(AddOnCard(name, path.stat().st_size, text, words))
        except OSError:
            continue  # it has just gone
    return found


def all_cards(folders: AddOnFolders) -> dict[str, list[AddOnCard]]:
    """Return the cards of what a prompt can name, by the kind's name for people."""
    return {kind.name: cards(kind, folders) for kind in (LORA, EMBEDDING)}


def _is_name(name: str) -> bool:
    """Whether a prompt can hold this name."""
    return name.isprintable() and not re.search(r"[<>:]", name)


def _words(path: Path) -> str:
    """Return the words that call a LoRA: as its owner wrote them on its card in AUTOMATIC1111, else as its file says.

    A card is NAME.json with 'activation text' (its extensions-builtin/Lora/ui_edit_user_metadata.py); in a file it is
    'modelspec.trigger_phrase' (Stability AI's ModelSpec).
    """
    try:
        note: Any = parse_json(read_small(path.with_suffix(".json"), _MOST_NOTE))
    except (OSError, ValueError, RecursionError):
        note = None
    told = note.get("activation text") if isinstance(note, Mapping) else None
    if not told or not isinstance(told, str):
        try:
            told = metadata(path).get("modelspec.trigger_phrase", "")
        except (UserError, OSError):
            told = ""
    return printable(" ".join(told.split()))[:_MOST_WORDS]
