"""The strip of a session's results and what is compared from it, in a real browser; and who may see whose results."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from instruct_pix2pix.infotext import settings_from
from instruct_pix2pix.server.page.strip import sessions
from instruct_pix2pix.settings import EditSettings
from tools.browser import CHROMIUM, EXAMPLES, Visit, chromium, served_page, visit

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
ITEMS, THUMB = "#ip2p_strip li", "#ip2p_strip li .ip2p-thumb"


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the server saves results."""
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def site(outputs: Path):
    """A server and a browser."""
    with served_page(outputs) as (address, worker), chromium() as browser:
        yield browser, address, worker


# --- what a person does and sees ---


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB")).astype(int)


HOUSE = EXAMPLES / "house.png"


def set_up(visited: Visit, seed: int = 7, count: int = 1, steps: int = 2, picture: Path = HOUSE) -> None:
    """Ask for edits of few steps."""
    visited.drop(picture)
    visited.locate(f"#img2img_image .image-frame img[src*='{picture.name}']").wait_for()
    visited.write("make it winter")
    for name, value in (("img2img_steps", steps), ("img2img_batch_count", count), ("img2img_seed", seed)):
        visited.set(name, value)


def make(visited: Visit, seed: int = 7, count: int = 1, **more: Any) -> None:
    """Make edits, and wait until the strip has them and one is shown."""
    before = visited.locate(ITEMS).count()
    set_up(visited, seed, count, **more)
    visited.generate()
    wait_for(visited, before + count)
    wait_for_shown(visited, seed)


def wait_for(visited: Visit, count: int) -> None:
    """Wait until the strip has so many results."""
    script = "([items, count]) => document.querySelectorAll(items).length === count"
    visited.page.wait_for_function(script, arg=[ITEMS, count])


def wait_for_shown(visited: Visit, seed: int) -> None:
    """Wait until the result of a seed is the one that is shown and marked."""
    script = """([thumb, seed]) => {
        const marked = document.querySelector(`${thumb}[aria-current=true] span`)?.textContent ?? "";
        const settings = document.querySelector("#html_info_img2img textarea").value;
        return marked.startsWith(`seed ${seed}\\n`) && settings.includes(`Seed: ${seed},`);
    }"""
    visited.page.wait_for_function(script, arg=[THUMB, seed])


def seeds(visited: Visit) -> list[int]:
    """Return the seeds in the strip, from left to right."""
    return [int(text.split()[1]) for text in visited.locate(f"{ITEMS} span").all_inner_texts()]


def thumb(visited: Visit, seed: int) -> Any:
    return visited.locate(THUMB).filter(has_text=re.compile(rf"^seed {seed}\s"))


def item(visited: Visit, seed: int) -> Any:
    return visited.locate(ITEMS).filter(has_text=re.compile(rf"^seed {seed}\s"))


def shown_settings(visited: Visit) -> EditSettings:
    return settings_from(visited.locate("#html_info_img2img textarea").input_value())[0]


def compared(visited: Visit) -> list[Image.Image]:
    """Return what is shown before and after."""
    sides = visited.locate("#ip2p_compare img").evaluate_all("(all) => all.map((one) => one.src)")
    return [visited.fetch(side) for side in sides]


def result_of(visited: Visit, seed: int) -> Image.Image:
    """Return a result of the strip itself."""
    session = visited.page.evaluate("sessionStorage.getItem('ip2p_session')")
    address = visited.page.evaluate("location.href")
    return visited.fetch(f"{address}strip/{session}/{item(visited, seed).get_attribute('data-id')}/whole")


def transforms(visited: Visit) -> list[str]:
    script = "(all) => all.map((one) => one.style.transform)"
    return visited.locate("#ip2p_lightbox .ip2p-sheet").evaluate_all(script)


def zoom(visited: Visit) -> float:
    both = transforms(visited)
    assert len(set(both)) == 1
    return float(both[0].partition("scale(")[2].rstrip(")"))


