"""Builds a page as a host does, with the extension's script in its img2img tab, and prints what is on it as JSON.

    python panel_in_a_host.py HOST_FOLDER CHECKPOINT OTHER_CHECKPOINT [SETTING]

SETTING, one of `settings.KNOBS`, goes to the end of `hosts.job.SETTINGS` first, as an author of a new one would put
it there. test_panel.py runs it under each version of gradio. The few modules of a host that the script imports are
written to HOST_FOLDER.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from contextlib import suppress
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HOST = {
    "modules/shared.py": "class opts:\n    sd_model_checkpoint = 'edit'\n",
    "modules/scripts.py": "AlwaysVisible = object()\nscripts_data = []\nclass Script: pass\n",
    "modules/script_callbacks.py": (
        "called = {}\n"
        "def on_after_component(function): called.setdefault('after_component', []).append(function)\n"
        "def on_cfg_denoiser(function): called.setdefault('cfg_denoiser', []).append(function)\n"
        "def on_before_ui(function): called.setdefault('before_ui', []).append(function)\n"
        "def on_script_unloaded(function): called.setdefault('script_unloaded', []).append(function)\n"
    ),
    "modules/sd_models.py": (
        "files = {}\n"
        "class Info:\n"
        "    def __init__(self, filename): self.filename = filename\n"
        "def get_closet_checkpoint_match(title): return Info(files[title]) if title in files else None\n"
    ),
}
JOBS: dict[str, list[Any]] = {
    "named": [{"speed": "fast", "from_noise": False}],
    "misnamed": [{"sped": "fast"}],
    "wrong": [{"from_noise": "no"}],
    "placed": [True, False, 0.5],
    "nothing": [None],
    "added": [{"count": 3, "from_noise": False}],
    "added wrong": [{"count": 5000}],
}
"""Script arguments of calls of a host's API, as a program gives them."""
INFOTEXTS = {
    "plain": {"CFG scale": "4", "Steps": "20", "Speed": "fast"},
    "edit": {"CFG scale": "4.5", "Image CFG scale": "1.9", "Guidance rescale": "0.25", "Edit start": "noise"},
    "from input": {
        "CFG scale": "4.5",
        "Image CFG scale": "1.9",
        "Speed": "fast",
        "count": "3",
        "Denoising strength": "0.6",
    },
    "damaged": {"CFG scale": "x", "Image CFG scale": "", "Guidance rescale": "1e999", "Speed": "warp"},
}
"""Fields of an infotext, as a host reads them."""
BOTH = {
    "modules/sd_samplers_cfg_denoiser.py": "",
    "modules/sd_models_config.py": "def guess_model_config_from_state_dict(state, filename): return filename\n",
    "modules/infotext_utils.py": (
        "class PasteField(tuple):\n"
        "    def __new__(cls, component, target, *, api=None): return super().__new__(cls, (component, target))\n"
        "    def __init__(self, component, target, *, api=None): self.api = api\n"
    ),
}
OWN = {
    "a1111": BOTH,
    "forge": {**BOTH, "modules_forge/main_entry.py": "ui_checkpoint = None\n"},
    "another": {},
}


