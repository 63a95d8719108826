"""The panes of a folder: the sub-tab Batch, where it is named and set up, and the table of its results."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr
from gradio.components import Component

from ...images import WRITABLE

AS_EACH = "As each picture"
FORMATS = (AS_EACH, *(ending.removeprefix(".") for ending in WRITABLE if ending not in (".jpeg", ".tiff")))

DROP_ZONE = """
<div class="ip2p-dropzone" role="group" aria-label="Pictures from this computer">
    <p>Drop pictures or a folder here</p>
    <p><button type="button" data-picks="ip2p_pick_files">Choose pictures</button>
    <button type="button" data-picks="ip2p_pick_folder">Choose a folder</button>
    <button type="button" class="ip2p-undrop" hidden>Remove them</button></p>
    <p class="ip2p-dropped" role="status"></p>
    <input type="file" id="ip2p_pick_files" aria-label="Pictures" multiple hidden
        accept="image/*,.heic,.heif,.hif,.txt">
    <input type="file" id="ip2p_pick_folder" aria-label="Folder" webkitdirectory hidden>
</div>
"""
"""Filled by batch.js, which sends each picture in a request of its own, so that their number has no limit."""


# --- the sub-tab ---


@dataclass(frozen=True)
class BatchTab:
    """Which folder, and what is asked for it."""

    tab: gr.Tab
    fields: dict[str, Component]
    """What is remembered in the browser, by the names under which it is."""
    instructions: gr.File


def build_batch_tab() -> BatchTab:
    """Make the sub-tab inside the tabs that are open."""
    fields: dict[str, Component] = {}
    with gr.Tab("Batch", id="batch", elem_id="img2img_batch_tab") as tab:
        gr.HTML(DROP_ZONE, elem_id="ip2p_drop_zone")
        fields["drop"] = gr.Textbox("", visible="hidden", elem_id="ip2p_drop", label="Dropped pictures")
        fields["input"] = gr.Textbox(
            label="Input folder",
            info="On the machine that runs this program. Or drop pictures above.",
            elem_id="img2img_batch_input_dir",
            max_lines=1,
        )
        fields["output"] = gr.Textbox(
            label="Output folder",
            info="Left empty, a folder in outputs/batch that is named after the input.",
            elem_id="img2img_batch_output_dir",
            max_lines=1,
        )
        with gr.Row(elem_id="ip2p_batch_checks"):
            fields["recursive"] = _check(False, "Subfolders too", "recursive")
            fields["overwrite"] = _check(False, "Overwrite", "overwrite")
            fields["use_infotext"] = _check(True, "Use infotext", "use_infotext")
            fields["contact_sheet"] = _check(False, "Contact sheet", "contact_sheet")
        with gr.Row():
            fields["format"] = gr.Dropdown(
                list(FORMATS), value=AS_EACH, label="Format", elem_id="ip2p_batch_format", min_width=140
            )
            fields["quality"] = gr.Slider(
                1,
                100,
                value=95,
                step=1,
                label="Quality",
                elem_id="ip2p_batch_quality",
                min_width=140,
            )
            fields["together"] = gr.Slider(
                0, 16, value=0, step=1, label="At once (0: auto)", elem_id="ip2p_batch_together", min_width=140
            )
        with gr.Accordion("An instruction or a mask for each picture", open=False, elem_id="ip2p_batch_each"):
            instructions = gr.File(
                label="Instructions: CSV or JSONL with name, instruction, any setting",
                file_types=[".csv", ".tsv", ".jsonl", ".txt"],
                elem_id="ip2p_batch_instructions",
                height=120,
            )
            fields["masks"] = gr.Textbox(
                label="Masks folder",
                info="Masks with the pictures’ names: white is edited, black is kept.",
                elem_id="img2img_batch_inpaint_mask_dir",
                max_lines=1,
            )
            gr.HTML(
                '<p class="ip2p-hint">A text file with a picture’s name beside it is its instruction too. The prompt '
                "applies to pictures without one of their own. Each picture gets Batch count × Batch size results.</p>"
            )
    return BatchTab(tab, fields, instructions)


def _check(value: bool, label: str, name: str) -> gr.Checkbox:
    return gr.Checkbox(value, label=label, elem_id=f"ip2p_batch_{name}", min_width=130)


# --- the table ---


@dataclass(frozen=True)
class BatchResults:
    """The table of a folder, and the buttons that steer it."""

    steering: gr.Row
    """Around `pause`, `resume` and `stop`, while it runs."""
    pause: gr.Button
    resume: gr.Button
    stop: gr.Button
    after: gr.Row
    """Around `retry` and `download`, once it has ended."""
    retry: gr.Button
    download: gr.HTML
    board: gr.HTML


def build_batch_results() -> BatchResults:
    """Make the place of the table inside the block that is open."""
    with gr.Column(elem_id="ip2p_batch_results"):
        with gr.Row(visible=False, elem_id="ip2p_steering") as steering:
            pause = gr.Button("Pause", elem_id="ip2p_pause", size="md", min_width=90)
            resume = gr.Button("Resume", elem_id="ip2p_resume", size="md", min_width=90, visible=False)
            stop = gr.Button("Stop after this picture", elem_id="ip2p_stop", size="md", min_width=170)
        with gr.Row(visible=False, elem_id="ip2p_batch_after") as after:
            retry = gr.Button("Retry failed", elem_id="ip2p_retry", size="md", min_width=110)
            download = gr.HTML("", elem_id="ip2p_zip")
        board = gr.HTML("", elem_id="ip2p_batch_board")
    return BatchResults(steering, pause, resume, stop, after, retry, download, board)