def told(visited: Visit) -> list[str]:
    """Return what is said below each picture of the window."""
    return visited.locate("#ip2p_lightbox .ip2p-told").all_inner_texts()


def sees_before(visited: Visit) -> list[bool]:
    script = "(all) => all.map((one) => getComputedStyle(one).visibility === 'visible')"
    return visited.locate("#ip2p_lightbox .ip2p-before").evaluate_all(script)


# --- results stay ---


def test_every_result_stays_after_the_next_edit_an_interrupt_and_a_reload(at_page: Visit) -> None:
    assert not at_page.locate("#ip2p_strip").is_visible()
    make(at_page, 7, count=2)
    first = pixels(at_page.results()[0])
    make(at_page, 20, picture=EXAMPLES / "car.png")
    assert seeds(at_page) == [20, 8, 7]
    set_up(at_page, 30, count=90, steps=6)
    at_page.generate(wait=False)
    at_page.locate("#img2img_gallery .thumbnail-item").first.wait_for(timeout=60_000)
    at_page.locate("#img2img_interrupt").click()
    at_page.wait_for_end()
    wait_for_shown(at_page, 30)
    finished = at_page.locate("#img2img_gallery .thumbnail-item").count()
    wait_for(at_page, 3 + finished)
    assert seeds(at_page) == [*range(29 + finished, 29, -1), 20, 8, 7]
    names = at_page.locate(THUMB).evaluate_all("(all) => all.map((one) => one.ariaLabel)")
    assert " ".join(names[-1].split()) == "seed 7 Text 7.5 · Image 1.5: make it winter"

    at_page.reload()
    wait_for(at_page, 3 + finished)
    wait_for_shown(at_page, 30)
    marked = "(all) => all.map((one) => one.getAttribute('aria-current'))"
    assert at_page.locate("#img2img_gallery .thumbnail-item").evaluate_all(marked).count("true") == 1

    # a click shows one of them as if it had just been made
    thumb(at_page, 7).click()
    wait_for_shown(at_page, 7)
    assert at_page.locate("#img2img_gallery .thumbnail-item").evaluate_all(marked).count("true") == 0
    house = pixels(Image.open(HOUSE))
    at_page.page.wait_for_function("document.querySelectorAll('#ip2p_compare img').length === 2")
    before, after = map(pixels, compared(at_page))
    assert (before == house).all() and (after == first).all() and (pixels(result_of(at_page, 7)) == first).all()
    with at_page.page.expect_download() as downloading:
        at_page.locate("#ip2p_download").click()
    assert (pixels(Image.open(downloading.value.path())) == first).all()
    at_page.locate("#ip2p_reuse_settings").click()
    at_page.page.wait_for_function("document.querySelector('#img2img_seed input').value == 7")
    at_page.locate("#ip2p_use_as_input").click()
    at_page.page.wait_for_function("document.querySelector('#img2img_image img').src.includes('-0001-7.png')")
    assert (pixels(at_page.input_picture()) == first).all()


def test_the_longest_seed_is_read_whole_below_a_result_and_a_scale_is_not_torn_apart(at_page: Visit) -> None:
    make(at_page, 2**32 - 5, count=4)
    script = """(all, words) => all.map((one) => {
        const text = document.createTreeWalker(one, NodeFilter.SHOW_TEXT).nextNode(), box = one.getBoundingClientRect();
        return [text.data.split("\\n")[0], ...words].map((word) => {
            const range = document.createRange(), at = text.data.indexOf(word);
            range.setStart(text, at);
            range.setEnd(text, at + word.length);
            return [...range.getClientRects()].map(({ left, right }) => left >= box.left && right <= box.right);
        });
    })"""
    whole = [True]  # one line, within what is seen
    assert at_page.locate(f"{THUMB} span").evaluate_all(script, []) == [[whole]] * 4
    scales = ["Text\u00a07.5", "Image\u00a01.5"]
    assert at_page.locate("#img2img_gallery .caption-label").evaluate_all(script, scales) == [[whole] * 3] * 4


