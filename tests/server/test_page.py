"""The page in a real browser against a real server with the demo model."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from instruct_pix2pix.models.registry import DEMO
from instruct_pix2pix.server.security import Credentials
from instruct_pix2pix.server.worker import edit_task
from instruct_pix2pix.settings import EditSettings
from tools.browser import CHROMIUM, EXAMPLES, Visit, chromium, served_page, visit

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

FIRST = "model.diffusion_model.input_blocks.0.0.weight"


def what_tells_of_sdxl() -> dict[str, torch.Tensor]:
    """The layers by which an SDXL edit model is known, which is enough to choose it."""
    text, vae = "token_embedding.weight", "first_stage_model"
    shapes = {
        FIRST: (320, 8, 3, 3),
        FIRST.replace("input_blocks.0.0", "input_blocks.4.1.transformer_blocks.0.attn2.to_k"): (640, 2048),
        FIRST.replace("input_blocks.0.0", "label_emb.0.0"): (1280, 2816),
        f"conditioner.embedders.0.transformer.text_model.embeddings.{text}": (8, 768),
        f"conditioner.embedders.1.model.{text}": (8, 1280),
        f"{vae}.decoder.conv_in.weight": (512, 4, 3, 3),
        f"{vae}.encoder.conv_in.weight": (128, 3, 3, 3),
    }
    return {name: torch.zeros(shape, dtype=torch.float16) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server saves results."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the models, beside the demo."""
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def site(models: Path, outputs: Path):
    """A server and a browser."""
    plain = load_file(DEMO)
    plain[FIRST] = plain[FIRST][:, :4].contiguous()
    save_file(plain, models / "plain.safetensors")
    with served_page(outputs, models) as (address, worker), chromium() as browser:
        yield browser, address, worker


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB")).astype(int)


