"""Takes the screenshots of the page in docs/: `python -m tools.page_pictures`. Needs Chromium and playwright."""

from __future__ import annotations

import io
import itertools
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

from instruct_pix2pix.models.known import KNOWN
from tools.browser import EXAMPLES, Visit, chromium, served_page, visit
from tools.demo_model import scenes

NAMES = ("beach", "garden", "hills", "house", "road", "sunset", "village", "walk")
DOCS = Path(__file__).parent.parent / "docs"


def main() -> None:
    """Take six: an edit in light colours, one in dark colours while it runs, narrow, a matrix, a folder, and models."""
    with (
        tempfile.TemporaryDirectory() as folder_name,
        served_page(Path(folder_name) / "outputs", models_in(Path(folder_name))) as (address, worker),
        chromium() as browser,
    ):
        with visit(browser, address, worker, viewport={"width": 1280, "height": 1000}) as visited:
            edit(visited, "house.png", "make it winter")
            visited.generate()
            settle(visited)
            visited.page.screenshot(path=DOCS / "gui.png", full_page=True)
        with visit(browser, address, worker, viewport={"width": 1280, "height": 900}, color_scheme="dark") as visited:
            edit(visited, "ball.png", "remove the ball")
            visited.open_tab("Inpaint")
            paint(visited)
            visited.set("img2img_steps", 100)  # long enough for a screenshot on any machine
            visited.generate(wait=False)
            visited.locate("#img2img_progress").get_by_text("Picture 3 of 4").first.wait_for(timeout=60_000)
            settle(visited, images="#img2img_gallery img")
            visited.page.evaluate("scrollTo(0, 0)")
            visited.page.screenshot(path=DOCS / "gui-dark.png")
            visited.wait_for_end()
        with visit(browser, address, worker, viewport={"width": 390, "height": 844}) as visited:
            edit(visited, "car.png", "make the car blue")
            visited.set("img2img_batch_count", 2)
            visited.generate()
            settle(visited)
            visited.page.screenshot(path=DOCS / "gui-narrow.png", full_page=True)
        with visit(browser, address, worker, viewport={"width": 1280, "height": 1500}) as visited:
            matrix(visited)
            whole = Image.open(io.BytesIO(visited.page.screenshot()))
            whole.convert("RGB").save(DOCS / "gui-matrix.webp", quality=90, method=6)
        with visit(browser, address, worker, viewport={"width": 1280, "height": 900}) as visited:
            folder(visited, Path(folder_name) / "inputs" / "holiday")
            visited.page.screenshot(path=DOCS / "gui-batch.png")
            visited.locate("#img2img_interrupt").click()
            visited.wait_for_end()
        with visit(browser, address, worker, viewport={"width": 1280, "height": 1000}) as visited:
            visited.open_tab("Models")
            visited.locate("[data-name=cosxl-edit]").wait_for()
            visited.locate(".ip2p-card").nth(1).click()
            visited.page.mouse.move(0, 0)
            visited.page.wait_for_timeout(300)
            visited.page.screenshot(path=DOCS / "gui-models.png")


def models_in(folder: Path) -> Path:
    """Return a models folder with two LoRAs, a model that cannot edit, and a download that was paused."""
    models = folder / "models"
    (models / "Lora").mkdir(parents=True)
    pair = {"lora_unet_x.lora_down.weight": np.zeros((4, 8), np.float16)}
    save_file(pair, models / "Lora" / "pencil sketch.safetensors")
    save_file(pair, models / "Lora" / "watercolour.safetensors", {"modelspec.trigger_phrase": "in watercolour"})
    context = {"model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (320, 768)}
    plain = {"model.diffusion_model.input_blocks.0.0.weight": (320, 4, 3, 3), **context}
    save_file({name: np.zeros(shape, np.float16) for name, shape in plain.items()}, models / "plain.safetensors")
    offer = KNOWN["instruct-pix2pix-fp16"]
    stage = models / ".download" / f"{offer.repo.replace('/', '--')}--instruct-pix2pix-00-22000-pruned-fp16.safetensors"
    stage.mkdir(parents=True)
    with (stage / "begun.part").open("wb") as file:
        file.truncate(1_240_000_000)  # of holes
    return models


def folder(visited: Visit, pictures: Path) -> None:
    """Edit a folder of drawn landscapes, one of them truncated, until six are done."""
    pictures.mkdir(parents=True)
    drawn = (scene for scene in map(scenes.scene, itertools.count(30)) if scene.season != "winter")
    for number, scene in enumerate(itertools.islice(drawn, 24)):
        name = f"{NAMES[number % len(NAMES)]} {1 + number // len(NAMES)}.jpg"
        Image.fromarray(scenes.draw(scene)).resize((192, 192)).save(pictures / name)
    (pictures / "beach 4.jpg").write_bytes((pictures / "beach 1.jpg").read_bytes()[:700])
    visited.open_tab("Batch")
    visited.locate("#img2img_batch_input_dir :is(input, textarea)").fill("inputs/holiday")
    visited.write("make it winter")
    visited.set("img2img_batch_count", 1)
    visited.set("img2img_seed", 7)
    visited.set("ip2p_batch_together", 1)
    visited.generate(wait=False)
    visited.page.wait_for_function(
        "document.querySelectorAll('#ip2p_board [data-stage=done]').length >= 6", timeout=120_000
    )
    settle(visited, images="#ip2p_board img")
    visited.page.evaluate("scrollTo(0, 0); document.querySelector('#ip2p_board').scrollTo(0, 0)")


def edit(visited: Visit, name: str, instruction: str) -> None:
    """Set up an edit with a fixed seed."""
    visited.drop(EXAMPLES / name)
    visited.write(instruction)
    visited.set("img2img_seed", 7)


def matrix(visited: Visit) -> None:
    """Make the tutorial's matrix, and the edit of one of its cells."""
    edit(visited, "car.png", "replace the tree with a yellow ball")
    visited.set("img2img_seed", 1)
    visited.locate("#ip2p_matrix_open").click()
    visited.locate("#ip2p_matrix_text_cfg input").fill("1, 3, 5, 7.5, 10")
    visited.locate("#ip2p_matrix_image_cfg input").fill("1, 1.2, 1.5, 2, 2.5")
    visited.locate("#ip2p_matrix_make").click()
    visited.locate("#ip2p_matrix a[download]").wait_for(timeout=900_000)
    visited.wait_for_end()
    visited.locate(".ip2p-cell").nth(8).click()
    visited.locate("#ip2p_compare img").first.wait_for(timeout=60_000)
    visited.wait_for_end()
    settle(visited)
    visited.page.mouse.move(0, 0)
    visited.page.evaluate("scrollTo(0, 0)")


def paint(visited: Visit) -> None:
    """Paint over the ball."""
    visited.ready_to_paint()
    visited.locate("#ip2p_paint .ip2p-brush").fill("18")
    box = visited.locate("#ip2p_paint canvas").bounding_box()
    mouse = visited.page.mouse
    for x, y in ((0.78, 0.66), (0.89, 0.66), (0.92, 0.82), (0.77, 0.82), (0.78, 0.74), (0.9, 0.74)):
        mouse.move(box["x"] + box["width"] * x, box["y"] + box["height"] * y)
        mouse.down()
    mouse.up()


def settle(visited: Visit, images: str = "#ip2p_compare img") -> None:
    """Wait until all pictures are loaded."""
    visited.locate(images).first.wait_for()
    visited.page.wait_for_function("[...document.images].every((one) => one.complete)")
    visited.page.wait_for_timeout(300)


if __name__ == "__main__":
    main()
