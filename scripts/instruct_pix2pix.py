"""The extension as a web GUI of the AUTOMATIC1111 family sees it: hooks, and nothing else."""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
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
    from instruct_pix2pix.hosts.axes import add_axes, remove_axes
    from instruct_pix2pix.hosts.detect import UNSUPPORTED, find_host
    from instruct_pix2pix.hosts.processing import Processing
finally:
    sys.path.pop(0)

HOST = find_host()

JOINED = ("setting_sd_model_checkpoint", *(f"img2img_{name}" for name in controls.TAB))
"""The host's components that the panel is joined to, by elem_id."""


def selected(title: str | None = None) -> Path | None:
    """Return the file of the checkpoint with this title, or of the one that the host's settings name."""
    found = sd_models.get_closet_checkpoint_match(title or shared.opts.sd_model_checkpoint or "")
    return Path(found.filename) if found else None


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
        look = controls.look_at(selected())
        with gr.Accordion(look.title, open=look.editing, elem_id="ip2p_panel") as self.accordion:
            self.panel = controls.build(look, job.CONTROLS)
        paste_field = import_module("modules.infotext_utils").PasteField
        ours = {"text_cfg": self.panel.text_cfg, "image_cfg": self.panel.image_cfg, **self.panel.controls}
        requested = {"text_cfg": "cfg_scale", "image_cfg": "image_cfg_scale"}  # the names of the scales in an API call
        self.infotext_fields = [
            paste_field(one, partial(job.pasted, name), api=requested.get(name)) for name, one in ours.items()
        ]
        return list(self.panel.controls.values())

    def after_component(self, component: Any, **kwargs: Any) -> None:
        """Keep the components that the panel is joined to, and join them at the footer, which comes last on a page."""
        # A host calls this for the components of the tab, and as a callback for all that come after the panel.
        name = kwargs.get("elem_id")
        if name in JOINED:
            self.others[name] = component
        if name == "footer":
            self._join(Context.root_block)

    def _join(self, page: Any) -> None:
        """Keep the scales in step with the tab's, describe each checkpoint that is chosen, and offer its values."""
        checkpoint, text_cfg, image_cfg, steps, width, height = map(self.others.get, JOINED)
        if text_cfg is not None and image_cfg is not None:
            image_cfg.maximum = max(image_cfg.maximum, self.panel.image_cfg.maximum)
            controls.keep_in_step(page, self.panel.text_cfg, text_cfg)
            controls.keep_in_step(page, self.panel.image_cfg, image_cfg)
            if steps is not None:
                controls.offer_defaults(page, self.panel, text_cfg, image_cfg, steps)
        dropdown = checkpoint or getattr(sys.modules.get("modules_forge.main_entry"), "ui_checkpoint", None)
        looks = [self.accordion, self.panel.status, self.panel.suited]
        shown: dict[str, Any] = {"outputs": looks, "queue": False, "show_progress": False}
        if dropdown is not None:
            dropdown.change(fn=self.look, inputs=[dropdown], **shown)
        page.load(fn=self.look, inputs=[], **shown)
        if width is not None and height is not None:
            controls.offer_size(page, self.panel, width, height)

    def look(self, title: str | None = None) -> tuple[Any, Any, Any]:
        """Return what the panel shows of the checkpoint with this title, or of the selected one."""
        look = controls.look_at(selected(title))
        shown = gr.update(open=look.editing, label=look.title)
        return shown, gr.update(value=look.status), gr.update(value=look.suited)

    @job.loud
    def process(self, p: Processing, *args: Any) -> None:
        if HOST:
            job.begin(HOST, p, job.Controls.from_args(*args), self.is_img2img)

    @job.loud
    def process_batch(self, p: Processing, *args: Any, **kwargs: Any) -> None:
        job.begin_batch(p)

    def postprocess_image(self, p: Processing, pp: Any, *args: Any) -> None:
        job.finish_picture(p, pp)

    @job.loud
    def process_before_every_sampling(self, p: Processing, *args: Any, **kwargs: Any) -> None:
        if HOST:
            job.begin_sampling(HOST, p, **kwargs)


script_callbacks.on_script_unloaded(forget_package)
if HOST:
    script_callbacks.on_script_unloaded(forge.pass_errors_on(sys.modules.get("modules_forge.main_thread")))
    script_callbacks.on_cfg_denoiser(a1111.on_denoiser)
    if isinstance(HOST, a1111.A1111Host):
        script_callbacks.on_script_unloaded(a1111.know_sdxl(import_module("modules.sd_models_config")))
    script_callbacks.on_before_ui(lambda: add_axes(scripts.scripts_data))
    script_callbacks.on_script_unloaded(lambda: remove_axes(scripts.scripts_data))
