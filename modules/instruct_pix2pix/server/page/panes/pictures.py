"""What is edited: a picture, a part of it that is painted over, or a folder."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from ....camera_files import HEIC
from ..batch_layout import BatchTab, build_batch_tab
from .parts import picture_input

EASEL = """
<div class="ip2p-brushes" role="group" aria-label="Brush and view">
    <label>Brush <input class="ip2p-brush" type="range" min="1" max="30" value="8" aria-label="Brush size"
        title="[ and ] make it smaller and larger"></label>
    <button type="button" class="ip2p-erase" aria-pressed="false" title="Take paint away">Erase</button>
    <div>
        <button type="button" class="ip2p-undo" title="Undo the last stroke (Ctrl+Z)">Undo</button>
        <button type="button" class="ip2p-redo" title="Paint it again (Ctrl+Y)">Redo</button>
        <button type="button" class="ip2p-clear" title="Take all paint away">Clear</button>
    </div>
    <div>
        <button type="button" class="ip2p-zoom-out" aria-label="Zoom out" title="Zoom out (-)">−</button>
        <button type="button" class="ip2p-fit" title="See the whole picture (0)">Fit</button>
        <button type="button" class="ip2p-zoom-in" aria-label="Zoom in" title="Zoom in (+)">+</button>
    </div>
</div>
<div class="ip2p-easel empty">
    <button type="button" class="ip2p-choose">Drop a picture here<br>- or -<br>Click to choose one, Ctrl+V to paste
    </button>
    <div class="ip2p-sheet">
        <img alt="The picture to edit">
        <canvas tabindex="0" role="application" aria-label="Paint over what may change: arrow keys move the brush, with
            Shift they paint, Enter paints a dot"></canvas>
    </div>
    <div class="ip2p-ring" hidden></div>
</div>
<p class="ip2p-hint">Paint over what may change; the rest stays as it is.
    <span class="ip2p-with-keys">Ctrl+Z undoes, [ and ] size the brush, Ctrl and wheel zoom, Space and drag move the
    picture.</span>
    <span class="ip2p-with-fingers">Two fingers zoom and move the picture.</span></p>
"""
"""What paint.js paints on, and easel.js shows."""


@dataclass(frozen=True)
class PicturePane:
    """What is edited: a picture, a part of it, or a folder (see `BatchTab`)."""

    modes: gr.Tabs
    mode: gr.Textbox
    """Hidden: the sub-tab that is open, 'img2img', 'inpaint' or 'batch'; in the browser, which outlives the server."""
    img2img_tab: gr.Tab
    inpaint_tab: gr.Tab
    picture: gr.Image
    arrival: gr.File
    """Hidden: takes a picture that was dropped or pasted anywhere on the page."""
    mask: gr.Textbox
    """Hidden: a PNG as a data URL, written by paint.js."""


def build_pictures() -> tuple[PicturePane, BatchTab]:
    """Make the pane, and inside its tabs the one for a folder."""
    mode = gr.Textbox("img2img", visible="hidden", label="Mode")
    arrival = gr.File(visible="hidden", elem_id="ip2p_arrival", label="Picture", file_types=["image", *HEIC])
    with gr.Tabs(elem_id="mode_img2img") as modes:
        with gr.Tab("Picture", id="img2img", elem_id="img2img_img2img_tab") as img2img_tab:
            picture = picture_input("Picture to edit", "img2img_image")
        with gr.Tab("Inpaint", id="inpaint", elem_id="img2img_inpaint_tab") as inpaint_tab:
            gr.HTML(EASEL, elem_id="ip2p_paint")
        batch = build_batch_tab()
    mask = gr.Textbox(visible="hidden", elem_id="ip2p_mask", label="Mask")
    return PicturePane(modes, mode, img2img_tab, inpaint_tab, picture, arrival, mask), batch
