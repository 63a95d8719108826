"""Axes of ours for the hosts' X/Y/Z plot."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..settings import KNOBS, Knob
from .job import JOB, SETTINGS
from .processing import Processing

PREFIX = "[Instruct Pix2Pix] "
"""What the name of each of our axes begins with."""

AXES = (
    ("cfg_scale", KNOBS["text_cfg"]),
    ("image_cfg_scale", KNOBS["image_cfg"]),
    *((f"{JOB}_{name}", KNOBS[name]) for name in SETTINGS),
)
"""The attribute of the host's `p` that each axis sets, and the knob that says its name and what its values may be."""


def add_axes(scripts_data: Iterable[Any]) -> None:
    """Add our axes to the X/Y/Z plot among the host's scripts, once; a host without that script is left alone."""
    for options, option in _plots(scripts_data):
        present = {one.label for one in options}
        for attribute, knob in AXES:
            label = f"{PREFIX}{knob.label}"
            if label not in present:
                kind = str if knob.choices else float
                options.append(option(label, kind, _setter(attribute), confirm=_checker(knob), choices=_lister(knob)))


def remove_axes(scripts_data: Iterable[Any]) -> None:
    """Take them off: Forge Classic keeps the plot's script, and what is in it, when it reloads its UI."""
    for options, _ in _plots(scripts_data):
        options[:] = [one for one in options if not one.label.startswith(PREFIX)]


def _plots(scripts_data: Iterable[Any]) -> Iterator[tuple[list[Any], Callable[..., Any]]]:
    """Yield the axes of each X/Y/Z plot among the host's scripts, and what makes one."""
    for data in scripts_data:
        options, option = (getattr(data.module, name, None) for name in ("axis_options", "AxisOption"))
        if options is not None and option is not None:
            yield options, option


def _setter(name: str) -> Callable[[Processing, float | str, object], None]:
    def apply(p: Processing, value: float | str, values: object) -> None:
        setattr(p, name, value)

    return apply


def _checker(knob: Knob) -> Callable[[Processing, Iterable[float | str]], None]:
    """Return what the plot calls before its first picture. It raises UserError for a value that cannot be used."""

    def confirm(p: Processing, values: Iterable[float | str]) -> None:
        for value in values:
            knob.check(value)

    return confirm


def _lister(knob: Knob) -> Callable[[], list[str]] | None:
    """Return what gives the plot its list of values to choose from; None for numbers, which are typed."""
    return (lambda: list(choices)) if (choices := knob.choices) else None