def test_use_as_input_is_undone_step_by_step(at_page: Visit) -> None:
    make(at_page, 7)
    undo = at_page.locate("#ip2p_former_input")
    assert undo.count() == 0 or not undo.is_visible()
    at_page.locate("#ip2p_use_as_input").click()
    at_page.page.wait_for_function("document.querySelector('#img2img_image img').src.includes('-7.png')")
    at_page.set("img2img_seed", 8)
    at_page.generate()
    wait_for_shown(at_page, 8)
    at_page.locate("#ip2p_use_as_input").click()
    at_page.page.wait_for_function("document.querySelector('#img2img_image img').src.includes('-8.png')")
    undo.focus()
    at_page.page.keyboard.press("Enter")
    at_page.page.wait_for_function("document.querySelector('#img2img_image img').src.includes('-7.png')")
    undo.click()
    at_page.page.wait_for_function("document.querySelector('#img2img_image img').src.includes('house.png')")
    assert (pixels(at_page.input_picture()) == pixels(Image.open(HOUSE))).all()
    undo.wait_for(state="hidden")


def test_what_is_pinned_outlives_the_oldest_and_what_is_thrown_away_comes_back_in_its_place(
    at_page: Visit, outputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "MOST_UNPINNED", 3)
    make(at_page, 107, count=3)
    item(at_page, 107).hover()
    item(at_page, 107).locator(".ip2p-pin").click()
    pinned = item(at_page, 107).locator(".ip2p-pin[aria-pressed=true]")
    pinned.wait_for()
    set_up(at_page, 120, count=2)
    at_page.generate()
    wait_for_shown(at_page, 120)
    wait_for(at_page, 4)
    assert seeds(at_page) == [121, 120, 109, 107]

    # the keyboard takes one out, and the saved file stays
    thumb(at_page, 120).focus()
    at_page.page.keyboard.press("Delete")
    wait_for(at_page, 3)
    assert len([*outputs.glob("*/*-120.png")]) == 1
    at_page.page.wait_for_function("document.activeElement.textContent.startsWith('seed 109')")
    at_page.reload()
    wait_for(at_page, 3)
    item(at_page, 121).hover()
    item(at_page, 121).locator(".ip2p-away").click()
    wait_for(at_page, 2)
    at_page.locate("#ip2p_strip").get_by_role("button", name="Undo").click()
    wait_for(at_page, 3)
    assert seeds(at_page) == [121, 109, 107]
    pinned.wait_for()


def test_arrow_keys_walk_the_strip_and_enter_shows(at_page: Visit) -> None:
    make(at_page, 7, count=3)
    thumb(at_page, 7).focus()
    walked = []
    for key in ("ArrowLeft", "ArrowLeft", "ArrowLeft", "ArrowRight", "End", "Home", "ArrowRight"):
        at_page.page.keyboard.press(key)
        walked.append(at_page.page.evaluate("document.activeElement.textContent").split()[1])
    assert [int(word[0]) for word in walked] == [8, 9, 9, 8, 7, 9, 8]
    stops = at_page.locate(f"{ITEMS} button").evaluate_all("(all) => all.filter((one) => one.tabIndex === 0).length")
    assert stops == 3  # of one result: itself, its pin, its cross
    at_page.page.keyboard.press("Enter")
    wait_for_shown(at_page, 8)
    assert at_page.page.evaluate("document.activeElement.textContent").startswith("seed 8")
    at_page.page.keyboard.press("p")
    item(at_page, 8).locator(".ip2p-pin[aria-pressed=true]").wait_for()


# --- large, and side by side ---


