"""The controls of instruct-pix2pix, written once for the tab of a host and for our own page.

Runs on gradio 3.41 and later: a name that differs between versions is looked up here and nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from .errors import UserError
from .models.checkpoints import EDIT_KINDS, inspect
from .settings import FROM_NOISE, KNOBS, Knob
from .templates import TEMPLATES
from .text import escape

IN_BROWSER = "js" if int(gr.__version__.split(".")[0]) >= 4 else "_js"
"""The argument of an event that takes JavaScript."""


TITLE = "Instruct Pix2Pix"
SELECT = f"{TITLE} – select an instruct-pix2pix checkpoint to edit pictures"
"""The title of the closed panel."""

TAB = ("cfg_scale", "image_cfg_scale", "steps", "width", "height")
"""The controls of a host's tab that the panel is joined to, by their elem_ids without the tab's name."""

MORE: Mapping[str, Knob] = {
    "from_noise": FROM_NOISE,
    "randomize": KNOBS["randomize_cfg"],
    "rescale": KNOBS["rescale"],
    "speed": KNOBS["speed"],
}
"""The knobs of the controls that our own page changes less often."""


@dataclass(frozen=True)
class Panel:
    """The components that `build` made."""

    status: Any
    suited: Any
    """Hidden; its text is what `Look.suited` says."""
    defaults: Any
    size: Any
    text_cfg: Any
    image_cfg: Any
    templates: Any
    controls: Mapping[str, Any]
    """By name, in the order in which a host passes their values."""


@dataclass(frozen=True)
class Look:
    """What a panel shows of a checkpoint."""

    editing: bool
    status: str
    """HTML."""
    suited: str = ""
    """The scales, steps and size that suit it, as JSON; '' where it does not edit."""

    @property
    def title(self) -> str:
        """Of the panel."""
        return TITLE if self.editing else SELECT


def build(look: Look, knobs: Mapping[str, Knob]) -> Panel:
    """Make the controls of a host's tab inside the gradio block that is open; `knobs` are those beside the scales."""
    status = gr.HTML(look.status, elem_id="ip2p_status")
    suited = gr.Textbox(look.suited, visible=False, elem_id="ip2p_suited")
    with gr.Row(elem_id="ip2p_offers"):
        defaults = gr.Button("", visible=False, size="sm", elem_id="ip2p_defaults")
        size = gr.Button("", visible=False, size="sm", elem_id="ip2p_size")
    text_cfg, image_cfg = scales()
    templates = instruction_templates()
    with gr.Accordion("Advanced", open=False, elem_id="ip2p_advanced"):
        controls = dict(zip(knobs, more("batch", knobs), strict=True))
    return Panel(status, suited, defaults, size, text_cfg, image_cfg, templates, controls)


def scales() -> tuple[Any, Any]:
    """Make the two sliders that steer an edit."""
    with gr.Row(elem_id="ip2p_scales"):
        text_cfg = control(KNOBS["text_cfg"], "ip2p_text_cfg")
        image_cfg = control(KNOBS["image_cfg"], "ip2p_image_cfg")
    return text_cfg, image_cfg


def more(drawn_for_each: str = "picture", knobs: Mapping[str, Knob] = MORE) -> tuple[Any, ...]:
    """Make a control for each knob, in order, in rows of one kind.

    `drawn_for_each` says what gets random scales of its own: a batch or a picture.
    """
    made = {}
    with gr.Row(elem_id="ip2p_more"):
        for name, knob in knobs.items():
            told = replace(knob, help=knob.help.replace("each picture", f"each {drawn_for_each}"))
            made[name] = control(told, f"ip2p_{name}")
    return tuple(made.values())


def control(knob: Knob, elem_id: str) -> Any:
    """Make the component for a knob: a checkbox, a choice of one word, or a slider."""
    same: dict[str, Any] = {"value": knob.default, "label": knob.label, "info": knob.help, "elem_id": elem_id}
    if isinstance(knob.default, bool):
        return gr.Checkbox(**same)
    if knob.choices:
        return gr.Radio(list(knob.choices), **same)
    limits: dict[str, Any] = {"minimum": knob.minimum, "maximum": knob.maximum, "step": knob.step}
    return gr.Slider(**limits, **same)


def instruction_templates() -> Any:
    """Make the list whose entries go into the prompt, where the first blank is selected."""
    templates = gr.Dropdown(
        [template.text for template in TEMPLATES],
        value=None,
        label="Instruction templates",
        info="Choose one and type over the part that is marked.",
        elem_id="ip2p_templates",
    )
    templates.input(**in_browser("ip2pUseTemplate"), inputs=[templates], outputs=[])
    return templates


def in_browser(function: str) -> dict[str, Any]:
    """Return the arguments of an event that calls this function of JavaScript and nothing else."""
    return {"fn": None, IN_BROWSER: f"(...values) => {function}(...values)"}


def keep_in_step(page: Any, ours: Any, theirs: Any) -> None:
    """Let two sliders always show one value, at first theirs: in the browser, so that no answer comes too late."""
    same: dict[str, Any] = {"fn": None, IN_BROWSER: "(value) => value"}
    ours.input(inputs=[ours], outputs=[theirs], **same)
    theirs.change(inputs=[theirs], outputs=[ours], **same)
    page.load(inputs=[theirs], outputs=[ours], **same)


def offer_defaults(page: Any, panel: Panel, text_cfg: Any, image_cfg: Any, steps: Any) -> None:
    """Offer the scales and steps that suit a checkpoint when it is chosen, until a person sets one of them."""
    theirs = [text_cfg, image_cfg, steps]
    seen: dict[str, Any] = {"inputs": [panel.suited, *theirs], "outputs": [panel.defaults]}
    page.load(**in_browser("ip2pOfferDefaults"), **seen)
    panel.suited.change(**in_browser("ip2pOfferDefaults"), **seen)
    for value in (panel.text_cfg, panel.image_cfg, *theirs):
        value.input(**in_browser("ip2pAnswer"), inputs=[panel.suited], outputs=[panel.defaults])
    panel.defaults.click(**in_browser("ip2pDefaults"), inputs=[panel.suited], outputs=[*theirs, panel.defaults])


def offer_size(page: Any, panel: Panel, width: Any, height: Any) -> None:
    """Offer the size that suits a checkpoint while the tab's is far from it."""
    seen: dict[str, Any] = {"inputs": [panel.suited, width, height], "outputs": [panel.size]}
    for event in (page.load, panel.suited.change, width.change, height.change):
        event(**in_browser("ip2pOfferSize"), **seen)
    panel.size.click(**in_browser("ip2pSize"), inputs=[panel.suited, width, height], outputs=[width, height])


def look_at(path: Path | None) -> Look:
    """Return what the panel shows of the selected checkpoint."""
    if path is None:
        return Look(False, line("No checkpoint is selected: select an instruct-pix2pix checkpoint."))
    try:
        checkpoint = inspect(path)
    except UserError as error:
        return Look(False, line(str(error)))
    if checkpoint.kind in EDIT_KINDS:  # a host has parts of its own for what the file lacks
        suited = {name: value for name, value in asdict(checkpoint.suited).items() if value is not None}
        return Look(True, line(f"{path.stem}: {checkpoint.label}", found=True), json.dumps(suited))
    return Look(False, line(f"{path.stem}: {checkpoint.label}. {checkpoint.advice}"))


def line(text: str, *, found: bool = False) -> str:
    """Return a sentence as the status shows it, in HTML."""
    return f'<p class="{"ip2p-found" if found else "ip2p-other"}">{escape(text)}</p>'
