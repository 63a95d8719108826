"""The panes of the tab img2img: prompts, picture inputs, settings, results; each is made by a function of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from ... import panel
from ...camera_files import HEIC
from ...engine.beside.add_ons import TINY
from ...engine.candidates import PAIRS
from ...engine.sampling.names import SAMPLER_NAMES, SCHEDULE_NAMES
from ...grid import around
from ...models.add_ons import VAE_FILE, AddOnFolders
from ...models.checkpoints import Suited
from ...settings import BEST_OF, KNOBS, LONGEST_RESULT, LONGEST_SIDE, SHORTEST_SIDE, STRENGTH, STRENGTHS
from .batch_layout import BatchTab, build_batch_tab
from .form import AUTOMATIC, BY_HAND, LONGEST, RESULT_SIZINGS, SEARCH, SIZINGS
from .matrix.layout import MatrixForm, build_matrix_button, build_matrix_form

EXAMPLES = (
    ("house.png", "make it winter"),
    ("car.png", "make the car blue"),
    ("ball.png", "remove the ball"),
    ("night.png", "make it summer"),
)
"""Pictures, and an instruction for each."""

LOOK = "Show what would be kept"
"""On the button that shows the map before an edit."""

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


STRENGTH_WORDS = '<div class="ip2p-words" role="group" aria-label="{}">{}</div>'.format(
    STRENGTH.label,
    "".join(
        f'<button type="button" data-strength="{value}" style="--at: {value}">{word}</button>'
        for word, value in STRENGTHS.items()
    ),
)
"""Marks below the slider; page.js sets it to the one that is clicked."""


# --- parts ---


def tool_button(label: str, icon: str, elem_id: str) -> gr.Button:
    """Make a small button with an icon of page.css; `label` is its tooltip, and what a screen reader reads."""
    classes = ["ip2p-tool", f"ip2p-{icon}"]
    return gr.Button(label, elem_id=elem_id, elem_classes=classes, size="sm", scale=0, min_width=40)


def picture_input(label: str, elem_id: str) -> gr.Image:
    """Make a place to drop a picture; an event that reads it needs `gradio_compat.UNREAD`."""
    return gr.Image(
        type="filepath",
        sources=["upload", "clipboard"],
        label=label,
        elem_id=elem_id,
        height=340,
        buttons=["fullscreen"],
        placeholder="Drop a picture here\n- or -\nClick to choose one, Ctrl+V to paste",
    )


def bare_slider(name: str, elem_id: str, **more: object) -> gr.Slider:
    """Make the slider of a knob without its line of help."""
    knob = KNOBS[name]
    options: dict[str, Any] = {"label": knob.label, "value": knob.default, "step": knob.step} | more
    return gr.Slider(knob.minimum or 0, knob.maximum or 1, elem_id=elem_id, **options)


def _side_slider(label: str, elem_id: str) -> gr.Slider:
    return gr.Slider(SHORTEST_SIDE, LONGEST_SIDE, value=512, step=8, label=label, elem_id=elem_id, visible=False)


# --- prompts ---


@dataclass(frozen=True)
class PromptPane:
    """Prompts, and the buttons beside them."""

    instruction: gr.Textbox
    negative: gr.Textbox
    instruction_tokens: gr.HTML
    negative_tokens: gr.HTML
    generate: gr.Button
    interrupt: gr.Button
    skip: gr.Button
    templates: gr.Dropdown
    keep: gr.Button
    """Puts the instruction into the list of templates, and takes it out."""


def build_prompts() -> PromptPane:
    """Make the pane inside the block that is open."""
    with gr.Row(elem_id="img2img_toprow"):
        with gr.Column(scale=6, elem_id="img2img_prompt_container", min_width=280):
            with gr.Column(elem_classes="ip2p-prompt", min_width=0):
                instruction = gr.Textbox(
                    label="Prompt",
                    show_label=False,
                    placeholder="What to change, such as “make it winter” (Ctrl+Enter generates, Esc interrupts)",
                    lines=3,
                    max_lines=8,
                    elem_id="img2img_prompt",
                    html_attributes=gr.InputHTMLAttributes(spellcheck=True),
                )
                instruction_tokens = gr.HTML("", elem_id="img2img_token_counter", elem_classes="ip2p-tokens")
            with gr.Column(elem_classes="ip2p-prompt", min_width=0):
                negative = gr.Textbox(
                    label="Negative prompt",
                    show_label=False,
                    placeholder="Negative prompt: what the result should not look like",
                    lines=2,
                    max_lines=8,
                    elem_id="img2img_neg_prompt",
                )
                negative_tokens = gr.HTML("", elem_id="img2img_negative_token_counter", elem_classes="ip2p-tokens")
        with gr.Column(scale=2, elem_id="img2img_actions_column", min_width=280):
            generate = gr.Button("Generate", variant="primary", elem_id="img2img_generate")
            with gr.Row(elem_id="img2img_stopping"):
                interrupt = gr.Button("Interrupt", variant="stop", elem_id="img2img_interrupt", min_width=80)
                skip = gr.Button("Skip", elem_id="img2img_skip", min_width=80)
            with gr.Row(elem_id="ip2p_templates_row"):
                templates = panel.instruction_templates()
                keep = tool_button("Keep this instruction in the list", "star", "ip2p_keep_instruction")
    return PromptPane(
        instruction, negative, instruction_tokens, negative_tokens, generate, interrupt, skip, templates, keep
    )


# --- picture inputs ---


@dataclass(frozen=True)
class PicturePane:
    """What is edited: a picture, a part of it, or a folder (see `BatchTab`)."""

    modes: gr.Tabs
    mode: gr.State
    """The sub-tab that is open: 'img2img', 'inpaint' or 'batch'."""
    img2img_tab: gr.Tab
    inpaint_tab: gr.Tab
    picture: gr.Image
    arrival: gr.File
    """Hidden: takes a picture that was dropped or pasted anywhere on the page."""
    mask: gr.Textbox
    """Hidden: a PNG as a data URL, written by paint.js."""
    examples: gr.Gallery
    has_examples: bool


def build_pictures(examples: Path) -> tuple[PicturePane, BatchTab]:
    """Make the pane, and inside its tabs the one for a folder; `examples` is where the pictures of EXAMPLES are."""
    mode = gr.State("img2img")
    arrival = gr.File(visible="hidden", elem_id="ip2p_arrival", label="Picture", file_types=["image", *HEIC])
    with gr.Tabs(elem_id="mode_img2img") as modes:
        with gr.Tab("img2img", id="img2img", elem_id="img2img_img2img_tab") as img2img_tab:
            picture = picture_input("Picture to edit", "img2img_image")
        with gr.Tab("Inpaint", id="inpaint", elem_id="img2img_inpaint_tab") as inpaint_tab:
            gr.HTML(EASEL, elem_id="ip2p_paint")
        batch = build_batch_tab()
    mask = gr.Textbox(visible="hidden", elem_id="ip2p_mask", label="Mask")
    files = [(str(examples / name), text) for name, text in EXAMPLES]
    found = all((examples / name).is_file() for name, _ in EXAMPLES)
    gallery = gr.Gallery(
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
    return PicturePane(modes, mode, img2img_tab, inpaint_tab, picture, arrival, mask, gallery, found), batch


# --- settings ---


@dataclass(frozen=True)
class SettingsPane:
    """The settings of an edit, each under its name in form.NAMES or form.SEARCH, and what belongs to them."""

    text_cfg: gr.Slider
    image_cfg: gr.Slider
    by_strength: gr.Checkbox
    strength: gr.Slider
    matrix: MatrixForm
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

    strength_pane: gr.Column
    """Around `strength`."""
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


def vae_choices(folders: Sequence[Path]) -> list[str]:
    """Return what the setting 'VAE' can be with the files beside the models in these folders."""
    return [KNOBS["vae"].default, TINY, *AddOnFolders.near(models=folders).files(VAE_FILE)]


def build_settings(count: int, vaes: list[str], suited: Suited) -> SettingsPane:
    """Make the pane; `count` is how many pictures an edit makes unless told otherwise, `suited` is of the model."""
    with gr.Row(elem_id="ip2p_scaling"):
        text_cfg, image_cfg = panel.scales()
        build_matrix_button()
    matrix = build_matrix_form(*around(suited.text_cfg, suited.image_cfg))
    by_strength = gr.Checkbox(
        SEARCH["by_strength"],
        label="Find the scales",
        info=f"One slider, {STRENGTH.label.lower()}, in place of Text CFG and Image CFG.",
        elem_id="ip2p_by_strength",
    )
    with gr.Column(visible=False, elem_id="ip2p_strength_pane") as strength_pane:
        strength = gr.Slider(
            STRENGTH.minimum or 0,
            STRENGTH.maximum or 1,
            value=SEARCH["strength"],
            step=STRENGTH.step,
            label=STRENGTH.label,
            info=f"Begins the edit at {len(PAIRS)} pairs of scales and goes on with the one that changes this much.",
            elem_id="ip2p_strength",
        )
        gr.HTML(STRENGTH_WORDS, elem_id="ip2p_strength_words")
    with gr.Row(elem_id="ip2p_keep"):
        keep_rest = panel.control(KNOBS["keep_rest"], "ip2p_keep_rest")
        keep_amount = bare_slider("keep_amount", "ip2p_keep_amount", info=KNOBS["keep_amount"].help, visible=False)
    with gr.Column(visible=False, elem_id="ip2p_look") as look_pane:
        look = gr.Button(LOOK, elem_id="ip2p_look_first", size="sm")
        looked = gr.Image(
            label="In grey: would be kept",
            height=340,
            visible=False,
            type="filepath",
            interactive=False,
            buttons=["fullscreen"],
            elem_id="ip2p_looked",
        )
    with gr.Row():
        sampler = gr.Dropdown(
            list(SAMPLER_NAMES), value=KNOBS["sampler"].default, label="Sampling method", elem_id="img2img_sampling"
        )
        schedule = gr.Dropdown(
            list(SCHEDULE_NAMES), value=KNOBS["schedule"].default, label="Schedule type", elem_id="img2img_scheduler"
        )
    steps = bare_slider("steps", "img2img_steps", label="Sampling steps")
    with gr.Row(elem_id="ip2p_sizes"):
        sizing = gr.Radio(
            list(SIZINGS),
            value=AUTOMATIC,
            label="Size of the edit",
            info="Automatic takes the model's own size, in the shape of the picture.",
            elem_id="img2img_sizing",
        )
        result_sizing = gr.Radio(
            list(RESULT_SIZINGS),
            value=AUTOMATIC,
            label=KNOBS["result_size"].label,
            info="Own is the picture's, Model that of the edit; Automatic is Own where the picture is larger.",
            elem_id="ip2p_result_sizing",
        )
    with gr.Row(visible=False, elem_id="img2img_size_row") as side_row:
        longest = _side_slider("Longest side", "img2img_longest")
        width = _side_slider("Width", "img2img_width")
        swap = tool_button("Swap width and height", "swap", "img2img_res_switch_btn")
        height = _side_slider("Height", "img2img_height")
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
    with gr.Row():
        batches = gr.Slider(1, 100, value=count, step=1, label="Batch count", elem_id="img2img_batch_count")
        batch_size = gr.Slider(1, 16, value=1, step=1, label="Batch size", elem_id="img2img_batch_size")
    best_of = panel.control(BEST_OF, "ip2p_best_of")
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
    with gr.Accordion("More settings", open=False, elem_id="ip2p_more_settings"):
        from_noise, randomize_cfg, rescale, speed = panel.more()
        denoise = bare_slider("denoise", "img2img_denoising_strength", value=0.75, visible=False)
        with gr.Row(elem_id="ip2p_apg"):
            apg_eta, apg_threshold, apg_momentum = (
                panel.control(KNOBS[name], f"ip2p_{name}") for name in ("apg_eta", "apg_threshold", "apg_momentum")
            )
        with gr.Row(elem_id="ip2p_model_kinds"):
            no_text = panel.control(KNOBS["no_text"], "ip2p_no_text")
            guidance = panel.control(KNOBS["guidance"], "ip2p_guidance")
        knob = KNOBS["vae"]
        vae = gr.Dropdown(
            vaes,
            value=knob.default,
            label=knob.label,
            info=knob.help,
            allow_custom_value=True,
            elem_id="ip2p_vae",
        )
    return SettingsPane(
        text_cfg=text_cfg,
        image_cfg=image_cfg,
        by_strength=by_strength,
        strength=strength,
        strength_pane=strength_pane,
        matrix=matrix,
        keep_rest=keep_rest,
        keep_amount=keep_amount,
        look_pane=look_pane,
        look=look,
        looked=looked,
        sampler=sampler,
        schedule=schedule,
        steps=steps,
        sizing=sizing,
        longest=longest,
        width=width,
        height=height,
        result_sizing=result_sizing,
        result_longest=result_longest,
        zoom=zoom,
        batches=batches,
        batch_size=batch_size,
        best_of=best_of,
        seed=seed,
        from_noise=from_noise,
        randomize_cfg=randomize_cfg,
        rescale=rescale,
        speed=speed,
        denoise=denoise,
        apg_eta=apg_eta,
        apg_threshold=apg_threshold,
        apg_momentum=apg_momentum,
        no_text=no_text,
        guidance=guidance,
        vae=vae,
        side_row=side_row,
        swap=swap,
        dice=dice,
        recycle=recycle,
    )


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


# --- results ---


@dataclass(frozen=True)
class ResultsPane:
    """The results of an edit, and one of them in detail."""

    gallery: gr.Gallery
    selected: gr.State
    """The place of the result in detail, or None."""
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
    use_as_input: gr.Button
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
    """Make the pane inside the block that is open."""
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
    selected = gr.State(None)
    with gr.Column(elem_id="ip2p_details"):
        compare = gr.ImageSlider(
            label="Before / after", elem_id="ip2p_compare", type="filepath", interactive=False, buttons=["fullscreen"]
        )
        with gr.Row(elem_id="ip2p_result_buttons"):
            use_as_input = gr.Button("Use as input", elem_id="ip2p_use_as_input", size="sm", min_width=110)
            send_to_inpaint = gr.Button(
                "Send to inpaint", elem_id="img2img_send_to_inpaint", size="sm", min_width=110
            )
            reuse = gr.Button("Reuse these settings", elem_id="ip2p_reuse_settings", size="sm", min_width=110)
            download = gr.DownloadButton("Download", elem_id="ip2p_download", size="sm", min_width=110)
            open_folder = gr.Button(
                "Open folder", visible=False, elem_id="img2img_open_folder", size="sm", min_width=110
            )
            sheet = gr.HTML("", visible=False, elem_id="ip2p_sheet", min_width=110)
        with gr.Column(visible=False, elem_id="ip2p_candidates_pane") as candidates_pane:
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
                height=340,
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
        use_as_input=use_as_input,
        send_to_inpaint=send_to_inpaint,
        reuse=reuse,
        download=download,
        open_folder=open_folder,
        sheet=sheet,
    )
