"""The options of the API: the checkpoint, and the settings of requests that name none of their own."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ...engine.edit import resolved
from ...models.catalog import Catalog
from ...models.registry import ModelEntry
from ...settings import EditSettings

OPTION_KNOBS = (
    "text_cfg",
    "image_cfg",
    "steps",
    "sampler",
    "schedule",
    "rescale",
    "denoise",
    "size",
    "randomize_cfg",
    "speed",
    "keep_rest",
    "keep_amount",
    "result_size",
    "zoom",
    "apg_eta",
    "apg_threshold",
    "apg_momentum",
    "no_text",
    "guidance",
)
"""The settings that are options too."""


@dataclass(frozen=True)
class _Chosen:
    entry: ModelEntry
    settings: EditSettings
    asked: frozenset[str] = frozenset()
    """The names of those that somebody has set."""

    @property
    def suited(self) -> EditSettings:
        """The settings, with the model's own where nobody asked for any."""
        found = self.entry.checkpoint
        return self.settings if found is None else found.suited.fill(self.settings, self.asked)


class Options:
    """The checkpoint and the settings of requests that name none of their own; shared by all clients.

    What nobody has set suits the checkpoint.
    """

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._lock = threading.Lock()
        self._now = _Chosen(catalog.default, EditSettings())

    def now(self) -> tuple[ModelEntry, EditSettings]:
        """Return the checkpoint and the settings, together as they were set."""
        with self._lock:
            return self._now.entry, self._now.suited

    def shown(self) -> dict[str, Any]:
        """Return names and values for clients."""
        entry, defaults = self.now()
        values = {name: getattr(defaults, name) for name in OPTION_KNOBS}
        return {"sd_model_checkpoint": entry.name, **values}

    def with_changes(self, changes: Mapping[str, Any]) -> tuple[ModelEntry, EditSettings, list[str]]:
        """Return the options with these changes, and a note for each name that is not an option. Raises UserError."""
        chosen = self._changed(changes)
        notes = [
            f"There is no option {key[:60]!r} here: it had no effect."
            for key in changes
            if key not in OPTION_KNOBS and key != "sd_model_checkpoint"
        ]
        return chosen.entry, chosen.suited, notes

    def change(self, changes: Mapping[str, Any]) -> None:
        """Take changes for all later requests, all or none; names that are not options do nothing. Raises UserError."""
        chosen = self._changed(changes)
        with self._lock:
            self._now = chosen

    def _changed(self, changes: Mapping[str, Any]) -> _Chosen:
        with self._lock:
            now = self._now
        name = changes.get("sd_model_checkpoint")
        entry = now.entry if name in (None, "") else self._catalog.find(str(name))
        known = {key: value for key, value in changes.items() if key in OPTION_KNOBS and value is not None}
        return _Chosen(entry, resolved(replace(now.settings, **known)), now.asked | known.keys())
