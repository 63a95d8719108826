"""The models that a door offers, by name: a name from outside is looked up and never used as a path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from ..text import writable
from .checkpoints import inspect
from .registry import ModelEntry, find_models, named

MOST_NAMES = 10
"""Names in one sentence."""


class Catalog:
    """The models of some folders, read once, and again on request or when a name is not among them."""

    def __init__(self, dirs: Sequence[Path], chosen: Path | None = None) -> None:
        """Put `chosen`, a model from anywhere, first: it is the default. Raises UserError if it cannot be used."""
        self.dirs = tuple(dirs)
        self._first: list[ModelEntry] = []
        if chosen is not None:
            name = writable(chosen.stem if chosen.is_file() else chosen.name)
            self._first = [_required(ModelEntry(name, chosen, inspect(chosen), None))]
        self._entries: tuple[ModelEntry, ...] = ()
        self.refresh()

    def refresh(self) -> None:
        """Look into the folders again."""
        chosen = {entry.path.absolute() for entry in self._first}
        found = [entry for entry in find_models(self.dirs) if entry.path.absolute() not in chosen]
        self._entries = (*self._first, *found)

    @property
    def entries(self) -> tuple[ModelEntry, ...]:
        """Every model, whether it can edit or not."""
        return self._entries

    @property
    def default(self) -> ModelEntry:
        """The first model that can edit: the demo model, where there is no other."""
        return next(entry for entry in self._entries if _edits(entry))

    def find(self, name: str) -> ModelEntry:
        """Return the model of this name, as `registry.named` reads it.

        Raises UserError for a name that is not here or that several models have, and for a model that cannot edit: why,
        and what to pick.
        """
        matches = named(name, self._entries)
        if not matches:
            self.refresh()
            matches = named(name, self._entries)
        if len(matches) > 1:
            names = ", ".join(entry.name for entry in matches[:MOST_NAMES])
            raise UserError(f"{name.strip()[:80]!r} may be {names}: write more of the name.")
        if not matches:
            names = ", ".join(entry.name for entry in self._entries if _edits(entry))
            raise UserError(f"There is no model {name.strip()[:80]!r} here: choose one of {names}.")
        return _required(matches[0])


def _required(entry: ModelEntry) -> ModelEntry:
    """Return a model that can edit. Raises UserError for another: why, and what to pick."""
    if entry.checkpoint is None:
        raise UserError(entry.problem or f"{entry.name} cannot be read: choose another model.")
    if not entry.checkpoint.editable:
        raise UserError(f"'{entry.name}' cannot edit: it is {entry.checkpoint.label}. {entry.checkpoint.advice}")
    return entry


def _edits(entry: ModelEntry) -> bool:
    return entry.checkpoint is not None and entry.checkpoint.editable