def test_a_phones_heic_is_shown_in_a_browser_that_cannot_read_it(at_page: Visit, tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    house = Image.open(EXAMPLES / "house.png").convert("RGB")
    heif.from_pillow(house).save(tmp_path / "IMG_1.HEIC", quality=95)
    at_page.drop(tmp_path / "IMG_1.HEIC")
    shown = at_page.fetch(at_page.locate("#img2img_image img").get_attribute("src") or "")
    assert shown.format == "PNG" and np.abs(pixels(shown) - pixels(house)).mean() < 6


def test_a_newcomer_edits_an_example_and_goes_on_from_a_result(
    at_page: Visit, tmp_path: Path, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edit_task, "PREVIEW_FROM", 0)  # however fast this machine is
    monkeypatch.setattr(edit_task, "PREVIEW_LEFT", 0)
    at_page.locate("#setting_sd_model_checkpoint input").click()
    at_page.page.get_by_role("option", name="demo: drawn landscapes").click()
    at_page.drop(EXAMPLES / "house.png")
    at_page.locate("#ip2p_templates input").click()
    at_page.page.get_by_role("option", name="Make it {a season or time of day}").click()
    at_page.page.wait_for_function("document.activeElement?.closest('#img2img_prompt') !== null")
    at_page.page.keyboard.type("winter")  # over the blank, which is selected
    assert at_page.prompt() == "Make it winter"
    at_page.locate("#img2img_token_counter").get_by_text("3/75").wait_for()

    at_page.generate(wait=False)
    at_page.locate("#img2img_progress").get_by_text("of 4 · Step").wait_for()
    at_page.locate("#img2img_progress img").wait_for()
    bar = at_page.locate("#img2img_progress [role=progressbar]")
    assert 0 <= float(bar.get_attribute("aria-valuenow") or 0) <= 100
    assert "%] instruct-pix2pix" in at_page.page.title()
    at_page.wait_for_end()
    assert at_page.page.title() == "instruct-pix2pix"
    assert at_page.says().startswith("4 pictures in ") and "saved in outputs/20" in at_page.says()
    assert at_page.locate("#img2img_gallery .thumbnail-item").count() == 4
    captions = at_page.locate("#img2img_gallery .caption-label").all_inner_texts()
    seeds = [int(caption.split()[1]) for caption in captions]
    assert seeds == [(seeds[0] + i) % 2**32 for i in range(4)]
    assert all("Text\u00a07.5 · Image\u00a01.5" in caption for caption in captions)

    # before and after of the second result
    at_page.locate("#img2img_gallery .thumbnail-item").nth(1).click()
    at_page.locate("#html_info_img2img textarea").get_by_text(f"Seed: {seeds[1]}")
    at_page.page.wait_for_function(f"document.querySelector('#html_info_img2img textarea').value.includes({seeds[1]})")
    sides = at_page.locate("#ip2p_compare img").evaluate_all("(all) => all.map((one) => one.src)")
    before, after = [pixels(at_page.fetch(side)) for side in sides]
    second = at_page.results()[1]
    (saved,) = [Image.open(file) for file in outputs.glob(f"*/*-{seeds[1]}.png")]
    assert (pixels(saved) == pixels(second)).all() and saved.info["parameters"] == second.info["parameters"]
    assert (after == pixels(second)).all()
    assert (before == pixels(Image.open(EXAMPLES / "house.png"))).all()
    at_page.locate("#img2img_reuse_seed").click()
    at_page.page.wait_for_function(f"document.querySelector('#img2img_seed input').value == {seeds[1]}")

    # it becomes the input of the next edit
    at_page.locate("#ip2p_use_as_input").click()
    at_page.page.wait_for_function(f"document.querySelector('#img2img_image img').src.includes('{seeds[1]}.png')")
    at_page.write("turn day into night")
    at_page.set("img2img_steps", 7)
    at_page.set("img2img_batch_count", 1)
    at_page.set("ip2p_text_cfg", 6.5)
    at_page.set("img2img_seed", 77)
    at_page.generate()
    (edited,) = at_page.results()
    assert "turn day into night" in edited.info["parameters"]
    edited.save(tmp_path / "edited.png", pnginfo=infotext_of(edited))

    # its settings come back from the picture alone, and give the same picture again
    at_page.write("")
    at_page.set("img2img_steps", 20)
    at_page.set("ip2p_text_cfg", 7.5)
    at_page.locate("#img2img_random_seed").click()
    at_page.page.wait_for_function("document.querySelector('#img2img_seed input').value == -1")
    at_page.open_tab("PNG Info")
    at_page.drop(tmp_path / "edited.png", "#pnginfo_image")
    at_page.page.wait_for_function("document.querySelector('#pnginfo_text textarea').value.includes('Seed: 77')")
    at_page.locate("#pnginfo_send_settings").click()
    at_page.page.wait_for_function("document.querySelector('#img2img_seed input').value == 77")
    assert (at_page.prompt(), at_page.number("img2img_steps")) == ("turn day into night", 7)
    assert at_page.number("ip2p_text_cfg") == 6.5
    at_page.generate()
    (again,) = at_page.results()
    assert (pixels(again) == pixels(edited)).all()

    # and 'Send to img2img' takes the picture along
    at_page.open_tab("PNG Info")
    at_page.locate("#pnginfo_send").click()
    at_page.locate("#img2img_image .image-frame img").wait_for()
    at_page.page.wait_for_function("document.querySelector('#img2img_image img').src.includes('edited.png')")
    assert (pixels(at_page.input_picture()) == pixels(edited)).all()


def test_a_picture_of_another_program_sends_what_is_known_here_and_the_page_says_what_is_not(
    at_page: Visit, tmp_path: Path
) -> None:
    theirs = Image.open(EXAMPLES / "house.png")
    theirs.info["parameters"] = (
        "a snowy house\nSteps: 9, Sampler: Restart Extra, Schedule type: Karras, CFG scale: 6, Seed: 4294967301"
    )
    theirs.save(tmp_path / "theirs.png", pnginfo=infotext_of(theirs))
    at_page.open_tab("PNG Info")
    at_page.drop(tmp_path / "theirs.png", "#pnginfo_image")
    at_page.page.wait_for_function("document.querySelector('#pnginfo_text textarea').value.includes('Restart')")
    at_page.locate("#pnginfo_send_settings").click()
    at_page.page.get_by_text("no sampler 'Restart Extra'").wait_for()
    at_page.page.get_by_text("5 was used").wait_for()
    at_page.page.wait_for_function("document.querySelector('#img2img_seed input').value == 5")
    assert (at_page.prompt(), at_page.number("img2img_steps")) == ("a snowy house", 9)
    assert at_page.locate("#img2img_sampling input").input_value() == EditSettings().sampler
    assert at_page.locate("#img2img_scheduler input").input_value() == "Karras"


def take_first_example(at_page: Visit) -> None:
    at_page.locate("#ip2p_examples .thumbnail-item").first.click()
    at_page.page.wait_for_function("document.querySelector('#img2img_prompt textarea').value == 'make it winter'")
    at_page.locate("#img2img_image .image-frame img").wait_for()


def test_a_seed_of_64_bits_can_be_typed_and_the_page_says_which_was_used(at_page: Visit) -> None:
    take_first_example(at_page)
    at_page.set("img2img_steps", 2)
    at_page.set("img2img_batch_count", 1)
    at_page.set("img2img_seed", 2**32 + 7)
    at_page.generate()
    assert at_page.number("img2img_seed") == 7
    assert "Seed: 7," in at_page.results()[0].info["parameters"]


def infotext_of(picture: Image.Image):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("parameters", picture.info["parameters"])
    return info


def test_an_interrupt_keeps_what_is_finished_and_keys_begin_and_end_an_edit(at_page: Visit) -> None:
    take_first_example(at_page)
    at_page.set("img2img_steps", 6)
    at_page.set("img2img_batch_count", 100)
    at_page.locate("#img2img_prompt textarea").press("Control+Enter")
    at_page.locate("#img2img_gallery .thumbnail-item").nth(1).wait_for(timeout=30_000)
    at_page.page.keyboard.press("Escape")
    at_page.wait_for_end()
    assert at_page.says().startswith("Interrupted.")
    kept = at_page.locate("#img2img_gallery .thumbnail-item").count()
    assert 2 <= kept < 100
    assert str(kept) in at_page.says()

    at_page.generate(wait=False)
    at_page.locate("#img2img_interrupt").click()
    at_page.wait_for_end()
    assert at_page.says().startswith("Interrupted")
    assert len(at_page.worker.queue) == 0

    # what is skipped makes room for the next, and does not count
    at_page.set("img2img_steps", 100)
    at_page.set("img2img_batch_count", 2)
    at_page.generate(wait=False)
    at_page.locate("#img2img_progress").get_by_text("Picture 1 of 2 · Step").wait_for()
    at_page.locate("#img2img_skip").click()
    at_page.locate("#img2img_progress").get_by_text("Picture 2 of 2 · Step").wait_for()
    at_page.locate("#img2img_skip").click()
    at_page.wait_for_end()
    assert at_page.says() == "All pictures were skipped."


def test_results_are_fetched_once_and_before_gradio_asks_to_show_them(at_page: Visit) -> None:
    asked: list[str] = []
    at_page.page.on("request", lambda request: asked.append(request.url))
    at_page.drop(EXAMPLES / "ball.png")
    at_page.write("make it night")
    at_page.set("img2img_steps", 3)
    at_page.set("img2img_batch_count", 3)
    asked.clear()
    at_page.generate()
    shown = at_page.locate("#img2img_gallery img").evaluate_all("(all) => all.map((one) => one.src)")
    last_call = max(i for i, url in enumerate(asked) if url.endswith("/run/predict"))
    assert len(set(shown)) == 3
    for url in shown:
        assert asked.count(url) == 1
        assert asked.index(url) < last_call


def test_only_what_is_painted_over_changes(at_page: Visit) -> None:
    at_page.drop(EXAMPLES / "house.png")
    at_page.write("make it winter")
    at_page.set("img2img_steps", 8)
    at_page.set("img2img_batch_count", 1)
    at_page.open_tab("Inpaint")
    at_page.locate("#img2img_generate").click()
    at_page.locate("#img2img_progress").get_by_text("Nothing is painted over").wait_for()

    at_page.ready_to_paint()
    canvas = at_page.locate("#ip2p_paint canvas")
    canvas.evaluate("(one) => one.scrollIntoView({ block: 'center' })")  # on a phone the words above are elsewhere
    box = canvas.bounding_box()
    mouse = at_page.page.mouse
    mouse.move(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.6)
    mouse.down()
    mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.8, steps=6)
    mouse.up()
    at_page.generate()
    (result,) = at_page.results()
    moved = np.abs(pixels(result) - pixels(Image.open(EXAMPLES / "house.png"))).max(axis=2)
    brush = 0.04 + 0.01  # its radius as a share of the picture, and a pixel more
    rows, columns = np.indices(moved.shape) / 96
    along = np.clip((rows + columns) / 2, 0.6, 0.8)  # the nearest point of the stroke, which is a diagonal
    painted = np.hypot(rows - along, columns - along) < brush + 0.01
    assert moved[painted].max() > 20
    assert moved[~painted].max() <= 1