def test_two_results_side_by_side_are_zoomed_and_moved_in_step(at_page: Visit) -> None:
    at_page.page.set_viewport_size({"width": 1280, "height": 800})
    make(at_page, 7, count=3)
    opener = at_page.page.get_by_role("button", name="Compare two")
    opener.click()
    assert opener.get_attribute("aria-pressed") == "true"
    at_page.page.keyboard.press("Escape")
    assert opener.get_attribute("aria-pressed") == "false"
    opener.click()
    thumb(at_page, 7).click()
    thumb(at_page, 9).click()
    at_page.locate("#ip2p_lightbox").wait_for()
    assert [one.split(" · ")[0] for one in told(at_page)] == ["seed 7", "seed 9"]
    left, right = (at_page.locate("#ip2p_lightbox .ip2p-lens").nth(place).bounding_box() for place in (0, 1))
    assert left["y"] == right["y"] and left["width"] == right["width"] and right["x"] >= left["x"] + left["width"]
    assert zoom(at_page) == 1

    # the wheel over one, a drag over the other
    mouse = at_page.page.mouse
    mouse.move(left["x"] + left["width"] / 4, left["y"] + left["height"] / 4)
    for _ in range(4):
        mouse.wheel(0, -100)
    at_page.page.wait_for_function(
        "document.querySelector('#ip2p_lightbox .ip2p-sheet').style.transform.includes('scale(4)')"
    )
    zoomed = transforms(at_page)
    assert zoom(at_page) == 4
    x, y = right["x"] + right["width"] / 2, right["y"] + right["height"] / 2
    mouse.move(x, y)
    mouse.down()
    mouse.move(x + 60, y - 40, steps=4)
    mouse.up()
    assert len(set(transforms(at_page))) == 1 and transforms(at_page) != zoomed
    moved = [float(word) for one in (zoomed, transforms(at_page)) for word in re.findall(r"(-?[\d.]+)px", one[0])]
    assert (moved[2] - moved[0], moved[3] - moved[1]) == pytest.approx((60, -40), abs=1)

    # before, while a key is held
    assert sees_before(at_page) == [False, False]
    for key in ("b", " "):
        at_page.page.keyboard.down(key)
        assert sees_before(at_page) == [True, True]
        at_page.page.keyboard.up(key)
        assert sees_before(at_page) == [False, False]
    before = at_page.locate("#ip2p_lightbox .ip2p-before").first.evaluate("(one) => one.src")
    assert (pixels(at_page.fetch(before)) == pixels(Image.open(HOUSE))).all()

    # arrow keys turn the chosen one, at the same zoom
    at_page.page.keyboard.press("ArrowRight")
    assert [one.split(" · ")[0] for one in told(at_page)] == ["seed 7", "seed 8"]
    at_page.locate("#ip2p_lightbox .ip2p-pane").first.focus()
    at_page.page.keyboard.press("ArrowLeft")
    at_page.page.keyboard.press("ArrowLeft")
    at_page.page.keyboard.press("ArrowLeft")  # there is none further to the left
    assert [one.split(" · ")[0] for one in told(at_page)] == ["seed 9", "seed 8"]
    assert zoom(at_page) == 4
    shown = at_page.locate("#ip2p_lightbox .ip2p-after").first.evaluate("(one) => one.src")
    assert (pixels(at_page.fetch(shown)) == pixels(result_of(at_page, 9))).all()
    mouse.dblclick(x, y)
    assert zoom(at_page) == 1

    # Escape gives the focus back, and the page is as it was
    at_page.page.keyboard.press("Escape")
    at_page.locate("#ip2p_lightbox").wait_for(state="hidden")
    assert at_page.page.evaluate("document.activeElement.textContent").startswith("seed 9")
    wait_for_shown(at_page, 7)
    assert opener.get_attribute("aria-pressed") == "false"


