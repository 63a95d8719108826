"""The whole page, pane by pane; what it does is in the handlers. Element ids are the AUTOMATIC1111 web UI's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.components import Component

from ...models.checkpoints import Suited
from .batch_layout import BatchResults, BatchTab, build_batch_results
from .form import NAMES, SEARCH
from .matrix.layout import MatrixBoard, build_matrix_board
from .models_tab.layout import ModelsPane, build_models
from .panes.examples import build_examples
from .panes.parts import picture_input, tool_button
from .panes.pictures import PicturePane, build_pictures
from .panes.prompts import PromptPane, build_prompts
from .panes.results import ResultsPane, build_progress, build_results
from .panes.scales import build_scales
from .panes.settings import SettingsPane, build_settings
from .photo_offer import PhotoOffer, build_photo_offer
from .strip.layout import StripPane, build_strip

THEMES = ("System", "Light", "Dark")
WHEN_DONE = ("Play a sound", "Show a notification")
"""What notify.js does, by these names."""

Updates = dict[Block, Any]
"""What a handler returns: the new value of a component, or a `gr.update`."""


# --- what the page remembers ---


@dataclass(frozen=True)
class PageMemory:
    """What one page keeps in the browser, and how its script tells the server of news."""

    last_task: gr.BrowserState
    """The id of the last task: it is found again after a reload."""
    settings: gr.BrowserState
    """A dictionary, see `events.remembered`."""
    followed: gr.Textbox
    """Hidden: the id of the task that is shown now."""
    news: gr.Button
    """Hidden: clicked by progress.js when there is something new to show."""


def build_memory() -> PageMemory:
    """Make what nobody sees."""
    return PageMemory(
        last_task=gr.BrowserState(None, storage_key="ip2p_job", secret="ip2p"),
        settings=gr.BrowserState(None, storage_key="ip2p_settings", secret="ip2p"),
        followed=gr.Textbox("", visible="hidden", label="Job"),
        news=gr.Button("News", visible="hidden", elem_id="ip2p_news"),
    )


# --- the top bar ---


@dataclass(frozen=True)
class TopBar:
    """Which model edits."""

    checkpoint: gr.Dropdown
    refresh: gr.Button
    status: gr.HTML
    chosen: gr.State
    """The name of the checkpoint that was chosen last and can edit."""
    defaults: gr.Button
    """Offers the scales and steps that suit it."""
    wanted: gr.Textbox
    """Hidden: the name of the model to use."""
    use: gr.Button
    """Hidden: clicked by models.js."""


def build_top_bar(choices: list[tuple[str, str]], chosen: str, offer: str) -> TopBar:
    """Make the bar; `choices` are (label, name) of the models, `chosen` is a name, `offer` the text of the offer."""
    wanted = gr.Textbox("", visible="hidden", label="Model")
    use = gr.Button("Use", visible="hidden", elem_id="ip2p_use_model")
    with gr.Row(elem_id="ip2p_top"):
        return TopBar(
            checkpoint=gr.Dropdown(
                choices, value=chosen, label="Checkpoint", elem_id="setting_sd_model_checkpoint", min_width=200
            ),
            refresh=tool_button("Look for models again", "refresh", "refresh_sd_model_checkpoint"),
            status=gr.HTML("", elem_id="ip2p_status"),
            chosen=gr.State(chosen),
            defaults=gr.Button(offer, elem_id="ip2p_defaults", size="sm", scale=0, visible=bool(offer)),
            wanted=wanted,
            use=use,
        )


# --- the other tabs ---


@dataclass(frozen=True)
class PngInfoPane:
    """The infotext of a picture, and the way back into the settings."""

    picture: gr.Image
    text: gr.Textbox
    send: gr.Button
    send_settings: gr.Button


def build_png_info() -> PngInfoPane:
    """Make the pane inside the tab that is open."""
    with gr.Row():
        with gr.Column(min_width=300):
            picture = picture_input("Picture", "pnginfo_image")
        with gr.Column(min_width=300):
            text = gr.Textbox(
                label="Settings in the picture",
                info="They can be changed, or pasted from elsewhere, before they are sent.",
                lines=6,
                max_lines=20,
                elem_id="pnginfo_text",
                buttons=["copy"],
            )
            with gr.Row():
                send = gr.Button("Send to img2img", variant="primary", elem_id="pnginfo_send", min_width=140)
                send_settings = gr.Button("Send the settings alone", elem_id="pnginfo_send_settings", min_width=140)
    return PngInfoPane(picture, text, send, send_settings)


@dataclass(frozen=True)
class PreferencesPane:
    """How the page behaves."""

    theme: gr.Radio
    live: gr.Checkbox
    save: gr.Checkbox
    when_done: gr.CheckboxGroup
    reset: gr.Button


def build_preferences() -> PreferencesPane:
    """Make the pane inside the tab that is open."""
    with gr.Column(elem_id="ip2p_preferences"):
        theme = gr.Radio(list(THEMES), value=THEMES[0], label="Appearance", elem_id="ip2p_theme")
        live = gr.Checkbox(
            True,
            label="Live preview",
            info="Show what the pictures are becoming while they are made.",
            elem_id="ip2p_live",
        )
        save = gr.Checkbox(
            True,
            label="Save every result",
            info="In the folder “outputs” of this program, under the day, each with its settings in it.",
            elem_id="ip2p_save",
        )
        when_done = gr.CheckboxGroup(
            list(WHEN_DONE),
            label="When an edit is done",
            info="Or a matrix, or a folder. A notification comes while this page is not in front; the browser asks "
            "whether it may show them.",
            elem_id="ip2p_when_done",
        )
        gr.HTML('<p id="ip2p_when_done_said" class="ip2p-line problem" role="alert"></p>', elem_id="ip2p_refused")
        gr.HTML(
            '<p class="ip2p-hint">The settings of the last edit are remembered in this browser, and come back when the '
            "page is opened again.</p>"
        )
        reset = gr.Button("Set everything to its default", elem_id="ip2p_reset", size="md", scale=0)
    return PreferencesPane(theme, live, save, when_done, reset)


# --- all of it ---


@dataclass(frozen=True)
class Layout:
    """The page."""

    memory: PageMemory
    top: TopBar
    tabs: gr.Tabs
    prompts: PromptPane
    photo_offer: PhotoOffer
    pictures: PicturePane
    batch: BatchTab
    settings: SettingsPane
    progress: gr.HTML
    """What the page says: of a task, or of what is wrong."""
    batch_results: BatchResults
    board: MatrixBoard
    examples: gr.Gallery
    results: ResultsPane
    strip: StripPane
    png_info: PngInfoPane
    models: ModelsPane
    preferences: PreferencesPane

    @property
    def form(self) -> dict[str, Component]:
        """The controls of `form.NAMES` and `form.SEARCH`, by name."""
        controls = {**vars(self.prompts), **vars(self.settings)}
        return {name: controls[name] for name in (*NAMES, *SEARCH)}


def build(
    *,
    choices: list[tuple[str, str]],
    chosen: str,
    offer: str,
    suited: Suited,
    count: int,
    vaes: list[str],
    examples: Path,
) -> Layout:
    """Make everything inside the page that is open; `count` is how many pictures to make unless told otherwise.

    `suited` are the settings of the chosen model, `examples` is the folder with the pictures of `panes.examples`.

    The tab img2img has the instruction on top; below it the desk, with the scales and the picture beside its result;
    and beside the desk the column of settings. On a phone page.css puts them below one another.
    """
    memory = build_memory()
    gr.HTML("<h1>instruct-pix2pix</h1>", elem_id="ip2p_title")
    top = build_top_bar(choices, chosen, offer)
    with gr.Tabs(elem_id="tabs", overflow_behavior="wrap") as tabs:
        with gr.Tab("img2img", id="img2img", elem_id="tab_img2img"), gr.Column(elem_id="ip2p_edit", min_width=0):
            prompts = build_prompts()
            with gr.Row(elem_id="ip2p_work"):
                with gr.Column(elem_id="ip2p_desk", min_width=0):
                    scales = build_scales(suited)
                    photo_offer = build_photo_offer()
                    with gr.Row(elem_id="ip2p_pair"):
                        with gr.Column(elem_id="ip2p_input", min_width=0):
                            pictures, batch = build_pictures()
                        with gr.Column(elem_id="img2img_results", min_width=0):
                            progress = build_progress()
                            batch_results = build_batch_results()
                            board = build_matrix_board()
                            shown_first = build_examples(examples)
                            results = build_results()
                        strip = build_strip()
                with gr.Column(elem_id="img2img_settings", min_width=0):
                    settings = build_settings(scales, count, vaes)
        with gr.Tab("PNG Info", id="pnginfo", elem_id="tab_pnginfo"):
            png_info = build_png_info()
        with gr.Tab("Models", id="models", elem_id="tab_models") as models_tab:
            models_pane = build_models(models_tab)
        with gr.Tab("Settings", id="settings", elem_id="tab_settings"):
            preferences = build_preferences()
    return Layout(
        memory=memory,
        top=top,
        tabs=tabs,
        prompts=prompts,
        photo_offer=photo_offer,
        pictures=pictures,
        batch=batch,
        settings=settings,
        progress=progress,
        batch_results=batch_results,
        board=board,
        examples=shown_first,
        results=results,
        strip=strip,
        png_info=png_info,
        models=models_pane,
        preferences=preferences,
    )
