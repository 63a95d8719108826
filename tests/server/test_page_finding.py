"""Finding an edit on the page: the best of several seeds, how much to change, variations, and what was tried."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.browser import CHROMIUM, EXAMPLES, Visit, visit

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB")).astype(int)


def ask(at_page: Visit, instruction: str, steps: int, count: int = 1) -> None:
    at_page.drop(EXAMPLES / "ball.png")
    at_page.write(instruction)
    at_page.set("img2img_steps", steps)
    at_page.set("img2img_batch_count", count)
    at_page.set("img2img_seed", 20)


def captions(at_page: Visit, gallery: str) -> list[str]:
    texts = at_page.locate(f"#{gallery} .caption-label").all_inner_texts()
    return [text.replace("\u00a0", " ") for text in texts]


def wait_for_number(at_page: Visit, elem_id: str, value: float) -> None:
    script = "([id, value]) => Number(document.querySelector(`#${id} input[type=number]`)?.value) === value"
    at_page.page.wait_for_function(script, arg=[elem_id, value])


def test_the_best_of_three_shows_all_that_were_looked_at_and_each_can_be_taken(at_page: Visit) -> None:
    ask(at_page, "remove the ball", 5)
    at_page.set("ip2p_best_of", 3)
    at_page.generate()
    assert "chosen from 3 for the work of" in at_page.says()
    [result] = at_page.results()
    at_page.locate("#ip2p_candidates .thumbnail-item").nth(2).wait_for()
    shown = captions(at_page, "ip2p_candidates")
    assert [text.removeprefix("✓ ").split("\n")[0] for text in shown] == ["seed 20", "seed 21", "seed 22"]
    assert all("changed" in text for text in shown)
    [kept] = [place for place, text in enumerate(shown) if text.startswith("✓ ")]
    assert f"Seed: {20 + kept}," in result.info["parameters"]
    thumbs = at_page.locate("#ip2p_candidates .thumbnail-item")
    assert ["selected" in (one.get_attribute("class") or "") for one in thumbs.all()].index(True) == kept
    for thumb in thumbs.locator("img").all():
        assert at_page.fetch(thumb.get_attribute("src")).size == (96, 96)

    # one that was given up is an edit like any other, once its seed is taken
    other = (kept + 1) % 3
    thumbs.nth(other).click()
    wait_for_number(at_page, "img2img_seed", 20 + other)
    wait_for_number(at_page, "ip2p_best_of", 1)
    at_page.generate()
    [alone] = at_page.results()
    assert f"Seed: {20 + other}," in alone.info["parameters"] and "chosen" not in at_page.says()
    at_page.locate("#ip2p_candidates_pane").wait_for(state="hidden")

    # and so is the one that was kept
    at_page.set("img2img_seed", 20 + kept)
    at_page.generate()
    [again] = at_page.results()
    assert np.abs(pixels(again) - pixels(result)).max() <= 1


def test_a_search_keeps_the_rest_before_the_server_has_answered(at_page: Visit) -> None:
    """Whoever presses Generate at once gets what the page shows."""
    assert at_page.locate("#ip2p_keep_rest input:checked").input_value() == "off"
    at_page.page.route("**/queue/join*", lambda route: None)  # held until it is unrouted
    at_page.set("ip2p_best_of", 3)
    at_page.locate("#ip2p_keep_rest input[value=automatic]:checked").wait_for(state="attached", timeout=5000)
    assert not at_page.locate("#ip2p_keep_amount").is_visible()
    at_page.page.unroute("**/queue/join*")
    at_page.locate("#ip2p_keep_amount").wait_for()


def test_one_slider_takes_the_place_of_two_which_keep_their_values(at_page: Visit) -> None:
    ask(at_page, "remove the ball", 5)
    at_page.set("ip2p_text_cfg", 9)
    at_page.set("ip2p_best_of", 2)
    assert not at_page.locate("#ip2p_strength").is_visible()
    switch = at_page.locate("#ip2p_by_strength input")
    switch.check()
    at_page.locate("#ip2p_strength").wait_for()
    for hidden in ("ip2p_text_cfg", "ip2p_image_cfg", "ip2p_best_of"):
        at_page.locate(f"#{hidden}").wait_for(state="hidden")
    at_page.locate("#ip2p_strength_words").get_by_role("button", name="strong").click()
    wait_for_number(at_page, "ip2p_strength", 0.8)
    at_page.generate()
    [result] = at_page.results()
    shown = captions(at_page, "ip2p_candidates")
    assert len(shown) == 5 and "Text 6 · Image 1.5" in shown[2]
    [kept] = [text.removeprefix("✓ ").split("\n")[0] for text in shown if text.startswith("✓ ")]
    assert kept in captions(at_page, "img2img_gallery")[0]

    # it comes back after a reload
    at_page.reload()
    at_page.locate("#ip2p_strength").wait_for()
    assert switch.is_checked() and at_page.number("ip2p_strength") == 0.8
    at_page.locate("#ip2p_candidates .thumbnail-item").nth(4).wait_for()

    # its settings are ordinary scales, which make it again
    at_page.locate("#ip2p_reuse_settings").click()
    at_page.locate("#ip2p_text_cfg").wait_for()
    scales = [at_page.number("ip2p_text_cfg"), at_page.number("ip2p_image_cfg")]
    assert kept == f"Text {scales[0]:g} · Image {scales[1]:g}" and not switch.is_checked()
    assert at_page.number("ip2p_best_of") == 1
    at_page.generate()
    [again] = at_page.results()
    assert np.abs(pixels(again) - pixels(result)).max() <= 1

    # and what the switch hid is as it was
    at_page.set("ip2p_text_cfg", 6)
    switch.check()
    at_page.locate("#ip2p_strength").wait_for()
    assert at_page.number("ip2p_strength") == 0.8
    switch.uncheck()
    at_page.locate("#ip2p_text_cfg").wait_for()
    assert at_page.number("ip2p_text_cfg") == 6


def test_variations_are_results_that_are_called_by_their_words_and_a_sheet_shows_them_all(
    at_page: Visit, tmp_path: Path
) -> None:
    ask(at_page, "make it {winter|dark night}", 2, count=2)
    at_page.locate("#img2img_token_counter").get_by_text("4/75").wait_for()
    at_page.generate()
    assert at_page.says().startswith("4 pictures in ")
    named = [text.split("\n")[:2] for text in captions(at_page, "img2img_gallery")]
    assert named == [["winter", "seed 20"], ["winter", "seed 21"], ["dark night", "seed 20"], ["dark night", "seed 21"]]
    told = [picture.info["parameters"].split("\n")[0] for picture in at_page.results()]
    assert told == ["make it winter"] * 2 + ["make it dark night"] * 2
    with at_page.page.expect_download() as downloading:
        at_page.locate("#ip2p_sheet a").click()
    assert downloading.value.suggested_filename == "contact-sheet.jpg"
    sheet = Image.open(downloading.value.path())
    assert sheet.width >= 4 * 96 and sheet.height >= 96

    # of one picture there is no sheet
    at_page.write("make it winter")
    at_page.set("img2img_batch_count", 1)
    at_page.generate()
    at_page.locate("#ip2p_sheet a").wait_for(state="hidden")


def test_what_was_chosen_is_forgotten_when_asked_to(at_page: Visit) -> None:
    at_page.set("ip2p_best_of", 5)
    at_page.locate("#ip2p_by_strength input").check()
    at_page.locate("#ip2p_strength").wait_for()
    at_page.open_tab("Settings")
    at_page.locate("#ip2p_reset").click()
    at_page.open_tab("img2img")
    at_page.locate("#ip2p_text_cfg").wait_for()
    assert not at_page.locate("#ip2p_by_strength input").is_checked()
    assert at_page.number("ip2p_best_of") == 1


def test_the_results_of_a_folder_are_found_too(at_page: Visit, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "ball.png").write_bytes((EXAMPLES / "ball.png").read_bytes())
    ask(at_page, "remove the ball", 2)
    at_page.set("ip2p_best_of", 3)
    at_page.open_tab("Batch")
    at_page.locate("#img2img_batch_input_dir input").fill(str(tmp_path / "in"))
    at_page.locate("#img2img_batch_output_dir input").fill(str(tmp_path / "out"))
    at_page.locate("#img2img_generate").click()
    at_page.locate("#img2img_progress .ip2p-said").get_by_text("1 picture: 1 done").wait_for(timeout=60_000)
    costs = [line.get("cost", 0) for line in map(json.loads, (tmp_path / "out" / "batch.jsonl").open())]
    assert max(costs) > 1


def test_on_a_narrow_screen_candidates_and_words_fit(site) -> None:
    with visit(*site, viewport={"width": 390, "height": 800}) as visited:
        visited.locate("#ip2p_examples .thumbnail-item").nth(2).click()
        visited.locate("#img2img_image .image-frame img").wait_for()
        visited.set("img2img_steps", 2)
        visited.set("img2img_batch_count", 2)
        visited.locate("#ip2p_by_strength input").check()
        visited.locate("#ip2p_strength").wait_for()
        visited.generate()
        visited.locate("#ip2p_candidates .thumbnail-item").nth(4).wait_for()
        assert visited.page.evaluate("document.documentElement.scrollWidth") <= 390
