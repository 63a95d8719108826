"""The options of the API: the checkpoint, and the settings of requests that name none of their own."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
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
    "vae",
)
"""The settings that are options too."""


class Options:
    """The checkpoint and the settings of requests that name none of their own; shared by all clients."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._lock = threading.Lock()
        self._now: tuple[ModelEntry, EditSettings] = (catalog.default, EditSettings())

    def now(self) -> tuple[ModelEntry, EditSettings]:
        """Return the checkpoint and the settings, together as they were set."""
        with self._lock:
            return self._now

    def shown(self) -> dict[str, Any]:
        """Return names and values for clients."""
        entry, defaults = self.now()
        values = {name: getattr(defaults, name) for name in OPTION_KNOBS}
        return {"sd_model_checkpoint": entry.name, **values}

    def with_changes(self, changes: Mapping[str, Any]) -> tuple[ModelEntry, EditSettings, list[str]]:
        """Return the options with these changes, and a note for each name that is not an option. Raises UserError."""
        entry, defaults = self.now()
        changes = {"vae" if key == "sd_vae" else key: value for key, value in changes.items()}
        name = changes.get("sd_model_checkpoint")
        if name not in (None, ""):
            entry = self._catalog.find(str(name))
        known = {key: value for key, value in changes.items() if key in OPTION_KNOBS and value is not None}
        notes = [
            f"There is no option {key[:60]!r} here: it had no effect."
            for key in changes
            if key not in OPTION_KNOBS and key != "sd_model_checkpoint"
        ]
        return entry, resolved(replace(defaults, **known)), notes

    def change(self, changes: Mapping[str, Any]) -> None:
        """Take changes for all later requests, all or none; names that are not options do nothing. Raises UserError."""
        entry, defaults, _ = self.with_changes(changes)
        with self._lock:
            self._now = (entry, defaults)
