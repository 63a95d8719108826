"""Names of samplers and schedules as people write them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from ...errors import UserError


def name_key(name: str) -> str:
    """What is left of a name when spelling does not matter: 'DPM++ 2M' and 'k_dpmpp_2m' are 'dpmpp2m'."""
    plain = name.strip().lower().removeprefix("k_").replace("++", "pp")
    return re.sub(r"[^a-z0-9]", "", plain)


def unknown_name(kind: str, name: str, names: Iterable[str]) -> UserError:
    """The error for a name that is none of `names`: it lists them and suggests the nearest."""
    name, names = name.strip()[:40], list(names)
    near = difflib.get_close_matches(name.lower(), [known.lower() for known in names], n=1)
    hint = next((f" (did you mean '{known}'?)" for known in names if [known.lower()] == near), "")
    return UserError(f"There is no {kind} {name!r}{hint}: choose one of {', '.join(names)}.")
