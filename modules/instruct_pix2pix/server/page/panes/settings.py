"""The column of settings, those first that a person needs first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from .... import panel
from ....engine.beside.add_ons import TINY
from ....engine.sampling.names import SAMPLER_NAMES, SCHEDULE_NAMES
from ....models.add_ons import VAE_FILE, AddOnFolders
from ....settings import BEST_OF, KNOBS, LONGEST_RESULT, LONGEST_SIDE, SHORTEST_SIDE
from ..form import AUTOMATIC, BY_HAND, LONGEST, RESULT_SIZINGS, SIZINGS
from .parts import bare_slider, tool_button
from .scales import ScalesPane

LOOK = "Show what would be kept"
"""On the button that shows the map before an edit."""


@dataclass(frozen=True)
class SettingsPane(ScalesPane):
    """The settings of an edit, each under its name in form.NAMES or form.SEARCH, and what belongs to them."""

    negative: gr.Textbox
    keep_rest: gr.Radio
    keep_amount: gr.Slider
    sampler: gr.Dropdown
    schedule: gr.Dropdown
    steps: gr.Slider
    sizing: gr.Radio
    longest: gr.Slider
    width: gr.Slider
    height: gr.Slider
    result_sizing: gr.Radio
    result_longest: gr.Number
    zoom: gr.Checkbox
    batches: gr.Slider
    batch_size: gr.Slider
    best_of: gr.Slider
    seed: gr.Number
    from_noise: gr.Checkbox
    randomize_cfg: gr.Checkbox
    rescale: gr.Slider
    speed: gr.Radio
    denoise: gr.Slider
    apg_eta: gr.Slider
    apg_threshold: gr.Slider
    apg_momentum: gr.Slider
    no_text: gr.Radio
    guidance: gr.Radio
    vae: gr.Dropdown

    negative_tokens: gr.HTML
    look_pane: gr.Column
    """Around what follows, while the rest is to be kept."""
    look: gr.Button
    looked: gr.Image
    """What an edit would keep."""
    side_row: gr.Row
    """Around `longest`, `width`, `swap` and `height`."""
    swap: gr.Button
    dice: gr.Button
    recycle: gr.Button
    templates: gr.Dropdown
    keep: gr.Button
    """Puts the instruction into the list of templates, and takes it out."""


def build_settings(scales: ScalesPane, count: int, vaes: list[str]) -> SettingsPane:
    """Make the column; `count` is how many pictures an edit makes unless told otherwise, `vaes` as in `vae_choices`."""
    with gr.Row(elem_id="ip2p_templates_row"):
        templates = panel.instruction_templates()
        keep = tool_button("Keep this instruction in the list", "star", "ip2p_keep_instruction")
    made = {
        **_build_counts(count),
        **_build_keeping(),
        "best_of": panel.control(BEST_OF, "ip2p_best_of"),
        **_build_negative(),
        **_build_sampling(),
        **_build_sizes(),
        **_build_more(vaes),
    }
    return SettingsPane(**vars(scales), **made, templates=templates, keep=keep)


# Each of these makes controls of SettingsPane, by their names there.


def _build_counts(count: int) -> dict[str, Any]:
    with gr.Row(elem_id="img2img_seed_row"):
        seed = gr.Number(
            KNOBS["seed"].default,
            label="Seed",
            precision=0,
            minimum=KNOBS["seed"].minimum,
            elem_id="img2img_seed",
        )
        dice = tool_button("Draw a new seed each time", "dice", "img2img_random_seed")
        recycle = tool_button("Take the seed of the selected result", "recycle", "img2img_reuse_seed")
    batches = gr.Slider(1, 100, value=count, step=1, label="Batch count", elem_id="img2img_batch_count")
    steps = bare_slider("steps", "img2img_steps", label="Sampling steps")
    return {"seed": seed, "dice": dice, "recycle": recycle, "batches": batches, "steps": steps}


def _build_keeping() -> dict[str, Any]:
    with gr.Row(elem_id="ip2p_keep"):
        keep_rest = panel.control(KNOBS["keep_rest"], "ip2p_keep_rest")
        keep_amount = bare_slider("keep_amount", "ip2p_keep_amount", info=KNOBS["keep_amount"].help, visible=False)
    with gr.Column(visible=False, elem_id="ip2p_look") as look_pane:
        look = gr.Button(LOOK, elem_id="ip2p_look_first", size="sm")
        looked = gr.Image(
            label="In grey: would be kept",
            visible=False,
            type="filepath",
            interactive=False,
            buttons=["fullscreen"],
            elem_id="ip2p_looked",
        )
    keeping = {"keep_rest": keep_rest, "keep_amount": keep_amount}
    return {**keeping, "look_pane": look_pane, "look": look, "looked": looked}


def _build_negative() -> dict[str, Any]:
    with gr.Column(elem_classes="ip2p-prompt", min_width=0):
        negative = gr.Textbox(
            label="Negative prompt",
            show_label=False,
            placeholder="Negative prompt: what the result should not look like",
            lines=2,
            max_lines=8,
            elem_id="img2img_neg_prompt",
        )
        tokens = gr.HTML("", elem_id="img2img_negative_token_counter", elem_classes="ip2p-tokens")
    return {"negative": negative, "negative_tokens": tokens}


def _build_sampling() -> dict[str, Any]:
    return {
        "sampler": gr.Dropdown(
            list(SAMPLER_NAMES), value=KNOBS["sampler"].default, label="Sampling method", elem_id="img2img_sampling"
        ),
        "schedule": gr.Dropdown(
            list(SCHEDULE_NAMES), value=KNOBS["schedule"].default, label="Schedule type", elem_id="img2img_scheduler"
        ),
        "batch_size": gr.Slider(1, 16, value=1, step=1, label="Batch size", elem_id="img2img_batch_size"),
    }


def _build_sizes() -> dict[str, Any]:
    with gr.Accordion("Size of the edit and of the result", open=False, elem_id="ip2p_sizes"):
        sizing = gr.Radio(
            list(SIZINGS),
            value=AUTOMATIC,
            label="Size of the edit",
            info="Automatic takes the model's own size, in the shape of the picture.",
            elem_id="img2img_sizing",
        )
        with gr.Row(visible=False, elem_id="img2img_size_row") as side_row:
            longest = _side_slider("Longest side", "img2img_longest")
            width = _side_slider("Width", "img2img_width")
            swap = tool_button("Swap width and height", "swap", "img2img_res_switch_btn")
            height = _side_slider("Height", "img2img_height")
        result_sizing = gr.Radio(
            list(RESULT_SIZINGS),
            value=AUTOMATIC,
            label=KNOBS["result_size"].label,
            info="Own is the picture's, Model that of the edit; Automatic is Own where the picture is larger.",
            elem_id="ip2p_result_sizing",
        )
        result_longest = gr.Number(
            2048,
            label="Longest side of the result",
            precision=0,
            minimum=SHORTEST_SIDE,
            maximum=LONGEST_RESULT,
            elem_id="ip2p_result_longest",
            visible=False,
        )
        zoom = panel.control(KNOBS["zoom"], "ip2p_zoom")
    edit = {"sizing": sizing, "side_row": side_row, "longest": longest, "width": width, "swap": swap, "height": height}
    return {**edit, "result_sizing": result_sizing, "result_longest": result_longest, "zoom": zoom}


def _side_slider(label: str, elem_id: str) -> gr.Slider:
    return gr.Slider(SHORTEST_SIDE, LONGEST_SIDE, value=512, step=8, label=label, elem_id=elem_id, visible=False)


def _build_more(vaes: list[str]) -> dict[str, Any]:
    with gr.Accordion("More settings", open=False, elem_id="ip2p_more_settings"):
        made: dict[str, Any] = dict(zip(("from_noise", "randomize_cfg", "rescale", "speed"), panel.more(), strict=True))
        made["denoise"] = bare_slider("denoise", "img2img_denoising_strength", value=0.75, visible=False)
        with gr.Row(elem_id="ip2p_apg"):
            for name in ("apg_eta", "apg_threshold", "apg_momentum"):
                made[name] = panel.control(KNOBS[name], f"ip2p_{name}")
        with gr.Row(elem_id="ip2p_model_kinds"):
            for name in ("no_text", "guidance"):
                made[name] = panel.control(KNOBS[name], f"ip2p_{name}")
        knob = KNOBS["vae"]
        made["vae"] = gr.Dropdown(
            vaes,
            value=knob.default,
            label=knob.label,
            info=knob.help,
            allow_custom_value=True,
            elem_id="ip2p_vae",
        )
    return made


# --- what its choices are, and which have an effect ---


def vae_choices(folders: Sequence[Path]) -> list[str]:
    """Return what the setting 'VAE' can be with the files beside the models in these folders."""
    return [KNOBS["vae"].default, TINY, *AddOnFolders.near(models=folders).files(VAE_FILE)]


def sides_shown(sizing: str) -> dict[str, bool]:
    """Return which controls of the size have an effect, by their names in SettingsPane."""
    by_hand = sizing == BY_HAND
    return {
        "side_row": sizing != AUTOMATIC,
        "longest": sizing == LONGEST,
        "width": by_hand,
        "swap": by_hand,
        "height": by_hand,
    }