def test_the_keyboard_alone_compares_with_what_is_shown_and_takes_one(at_page: Visit) -> None:
    make(at_page, 7, count=2)
    thumb(at_page, 8).focus()
    at_page.page.keyboard.press("Shift+Enter")
    at_page.locate("#ip2p_lightbox").wait_for()
    assert [one.split(" · ")[0] for one in told(at_page)] == ["seed 7", "seed 8"]
    at_page.page.keyboard.press("+")
    at_page.page.keyboard.press("+")
    assert zoom(at_page) == pytest.approx(2)
    at_page.page.keyboard.press("0")
    assert zoom(at_page) == 1
    at_page.page.keyboard.press("Control+Enter")  # which would generate
    assert len(at_page.worker.queue) == 0
    for _ in range(12):
        at_page.page.keyboard.press("Tab")
        if at_page.page.evaluate("document.activeElement.closest('.ip2p-pane:last-child .ip2p-take') !== null"):
            break
    at_page.page.keyboard.press("Enter")
    at_page.locate("#ip2p_lightbox").wait_for(state="hidden")
    wait_for_shown(at_page, 8)
    # by mouse: with its neighbour, with another one by Shift, or alone by two clicks
    at_page.page.get_by_role("button", name="Compare", exact=True).click()
    at_page.locate("#ip2p_lightbox").wait_for()
    assert [one.split(" · ")[0] for one in told(at_page)] == ["seed 8", "seed 7"]
    at_page.page.keyboard.press("Escape")
    assert at_page.page.evaluate("document.activeElement.id") == "ip2p_compare_two"
    thumb(at_page, 7).click(modifiers=["Shift"])
    at_page.locate("#ip2p_lightbox").wait_for()
    assert [one.split(" · ")[0] for one in told(at_page)] == ["seed 8", "seed 7"]
    at_page.page.get_by_role("button", name="Close", exact=True).click()
    thumb(at_page, 7).dblclick()
    at_page.locate("#ip2p_lightbox").wait_for()
    assert [one.split(" · ")[0] for one in told(at_page)] == ["seed 7"]


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_on_a_phone_fingers_compare_one_over_the_other(site, colours: str) -> None:
    with visit(*site, **PHONE, color_scheme=colours) as visited:
        make(visited, 7, count=2)
        assert visited.page.evaluate("document.documentElement.scrollWidth") <= 390
        small = """(all) => all.filter((one) => one.checkVisibility({ opacityProperty: true })
            && Math.min(one.offsetWidth, one.offsetHeight) < 24).map((one) => one.outerHTML)"""
        assert visited.locate("#ip2p_strip button").evaluate_all(small) == []
        assert item(visited, 8).locator(".ip2p-away").evaluate("(one) => getComputedStyle(one).opacity") == "1"
        visited.page.get_by_role("button", name="Compare two").tap()
        thumb(visited, 7).tap()
        thumb(visited, 8).tap()
        visited.locate("#ip2p_lightbox").wait_for()
        assert visited.locate("#ip2p_lightbox button").evaluate_all(small) == []
        upper, lower = (visited.locate("#ip2p_lightbox .ip2p-lens").nth(place).bounding_box() for place in (0, 1))
        assert upper["x"] == lower["x"] and lower["y"] >= upper["y"] + upper["height"] and upper["height"] > 200
        touch = visited.page.context.new_cdp_session(visited.page)

        def fingers(kind: str, *points: tuple[float, float]) -> None:
            there = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": there})

        x, y = upper["x"] + upper["width"] / 2, upper["y"] + upper["height"] / 2
        fingers("touchStart", (x - 20, y))
        fingers("touchStart", (x - 20, y), (x + 20, y))
        for apart in range(20, 61, 4):
            fingers("touchMove", (x - apart, y), (x + apart, y))
        fingers("touchEnd", (x - 60, y))
        fingers("touchEnd")
        assert zoom(visited) == pytest.approx(3, rel=0.05)
        zoomed = transforms(visited)
        fingers("touchStart", (x, y))
        fingers("touchMove", (x + 10, y + 10))
        fingers("touchMove", (x + 30, y + 20))
        fingers("touchEnd")
        assert transforms(visited) != zoomed and zoom(visited) == pytest.approx(3, rel=0.05)

        holds = visited.locate(".ip2p-see-before").bounding_box()
        middle = holds["x"] + holds["width"] / 2, holds["y"] + holds["height"] / 2
        fingers("touchStart", middle)
        assert sees_before(visited) == [True, True]
        fingers("touchEnd")
        assert sees_before(visited) == [False, False]
        visited.locate("#ip2p_lightbox .ip2p-pane").first.get_by_role("button", name="to the left").tap()
        assert [one.split(" · ")[0] for one in told(visited)] == ["seed 8", "seed 8"]
        visited.page.get_by_role("button", name="Close", exact=True).tap()
        visited.locate("#ip2p_lightbox").wait_for(state="hidden")
        assert visited.errors == [] and visited.elsewhere == []


