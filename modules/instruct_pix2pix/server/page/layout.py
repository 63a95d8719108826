"""What is on the page and where; what it does is in `handlers`. Element ids are the AUTOMATIC1111 web UI's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from ... import panel
from ...engine.sampling.samplers import SAMPLERS
from ...engine.sampling.schedules import SCHEDULE_NAMES
from ...settings import KNOBS, LONGEST_SIDE, SHORTEST_SIDE
from .batch_layout import BatchLayout, build_results, build_tab
from .form import AUTOMATIC, BY_HAND, LONGEST, SIZINGS

Component = Any  # gradio's own classes get their events when it is imported

EXAMPLES = (
    ("house.png", "make it winter"),
    ("car.png", "make the car blue"),
    ("ball.png", "remove the ball"),
    ("night.png", "make it summer"),
)

EASEL = """
<div class="ip2p-easel empty">
    <p>Drop a picture here<br>- or -<br>Click to choose one, Ctrl+V to paste</p>
    <img alt="The picture to edit"><canvas aria-label="Paint over what may change" role="img"></canvas>
</div>
<div class="ip2p-brushes">
    <label>Brush <input class="ip2p-brush" type="range" min="1" max="30" value="8" aria-label="Brush size"></label>
    <label><input type="checkbox" class="ip2p-erase"> Erase</label>
    <button type="button" class="ip2p-undo">Undo</button><button type="button" class="ip2p-clear">Clear</button>