def test_what_was_kept_is_shown_and_becomes_a_mask_that_is_painted_into(at_page: Visit) -> None:
    ball = pixels(Image.open(EXAMPLES / "ball.png"))
    at_page.drop(EXAMPLES / "ball.png")
    at_page.write("remove the ball")
    at_page.set("img2img_steps", 8)
    at_page.set("img2img_batch_count", 1)
    at_page.set("img2img_seed", 7)
    assert not at_page.locate("#ip2p_keep_amount").is_visible()
    at_page.locate("#ip2p_keep_rest").get_by_label("automatic").check()
    at_page.locate("#ip2p_keep_amount").wait_for()

    def is_ball_in_a_grey_sky(selector: str) -> None:
        shown = pixels(at_page.fetch(at_page.locate(f"{selector} img").get_attribute("src")))
        grey = np.ptp(shown, axis=2) < 25
        assert grey[:40].mean() > 0.9 and np.ptp(ball, axis=2)[:40].mean() > 50
        assert np.abs(shown - ball)[65:75, 80:86].mean() < 12

    # before the edit
    at_page.locate("#ip2p_look_first").click()
    at_page.locate("#ip2p_looked img").wait_for(timeout=60_000)
    is_ball_in_a_grey_sky("#ip2p_looked")
    assert at_page.locate("#ip2p_look_first").inner_text() == "Show what would be kept"
    assert at_page.locate("#img2img_gallery img").count() == 0

    # after it: the input, with what was kept in grey
    at_page.generate()
    (result,) = at_page.results()
    assert "Keep the rest: automatic" in result.info["parameters"]
    at_page.locate("#ip2p_kept_pane button").first.click()
    at_page.locate("#ip2p_kept img").wait_for()
    changed = np.abs(pixels(result) - ball).max(axis=2) > 0
    share = int(at_page.locate("#ip2p_kept_text").inner_text().split(" %")[0])
    assert 0 < share <= 100 * (1 - changed.mean()) + 5
    is_ball_in_a_grey_sky("#ip2p_kept")

    # it is laid over the picture to edit, whatever lies there by now
    at_page.locate("#ip2p_use_as_input").click()
    at_page.page.wait_for_function("!document.querySelector('#img2img_image img').src.includes('ball.png')")
    at_page.locate("#ip2p_use_as_mask").click()
    at_page.page.wait_for_function("document.querySelector('#ip2p_mask textarea').value.length > 100")
    assert (pixels(at_page.input_picture()) == ball).all()
    at_page.ready_to_paint()

    def mask() -> np.ndarray:
        data = at_page.locate("#ip2p_mask textarea").input_value().partition(",")[2]
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L").resize((96, 96)))

    laid = mask()
    assert laid[65:75, 80:86].min() > 200 and laid[:30].max() < 20
    assert (changed & (laid < 5)).mean() < 0.01
    box = at_page.locate("#ip2p_paint canvas").bounding_box()
    window = at_page.page.evaluate("innerHeight")
    assert 0 <= box["y"] <= window - box["height"]  # all of it in sight
    at_page.page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] * 0.2)
    at_page.page.mouse.down()
    at_page.page.mouse.up()
    assert mask()[19, 19] > 200 and (mask() >= laid).all()
    at_page.locate("#ip2p_paint .ip2p-undo").click()
    assert (mask() == laid).all()

    at_page.generate()
    (again,) = at_page.results()
    assert (np.abs(pixels(again) - ball).max(axis=2) == 0)[laid == 0].all()

    # without a map there is nothing of the kind
    at_page.locate("#ip2p_keep_rest").get_by_label("off").check()
    at_page.locate("#ip2p_keep_amount").wait_for(state="hidden")
    at_page.generate()
    at_page.locate("#ip2p_kept_pane").wait_for(state="hidden")