def test_before_is_the_input_itself_where_the_result_has_its_size(at_page: Visit, tmp_path: Path) -> None:
    house = Image.open(HOUSE).convert("RGB").resize((2600, 1800), Image.Resampling.BICUBIC)
    house.save(tmp_path / "large.jpg", quality=90)
    make(at_page, 7, picture=tmp_path / "large.jpg")
    at_page.page.wait_for_function("document.querySelectorAll('#ip2p_compare img').length === 2")
    before, after = compared(at_page)
    assert (before.size, after.size) == ((2600, 1800), (2048, 1418))
    assert before.format == "JPEG" and (pixels(before) == pixels(Image.open(tmp_path / "large.jpg"))).all()

    # seen closely, the result itself takes the place of its small copy
    at_page.page.get_by_role("button", name="Large view").click()
    after = at_page.locate("#ip2p_lightbox .ip2p-after")
    at_page.page.wait_for_function("document.querySelector('#ip2p_lightbox .ip2p-after')?.naturalWidth === 2048")
    at_page.locate("#ip2p_lightbox .ip2p-zoom-in").click()
    at_page.page.wait_for_function("document.querySelector('#ip2p_lightbox .ip2p-after')?.naturalWidth === 2600")
    assert at_page.locate("#ip2p_lightbox .ip2p-before").evaluate("(one) => one.naturalWidth") == 2600
    whole = at_page.fetch(after.evaluate("(one) => one.src"))
    assert "Seed: 7," in whole.info["parameters"]


# --- more and less change ---


def test_more_and_less_change_make_the_edit_again_with_its_seed_and_other_scales(at_page: Visit) -> None:
    make(at_page, 7)
    first = pixels(at_page.results()[0])
    at_page.write("something else")
    at_page.set("img2img_seed", -1)
    at_page.set("img2img_batch_count", 3)
    expected = [("More", 9.4, 1.35), ("Less", 7.5, 1.5), ("Less", 6.0, 1.65)]
    for number, (word, text_cfg, image_cfg) in enumerate(expected, 2):
        at_page.page.get_by_role("button", name=f"{word} change").click()
        wait_for(at_page, number)
        at_page.wait_for_end()
        at_page.page.wait_for_function(
            "(parts) => { const text = document.querySelector('#html_info_img2img textarea').value;"
            " return parts.every((part) => text.includes(part)); }",
            arg=[f" CFG scale: {text_cfg:g},", f"Image CFG scale: {image_cfg:g}"],
        )
        made = shown_settings(at_page)
        assert (made.instruction, made.seed, made.steps) == ("make it winter", 7, 2)
        assert (made.text_cfg, made.image_cfg) == (text_cfg, image_cfg)
        assert [at_page.number(f"ip2p_{name}_cfg") for name in ("text", "image")] == [text_cfg, image_cfg]
        if word == "Less" and text_cfg == 7.5:
            assert (pixels(at_page.results()[0]) == first).all()
    assert at_page.prompt() == "make it winter" and at_page.number("img2img_seed") == 7
    assert at_page.number("img2img_batch_count") == 3
    at_page.reload()
    at_page.page.wait_for_function("document.querySelector('#ip2p_text_cfg input[type=number]').value == 6")


