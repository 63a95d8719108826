"""The place of the strip below picture and result, the window in which results are compared, and buttons."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

STRIP = """
<section id="ip2p_strip" aria-labelledby="ip2p_strip_title" hidden>
    <div class="ip2p-strip-head">
        <h2 id="ip2p_strip_title">Results of this session</h2>
        <button type="button" class="ip2p-large" title="See the shown result in the whole window (double click)">
            Large view</button>
        <button type="button" class="ip2p-compare" aria-pressed="false"
            title="Choose two to see side by side. Shift and a click compares one with the shown result">
            Compare two</button>
        <span class="ip2p-strip-says" role="status"></span>
        <button type="button" class="ip2p-strip-undo" hidden>Undo</button>
    </div>
    <ul></ul>
</section>
<dialog id="ip2p_lightbox" aria-label="Results in the whole window">
    <div class="ip2p-lightbox-bar">
        <button type="button" class="ip2p-see-before" aria-pressed="false" title="Hold it, or the key B or Space">
            Hold for before</button>
        <div>
            <button type="button" class="ip2p-zoom-out" aria-label="Zoom out" title="Zoom out (-)">−</button>
            <button type="button" class="ip2p-fit" title="See the whole picture (0, or a double click)">Fit</button>
            <button type="button" class="ip2p-zoom-in" aria-label="Zoom in" title="Zoom in (+)">+</button>
        </div>
        <p class="ip2p-hint">
            <span class="ip2p-with-keys">The wheel zooms, a drag moves. Hold B or Space for before. The left and right
            arrows show other results, Tab goes to the other picture, Esc closes.</span>
            <span class="ip2p-with-fingers">Two fingers zoom, one moves.</span></p>
        <button type="button" class="ip2p-close" aria-label="Close" title="Close (Esc)">×</button>
    </div>
    <div class="ip2p-panes"></div>
</dialog>
"""
"""What strip.js fills, and the window of compare.js."""


@dataclass(frozen=True)
class StripPane:
    """How strip.js, which fills the strip, tells the server which result was clicked."""

    session: gr.Textbox
    """Hidden: the id of the session, a secret of this tab."""
    wanted: gr.Textbox
    """Hidden: the ids of the session and of the result."""
    choose: gr.Button
    """Hidden: clicked by strip.js."""


def build_strip() -> StripPane:
    """Make the place of the strip inside the block that is open."""
    gr.HTML(STRIP, elem_id="ip2p_strip_place")
    return StripPane(
        session=gr.Textbox("", visible="hidden", label="Session"),
        wanted=gr.Textbox("", visible="hidden", label="Result of the strip"),
        choose=gr.Button("Show", visible="hidden", elem_id="ip2p_strip_choose"),
    )


def build_strip_buttons() -> tuple[gr.Button, gr.Button, gr.Button]:
    """Make buttons of the shown result: its edit again with less change, or with more, and the window."""
    names = (("Less change", "less_change"), ("More change", "more_change"), ("Compare", "compare_two"))
    less, more, compare = (gr.Button(name, elem_id=f"ip2p_{id_}", size="sm", min_width=0) for name, id_ in names)
    return less, more, compare
