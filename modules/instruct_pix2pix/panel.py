"""The controls of instruct-pix2pix, written once for the tab of a host and for our own page.

Runs on gradio 3.41 and later: a name that differs between versions is looked up here and nowhere else.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from .errors import UserError
from .models.checkpoints import EDIT_KINDS, inspect
from .settings import KNOBS, Knob
from .templates import TEMPLATES
from .text import escape

IN_BROWSER = "js" if int(gr.__version__.split(".")[0]) >= 4 else "_js"
"""The argument of an event that takes JavaScript."""


TITLE = "Instruct Pix2Pix"
SELECT = f"{TITLE} – select an instruct-pix2pix checkpoint to edit pictures"
"""The title of the closed panel."""


@dataclass(frozen=True)
class Panel:
    """The components that `build` made."""

    status: Any
    text_cfg: Any
    image_cfg: Any
    from_noise: Any
    randomize: Any
    rescale: Any
    speed: Any
    templates: Any

    @property
    def arguments(self) -> list[Any]:
        """From noise, randomize, rescale, speed: new ones go to the end, so that old API calls keep their meaning."""
        return [self.from_noise, self.randomize, self.rescale, self.speed]


def build(status_html: str) -> Panel:
    """Make the controls inside the gradio block that is open."""
    status = gr.HTML(status_html, elem_id="ip2p_status")
    text_cfg, image_cfg = scales()
    return Panel(status, text_cfg, image_cfg, *more(), instruction_templates())


def scales() -> tuple[Any, Any]:
    """Make the two sliders that steer an edit."""
    with gr.Row(elem_id="ip2p_scales"):
        text_cfg = slider(KNOBS["text_cfg"], "ip2p_text_cfg")
        image_cfg = slider(KNOBS["image_cfg"], "ip2p_image_cfg")
    return text_cfg, image_cfg


def more(drawn_for_each: str = "batch") -> tuple[Any, Any, Any, Any]:
    """Make the controls that are changed less often: from noise, randomize, rescale, speed.

    `drawn_for_each` says what gets random scales of its own: a batch or a picture.
    """
    with gr.Row(elem_id="ip2p_more"):
        from_noise = gr.Checkbox(
            True,
            label="Start from noise",
            info="As in the paper. Off: start from the noised input, by the denoising strength.",
            elem_id="ip2p_from_noise",
        )
        randomize = gr.Checkbox(
            KNOBS["randomize_cfg"].default,
            label=KNOBS["randomize_cfg"].label,
            info=f"Draw Text CFG from 6 to 9 and Image CFG from 1.2 to 1.8 for each {drawn_for_each}, from its seed.",
            elem_id="ip2p_randomize",
        )
        rescale = slider(KNOBS["rescale"], "ip2p_rescale")
        speed = radio(KNOBS["speed"], "ip2p_speed")
    return from_noise, randomize, rescale, speed


def instruction_templates() -> Any:
    """Make the list whose entries go into the prompt, where the first blank is selected."""
    templates = gr.Dropdown(
        [template.text for template in TEMPLATES],
        value=None,
        label="Instruction templates",
        info="Choose one and type over the part that is marked.",
        elem_id="ip2p_templates",
    )
    use: dict[str, Any] = {"fn": None, IN_BROWSER: "(text) => ip2pUseTemplate(text)"}
    templates.input(inputs=[templates], outputs=[], **use)
    return templates


def slider(knob: Knob, elem_id: str) -> Any:
    """Make a slider with the knob's label, help, range and default."""
    limits: dict[str, Any] = {"minimum": knob.minimum, "maximum": knob.maximum, "step": knob.step}
    return gr.Slider(value=knob.default, label=knob.label, info=knob.help, elem_id=elem_id, **limits)


def radio(knob: Knob, elem_id: str) -> Any:
    """Make a choice of one of the knob's words."""
    words = list(knob.choices or ())
    return gr.Radio(words, value=knob.default, label=knob.label, info=knob.help, elem_id=elem_id)


def keep_in_step(page: Any, ours: Any, theirs: Any) -> None:
    """Let two sliders always show one value, at first theirs: in the browser, so that no answer comes too late."""
    same: dict[str, Any] = {"fn": None, IN_BROWSER: "(value) => value"}
    ours.input(inputs=[ours], outputs=[theirs], **same)
    theirs.change(inputs=[theirs], outputs=[ours], **same)
    page.load(inputs=[theirs], outputs=[ours], **same)


def describe(path: Path | None) -> tuple[bool, str]:
    """Return whether the selected checkpoint edits, and a line of HTML for the status that says what it is."""
    if path is None:
        return False, line("No checkpoint is selected: select an instruct-pix2pix checkpoint.")
    try:
        checkpoint = inspect(path)
    except UserError as error:
        return False, line(str(error))
    if checkpoint.kind in EDIT_KINDS:  # a host has parts of its own for what the file lacks
        return True, line(f"{path.stem}: {checkpoint.label}", found=True)
    return False, line(f"{path.stem}: {checkpoint.label}. {checkpoint.advice}")


def line(text: str, *, found: bool = False) -> str:
    """Return a sentence as the status shows it, in HTML."""
    return f'<p class="{"ip2p-found" if found else "ip2p-other"}">{escape(text)}</p>'