def test_more_change_moves_the_one_slider_where_scales_are_found(at_page: Visit) -> None:
    set_up(at_page, 7)
    at_page.locate("#ip2p_by_strength input").check()
    at_page.locate("#ip2p_strength").wait_for()
    at_page.generate()
    wait_for_shown(at_page, 7)
    assert at_page.number("ip2p_strength") == 0.5
    for number, strength in enumerate((0.65, 0.8, 0.95, 1), 2):
        at_page.page.get_by_role("button", name="More change").click()
        wait_for(at_page, number)
        at_page.wait_for_end()
        assert at_page.number("ip2p_strength") == strength and shown_settings(at_page).seed == 7
    at_page.page.get_by_role("button", name="More change").click()
    at_page.locate("#img2img_progress").get_by_text("is as far as it goes").wait_for()
    assert len(at_page.worker.queue) == 0


def test_more_change_of_a_painted_part_leaves_the_rest_and_takes_the_same_input(at_page: Visit) -> None:
    set_up(at_page, 7, steps=6)
    at_page.open_tab("Inpaint")
    at_page.ready_to_paint()
    box = at_page.locate("#ip2p_paint canvas").bounding_box()
    at_page.page.mouse.move(box["x"] + box["width"] * 0.2, box["y"] + box["height"] * 0.7)
    at_page.page.mouse.down()
    at_page.page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.7, steps=4)
    at_page.page.mouse.up()
    at_page.generate()
    wait_for_shown(at_page, 7)
    at_page.locate("#ip2p_use_as_input").click()
    at_page.page.wait_for_function("!document.querySelector('#img2img_image img').src.includes('house.png')")
    at_page.page.get_by_role("button", name="More change").click()
    wait_for(at_page, 2)
    at_page.wait_for_end()
    house = pixels(Image.open(HOUSE))
    changed = np.abs(pixels(at_page.results()[0]) - house).max(axis=2)
    assert changed[:50].max() <= 1 and changed[64:70].max() > 8
    assert (pixels(at_page.input_picture()) == house).all()


# --- whose results ---


def test_two_tabs_have_a_strip_each(site, at_page: Visit) -> None:
    make(at_page, 7)
    page = at_page.page.context.new_page()
    other = Visit(page, at_page.worker)
    page.goto(site[1])
    other.ready()
    assert not other.locate("#ip2p_strip").is_visible()
    make(other, 8, count=2)
    for visited, expected in ((at_page, [7]), (other, [9, 8])):
        visited.reload()
        wait_for(visited, len(expected))
        assert seeds(visited) == expected
    # one that is opened when they are closed goes on with the last one
    page.close()
    again = at_page.page.context.new_page()
    other = Visit(again, at_page.worker)
    again.goto(site[1])
    wait_for(other, 2)
    assert seeds(other) == [9, 8]


@pytest.fixture
def client(site) -> Iterator[httpx.Client]:
    """A stranger: nobody's browser."""
    with httpx.Client(base_url=site[1], trust_env=False, timeout=60) as client:
        yield client


