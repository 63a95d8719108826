"""How much is changed: the two scales, or one slider in their place, and the matrix over both."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from .... import panel
from ....engine.candidates import PAIRS
from ....grid import around
from ....models.checkpoints import Suited
from ....settings import STRENGTH, STRENGTHS
from ..form import SEARCH
from ..matrix.layout import MatrixForm, build_matrix_button, build_matrix_form

STRENGTH_WORDS = '<div class="ip2p-words" role="group" aria-label="{}">{}</div>'.format(
    STRENGTH.label,
    "".join(
        f'<button type="button" data-strength="{value}" style="--at: {value}">{word}</button>'
        for word, value in STRENGTHS.items()
    ),
)
"""Marks below the slider; page.js sets it to the one that is clicked."""


@dataclass(frozen=True)
class ScalesPane:
    """The scales, and what may take their place."""

    text_cfg: gr.Slider
    image_cfg: gr.Slider
    by_strength: gr.Checkbox
    strength: gr.Slider
    strength_pane: gr.Column
    """Around `strength`."""
    matrix: MatrixForm


def build_scales(suited: Suited) -> ScalesPane:
    """Make the pane inside the block that is open; `suited` are the settings of the chosen model."""
    with gr.Row(elem_id="ip2p_scaling"):
        text_cfg, image_cfg = panel.scales()
        with gr.Column(visible=False, elem_id="ip2p_strength_pane", min_width=0) as strength_pane:
            strength = gr.Slider(
                STRENGTH.minimum or 0,
                STRENGTH.maximum or 1,
                value=SEARCH["strength"],
                step=STRENGTH.step,
                label=STRENGTH.label,
                info=(
                    f"Begins the edit at {len(PAIRS)} pairs of scales and goes on with the one that changes this much."
                ),
                elem_id="ip2p_strength",
            )
            gr.HTML(STRENGTH_WORDS, elem_id="ip2p_strength_words")
        with gr.Column(elem_id="ip2p_scale_tools", min_width=0):
            build_matrix_button()
            by_strength = gr.Checkbox(
                SEARCH["by_strength"],
                label="Find the scales",
                info=f"One slider, {STRENGTH.label.lower()}, in place of Text CFG and Image CFG.",
                elem_id="ip2p_by_strength",
            )
    matrix = build_matrix_form(*around(suited.text_cfg, suited.image_cfg))
    return ScalesPane(text_cfg, image_cfg, by_strength, strength, strength_pane, matrix)