def test_a_large_result_is_shown_small_and_given_whole(at_page: Visit) -> None:
    at_page.drop(EXAMPLES / "house.png")
    at_page.write("make it winter")
    at_page.set("img2img_steps", 2)
    at_page.set("img2img_batch_count", 1)
    at_page.locate("#ip2p_keep_rest").get_by_label("always").check()
    at_page.unfold("Size of the edit")
    at_page.locate("#ip2p_result_sizing").get_by_label("Longest side").check()
    at_page.locate("#ip2p_result_longest").wait_for()
    at_page.locate("#ip2p_result_longest input").fill("2500")
    at_page.generate()
    assert [one.size for one in at_page.results()] == [(2048, 2048)]
    sides = at_page.locate("#ip2p_compare img").evaluate_all("(all) => all.map((one) => one.src)")
    assert [at_page.fetch(side).size for side in sides] == [(2048, 2048)] * 2
    assert not at_page.locate("#img2img_gallery").get_by_label("Download").is_visible()
    with at_page.page.expect_download() as downloading:
        at_page.locate("#ip2p_download").click()
    whole = Image.open(downloading.value.path())
    assert whole.size == (2500, 2500) and "Result size: 2500" in whole.info["parameters"]
    at_page.locate("#ip2p_use_as_input").click()
    at_page.page.wait_for_function("!document.querySelector('#img2img_image img').src.includes('house.png')")
    assert at_page.input_picture().size == (2500, 2500)

    # and its settings come back
    at_page.locate("#ip2p_result_sizing").get_by_label("Own").check()
    at_page.locate("#ip2p_keep_rest").get_by_label("off").check()
    at_page.locate("#ip2p_result_longest").wait_for(state="hidden")
    at_page.locate("#ip2p_reuse_settings").click()
    at_page.locate("#ip2p_result_longest").wait_for()
    assert at_page.number("ip2p_result_longest") == 2500
    assert at_page.locate("#ip2p_keep_rest").get_by_label("always").is_checked()
    at_page.locate("#ip2p_keep_amount").wait_for()