def main(folder: Path, edit: str, other: str, added: str | None = None) -> dict[str, Any]:
    """Write the host, load the script as a host does, build the page, and run the script's first hook."""
    if added:
        add(added)
    for name, text in {**HOST, **OWN[folder.name]}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    sys.path.insert(0, str(folder))
    import gradio as gr
    from modules import script_callbacks, scripts, sd_models  # pyright: ignore[reportAttributeAccessIssue, reportMissingImports]

    sd_models.files.update(edit=edit, other=other)
    script_file = Path(__file__).parents[2] / "scripts" / "instruct_pix2pix.py"
    path = list(sys.path)
    spec = importlib.util.spec_from_file_location(script_file.name, script_file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)  # and not into sys.modules
    classes = [c for c in vars(module).values() if isinstance(c, type) and issubclass(c, scripts.Script)]
    (script,) = [one() for one in classes]
    script.is_img2img = True

    def show(component: Any, elem_id: str, everywhere: bool) -> None:
        calls = script_callbacks.called.get("after_component", []) if everywhere else [script.after_component]
        for call in calls:
            call(component, elem_id=elem_id)

    with gr.Blocks() as tab:
        gr.Textbox(elem_id="img2img_prompt")
        show(gr.Slider(1, 30, 7, elem_id="img2img_cfg_scale"), "img2img_cfg_scale", everywhere=False)
        native = gr.Slider(0, 3, 1.5, elem_id="img2img_image_cfg_scale", visible=False)
        show(native, "img2img_image_cfg_scale", everywhere=False)
        for name, value in (("steps", 25), ("width", 1024), ("height", 1024)):
            show(gr.Slider(1, 2048, value, elem_id=f"img2img_{name}"), f"img2img_{name}", everywhere=False)
        arguments = script.ui(True)
    with gr.Blocks() as page:
        checkpoint = gr.Dropdown(["edit", "other"], elem_id="setting_sd_model_checkpoint")
        if folder.name == "forge":
            import modules_forge.main_entry as forge  # pyright: ignore[reportMissingImports]

            forge.ui_checkpoint = checkpoint
        else:
            show(checkpoint, "setting_sd_model_checkpoint", everywhere=True)
        tab.render()
        show(gr.HTML(elem_id="footer"), "footer", everywhere=True)
    config: dict[str, Any] = {**page.get_config_file()}
    names = {one["id"]: one["props"].get("elem_id") for one in config["components"]}
    return {
        "gradio": gr.__version__,
        "props": {one["props"].get("elem_id"): one["props"] for one in config["components"]},
        "events": [events(one, names) for one in config["dependencies"]],
        "arguments": [names[argument._id] for argument in arguments],
        "host": getattr(module.HOST, "name", None),
        "path": sys.path == path,
        "looks": {title: list(script.look(title)) for title in ("edit", "other", "none")} if module.HOST else {},
        "jobs": {name: process(script, given, arguments) for name, given in JOBS.items()} if module.HOST else {},
        "pasted": {name: pasted(script, fields, names) for name, fields in INFOTEXTS.items()} if module.HOST else {},
        "requested": {names[field[0]._id]: field.api for field in getattr(script, "infotext_fields", [])},
        "axes": [attribute for attribute, _ in sys.modules["instruct_pix2pix.hosts.axes"].AXES],
        "txt2img": script.ui(False),
    }


class OneMore(SourceFileLoader):
    """Reads hosts/job.py with one more word in its list of settings, whenever it is imported."""

    setting = ""

    def path_stats(self, path: str) -> Any:
        raise OSError  # no compiled file stands for this source

    def get_data(self, path: str) -> bytes:
        source = super().get_data(path).decode()
        ends = source.index("\n)\n", source.index("\nSETTINGS = ("))
        return f'{source[:ends]} "{self.setting}",{source[ends:]}'.encode()


class Wider(MetaPathFinder):
    """Finds hosts/job.py for `OneMore`."""

    def __init__(self, setting: str) -> None:
        self.setting = setting

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname != "instruct_pix2pix.hosts.job":
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        assert spec and spec.origin
        spec.loader = loader = OneMore(fullname, spec.origin)
        loader.setting = self.setting
        return spec


def add(setting: str) -> None:
    """Let what is imported from now on have one more setting among the panel's."""
    sys.meta_path.insert(0, Wider(setting))


def pasted(script: Any, fields: dict[str, str], names: dict[int, str]) -> dict[str, Any]:
    """Return what a host sets for each component when this infotext is pasted, or named in a call of its API."""
    return {names[component._id]: read(dict(fields)) for component, read in script.infotext_fields}


def process(script: Any, given: list[Any], arguments: list[Any]) -> dict[str, Any]:
    """Run the script's hook for an edit as a host's API does: what is given stands before the controls' defaults."""
    network = SimpleNamespace(input_blocks=[[SimpleNamespace(weight=SimpleNamespace(shape=(320, 8, 3, 3)))]])
    model = SimpleNamespace(diffusion_model=network)
    p = SimpleNamespace(
        sd_model=SimpleNamespace(model=model, forge_objects=SimpleNamespace(unet=SimpleNamespace(model=model))),
        cfg_scale=7.5,
        image_cfg_scale=1.5,
        denoising_strength=0.6,
        extra_generation_params={},
        init=lambda: None,
        sample=lambda: None,
        comment=lambda text: None,
        setup_conds=lambda: None,
    )
    with suppress(Exception):  # as a host does
        script.process(p, *given, *[argument.value for argument in arguments[len(given) :]])
    ends = None
    try:
        p.init()
    except Exception as error:
        ends = str(error)
    return {"ends": ends, "infotext": p.extra_generation_params, "strength": p.denoising_strength}


def events(dependency: dict[str, Any], names: dict[int, str]) -> dict[str, Any]:
    """Return an event by the element ids of what it reads and writes."""
    return {
        "in": [names[i] for i in dependency["inputs"]],
        "out": [names[i] for i in dependency["outputs"]],
        "js": dependency.get("js"),
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), *sys.argv[2:]), default=str))
