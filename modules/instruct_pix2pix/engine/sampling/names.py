"""Names of samplers and schedules, and how people write them: what can be told of them before torch is imported."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from ...errors import UserError

SAMPLER_NAMES = (
    "Euler a",
    "Euler",
    "Heun",
    "DPM2",
    "DPM++ 2M",
    "DPM++ SDE",
    "DPM++ 2M SDE",
    "DPM++ 3M SDE",
    "LMS",
    "DDIM",
    "UniPC",
    "LCM",
)
"""AUTOMATIC1111's display names, in the order to show them."""

SCHEDULE_NAMES = ("Automatic", "Uniform", "Karras", "Exponential", "SGM Uniform", "Simple")
"""AUTOMATIC1111's display names, in the order to show them."""

_SCHEDULE_SUFFIXES = {
    "karras": "Karras",
    "ka": "Karras",
    "exponential": "Exponential",
    "exp": "Exponential",
    "sgmuniform": "SGM Uniform",  # before "uniform", which ends it
    "uniform": "Uniform",
    "simple": "Simple",
    "automatic": "Automatic",
}

_SAME_AS = {
    "normal": "Uniform",
    "polyexponential": "Exponential",
}  # AUTOMATIC1111 has both, with equal sigmas


def read_sampler(name: str) -> tuple[str, str | None]:
    """Return the sampler a name means, and the schedule where the name carries one ('DPM++ 2M Karras'), else None.

    Case, spaces, underscores and the prefix 'k_' do not matter: 'k_dpmpp_2m_ka' is 'DPM++ 2M Karras'.
    Raises UserError for any other name.
    """
    by_key = {_key(known): known for known in SAMPLER_NAMES} | {"eulerancestral": "Euler a"}
    key = _key(name)
    if key in by_key:
        return by_key[key], None
    for suffix, schedule in _SCHEDULE_SUFFIXES.items():
        if key.endswith(suffix) and key.removesuffix(suffix) in by_key:
            return by_key[key.removesuffix(suffix)], schedule
    raise _unknown("sampler", name, SAMPLER_NAMES)


def find_schedule(name: str) -> str:
    """Return the display name of a schedule, however it is spelt. Raises UserError for an unknown one."""
    by_key = {_key(known): known for known in SCHEDULE_NAMES} | _SAME_AS
    if _key(name) not in by_key:
        raise _unknown("schedule", name, SCHEDULE_NAMES)
    return by_key[_key(name)]


def _key(name: str) -> str:
    """Return what is left of a name when spelling does not matter: 'DPM++ 2M' and 'k_dpmpp_2m' are 'dpmpp2m'."""
    plain = name.strip().lower().removeprefix("k_").replace("++", "pp")
    return re.sub(r"[^a-z0-9]", "", plain)


def _unknown(kind: str, name: str, names: Iterable[str]) -> UserError:
    """Return the error for a name that is none of `names`: it lists them and suggests the nearest."""
    name, names = name.strip()[:40], list(names)
    near = difflib.get_close_matches(name.lower(), [known.lower() for known in names], n=1)
    hint = next((f" (did you mean '{known}'?)" for known in names if [known.lower()] == near), "")
    return UserError(f"There is no {kind} {name!r}{hint}: choose one of {', '.join(names)}.")
