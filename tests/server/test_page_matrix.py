"""The matrix on the page, in a real browser: by mouse and by keyboard, on a wide screen and on a narrow one."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from PIL import Image

from instruct_pix2pix.infotext import settings_from
from instruct_pix2pix.server.worker.task import TaskState
from tools.browser import CHROMIUM, EXAMPLES, Visit, visit

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

NARROW: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB")).astype(int)


def set_up(visited: Visit, text_cfg: str, image_cfg: str, steps: int = 4, seeds: int = 1) -> None:
    """Ask for a matrix of the house in winter, of seed 7."""
    visited.drop(EXAMPLES / "house.png")
    visited.write("make it winter")
    visited.set("img2img_steps", steps)
    visited.set("img2img_seed", 7)
    if not visited.locate("#ip2p_matrix_form").is_visible():
        visited.locate("#ip2p_matrix_open").click()
    visited.locate("#ip2p_matrix_text_cfg input").fill(text_cfg)
    visited.locate("#ip2p_matrix_image_cfg input").fill(image_cfg)
    visited.set("ip2p_matrix_seeds", seeds)


def make(visited: Visit) -> None:
    """Press the button and wait until the whole matrix is there."""
    visited.locate("#ip2p_matrix_make").click()
    wait_for_all(visited)


def wait_for_all(visited: Visit) -> None:
    visited.locate("#ip2p_matrix a[download]").wait_for(timeout=180_000)  # on a busy machine
    visited.wait_for_end()


def cell(visited: Visit, text_cfg: str, image_cfg: str) -> Any:
    return visited.page.get_by_role("button", name=f"Text CFG {text_cfg}, Image CFG {image_cfg}", exact=True)


def picture_in(visited: Visit, where: Any) -> np.ndarray:
    return pixels(visited.fetch(where.locator("img.ip2p-after").evaluate("(one) => one.src")))


def wait_for_result(visited: Visit, text_cfg: str, image_cfg: str, seed: int = 7) -> Image.Image:
    """Wait until the results are the edit with these scales, and return it."""
    visited.page.wait_for_function(
        "(parts) => { const text = document.querySelector('#html_info_img2img textarea').value;"
        " return parts.every((part) => text.includes(part)); }",
        arg=[f"CFG scale: {text_cfg},", f"Image CFG scale: {image_cfg}", f"Seed: {seed},"],
        timeout=180_000,
    )
    visited.wait_for_end()
    visited.page.wait_for_function("document.body.dataset.ip2pResults === 'yes'")
    (result,) = visited.results()
    return result


def is_generate_the_same(visited: Visit, result: Image.Image) -> bool:
    """Press Generate and tell whether it makes the same picture, bit for bit, with the same settings."""
    visited.generate()
    (again,) = visited.results()
    assert again.info["parameters"] == result.info["parameters"]
    return bool((pixels(again) == pixels(result)).all())


def test_a_click_on_a_cell_is_the_edit_that_generate_makes_bit_for_bit(at_page: Visit) -> None:
    at_page.page.set_viewport_size({"width": 1280, "height": 900})
    assert not at_page.locate("#ip2p_matrix_form").is_visible()
    at_page.locate("#ip2p_matrix_open").click()
    asked = [at_page.locate(f"#ip2p_matrix_{name}_cfg input").input_value() for name in ("text", "image")]
    assert asked == ["3:12:5", "1:2:5"]
    at_page.locate("#ip2p_matrix_open").click()
    set_up(at_page, "5.25, 7.5, 9", "1:1.5:2")
    at_page.page.get_by_role("button", name="Make the matrix: 6 edits").wait_for()
    at_page.set("img2img_batch_count", 3)
    at_page.locate("#ip2p_more_settings button").first.click()
    at_page.locate("#ip2p_randomize").get_by_label("both").check()
    make(at_page)
    assert at_page.says().startswith("6 edits in ")
    assert at_page.locate("#ip2p_matrix thead th").all_inner_texts()[1:] == [
        "Text CFG\n5.25",
        "Text CFG\n7.5",
        "Text CFG\n9",
    ]
    assert [one.replace("\n", " ") for one in at_page.locate("#ip2p_matrix tbody th").all_inner_texts()] == [
        "Image CFG 1",
        "Image CFG 1.5",
    ]
    at_page.page.get_by_role("img", name="The input").wait_for()

    # before and after follow the pointer, in the cell and large
    one = cell(at_page, "5.25", "1.5")
    one.scroll_into_view_if_needed()
    box = one.bounding_box()
    at_page.page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] / 2)
    at_page.page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + box["height"] / 2)
    share = float(one.evaluate("(one) => one.style.getPropertyValue('--ip2p-wipe')").removesuffix("%"))
    assert share == pytest.approx(25, abs=2)
    assert one.locator("img.ip2p-before").count() == 1
    stage = at_page.locate(".ip2p-stage")
    assert stage.locator("figcaption").inner_text() == "Text CFG 5.25, Image CFG 1.5"
    assert float(stage.locator("input").input_value()) == pytest.approx(share, abs=1)
    made = picture_in(at_page, stage)
    assert (made == picture_in(at_page, one)).all()
    before = pixels(at_page.fetch(stage.locator("img.ip2p-before").evaluate("(one) => one.src")))
    assert (before == pixels(Image.open(EXAMPLES / "house.png"))).all()
    at_page.page.mouse.move(5, 5)
    assert at_page.locate(".ip2p-cell img.ip2p-before").count() == 0

    # a click: its picture at once, its values in the controls, and the edit in the results
    one.click()
    assert stage.is_visible() and (picture_in(at_page, stage) == made).all()
    result = wait_for_result(at_page, "5.25", "1.5")
    assert [at_page.number(name) for name in ("ip2p_text_cfg", "ip2p_image_cfg", "img2img_seed")] == [5.25, 1.5, 7]
    assert [at_page.number(f"img2img_batch_{name}") for name in ("count", "size")] == [1, 1]
    assert at_page.locate("#ip2p_randomize").get_by_label("off").is_checked()
    assert np.abs(pixels(result) - made).max() <= 1
    assert at_page.locate("#ip2p_matrix [aria-selected=true] .ip2p-cell").get_attribute("data-place") == "3"
    assert is_generate_the_same(at_page, result)

    # the results stay where they are while other cells are looked at
    where = at_page.locate("#img2img_gallery").bounding_box()
    at_page.page.mouse.move(5, 5)
    assert not stage.is_visible()
    cell(at_page, "9", "1").hover()
    assert stage.is_visible() and at_page.locate("#img2img_gallery").bounding_box() == where

    # another instruction, other steps: the next cell is still one of this matrix
    at_page.write("make it night")
    at_page.set("img2img_steps", 9)
    cell(at_page, "9", "1").click()
    other = wait_for_result(at_page, "9", "1")
    assert at_page.prompt() == "make it winter" and at_page.number("img2img_steps") == 4
    assert is_generate_the_same(at_page, other)

    # all of it as one picture
    with at_page.page.expect_download() as downloading:
        at_page.locate("#ip2p_matrix a[download]").click()
    whole = Image.open(downloading.value.path())
    assert 'X Values: "5.25, 7.5, 9"' in whole.info["parameters"]
    assert settings_from(whole.info["parameters"])[0].instruction == "make it winter"

    # closed, the table is gone, and comes back
    at_page.locate("#ip2p_matrix_open").click()
    assert not at_page.locate("#ip2p_matrix").is_visible()
    at_page.page.get_by_role("button", name="Matrix", exact=True, expanded=False).click()
    assert at_page.locate("#ip2p_matrix").is_visible()


def test_the_keyboard_walks_the_cells_and_makes_one_on_a_narrow_dark_screen(site) -> None:
    with visit(*site, **NARROW, color_scheme="dark") as visited:
        set_up(visited, "3:10:8", "1, 1.5", steps=3)
        make(visited)
        visited.locate("#ip2p_matrix .ip2p-cell[tabindex='0']").focus()
        walked = []
        arrows = ("ArrowLeft", "ArrowRight", "ArrowDown", "ArrowDown")
        for key in ("Control+Home", *arrows, "End", "Home", "ArrowUp", "End"):
            visited.page.keyboard.press(key)
            walked.append(visited.page.evaluate("document.activeElement.dataset.place"))
        assert walked == ["0", "0", "1", "9", "9", "15", "8", "0", "7"]
        # the table scrolls in its own box, the headers stay in sight, and nothing else is wider than the screen
        assert visited.page.evaluate("document.documentElement.scrollWidth") <= 390
        scroll, last = visited.locate("#ip2p_matrix .ip2p-scroll"), cell(visited, "10", "1")
        assert scroll.evaluate("(one) => one.scrollLeft") > 0
        inside, seen = scroll.bounding_box(), last.bounding_box()
        assert inside["x"] - 1 <= seen["x"] and seen["x"] + seen["width"] <= inside["x"] + inside["width"] + 1
        head = visited.locate("#ip2p_matrix tbody th").first.bounding_box()
        assert abs(head["x"] - inside["x"]) <= 1 and seen["x"] >= head["x"] + head["width"]
        measure = "(all) => Math.min(...all.flatMap((one) => [one.offsetWidth, one.offsetHeight]))"
        assert visited.locate(".ip2p-cell").evaluate_all(measure) >= 24
        outline = last.evaluate("(one) => getComputedStyle(one).outlineStyle")
        assert outline == "solid" and last.evaluate("(one) => one.matches(':focus-visible')")
        # before and after without a pointer
        stage = visited.locate(".ip2p-stage")
        assert stage.locator("figcaption").inner_text() == "Text CFG 10, Image CFG 1"
        stage.locator("input").focus()
        for _ in range(10):
            visited.page.keyboard.press("ArrowRight")
        assert stage.locator(".ip2p-wipe").evaluate("(one) => one.style.getPropertyValue('--ip2p-wipe')") == "60%"
        # and one is chosen
        last.focus()
        visited.page.keyboard.press("Enter")
        result = wait_for_result(visited, "10", "1")
        assert (visited.number("ip2p_text_cfg"), visited.number("img2img_seed")) == (10, 7)
        assert visited.page.evaluate("document.documentElement.scrollWidth") <= 390
        assert is_generate_the_same(visited, result)
        assert visited.errors == [] and visited.elsewhere == []


def test_a_finger_chooses_a_cell_and_wipes_over_the_large_one(site) -> None:
    with visit(*site, **NARROW) as visited:
        set_up(visited, "3, 7.5", "1, 1.5", steps=3)
        make(visited)
        cell(visited, "3", "1.5").tap()
        result = wait_for_result(visited, "3", "1.5")
        assert is_generate_the_same(visited, result)
        assert visited.errors == []


def test_two_seeds_are_two_layers_and_a_cell_brings_the_seed_of_its_own(at_page: Visit) -> None:
    set_up(at_page, "3, 7.5", "1.5", seeds=2)
    at_page.page.get_by_role("button", name="Make the matrix: 4 edits").wait_for()
    make(at_page)
    first = picture_in(at_page, cell(at_page, "7.5", "1.5"))
    at_page.locate(".ip2p-layers").get_by_label("8").check()
    second = picture_in(at_page, cell(at_page, "7.5", "1.5"))
    assert np.abs(first - second).max() > 8
    cell(at_page, "7.5", "1.5").hover()
    assert at_page.locate(".ip2p-stage figcaption").inner_text() == "Text CFG 7.5, Image CFG 1.5, seed 8"
    with at_page.page.expect_download() as downloading:
        at_page.locate("#ip2p_matrix a[download]").click()
    assert "Seed: 8," in Image.open(downloading.value.path()).info["parameters"]
    cell(at_page, "7.5", "1.5").click()
    result = wait_for_result(at_page, "7.5", "1.5", seed=8)
    assert np.abs(pixels(result) - second).max() <= 1 and at_page.number("img2img_seed") == 8
    assert is_generate_the_same(at_page, result)


def has_coarse_cells(visited: Visit) -> None:
    visited.page.wait_for_function(
        "() => { const all = [...document.querySelectorAll('.ip2p-cell')];"
        " return all.length && all.every((one) => one.style.backgroundImage.includes('coarse')); }",
        timeout=180_000,
    )


def test_a_reload_finds_the_table_in_the_middle_and_afterwards(at_page: Visit) -> None:
    set_up(at_page, "5:9:5", "1.2, 1.5", steps=60)
    at_page.locate("#ip2p_matrix_make").click()
    has_coarse_cells(at_page)
    at_page.reload()
    at_page.locate("#img2img_interrupt").wait_for()
    has_coarse_cells(at_page)
    wait_for_all(at_page)
    assert at_page.says().startswith("10 edits in ")
    assert at_page.locate("#ip2p_matrix_text_cfg input").input_value() == "5:9:5"
    cell(at_page, "8", "1.2").click()
    result = wait_for_result(at_page, "8", "1.2")
    at_page.reload()
    again = wait_for_result(at_page, "8", "1.2")
    assert (pixels(again) == pixels(result)).all()
    assert at_page.locate("#ip2p_matrix").is_visible()
    assert np.abs(picture_in(at_page, cell(at_page, "8", "1.2")) - pixels(result)).max() <= 1
    cell(at_page, "5", "1.2").click()
    wait_for_result(at_page, "5", "1.2")


def test_an_interrupt_leaves_the_coarse_cells_and_one_of_them_can_be_made(at_page: Visit) -> None:
    set_up(at_page, "3:12:5", "1:2:5", steps=100)
    at_page.locate("#ip2p_matrix_make").click()
    has_coarse_cells(at_page)
    assert not at_page.locate("#ip2p_matrix_make").is_visible() and not at_page.locate("#img2img_skip").is_visible()
    # one that is chosen meanwhile waits for the matrix; an interrupt ends both
    cell(at_page, "12", "1").click()
    at_page.locate("#img2img_progress").get_by_text("Waiting for 1 other edit").wait_for()
    at_page.locate("#img2img_interrupt").click()
    at_page.wait_for_end()
    matrix = at_page.worker.queue.find(at_page.locate("#ip2p_matrix").get_attribute("data-job"))
    assert matrix is not None and matrix.wait(10**9, 120).state is TaskState.INTERRUPTED
    has_coarse_cells(at_page)
    assert at_page.locate(".ip2p-cell img.ip2p-after").count() == 0
    # of two that are chosen one after the other, only the second is made
    cell(at_page, "3", "1").click()
    at_page.locate("#img2img_interrupt").wait_for()
    cell(at_page, "7.5", "1.5").click()
    result = wait_for_result(at_page, "7.5", "1.5")
    assert settings_from(result.info["parameters"])[0].steps == 100 and len(at_page.worker.queue) == 0


def test_two_tabs_have_a_matrix_each(site, at_page: Visit) -> None:
    set_up(at_page, "3, 7.5", "1.5", steps=2)
    make(at_page)
    page = at_page.page.context.new_page()
    other = Visit(page, at_page.worker)
    page.goto(site[1])
    other.ready()
    set_up(other, "4, 5, 6", "1.2", steps=2)
    make(other)
    for visited, count in ((at_page, 2), (other, 3)):
        visited.reload()
        visited.locate("#ip2p_matrix").wait_for()
        assert visited.locate(".ip2p-cell").count() == count
    cell(at_page, "3", "1.5").click()
    wait_for_result(at_page, "3", "1.5")
    assert other.locate("#ip2p_matrix [aria-selected=true]").count() == 0
    page.close()


def test_what_cannot_be_a_matrix_is_said_in_a_sentence(at_page: Visit) -> None:
    set_up(at_page, "3:99:5", "1:2:5")

    def refused(sentence: str) -> None:
        at_page.locate("#ip2p_matrix_make").click()
        at_page.locate("#img2img_progress [role=alert]").get_by_text(sentence).wait_for()
        assert at_page.locate("#ip2p_matrix").count() == 0

    refused("Text CFG is 99")
    at_page.locate("#ip2p_matrix_text_cfg input").fill("1:30:20")
    at_page.locate("#ip2p_matrix_image_cfg input").fill("0:5:20")
    at_page.set("ip2p_matrix_seeds", 2)
    refused("800 edits are too many")
    at_page.set("ip2p_matrix_seeds", 1)
    at_page.locate("#ip2p_matrix_text_cfg input").fill("7.5")
    at_page.locate("#ip2p_matrix_image_cfg input").fill("1.5")
    at_page.write("make it {winter|night}")
    refused("choose one of the variations")
    at_page.locate("#mode_img2img").get_by_role("tab", name="Batch").click()
    refused("A matrix is of one picture")


def test_a_cell_of_a_matrix_with_another_mask_is_not_made(at_page: Visit) -> None:
    set_up(at_page, "7.5", "1.5", steps=2)
    at_page.open_tab("Inpaint")
    at_page.ready_to_paint()
    canvas = at_page.locate("#ip2p_paint canvas")

    def dab(x: float) -> None:
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        at_page.page.mouse.click(box["x"] + box["width"] * x, box["y"] + box["height"] * 0.6)

    dab(0.3)
    make(at_page)
    cell(at_page, "7.5", "1.5").click()
    result = wait_for_result(at_page, "7.5", "1.5")
    changed = np.abs(pixels(result) - pixels(Image.open(EXAMPLES / "house.png"))).max(axis=2) > 1
    assert changed[:, :48].any() and not changed[:, 60:].any()
    assert is_generate_the_same(at_page, result)
    dab(0.7)
    cell(at_page, "7.5", "1.5").click()
    at_page.locate("#img2img_progress [role=alert]").get_by_text("Something else is painted over").wait_for()


def test_who_listens_hears_the_table(at_page: Visit) -> None:
    set_up(at_page, "3, 7.5", "1, 1.5", steps=2)
    make(at_page)
    heard = at_page.locate("#ip2p_matrix .ip2p-scroll").aria_snapshot()
    assert re.search(r'grid "Edits by Text CFG and Image CFG"', heard)
    for name in ("columnheader .Text CFG 7.5", "rowheader .Image CFG 1.5", 'button "Text CFG 7.5, Image CFG 1"'):
        assert re.search(name, heard), heard
    unnamed = at_page.page.evaluate(
        """() => [...document.querySelectorAll("#ip2p_matrix :is(button, input), #ip2p_matrix_form :is(button, input)")]
            .filter((one) => one.checkVisibility())
            .filter((one) => !(one.ariaLabel || one.title || one.innerText?.trim() || one.labels?.length))
            .map((one) => one.outerHTML.slice(0, 200))"""
    )
    assert unnamed == []
