"""The examples: pictures to begin with, each beside what becomes of it, where results will be once there are some.

`python -m tools.demo_model.examples --pairs` makes their pictures.
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr

EXAMPLES = (
    ("house", "make it winter"),
    ("car", "make the car blue"),
    ("ball", "remove the ball"),
    ("night", "make it summer"),
)
"""The name of each, and its instruction."""


def picture_of(name: str) -> str:
    """Return the name of the file with the picture of an example."""
    return f"{name}.png"


def pair_of(name: str) -> str:
    """Return the name of the file that shows an example before and after its edit."""
    return f"{name}-before-after.webp"


def build_examples(folder: Path) -> gr.Gallery:
    """Make the gallery; it stays hidden where the folder does not have them all."""
    pairs = [(str(folder / pair_of(name)), instruction) for name, instruction in EXAMPLES]
    found = all((folder / file(name)).is_file() for name, _ in EXAMPLES for file in (picture_of, pair_of))
    return gr.Gallery(
        pairs if found else None,
        visible=found,
        label="What to expect: click an example, then Generate",
        elem_id="ip2p_examples",
        elem_classes="ip2p-pictures",
        columns=2,
        fit_columns=False,
        height="auto",
        allow_preview=False,
        interactive=False,
        buttons=[],
    )
