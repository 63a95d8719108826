"""The controls of the tab Models; what it shows is fetched by models.js when the tab is opened first."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr

PLACE = (
    '<div id="ip2p_models_here"><p class="ip2p-hint">Looking at the models …</p></div><div id="ip2p_models_more"></div>'
    '<form id="ip2p_look_up"><label>Another from huggingface.co <input name="name" autocomplete="off" '
    'spellcheck="false" placeholder="OWNER/REPO or OWNER/REPO/FILE"></label>'
    '<button class="ip2p-small">Look it up</button></form>'
)
"""What models.js fills: what is here, and what can be had, which may be looked up by name."""


@dataclass(frozen=True)
class ModelsPane:
    """The models that there are."""

    tab: gr.Tab
    refresh: gr.Button


def build_models(tab: gr.Tab) -> ModelsPane:
    """Make the pane inside the tab that is open."""
    refresh = gr.Button("Look again", elem_id="ip2p_models_refresh", size="md", scale=0)
    gr.HTML(PLACE, elem_id="ip2p_models")
    return ModelsPane(tab, refresh)
