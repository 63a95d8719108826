"""Axes of ours for the hosts' X/Y/Z plot."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .processing import Processing

AXES = (
    ("[Instruct Pix2Pix] Text CFG", "cfg_scale", float),
    ("[Instruct Pix2Pix] Image CFG", "image_cfg_scale", float),
    ("[Instruct Pix2Pix] Guidance rescale", "instruct_pix2pix_rescale", float),
    ("[Instruct Pix2Pix] Speed", "instruct_pix2pix_speed", str),
)
"""Label of each axis, the attribute of the host's `p` that it sets, and the kind of its values."""


def add_axes(scripts_data: Iterable[Any]) -> None:
    """Add our axes to the X/Y/Z plot among the host's scripts, once; a host without that script is left alone."""
    for data in scripts_data:
        options, option = (getattr(data.module, name, None) for name in ("axis_options", "AxisOption"))
        if options is None or option is None:
            continue
        present = {one.label for one in options}
        options.extend(option(label, kind, _setter(name)) for label, name, kind in AXES if label not in present)


def _setter(name: str) -> Callable[[Processing, float | str, object], None]:
    def apply(p: Processing, value: float | str, values: object) -> None:
        setattr(p, name, value)

    return apply
