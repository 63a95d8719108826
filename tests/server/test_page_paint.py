"""Painting over what may change, in a real browser: by mouse, by keys, by touch, and from a result."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image, ImageDraw

from instruct_pix2pix.server.page.results import Results
from tools.browser import CHROMIUM, EXAMPLES, Visit, visit

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

SPOT = (190, 80)
"""The middle of the blue square in `spotted`, in pixels of the picture."""
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
BUTTONS = "#ip2p_paint .ip2p-"


@pytest.fixture
def spotted(tmp_path: Path) -> Path:
    """A grey picture of 300 x 200 with a blue square of 20 pixels."""
    image = Image.new("RGB", (300, 200), (150, 150, 150))
    x, y = SPOT
    ImageDraw.Draw(image).rectangle((x - 10, y - 10, x + 9, y + 9), fill=(0, 0, 255))
    image.save(tmp_path / "spotted.png")
    return tmp_path / "spotted.png"


# --- what a person does and sees ---


def begin(visited: Visit, picture: Path) -> None:
    visited.drop(picture)
    visited.open_tab("Inpaint")
    visited.ready_to_paint()


def place(visited: Visit, x: float, y: float) -> tuple[float, float]:
    """Return where on the screen a point of the whole picture is; both are shares of it."""
    visited.locate("#ip2p_paint .ip2p-easel").scroll_into_view_if_needed()
    box = visited.locate("#ip2p_paint canvas").bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


Button = Literal["left", "middle"]


def drag(visited: Visit, start: tuple[float, float], end: tuple[float, float], button: Button = "left") -> None:
    mouse = visited.page.mouse
    mouse.move(*start)
    mouse.down(button=button)
    mouse.move(*end, steps=5)
    mouse.up(button=button)


def paint(visited: Visit, start: tuple[float, float], end: tuple[float, float]) -> None:
    drag(visited, place(visited, *start), place(visited, *end))


def mask(visited: Visit) -> np.ndarray | None:
    """Return what Generate would send, 0..1, or None for nothing."""
    data = visited.locate("#ip2p_mask textarea").input_value().partition(",")[2]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L")) / 255 if data else None


def centre(painted: np.ndarray | None, size: tuple[int, int]) -> tuple[float, float]:
    """Return the middle of what is painted, in pixels of a picture of this size."""
    assert painted is not None
    rows, columns = np.nonzero(painted > 0.5)
    return (columns.mean() + 0.5) / painted.shape[1] * size[0], (rows.mean() + 0.5) / painted.shape[0] * size[1]


def screen(visited: Visit) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(visited.page.screenshot())).convert("RGB")).astype(int)


def spot(visited: Visit) -> tuple[tuple[float, float], float]:
    """Return where the blue square is on the screen, and its side there."""
    shown = screen(visited)
    rows, columns = np.nonzero((shown[..., :2].max(axis=2) < 60) & (shown[..., 2] > 200))
    scale = shown.shape[1] / visited.page.evaluate("innerWidth")
    return ((columns.mean() + 0.5) / scale, (rows.mean() + 0.5) / scale), float(np.sqrt(rows.size)) / scale


def brush(visited: Visit) -> float:
    return float(visited.locate(f"{BUTTONS}brush").input_value())


# --- undo and redo ---


def test_keys_undo_and_redo_strokes_and_leave_the_rest_of_the_page_alone(at_page: Visit) -> None:
    keyboard = at_page.page.keyboard
    begin(at_page, EXAMPLES / "house.png")
    at_page.locate("#img2img_batch_count input[type=number]").click()
    keyboard.press("Control+a")
    keyboard.type("3")  # the focus stays there
    paint(at_page, (0.2, 0.2), (0.4, 0.2))
    first = mask(at_page)
    paint(at_page, (0.6, 0.8), (0.8, 0.8))
    both = mask(at_page)
    assert first is not None and both is not None and both.sum() > 1.5 * first.sum()

    keyboard.press("Control+z")
    assert (mask(at_page) == first).all()
    keyboard.press("Control+z")
    assert mask(at_page) is None
    for _ in range(3):
        keyboard.press("Control+z")
    assert at_page.number("img2img_batch_count") == 3
    keyboard.press("Control+Shift+Z")
    assert (mask(at_page) == first).all()
    keyboard.press("Control+y")
    assert (mask(at_page) == both).all()

    # taking all away can be undone too, and what is painted then ends what could be done again
    at_page.locate(f"{BUTTONS}clear").click()
    assert mask(at_page) is None
    keyboard.press("Control+z")
    assert (mask(at_page) == both).all()
    keyboard.press("Control+z")
    paint(at_page, (0.5, 0.5), (0.5, 0.6))
    third = mask(at_page)
    assert at_page.locate(f"{BUTTONS}redo").get_attribute("aria-disabled") == "true"
    keyboard.press("Control+y")
    assert (mask(at_page) == third).all()

    # who types undoes what was typed
    at_page.locate("#img2img_prompt textarea").click()
    keyboard.type("make it winter")
    keyboard.press("Control+z")
    assert at_page.prompt() != "make it winter"
    assert (mask(at_page) == third).all()

    # another picture begins anew
    at_page.paste(EXAMPLES / "car.png")
    at_page.page.wait_for_function("document.querySelector('#ip2p_mask textarea').value === ''")
    at_page.locate("#ip2p_paint canvas").focus()
    keyboard.press("Control+z")
    assert mask(at_page) is None


def test_the_eraser_takes_away_and_the_buttons_undo_and_redo(at_page: Visit) -> None:
    begin(at_page, EXAMPLES / "house.png")
    paint(at_page, (0.2, 0.5), (0.8, 0.5))
    line = mask(at_page)
    at_page.locate(f"{BUTTONS}erase").click()
    assert at_page.page.get_by_role("button", name="Erase", pressed=True).is_visible()
    paint(at_page, (0.5, 0.3), (0.5, 0.7))
    cut = mask(at_page)
    assert line is not None and cut is not None
    assert line[512, 512] == 1 and cut[512, 512] == 0 and cut[512, 256] == 1
    at_page.locate(f"{BUTTONS}undo").click()
    assert (mask(at_page) == line).all()
    at_page.locate(f"{BUTTONS}redo").click()
    assert (mask(at_page) == cut).all()


# --- the brush ---


def test_brackets_size_the_brush_unless_somebody_types(at_page: Visit) -> None:
    keyboard = at_page.page.keyboard
    begin(at_page, EXAMPLES / "house.png")

    def dot() -> float:
        """Return the width of a dot, as a share of the picture."""
        at_page.page.mouse.click(*place(at_page, 0.5, 0.5))
        painted = mask(at_page)
        keyboard.press("Control+z")
        assert painted is not None
        return painted[512].sum() / 1024

    assert dot() == pytest.approx(0.08, abs=0.003)
    for _ in range(3):
        keyboard.press("]")
    larger = brush(at_page)
    assert larger > 8 and dot() == pytest.approx(larger / 100, abs=0.003)
    for _ in range(60):
        keyboard.press("[")
    assert brush(at_page) == 1 and dot() == pytest.approx(0.01, abs=0.003)
    at_page.locate("#img2img_prompt textarea").click()
    keyboard.type("a [red] door")
    assert at_page.prompt() == "a [red] door" and brush(at_page) == 1


@pytest.mark.parametrize("colour", [0, 128, 255])
def test_the_outline_of_the_brush_is_seen_on_every_picture(at_page: Visit, tmp_path: Path, colour: int) -> None:
    Image.new("RGB", (200, 200), (colour, colour, colour)).save(tmp_path / "plain.png")
    begin(at_page, tmp_path / "plain.png")
    for value, zoomed in (("8", 1), ("20", 1), ("8", 2)):
        at_page.locate(f"{BUTTONS}brush").fill(value)
        if zoomed == 2:
            at_page.locate(f"{BUTTONS}zoom-in").click(click_count=2)
        at_page.page.wait_for_function("document.querySelector('.ip2p-ring').hidden")
        x, y = place(at_page, 0.5, 0.5)
        without = screen(at_page)
        at_page.page.mouse.move(x, y)
        seen = screen(at_page)
        rows, columns = np.nonzero(np.abs(seen - without).max(axis=2) > 100)
        away = np.hypot(columns + 0.5 - x, rows + 0.5 - y)
        side = at_page.locate("#ip2p_paint canvas").bounding_box()["width"]
        radius = side * float(value) / 100 / 2
        assert away.size > 4 * radius  # most of the way around
        assert np.abs(away - radius).max() < 3
        at_page.page.mouse.move(5, 5)
        near = np.s_[int(y) - 150 : int(y) + 150, int(x) - 150 : int(x) + 150]
        assert (screen(at_page)[near] == without[near]).all()


# --- zoom and pan ---


def test_a_stroke_on_what_is_seen_lands_there_however_the_picture_was_zoomed_and_moved(
    at_page: Visit, spotted: Path
) -> None:
    page = at_page.page
    begin(at_page, spotted)
    (_, whole) = spot(at_page)

    def paint_on_it() -> None:
        where, _ = spot(at_page)
        page.mouse.click(*where)
        assert centre(mask(at_page), (300, 200)) == pytest.approx(SPOT, abs=1)
        page.keyboard.press("Control+z")
        page.mouse.move(5, 5)

    paint_on_it()
    for _ in range(2):
        at_page.locate(f"{BUTTONS}zoom-in").click()
    assert spot(at_page)[1] == pytest.approx(2 * whole, rel=0.03)
    paint_on_it()

    # the pointer's place stays where it is while the wheel zooms, and the page does not scroll
    before, _ = spot(at_page)
    page.mouse.move(*before)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -100)
    page.keyboard.up("Control")
    page.wait_for_timeout(100)
    page.mouse.move(5, 5)
    after, side = spot(at_page)
    assert after == pytest.approx(before, abs=2) and side > 2.5 * whole
    assert page.evaluate("scrollY") == 0
    paint_on_it()

    # it is moved by the middle button, and with Space
    drag(at_page, before, (before[0] - 40, before[1] + 30), button="middle")
    page.mouse.move(5, 5)
    assert spot(at_page)[0] == pytest.approx((before[0] - 40, before[1] + 30), abs=2)
    assert mask(at_page) is None
    paint_on_it()
    before, _ = spot(at_page)
    page.mouse.move(*before)
    page.keyboard.down(" ")
    drag(at_page, before, (before[0] + 30, before[1] + 20))
    page.keyboard.up(" ")
    page.mouse.move(5, 5)
    assert spot(at_page)[0] == pytest.approx((before[0] + 30, before[1] + 20), abs=2)
    assert mask(at_page) is None and page.evaluate("scrollY") == 0
    paint_on_it()

    # its edges stay out of the box, and one click shows all of it again
    easel = at_page.locate("#ip2p_paint .ip2p-easel").bounding_box()
    middle = (easel["x"] + easel["width"] / 2, easel["y"] + easel["height"] / 2)
    for _ in range(8):
        drag(at_page, middle, (middle[0] + 200, middle[1]), button="middle")
    assert place(at_page, 0, 0)[0] == pytest.approx(easel["x"], abs=2)
    at_page.locate(f"{BUTTONS}fit").click()
    assert spot(at_page)[1] == pytest.approx(whole, rel=0.03)
    paint_on_it()


def test_space_over_the_picture_does_not_press_the_button_that_was_clicked_last(at_page: Visit) -> None:
    begin(at_page, EXAMPLES / "house.png")
    paint(at_page, (0.2, 0.2), (0.4, 0.2))
    paint(at_page, (0.2, 0.6), (0.4, 0.6))
    at_page.locate(f"{BUTTONS}undo").click()
    one = mask(at_page)
    at_page.page.mouse.move(*place(at_page, 0.5, 0.5))
    at_page.page.keyboard.press(" ")
    assert (mask(at_page) == one).all()


# --- by keys alone ---


def test_keys_alone_paint_and_are_seen_to(at_page: Visit) -> None:
    keyboard = at_page.page.keyboard
    begin(at_page, EXAMPLES / "house.png")
    at_page.locate(f"{BUTTONS}zoom-in").focus()
    keyboard.press("Tab")
    assert at_page.page.evaluate("document.activeElement.tagName") == "CANVAS"
    assert at_page.locate("#ip2p_paint .ip2p-ring").is_visible()
    for _ in range(5):
        keyboard.press("ArrowLeft")
    assert mask(at_page) is None
    keyboard.press("Enter")
    dot = centre(mask(at_page), (96, 96))
    assert dot[0] == pytest.approx(48 - 5 * 0.02 * 96, abs=0.5) and dot[1] == pytest.approx(48, abs=0.5)
    one = mask(at_page)
    keyboard.down("Shift")
    for _ in range(6):
        keyboard.press("ArrowDown")
    keyboard.up("Shift")
    line = mask(at_page)
    assert line is not None and one is not None and line.sum() > 2 * one.sum()
    assert line[int(1024 * (0.5 + 6 * 0.02)), int(1024 * (0.5 - 5 * 0.02))] == 1
    keyboard.press("Control+z")
    assert (mask(at_page) == one).all()

    # zoomed in, the brush stays in sight
    for _ in range(4):
        keyboard.press("+")
    for _ in range(60):
        keyboard.press("ArrowRight")
    easel = at_page.locate("#ip2p_paint .ip2p-easel").bounding_box()
    ring = at_page.locate("#ip2p_paint .ip2p-ring").bounding_box()
    assert ring["x"] + ring["width"] / 2 == pytest.approx(easel["x"] + easel["width"], abs=3)
    assert place(at_page, 1, 0.5)[0] == pytest.approx(easel["x"] + easel["width"], abs=3)


# --- where it is on the page ---


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_the_bar_and_the_whole_picture_are_in_view_together(site, width: int, height: int) -> None:
    with visit(*site, viewport={"width": width, "height": height}) as visited:
        begin(visited, EXAMPLES / "house.png")
        if width < 1000:  # a phone is scrolled down to the picture in any case
            visited.page.evaluate("document.querySelector('#ip2p_paint').scrollIntoView({ block: 'center' })")
        boxes = [visited.locate(f"#ip2p_paint {one}").bounding_box() for one in ("canvas", ".ip2p-brushes")]
        for box in boxes:
            assert box["y"] >= 0 and box["y"] + box["height"] <= height
            assert box["x"] >= 0 and box["x"] + box["width"] <= width
        controls = visited.locate(":is(#ip2p_paint :is(button, input), #ip2p_result_buttons button):visible")
        for i in range(controls.count()):
            box = controls.nth(i).bounding_box()
            assert min(box["width"], box["height"]) >= 24, controls.nth(i).evaluate("(one) => one.outerHTML")
        assert visited.page.evaluate("document.documentElement.scrollWidth") <= width


# --- by touch ---


def test_one_finger_paints_and_two_zoom_and_move(site, spotted: Path) -> None:
    with visit(*site, **PHONE) as visited:
        begin(visited, spotted)
        visited.page.evaluate("document.querySelector('#ip2p_paint').scrollIntoView({ block: 'center' })")
        touch = visited.page.context.new_cdp_session(visited.page)

        def fingers(kind: str, *points: tuple[float, float]) -> None:
            there = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(points)]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": there})

        before, whole = spot(visited)
        (x, y), scrolled = before, visited.page.evaluate("scrollY")
        fingers("touchStart", (x - 20, y))
        fingers("touchStart", (x - 20, y), (x + 20, y))
        for apart in range(20, 41, 4):
            fingers("touchMove", (x - apart, y), (x + apart, y))
        for left in range(0, 31, 10):
            fingers("touchMove", (x - 40 - left, y), (x + 40 - left, y))
        fingers("touchEnd", (x - 70, y))
        fingers("touchMove", (x - 60, y + 60))  # the finger that stays paints nothing
        fingers("touchEnd")
        assert mask(visited) is None
        after, side = spot(visited)
        assert side == pytest.approx(2 * whole, rel=0.05)
        assert after[0] == pytest.approx(x - 30, abs=3)
        assert visited.page.evaluate("scrollY") == scrolled

        fingers("touchStart", after)
        fingers("touchEnd")
        assert centre(mask(visited), (300, 200)) == pytest.approx(SPOT, abs=1)
        assert not visited.locate("#ip2p_paint .ip2p-ring").is_visible()
        visited.locate(f"{BUTTONS}undo").tap()
        assert mask(visited) is None
        assert visited.errors == []


# --- from a result ---


def test_a_result_is_sent_to_inpaint_with_an_empty_mask_and_the_settings_stay(
    at_page: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks: list[np.ndarray] = []
    submit = at_page.worker.submit

    def noted(request, *more):
        masks.append(np.asarray(request.mask.convert("L").resize((96, 96))).astype(int))
        return submit(request, *more)

    begin(at_page, EXAMPLES / "house.png")
    at_page.write("make it winter")
    for name, value in (("img2img_steps", 2), ("img2img_batch_count", 2), ("ip2p_text_cfg", 6.5)):
        at_page.set(name, value)
    paint(at_page, (0.1, 0.1), (0.9, 0.1))
    at_page.generate()
    at_page.locate("#img2img_gallery .thumbnail-item").nth(1).click()
    wanted = np.asarray(at_page.results()[1].convert("RGB"))
    shown = "document.querySelectorAll('#img2img_gallery img')[1].src"
    compared = "[...document.querySelectorAll('#ip2p_compare img')]"
    at_page.page.wait_for_function(f"{compared}.some((one) => one.src === {shown})")
    at_page.locate("#mode_img2img").get_by_role("tab", name="Batch").click()
    send = at_page.page.get_by_role("button", name="Send to inpaint")
    send.click()
    at_page.page.wait_for_function("!document.querySelector('#img2img_image img').src.includes('house.png')")
    at_page.page.wait_for_function("document.activeElement.tagName === 'CANVAS'")
    assert at_page.page.get_by_role("tab", name="Inpaint", selected=True).is_visible()
    assert (np.asarray(at_page.input_picture().convert("RGB")) == wanted).all()
    assert mask(at_page) is None
    box = at_page.locate("#ip2p_paint canvas").bounding_box()
    window = at_page.page.evaluate("innerHeight")
    assert box["y"] >= 0 and box["y"] + box["height"] <= window
    assert (at_page.prompt(), at_page.number("img2img_steps")) == ("make it winter", 2)
    assert at_page.number("ip2p_text_cfg") == 6.5

    # only the new stroke reaches the server
    paint(at_page, (0.3, 0.8), (0.7, 0.8))
    monkeypatch.setattr(at_page.worker, "submit", noted)
    at_page.set("img2img_batch_count", 1)
    at_page.generate()
    (sent,) = masks
    rows, columns = np.nonzero(sent > 127)
    assert rows.min() >= 0.75 * 96 and rows.max() <= 0.85 * 96
    assert columns.min() == pytest.approx(0.26 * 96, abs=2) and columns.max() == pytest.approx(0.74 * 96, abs=2)

    # sent again, the picture that is there already loses its strokes, which can be undone
    send.click()
    at_page.page.wait_for_function("document.querySelector('#ip2p_mask textarea').value === ''")
    at_page.ready_to_paint()
    paint(at_page, (0.5, 0.2), (0.5, 0.4))
    painted = mask(at_page)
    assert painted is not None
    send.click()
    at_page.page.wait_for_function("document.querySelector('#ip2p_mask textarea').value === ''")
    at_page.page.wait_for_function("document.activeElement.tagName === 'CANVAS'")
    at_page.page.keyboard.press("Control+z")
    assert (mask(at_page) == painted).all()

    # one that is no longer kept leaves everything as it is
    monkeypatch.setattr(Results, "find", lambda *_: None)
    send.click()
    at_page.locate("#img2img_progress").get_by_text("This result is no longer kept").wait_for()
    at_page.page.wait_for_timeout(500)
    assert (mask(at_page) == painted).all()
