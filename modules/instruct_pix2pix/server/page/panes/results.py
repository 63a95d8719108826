"""What becomes of a picture: how things stand, one result beside its input, and the others."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

from ..strip.layout import build_strip_buttons


@dataclass(frozen=True)
class ResultsPane:
    """The results of an edit, and one of them in detail."""

    gallery: gr.Gallery
    selected: gr.Textbox
    """Hidden: the result in detail, as `results.result_id` names it; strip.js marks it."""
    compare: gr.ImageSlider
    kept_pane: gr.Accordion
    """Around what follows, for a result with a map."""
    kept: gr.Image
    kept_text: gr.HTML
    use_as_mask: gr.Button
    sent_mask: gr.Textbox
    """Hidden: what paint.js is to take, see `handlers.EditHandlers.use_as_mask` and `send_to_inpaint`."""
    candidates_pane: gr.Column
    """Around what follows, for a result that was found among several."""
    candidates: gr.Gallery
    infotext: gr.Textbox
    less: gr.Button
    more: gr.Button
    compare_two: gr.Button
    use_as_input: gr.Button
    former: gr.State
    """What was the picture to edit before each 'Use as input': paths, or None."""
    give_back: gr.Button
    send_to_inpaint: gr.Button
    reuse: gr.Button
    download: gr.DownloadButton
    open_folder: gr.Button
    """Shown to who sits at this machine's desktop."""
    sheet: gr.HTML
    """A link to one picture of all that was tried, where that is more than one."""


def build_progress() -> gr.HTML:
    """Make the place where the page says how things stand, and return the part that handlers fill."""
    with gr.Column(elem_id="img2img_progress", min_width=0):
        gr.HTML('<div id="ip2p_going"></div>')  # filled by progress.js
        return gr.HTML("", elem_classes="ip2p-said")


def build_results() -> ResultsPane:
    """Make the pane inside the block that is open: one result, large, what can be done with it, and the others."""
    selected = gr.Textbox("", visible="hidden", elem_id="ip2p_selected", label="Result in detail")
    former = gr.State([])
    with gr.Column(elem_id="ip2p_comparison", min_width=0):
        compare = gr.ImageSlider(
            label="Before / after", elem_id="ip2p_compare", type="filepath", interactive=False, buttons=["fullscreen"]
        )
        with gr.Row(elem_id="ip2p_result_buttons"):
            less, more, compare_two = build_strip_buttons()
            use_as_input = gr.Button("Use as input", elem_id="ip2p_use_as_input", size="sm", min_width=0)
            give_back = gr.Button(
                "Undo: former picture", visible=False, elem_id="ip2p_former_input", size="sm", min_width=0
            )
            send_to_inpaint = gr.Button("Send to inpaint", elem_id="img2img_send_to_inpaint", size="sm", min_width=0)
            reuse = gr.Button("Reuse settings", elem_id="ip2p_reuse_settings", size="sm", min_width=0)
            download = gr.DownloadButton("Download", elem_id="ip2p_download", size="sm", min_width=0)
            open_folder = gr.Button("Open folder", visible=False, elem_id="img2img_open_folder", size="sm", min_width=0)
            sheet = gr.HTML("", visible=False, elem_id="ip2p_sheet", min_width=0)
    gallery = gr.Gallery(
        label="Results",
        elem_id="img2img_gallery",
        elem_classes="ip2p-pictures",
        columns=4,
        fit_columns=False,
        height="auto",
        object_fit="contain",
        allow_preview=False,
        interactive=False,
        buttons=["download_all"],
        format="png",
        type="filepath",
    )
    with gr.Column(elem_id="ip2p_details", min_width=0):
        with gr.Column(visible=False, elem_id="ip2p_candidates_pane", min_width=0) as candidates_pane:
            candidates = gr.Gallery(
                label="All candidates: click one to take it",
                elem_id="ip2p_candidates",
                elem_classes="ip2p-pictures",
                columns=6,
                fit_columns=False,
                height="auto",
                object_fit="contain",
                allow_preview=False,
                interactive=False,
                buttons=[],
                type="filepath",
            )
        with gr.Accordion("What was kept", open=False, visible=False, elem_id="ip2p_kept_pane") as kept_pane:
            kept_text = gr.HTML("", elem_id="ip2p_kept_text")
            kept = gr.Image(
                label="In grey: kept from the input",
                type="filepath",
                interactive=False,
                buttons=["fullscreen"],
                elem_id="ip2p_kept",
            )
            use_as_mask = gr.Button("Use as mask", elem_id="ip2p_use_as_mask", size="sm")
        sent_mask = gr.Textbox("", visible="hidden", elem_id="ip2p_sent_mask", label="Mask to begin with")
        infotext = gr.Textbox(
            label="Settings of this picture",
            elem_id="html_info_img2img",
            interactive=False,
            lines=2,
            max_lines=8,
            buttons=["copy"],
        )
    return ResultsPane(
        gallery=gallery,
        selected=selected,
        compare=compare,
        kept_pane=kept_pane,
        kept=kept,
        kept_text=kept_text,
        use_as_mask=use_as_mask,
        sent_mask=sent_mask,
        candidates_pane=candidates_pane,
        candidates=candidates,
        infotext=infotext,
        less=less,
        more=more,
        compare_two=compare_two,
        use_as_input=use_as_input,
        former=former,
        give_back=give_back,
        send_to_inpaint=send_to_inpaint,
        reuse=reuse,
        download=download,
        open_folder=open_folder,
        sheet=sheet,
    )