def test_a_reload_in_the_middle_finds_the_edit_again(at_page: Visit) -> None:
    at_page.drop(EXAMPLES / "car.png")
    at_page.write("make the car blue")
    at_page.set("ip2p_image_cfg", 1.3)
    at_page.set("img2img_batch_count", 3)
    at_page.set("img2img_steps", 100)  # so that it is not over before the page is there again
    tabs = at_page.locate("#mode_img2img")
    tabs.get_by_role("tab", name="Batch").click()
    at_page.locate("#img2img_batch_input_dir input").fill("photos")
    tabs.get_by_role("tab", name="Picture").click()
    at_page.generate(wait=False)
    at_page.locate("#img2img_progress [aria-valuenow]").wait_for()
    at_page.reload()
    at_page.locate("#img2img_interrupt").wait_for()
    at_page.wait_for_end()
    assert at_page.locate("#img2img_gallery .thumbnail-item").count() == 3
    assert at_page.says().startswith("3 pictures in ")
    # the picture and the settings are there again too
    assert (pixels(at_page.input_picture()) == pixels(Image.open(EXAMPLES / "car.png"))).all()
    assert at_page.prompt() == "make the car blue"
    assert (at_page.number("ip2p_image_cfg"), at_page.number("img2img_batch_count")) == (1.3, 3)
    assert at_page.number("img2img_seed") == -1
    tabs.get_by_role("tab", name="Batch").click()
    assert at_page.locate("#img2img_batch_input_dir input").input_value() == "photos"


