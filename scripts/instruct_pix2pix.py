"""The extension as a web GUI of the AUTOMATIC1111 family sees it: hooks, and nothing else."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.context import Context
from modules import script_callbacks, scripts, sd_models, shared  # pyright: ignore[reportAttributeAccessIssue]


def forget_package() -> None:
    """Let the next import read the package anew: when a host reloads its UI there may have been an update."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "instruct_pix2pix"]:
        del sys.modules[name]


forget_package()
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "modules"))
try:
    from instruct_pix2pix import panel as controls
    from instruct_pix2pix.hosts import a1111, forge, job
    from instruct_pix2pix.hosts.axes import add_axes
    from instruct_pix2pix.hosts.detect import UNSUPPORTED, find_host
    from instruct_pix2pix.hosts.processing import Processing
finally:
    sys.path.pop(0)

HOST = find_host()


def selected(title: str | None = None) -> Path | None:
    """Return the file of the checkpoint with this title, or of the one that the host's settings name."""
    found = sd_models.get_closet_checkpoint_match(title or shared.opts.sd_model_checkpoint or "")
    return Path(found.filename) if found else None


def from_edit(read: Callable[[dict[str, str]], object]) -> Callable[[dict[str, str]], object]:
    """Let a pasted infotext set a control only when it is the infotext of an edit."""
    return lambda fields: read(fields) if "Image CFG scale" in fields else gr.update()


def loud(hook: Callable[..., None]) -> Callable[..., None]:
    """Let an error in a hook end the job with a sentence: a host would print it and go on without an edit."""

    @wraps(hook)
    def heard(self: scripts.Script, p: Processing, *args: Any, **kwargs: Any) -> None:
        try:
            hook(self, p, *args, **kwargs)
        except Exception as error:
            job.stop(p, error)
            raise

    return heard


class InstructPix2Pix(scripts.Script):
    """Edits pictures by instruction when the checkpoint in use can."""

    sorting_priority = 1
    panel: controls.Panel
    accordion: Any

    def __init__(self) -> None:
        self.others: dict[str, Any] = {}
        """The host's components that the panel is joined to, by elem_id."""

    def title(self) -> str:
        """See `scripts.Script`, as for every method without a docstring of its own."""
        return controls.TITLE

    def show(self, is_img2img: bool) -> object:
        return scripts.AlwaysVisible

    def ui(self, is_img2img: bool) -> list[Any]:
        if not is_img2img:
            return []
        if HOST is None:
            with gr.Accordion(f"{controls.TITLE} – not in this web GUI", open=False, elem_id="ip2p_panel"):
                gr.HTML(controls.line(UNSUPPORTED), elem_id="ip2p_status")
            return []
        script_callbacks.on_after_component(self.after_component)
        editing, status = controls.describe(selected())
        title = controls.TITLE if editing else controls.SELECT
        with gr.Accordion(title, open=editing, elem_id="ip2p_panel") as self.accordion:
            self.panel = controls.build(status)
        self.infotext_fields = [
            (self.panel.text_cfg, "CFG scale"),
            (self.panel.image_cfg, "Image CFG scale"),
            (self.panel.rescale, from_edit(lambda fields: fields.get("Guidance rescale", 0.0))),
            (self.panel.speed, from_edit(lambda fields: fields.get("Speed", "exact"))),
            (self.panel.from_noise, from_edit(lambda fields: fields.get("Edit start") == "noise")),
            (self.panel.randomize, from_edit(lambda fields: False)),
        ]
        self.paste_field_names = ["Image CFG scale", "Guidance rescale", "Speed", "Edit start"]
        return self.panel.arguments

    def after_component(self, component: Any, **kwargs: Any) -> None:
        """Keep the components that the panel is joined to, and join them at the footer, which comes last on a page."""
        # A host calls this for the components of the tab, and as a callback for all that come after the panel.
        name = kwargs.get("elem_id")
        if name in ("setting_sd_model_checkpoint", "img2img_cfg_scale", "img2img_image_cfg_scale"):
            self.others[name] = component
        if name == "footer":
            self._join(Context.root_block)

    def _join(self, page: Any) -> None:
        """Keep the panel's scales and the tab's in step, and describe every checkpoint that is chosen."""
        text_cfg, image_cfg = self.others.get("img2img_cfg_scale"), self.others.get("img2img_image_cfg_scale")
        if text_cfg is not None and image_cfg is not None:
            image_cfg.maximum = max(image_cfg.maximum, self.panel.image_cfg.maximum)
            controls.keep_in_step(page, self.panel.text_cfg, text_cfg)
            controls.keep_in_step(page, self.panel.image_cfg, image_cfg)
        forge = sys.modules.get("modules_forge.main_entry")
        dropdown = self.others.get("setting_sd_model_checkpoint") or getattr(forge, "ui_checkpoint", None)
        shown = {"outputs": [self.accordion, self.panel.status], "show_progress": False, "queue": False}
        if dropdown is not None:
            dropdown.change(fn=self.look, inputs=[dropdown], **shown)
        page.load(fn=self.look, inputs=[], **shown)

    def look(self, title: str | None = None) -> tuple[Any, Any]:
        """Return what the panel shows of the checkpoint with this title, or of the selected one."""
        editing, status = controls.describe(selected(title))
        return gr.update(open=editing, label=controls.TITLE if editing else controls.SELECT), gr.update(value=status)

    @loud
    def process(self, p: Processing, *args: Any) -> None:
        if HOST:
            job.begin(HOST, p, job.Controls.from_args(*args), self.is_img2img)

    @loud
    def process_batch(self, p: Processing, *args: Any, **kwargs: Any) -> None:
        job.begin_batch(p)

    @loud
    def process_before_every_sampling(self, p: Processing, *args: Any, **kwargs: Any) -> None:
        if HOST:
            job.begin_sampling(HOST, p, **kwargs)


script_callbacks.on_script_unloaded(forget_package)
if HOST:
    script_callbacks.on_script_unloaded(forge.pass_errors_on(sys.modules.get("modules_forge.main_thread")))
    script_callbacks.on_cfg_denoiser(a1111.on_denoiser)
    script_callbacks.on_before_ui(lambda: add_axes(scripts.scripts_data))