</div>
<p class="ip2p-hint">Paint over what may change; the rest stays as it is.</p>
"""
"""What paint.js paints on."""

THEMES = ("System", "Light", "Dark")


@dataclass(frozen=True)
class Layout:
    """The components that something is done with."""

    form: dict[str, Component]
    """By the names of form.NAMES."""
    job_id: Component
    """Of the last job, in the browser: it is found again after a reload."""
    following: Component
    """Of the job that is shown now."""
    news: Component
    """Clicked by progress.js when there is something to show."""
    memory: Component
    checkpoint: Component
    refresh: Component
    status: Component
    chosen: Component
    """The name of the checkpoint that was chosen last and can edit."""
    tabs: Component
    prompt_count: Component
    negative_count: Component
    generate: Component
    interrupt: Component
    skip: Component
    img2img_tab: Component
    inpaint_tab: Component
    batch: BatchLayout
    modes: Component
    mode: Component
    picture: Component
    arrival: Component
    mask: Component
    examples: Component
    has_examples: bool
    by_hand: Component
    swap: Component
    dice: Component
    recycle: Component
    progress: Component
    gallery: Component
    selected: Component
    compare: Component
    infotext: Component
    use_as_input: Component
    reuse: Component
    download: Component
    info_picture: Component
    info_text: Component
    send: Component
    send_settings: Component
    models: Component
    models_refresh: Component
    theme: Component
    live: Component
    save: Component
    reset: Component


def build(*, choices: list[tuple[str, str]], chosen: str, models: str, count: int, examples: Path) -> Layout:
    """Make everything inside the page that is open; `count` is how many pictures to make unless told otherwise."""
    made: dict[str, Any] = {"form": {}, "batch": {}}
    made["job_id"] = gr.BrowserState(None, storage_key="ip2p_job", secret="ip2p")
    made["memory"] = gr.BrowserState(None, storage_key="ip2p_settings", secret="ip2p")
    made["following"] = gr.Textbox("", visible="hidden", label="Job")
    made["news"] = gr.Button("News", visible="hidden", elem_id="ip2p_news")
    with gr.Row(elem_id="ip2p_top"):
        made["checkpoint"] = gr.Dropdown(
            choices, value=chosen, label="Checkpoint", elem_id="setting_sd_model_checkpoint", min_width=200
        )
        made["refresh"] = tool("Look for models again", "refresh", "refresh_sd_model_checkpoint")
        made["status"] = gr.HTML("", elem_id="ip2p_status")
        made["chosen"] = gr.State(chosen)
    with gr.Tabs(elem_id="tabs", overflow_behavior="wrap") as made["tabs"]:
        with gr.Tab("img2img", id="img2img", elem_id="tab_img2img"):
            _prompts(made)
            with gr.Row(elem_id="ip2p_work"):
                with gr.Column(elem_id="img2img_settings", min_width=300):
                    _pictures(made, examples)
                    _settings(made, count)
                with gr.Column(elem_id="img2img_results", min_width=300):
                    _results(made)
        with gr.Tab("PNG Info", id="pnginfo", elem_id="tab_pnginfo"):
            _png_info(made)
        with gr.Tab("Models", id="models", elem_id="tab_models"):
            made["models"] = gr.HTML(models, elem_id="ip2p_models")
            made["models_refresh"] = gr.Button("Look again", elem_id="ip2p_models_refresh", size="md", scale=0)
        with gr.Tab("Settings", id="settings", elem_id="tab_settings"):
            _preferences(made)
    made["batch"] = BatchLayout(**made["batch"])
    return Layout(**made)


def tool(label: str, icon: str, elem_id: str) -> Component:
    """A small button that shows an icon (see page.css) and says what it does to those who cannot see it."""
    classes = ["ip2p-tool", f"ip2p-{icon}"]
    return gr.Button(label, elem_id=elem_id, elem_classes=classes, size="sm", scale=0, min_width=40)


def _prompts(made: dict[str, Any]) -> None:
    form = made["form"]
    with gr.Row(elem_id="img2img_toprow"):
        with gr.Column(scale=6, elem_id="img2img_prompt_container", min_width=280):
            with gr.Column(elem_classes="ip2p-prompt", min_width=0):
                form["instruction"] = gr.Textbox(
                    label="Prompt",
                    show_label=False,
                    placeholder="What to change, such as “make it winter” (Ctrl+Enter generates, Esc interrupts)",
                    lines=3,
                    max_lines=8,
                    elem_id="img2img_prompt",
                    html_attributes=gr.InputHTMLAttributes(spellcheck=True),
                )
                made["prompt_count"] = gr.HTML("", elem_id="img2img_token_counter", elem_classes="ip2p-tokens")
            with gr.Column(elem_classes="ip2p-prompt", min_width=0):
                form["negative"] = gr.Textbox(
                    label="Negative prompt",
                    show_label=False,
                    placeholder="Negative prompt: what the result should not look like",
                    lines=2,
                    max_lines=8,
                    elem_id="img2img_neg_prompt",
                )
                made["negative_count"] = gr.HTML(
                    "", elem_id="img2img_negative_token_counter", elem_classes="ip2p-tokens"
                )
        with gr.Column(scale=2, elem_id="img2img_actions_column", min_width=280):
            made["generate"] = gr.Button("Generate", variant="primary", elem_id="img2img_generate")
            with gr.Row(elem_id="img2img_stopping"):
                made["interrupt"] = gr.Button("Interrupt", variant="stop", elem_id="img2img_interrupt", min_width=80)
                made["skip"] = gr.Button("Skip", elem_id="img2img_skip", min_width=80)
            panel.instruction_templates()


def picture_input(label: str, elem_id: str) -> Component:
    """A place to drop a picture. Events that read it must not let gradio preprocess it: that would open the file."""
    return gr.Image(
        type="filepath",
        sources=["upload", "clipboard"],
        label=label,
        elem_id=elem_id,
        height=340,
        buttons=["fullscreen"],
        placeholder="Drop a picture here\n- or -\nClick to choose one, Ctrl+V to paste",
    )


def _pictures(made: dict[str, Any], examples: Path) -> None:
    made["mode"] = gr.State("img2img")
    made["arrival"] = gr.File(visible="hidden", elem_id="ip2p_arrival", label="Picture", file_types=["image"])
    with gr.Tabs(elem_id="mode_img2img") as made["modes"]:
        with gr.Tab("img2img", id="img2img", elem_id="img2img_img2img_tab") as made["img2img_tab"]:
            made["picture"] = picture_input("Picture to edit", "img2img_image")
        with gr.Tab("Inpaint", id="inpaint", elem_id="img2img_inpaint_tab") as made["inpaint_tab"]:
            gr.HTML(EASEL, elem_id="ip2p_paint")
        made["batch"].update(build_tab())
    made["mask"] = gr.Textbox(visible="hidden", elem_id="ip2p_mask", label="Mask")
    files = [(str(examples / name), text) for name, text in EXAMPLES]
    made["has_examples"] = found = all((examples / name).is_file() for name, _ in EXAMPLES)
    made["examples"] = gr.Gallery(
        files if found else None,
        visible=found,
        label="Examples: click one, then Generate",
        elem_id="ip2p_examples",
        elem_classes="ip2p-pictures",
        columns=4,
        fit_columns=False,
        height="auto",
        allow_preview=False,
        interactive=False,
        buttons=[],
    )


def _settings(made: dict[str, Any], count: int) -> None:
    form = made["form"]
    form["text_cfg"], form["image_cfg"] = panel.scales()
    with gr.Row():
        form["sampler"] = gr.Dropdown(
            list(SAMPLERS), value=KNOBS["sampler"].default, label="Sampling method", elem_id="img2img_sampling"
        )
        form["schedule"] = gr.Dropdown(
            list(SCHEDULE_NAMES), value=KNOBS["schedule"].default, label="Schedule type", elem_id="img2img_scheduler"
        )
    form["steps"] = bare_slider("steps", "img2img_steps", label="Sampling steps")
    form["sizing"] = gr.Radio(
        list(SIZINGS),
        value=AUTOMATIC,
        label="Size of the edit",
        info="Automatic takes the model's own size, in the shape of the picture.",
        elem_id="img2img_sizing",
    )
    with gr.Row(visible=False, elem_id="img2img_size_row") as made["by_hand"]:
        form["longest"] = _side("Longest side", "img2img_longest")
        form["width"] = _side("Width", "img2img_width")
        made["swap"] = tool("Swap width and height", "swap", "img2img_res_switch_btn")
        form["height"] = _side("Height", "img2img_height")
    with gr.Row():
        form["batches"] = gr.Slider(1, 100, value=count, step=1, label="Batch count", elem_id="img2img_batch_count")
        form["batch_size"] = gr.Slider(1, 16, value=1, step=1, label="Batch size", elem_id="img2img_batch_size")
    with gr.Row(elem_id="img2img_seed_row"):
        form["seed"] = gr.Number(
            KNOBS["seed"].default,
            label="Seed",
            precision=0,
            minimum=KNOBS["seed"].minimum,
            maximum=KNOBS["seed"].maximum,
            elem_id="img2img_seed",
        )
        made["dice"] = tool("Draw a new seed each time", "dice", "img2img_random_seed")
        made["recycle"] = tool("Take the seed of the selected result", "recycle", "img2img_reuse_seed")
    with gr.Accordion("More settings", open=False, elem_id="ip2p_more_settings"):
        form["from_noise"], form["randomize_cfg"], form["rescale"], form["speed"] = panel.more("picture")
        form["denoise"] = bare_slider("denoise", "img2img_denoising_strength", value=0.75, visible=False)


def bare_slider(name: str, elem_id: str, **more: object) -> Component:
    """A slider for a knob without its line of help."""
    knob = KNOBS[name]
    options: dict[str, Any] = {"label": knob.label, "value": knob.default, "step": knob.step} | more
    return gr.Slider(knob.minimum or 0, knob.maximum or 1, elem_id=elem_id, **options)


def _side(label: str, elem_id: str) -> Component:
    return gr.Slider(SHORTEST_SIDE, LONGEST_SIDE, value=512, step=8, label=label, elem_id=elem_id, visible=False)


def sides_shown(sizing: str) -> dict[str, bool]:
    """Which controls of the size have a meaning: 'by_hand' is the row around them."""
    by_hand = sizing == BY_HAND
    return {
        "by_hand": sizing != AUTOMATIC,
        "longest": sizing == LONGEST,
        "width": by_hand,
        "swap": by_hand,
        "height": by_hand,
    }


def _results(made: dict[str, Any]) -> None:
    with gr.Column(elem_id="img2img_progress", min_width=0):
        gr.HTML('<div id="ip2p_going"></div>')  # filled by progress.js
        made["progress"] = gr.HTML("", elem_classes="ip2p-said")
    made["batch"].update(build_results())
    made["gallery"] = gr.Gallery(
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
    made["selected"] = gr.State(None)
    with gr.Column(elem_id="ip2p_details"):
        made["compare"] = gr.ImageSlider(
            label="Before / after", elem_id="ip2p_compare", type="filepath", interactive=False, buttons=["fullscreen"]
        )
        with gr.Row(elem_id="ip2p_result_buttons"):
            made["use_as_input"] = gr.Button("Use as input", elem_id="ip2p_use_as_input", size="sm", min_width=110)
            made["reuse"] = gr.Button("Reuse these settings", elem_id="ip2p_reuse_settings", size="sm", min_width=110)
            made["download"] = gr.DownloadButton("Download", elem_id="ip2p_download", size="sm", min_width=110)
        made["infotext"] = gr.Textbox(
            label="Settings of this picture",
            elem_id="html_info_img2img",
            interactive=False,
            lines=2,
            max_lines=8,
            buttons=["copy"],
        )


def _png_info(made: dict[str, Any]) -> None:
    with gr.Row():
        with gr.Column(min_width=300):
            made["info_picture"] = picture_input("Picture", "pnginfo_image")
        with gr.Column(min_width=300):
            made["info_text"] = gr.Textbox(
                label="Settings in the picture",
                info="They can be changed, or pasted from elsewhere, before they are sent.",
                lines=6,
                max_lines=20,
                elem_id="pnginfo_text",
                buttons=["copy"],
            )
            with gr.Row():
                made["send"] = gr.Button("Send to img2img", variant="primary", elem_id="pnginfo_send", min_width=140)
                made["send_settings"] = gr.Button(
                    "Send the settings alone", elem_id="pnginfo_send_settings", min_width=140
                )


def _preferences(made: dict[str, Any]) -> None:
    with gr.Column(elem_id="ip2p_preferences"):
        made["theme"] = gr.Radio(list(THEMES), value=THEMES[0], label="Appearance", elem_id="ip2p_theme")
        made["live"] = gr.Checkbox(
            True,
            label="Live preview",
            info="Show what the pictures are becoming while they are made.",
            elem_id="ip2p_live",
        )
        made["save"] = gr.Checkbox(
            True,
            label="Save every result",
            info="In the folder “outputs” of this program, under the day, each with its settings in it.",
            elem_id="ip2p_save",
        )
        gr.HTML(
            '<p class="ip2p-hint">The settings of the last edit are remembered in this browser, and come back when the '
            "page is opened again.</p>"
        )
        made["reset"] = gr.Button("Set everything to its default", elem_id="ip2p_reset", size="md", scale=0)
