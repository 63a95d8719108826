"""Axes of ours for the hosts' X/Y/Z plot."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from ..settings import KNOBS, Knob
from .processing import Processing

AXES = (
    ("Text CFG", "cfg_scale", KNOBS["text_cfg"]),
    ("Image CFG", "image_cfg_scale", KNOBS["image_cfg"]),
    ("Guidance rescale", "instruct_pix2pix_rescale", KNOBS["rescale"]),
    ("Speed", "instruct_pix2pix_speed", KNOBS["speed"]),
)
"""Name of each axis, the attribute of the host's `p` that it sets, and the knob that says what its values may be."""


def add_axes(scripts_data: Iterable[Any]) -> None:
    """Add our axes to the X/Y/Z plot among the host's scripts, once; a host without that script is left alone."""
    for data in scripts_data:
        options, option = (getattr(data.module, name, None) for name in ("axis_options", "AxisOption"))
        if options is None or option is None:
            continue
        present = {one.label for one in options}
        for name, attribute, knob in AXES:
            label = f"[Instruct Pix2Pix] {name}"
            if label not in present:
                kind = str if knob.choices else float
                options.append(option(label, kind, _setter(attribute), confirm=_checker(knob), choices=_lister(knob)))


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
