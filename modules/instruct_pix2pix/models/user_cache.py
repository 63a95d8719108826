"""Small tables in the user's cache folder: what can be computed again, and takes long."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from typing import Any

from ..files import replacing
from ..paths import cache_folder
from .bounded import MOST_JSON, parse_json, read_small


def read_table(name: str) -> dict[str, Any]:
    """Return the table in a file of this name; empty where there is none, or none that can be read."""
    try:
        found = parse_json(read_small(cache_folder() / name, MOST_JSON))
    except (OSError, RuntimeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def write_table(name: str, table: Mapping[str, Any]) -> None:
    """Keep a table in a file of this name, if that is possible."""
    with contextlib.suppress(OSError, RuntimeError):
        file = cache_folder() / name
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as stream:
            stream.write(json.dumps(table, indent=0).encode())
