"""The controls of a matrix, below the two scales, and the place of its table, above the results."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr
from gradio.components import Component

from ....errors import UserError
from ....grid import values
from .. import html

MOST_SEEDS = 4


def offer(text_cfg: str, image_cfg: str, seeds: int) -> str:
    """Return what the button says: how many edits it would make, unless the values cannot be read."""
    try:
        columns, rows = values(text_cfg, "text_cfg"), values(image_cfg, "image_cfg")
    except UserError:
        return "Make the matrix"  # which then says what is wrong
    return f"Make the matrix: {html.count_of(len(columns) * len(rows) * seeds, 'edit')}"


@dataclass(frozen=True)
class MatrixForm:
    """What is asked for beside the settings of an edit. matrix.js shows and hides it."""

    text_cfg: gr.Textbox
    image_cfg: gr.Textbox
    seeds: gr.Slider
    make: gr.Button

    @property
    def fields(self) -> dict[str, Component]:
        """What is remembered in the browser, by the names under which it is."""
        return {"text_cfg": self.text_cfg, "image_cfg": self.image_cfg, "seeds": self.seeds}


def build_matrix_button() -> None:
    """Make the button that opens and closes the controls; matrix.js listens to it."""
    gr.Button("Matrix", elem_id="ip2p_matrix_open", size="sm", scale=0, min_width=90)


def build_matrix_form(text_cfg: str, image_cfg: str) -> MatrixForm:
    """Make the controls, with these values of both scales."""
    with gr.Column(elem_id="ip2p_matrix_form", min_width=0):
        with gr.Row():
            texts = gr.Textbox(
                text_cfg,
                label="Text CFG values",
                info="Columns: first:last:count, or 3, 7.5, 12",
                max_lines=1,
                min_width=220,
                elem_id="ip2p_matrix_text_cfg",
            )
            images = gr.Textbox(
                image_cfg,
                label="Image CFG values",
                info="Rows: first:last:count, or 1, 1.5, 2",
                max_lines=1,
                min_width=220,
                elem_id="ip2p_matrix_image_cfg",
            )
        seeds = gr.Slider(
            1,
            MOST_SEEDS,
            value=1,
            step=1,
            label="Seeds",
            info="A matrix for each, from Seed on. Batch count, Batch size and Randomize CFG play no part here.",
            elem_id="ip2p_matrix_seeds",
        )
        make = gr.Button(offer(text_cfg, image_cfg, 1), variant="primary", elem_id="ip2p_matrix_make")
    return MatrixForm(texts, images, seeds, make)


@dataclass(frozen=True)
class MatrixBoard:
    """The table, which matrix.js fills, and how that tells the server which cell was chosen."""

    table: gr.HTML
    shown: gr.Textbox
    """Hidden: the id of the task in the table."""
    wanted: gr.Textbox
    """Hidden: that id and the place of the chosen cell; empty where that could not be made."""
    choose: gr.Button
    """Hidden: clicked by matrix.js."""


def build_matrix_board() -> MatrixBoard:
    """Make the place of the table inside the block that is open."""
    return MatrixBoard(
        table=gr.HTML("", elem_id="ip2p_matrix_table"),
        shown=gr.Textbox("", visible="hidden", label="Matrix"),
        wanted=gr.Textbox("", visible="hidden", label="Cell"),
        choose=gr.Button("Choose", visible="hidden", elem_id="ip2p_matrix_choose"),
    )