def test_another_session_gets_none_of_the_results(at_page: Visit, client: httpx.Client) -> None:
    make(at_page, 7)
    session = at_page.page.evaluate("sessionStorage.getItem('ip2p_session')")
    id_ = item(at_page, 7).get_attribute("data-id")
    assert re.fullmatch("[0-9a-f]{32}", session) and re.fullmatch("[0-9a-f]{16}-1", id_)
    sides = ("thumb", "after", "before", "whole")
    for side in sides:
        answer = client.get(f"/strip/{session}/{id_}/{side}")
        assert answer.status_code == 200 and "private" in answer.headers["cache-control"]
        assert Image.open(io.BytesIO(answer.content)).size == (96, 96)
    assert client.get(f"/strip/{session}/{id_}/secret").status_code == 404
    assert client.get(f"/strip/{session}/{id_.replace('-1', '-2')}/whole").status_code == 404
    # not even to one who knows its name, and says that it had it
    stranger = "0" * 32
    for begun in (False, True):
        if begun:
            had = {"entries": {id_: "kept"}, "tasks": {id_.partition("-")[0]: 0}}
            told = client.post(f"/strip/{stranger}", json=had).json()
            assert (told["results"], told["stored"]["entries"]) == ([], {})
        assert [client.get(f"/strip/{stranger}/{id_}/{side}").status_code for side in sides] == [404] * 4
        assert client.put(f"/strip/{stranger}/{id_}?how=thrown").status_code == 404
    assert seeds(at_page) == [7]


@pytest.mark.parametrize(
    "body",
    [
        {"entries": {"../../etc": "kept"}},
        {"entries": {f"{0:016x}-1": "burnt"}},
        {"entries": {f"{i:016x}-1": "kept" for i in range(201)}},
        {"tasks": {f"{0:016x}": -1}},
        {"tasks": {f"{i:016x}": 0 for i in range(1001)}},
    ],
)
def test_what_no_tab_remembers_is_refused(client: httpx.Client, body: dict[str, Any]) -> None:
    assert client.post(f"/strip/{'1' * 32}", json=body).status_code == 422
    assert client.post("/strip/guess", json={}).status_code == 422


def test_a_name_that_was_made_up_is_no_result(client: httpx.Client) -> None:
    made_up = f"{5:016x}-1"
    answer = client.post(f"/strip/{'2' * 32}", json={"entries": {made_up: "pinned"}}).json()
    assert (answer["results"], answer["lost"]) == ([], 1)
    assert client.get(f"/strip/{'2' * 32}/{made_up}/whole").status_code == 404


def test_after_a_restart_the_strip_has_what_was_saved_and_says_what_is_gone(site, tmp_path: Path) -> None:
    browser = site[0]
    with served_page(tmp_path) as (address, worker), visit(browser, address, worker) as visited:
        make(visited, 7, count=2)
        saved = pixels(visited.results()[1])
        item(visited, 7).hover()
        item(visited, 7).locator(".ip2p-pin").click()
        item(visited, 7).locator(".ip2p-pin[aria-pressed=true]").wait_for()
        visited.open_tab("Settings")
        visited.locate("#ip2p_save input").uncheck()
        visited.open_tab("img2img")
        make(visited, 20)
        stored = visited.page.evaluate("({ ...sessionStorage })")
    with served_page(tmp_path) as (address, worker):
        remembered = json.dumps(stored)
        with browser.new_context(viewport={"width": 1280, "height": 900}) as made:
            page = made.new_page()
            page.add_init_script(f"Object.assign(sessionStorage, {remembered})")
            visited = Visit(page, worker)
            page.goto(address)
            visited.ready()
            wait_for(visited, 2)
            assert seeds(visited) == [8, 7]
            assert item(visited, 7).locator(".ip2p-pin").get_attribute("aria-pressed") == "true"
            visited.locate("#ip2p_strip").get_by_text("1 result is gone").wait_for()
            thumb(visited, 8).click()
            wait_for_shown(visited, 8)
            assert all((pixels(one) == saved).all() for one in compared(visited))
            visited.locate("#img2img_progress").get_by_text("input of this result is no longer here").wait_for()
            visited.locate("#ip2p_more_change").click()
            visited.locate("#img2img_progress [role=alert]").get_by_text("no longer here: drop it").wait_for()
            visited.locate("#ip2p_use_as_input").click()
            visited.locate("#img2img_image .image-frame img").wait_for()
            assert (pixels(visited.input_picture()) == saved).all()
