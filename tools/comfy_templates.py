"""Writes the workflows that ComfyUI lists among its templates, each with its picture, and the pack's icon.

    python -m tools.comfy_templates

A picture is half of one of the demo model's inputs beside half of its edit, from examples/.
"""

from __future__ import annotations

import json
from pathlib import Path

from PIL import Image

from instruct_pix2pix.hosts.comfy.workflow import Workflow
from instruct_pix2pix.settings import EditSettings

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "example_workflows"
ICON = ROOT / "docs" / "comfyui-icon.png"
SIDE = 192

TEMPLATES = {
    "Edit a picture by saying what to change": (Workflow(EditSettings("make it winter", seed=0)), "house"),
    "Edit and keep the rest as it is": (
        Workflow(EditSettings("make the car blue", seed=0, keep_rest="automatic")),
        "car",
    ),
    "Edit with guider and sampler": (Workflow(EditSettings("make it summer", seed=0), builder=True), "night"),
}
"""Each template's name: its workflow, and the example that it is shown by."""


def text_of(workflow: Workflow) -> str:
    """Return a workflow as its file has it."""
    return json.dumps(workflow.for_editor(), indent=1) + "\n"


def before_and_after(example: str) -> Image.Image:
    """Return the left half of an example's input beside the right half of its edit, RGB, 192 x 192."""
    both = Image.open(ROOT / "examples" / f"{example}-before-after.webp").convert("RGB")
    made = Image.new("RGB", (SIDE, SIDE), "white")
    half = SIDE // 2 - 1
    made.paste(both.crop((0, 0, half, SIDE)), (0, 0))
    made.paste(both.crop((both.width - half, 0, both.width, SIDE)), (SIDE - half, 0))
    return made


def main() -> None:
    """Write all."""
    FOLDER.mkdir(exist_ok=True)
    for name, (workflow, example) in TEMPLATES.items():
        (FOLDER / f"{name}.json").write_text(text_of(workflow), encoding="utf-8")
        before_and_after(example).save(FOLDER / f"{name}.jpg", quality=88)
    before_and_after("house").resize((128, 128), Image.Resampling.LANCZOS).save(ICON, optimize=True)


if __name__ == "__main__":
    main()
