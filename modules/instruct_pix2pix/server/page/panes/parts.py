"""Small parts that several panes are made of."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ....settings import KNOBS


def tool_button(label: str, icon: str, elem_id: str) -> gr.Button:
    """Make a small button with an icon of page.css; `label` is its tooltip, and what a screen reader reads."""
    classes = ["ip2p-tool", f"ip2p-{icon}"]
    return gr.Button(label, elem_id=elem_id, elem_classes=classes, size="sm", scale=0, min_width=40)


def picture_input(label: str, elem_id: str) -> gr.Image:
    """Make a place to drop a picture; an event that reads it needs `gradio_compat.UNREAD`. page.css sets its size."""
    return gr.Image(
        type="filepath",
        sources=["upload", "clipboard"],
        label=label,
        elem_id=elem_id,
        elem_classes="ip2p-place",
        buttons=["fullscreen"],
        placeholder="Drop a picture here\n- or -\nClick to choose one, Ctrl+V to paste",
    )


def bare_slider(name: str, elem_id: str, **more: object) -> gr.Slider:
    """Make the slider of a knob without its line of help."""
    knob = KNOBS[name]
    options: dict[str, Any] = {"label": knob.label, "value": knob.default, "step": knob.step} | more
    return gr.Slider(knob.minimum or 0, knob.maximum or 1, elem_id=elem_id, **options)