def test_an_edit_that_the_server_forgot_is_said_to_be_lost_and_the_page_goes_on(
    at_page: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_page.drop(EXAMPLES / "house.png")
    at_page.write("make it winter")
    at_page.set("img2img_batch_count", 50)
    at_page.generate(wait=False)
    at_page.locate("#img2img_progress [aria-valuenow]").wait_for()
    task = at_page.worker.queue.running
    assert task is not None
    with monkeypatch.context() as forgetful:
        forgetful.setattr(at_page.worker.queue, "find", lambda _: None)  # as after a restart of the server
        at_page.wait_for_end()
        assert at_page.says() == "The server no longer knows this edit: generate again."
    task.interrupt()
    at_page.errors.clear()  # the browser reports the 404
    at_page.set("img2img_batch_count", 1)
    at_page.generate()
    assert len(at_page.results()) == 1


def test_who_comes_second_waits_and_is_told(site, at_page: Visit) -> None:
    with visit(*site) as other:
        for one in (at_page, other):
            one.drop(EXAMPLES / "house.png")
            one.write("make it winter")
        at_page.set("img2img_batch_count", 50)
        at_page.generate(wait=False)
        other.set("img2img_batch_count", 1)
        other.generate(wait=False)
        other.locate("#img2img_progress").get_by_text("Waiting for 1 other edit").wait_for()
        at_page.locate("#img2img_interrupt").click()
        at_page.wait_for_end()
        other.wait_for_end()
        assert len(other.results()) == 1


def test_a_plain_checkpoint_is_refused_with_the_reason_and_what_to_pick(at_page: Visit) -> None:
    field = at_page.locate("#setting_sd_model_checkpoint input")
    field.click()
    at_page.page.get_by_role("option", name="plain: cannot edit (Stable Diffusion)").click()
    sentence = at_page.locate("#ip2p_status").get_by_text("'plain' cannot edit")
    sentence.wait_for()
    assert "pick an instruct-pix2pix checkpoint" in sentence.inner_text()
    at_page.page.wait_for_function(
        "document.querySelector('#setting_sd_model_checkpoint input').value.startsWith('demo')"
    )
    at_page.open_tab("Models")
    row = at_page.locate(".ip2p-models tr").filter(has_text="plain")
    assert "Stable Diffusion" in row.inner_text()
    assert "takes no picture to edit" in row.inner_text()


def test_the_defaults_of_a_chosen_model_are_offered_and_taken(at_page: Visit, models: Path) -> None:
    offer, file = at_page.locate("#ip2p_defaults"), models / "large.safetensors"
    assert offer.count() == 0 or not offer.is_visible()  # the demo model's are those that stand
    save_file(what_tells_of_sdxl(), file)
    try:
        at_page.locate("#refresh_sd_model_checkpoint").click()
        at_page.locate("#setting_sd_model_checkpoint input").click()
        at_page.page.get_by_role("option", name="large: photographs, 768 px").click()
    finally:
        file.unlink()
    offer.get_by_text("Use the model's defaults: Text CFG 3, Image CFG 1.5, 30 steps").wait_for()
    assert at_page.number("ip2p_text_cfg") == 7.5  # nothing is set before that is wanted
    offer.click()
    offer.wait_for(state="hidden")
    assert [at_page.number(name) for name in ("ip2p_text_cfg", "ip2p_image_cfg", "img2img_steps")] == [3, 1.5, 30]


def test_what_is_missing_or_wrong_is_a_sentence(at_page: Visit, tmp_path: Path) -> None:
    at_page.locate("#img2img_generate").click()
    at_page.locate("#img2img_progress").get_by_text("There is no picture to edit").wait_for()
    at_page.drop(EXAMPLES / "house.png")
    at_page.locate("#img2img_generate").click()
    at_page.locate("#img2img_progress").get_by_text("The instruction is empty").wait_for()
    (tmp_path / "torn.png").write_bytes((EXAMPLES / "house.png").read_bytes()[:500])
    at_page.locate("#ip2p_arrival input").set_input_files(tmp_path / "torn.png")
    at_page.locate("#img2img_progress [role=alert]").get_by_text("torn.png").wait_for()
    at_page.paste(EXAMPLES / "car.png")
    at_page.locate("#img2img_image .image-frame img[src*='car.png']").wait_for()
    assert (pixels(at_page.input_picture()) == pixels(Image.open(EXAMPLES / "car.png"))).all()


def test_a_size_by_hand_is_the_size_of_the_result_and_comes_back_with_its_settings(at_page: Visit) -> None:
    at_page.drop(EXAMPLES / "house.png")
    at_page.write("make it winter")
    at_page.set("img2img_steps", 2)
    at_page.set("img2img_batch_count", 1)
    at_page.unfold("Size of the edit")
    at_page.page.get_by_label("Width × height").check()
    at_page.locate("#img2img_width input[type=number]").wait_for()
    at_page.set("img2img_width", 64)
    at_page.set("img2img_height", 128)
    at_page.locate("#img2img_res_switch_btn").click()
    at_page.page.wait_for_function("document.querySelector('#img2img_width input[type=number]').value == 128")
    at_page.generate()
    assert [result.size for result in at_page.results()] == [(128, 64)]
    at_page.locate("#img2img_sizing").get_by_label("Automatic").check()
    at_page.locate("#img2img_width").wait_for(state="hidden")
    at_page.locate("#ip2p_reuse_settings").click()
    at_page.locate("#img2img_width").wait_for()
    assert (at_page.number("img2img_width"), at_page.number("img2img_height")) == (128, 64)
    assert at_page.number("img2img_seed") >= 0

    # all of it is forgotten when asked to
    at_page.open_tab("Settings")
    at_page.locate("#ip2p_reset").click()
    at_page.page.wait_for_function("document.querySelector('#img2img_steps input[type=number]').value == 20")
    at_page.reload()
    at_page.locate("#img2img_gallery .thumbnail-item").wait_for()  # by then it would have come back
    assert (at_page.number("img2img_steps"), at_page.number("img2img_batch_count")) == (20, 4)
    assert at_page.prompt() == ""


def test_a_narrow_screen_scrolls_only_down(site) -> None:
    with visit(*site, viewport={"width": 390, "height": 800}, color_scheme="dark") as visited:
        visited.locate("#ip2p_examples .thumbnail-item").nth(1).click()
        visited.locate("#img2img_image .image-frame img").wait_for()
        visited.set("img2img_steps", 2)
        visited.generate()
        for tab in ("img2img", "PNG Info", "Models", "Settings"):
            visited.page.locator("#tabs").get_by_role("tab", name=tab, exact=True).first.click()
            assert visited.page.evaluate("document.documentElement.scrollWidth") <= 390, tab
        assert visited.page.evaluate("document.body.classList.contains('dark')")
        visited.locate("#ip2p_theme").get_by_label("Light").check()
        visited.page.wait_for_function("!document.body.classList.contains('dark')")
        visited.reload()
        assert not visited.page.evaluate("document.body.classList.contains('dark')")


def test_behind_a_password_the_page_works_and_without_it_there_is_none(site, tmp_path: Path) -> None:
    browser = site[0]
    with served_page(tmp_path, users=[Credentials("ann", "pass word")]) as (address, worker):
        known = {"username": "ann", "password": "pass word"}
        with visit(browser, address, worker, http_credentials=known) as visited:
            visited.drop(EXAMPLES / "house.png")
            visited.write("make it winter")
            visited.set("img2img_steps", 2)
            visited.set("img2img_batch_count", 1)
            visited.generate()
            assert len(visited.results()) == 1
            assert visited.errors == []
            shown = visited.locate("#img2img_gallery img").get_attribute("src")
        with browser.new_context() as stranger:
            assert stranger.request.get(address).status == 401
            assert stranger.request.get(shown).status == 401


def test_every_control_has_a_name_for_those_who_listen(at_page: Visit) -> None:
    unnamed = at_page.page.evaluate(
        """() => [...document.querySelectorAll("input:not([type=file]), textarea, select, button")]
            .filter((one) => one.checkVisibility({ visibilityProperty: true }))
            .filter((one) => !(one.ariaLabel || one.title || one.innerText?.trim() || one.labels?.length
                || one.getAttribute("aria-labelledby")))
            .map((one) => one.outerHTML.slice(0, 200))"""
    )
    assert unnamed == []
