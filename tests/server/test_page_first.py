"""The first minute on the page in a real browser: what is in view, in which order, and in whose reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter
from playwright.sync_api import TimeoutError as WaitedInVain

from instruct_pix2pix.models.checkpoints import Checkpoint, inspect
from instruct_pix2pix.models.registry import DEMO, ModelEntry
from instruct_pix2pix.server.page import html
from tools.browser import CHROMIUM, EXAMPLES, Visit, visit

in_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

DESKTOP, LARGE = {"width": 1280, "height": 800}, {"width": 1920, "height": 1080}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
SCREENS = pytest.mark.parametrize("screen", [{"viewport": DESKTOP}, {"viewport": LARGE}], ids=["1280", "1920"])
EVERY_SCREEN = pytest.mark.parametrize(
    "screen", [{"viewport": DESKTOP}, {"viewport": LARGE}, PHONE], ids=["1280", "1920", "390"]
)
COLOURS = pytest.mark.parametrize("colours", ["light", "dark"])

INSTRUCTION, GENERATE, PICTURE = "#img2img_prompt textarea", "#img2img_generate", "#img2img_image"
SCALES = ["#ip2p_text_cfg", "#ip2p_image_cfg"]

Box = dict[str, float]


# --- what a person sees ---


def box(visited: Visit, selector: str) -> Box:
    found = visited.locate(selector).bounding_box()
    assert found is not None, selector
    return found


def bottom(one: Box) -> float:
    return one["y"] + one["height"]


def right(one: Box) -> float:
    return one["x"] + one["width"]


def in_view(visited: Visit, *selectors: str) -> list[Box]:
    """Return the boxes of elements, all of which must be in the window, whole."""
    size = visited.page.viewport_size or {}
    boxes = [box(visited, selector) for selector in selectors]
    for selector, one in zip(selectors, boxes, strict=True):
        assert one["x"] >= 0 and right(one) <= size["width"], selector
        assert one["y"] >= 0 and bottom(one) <= size["height"], selector
    return boxes


def are_apart(boxes: list[Box]) -> bool:
    """Whether no two boxes share more than an edge."""
    return not any(
        min(right(one), right(other)) - max(one["x"], other["x"]) > 1
        and min(bottom(one), bottom(other)) - max(one["y"], other["y"]) > 1
        for place, one in enumerate(boxes)
        for other in boxes[:place]
    )


def scrolled(visited: Visit) -> list[float]:
    """Return how far the page and its column of settings were scrolled."""
    return visited.page.evaluate("[scrollX, scrollY, document.querySelector('#img2img_settings').scrollTop]")


def is_no_wider_than_the_screen(visited: Visit) -> bool:
    return visited.page.evaluate("document.documentElement.scrollWidth <= innerWidth")


REACHED = """(selector) => {
    const one = document.querySelector(selector), box = one.getBoundingClientRect();
    const reached = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
    const covers = reached?.outerHTML.slice(0, 300);
    return one.contains(reached) ? "" : `${selector} at ${JSON.stringify(box)} is under ${covers}`;
}"""


def require_uncovered(visited: Visit, *selectors: str) -> None:
    """Require that a click in the middle of these elements reaches them, once the page has come to rest."""
    for selector in selectors:
        try:
            visited.page.wait_for_function(f"(selector) => !({REACHED})(selector)", arg=selector, timeout=5000)
        except WaitedInVain:
            pytest.fail(visited.page.evaluate(REACHED, selector))


def photograph(folder: Path, size: tuple[int, int] = (300, 200)) -> Path:
    noise = np.random.default_rng(3).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(3))
    picture.save(folder / "photograph.png")
    return folder / "photograph.png"


# --- on a desk ---


@in_browser
@SCREENS
@COLOURS
def test_a_first_visit_shows_all_that_an_edit_takes_and_what_to_expect(site, screen: Any, colours: Any) -> None:
    with visit(*site, **screen, color_scheme=colours) as visited:
        visited.locate("#ip2p_examples img").nth(3).wait_for()
        instruction, generate, picture, examples, *scales = in_view(
            visited, INSTRUCTION, GENERATE, PICTURE, "#ip2p_examples", *SCALES
        )
        assert are_apart([instruction, generate, picture, examples, *scales])
        assert bottom(instruction) < scales[0]["y"] < bottom(instruction) + 40  # right under it
        assert max(map(bottom, scales)) < picture["y"] and right(picture) < examples["x"]
        assert picture["width"] > 0.3 * screen["viewport"]["width"] and picture["height"] > 240
        assert is_no_wider_than_the_screen(visited) and scrolled(visited) == [0, 0, 0]
        # in plain words
        assert visited.locate("#setting_sd_model_checkpoint input").input_value() == "demo: drawn landscapes"
        assert "channels" not in visited.locate("body").inner_text()
        assert visited.page.get_by_role("tab", name="img2img").count() == 1
        assert visited.elsewhere == [] and visited.errors == []


@in_browser
@pytest.mark.parametrize(
    ("screen", "colours", "size"),
    [
        (DESKTOP, "light", (300, 200)),
        (DESKTOP, "dark", (200, 200)),
        (DESKTOP, "light", (200, 300)),
        (LARGE, "dark", (300, 200)),
        (LARGE, "light", (200, 200)),
    ],
    ids=["1280-wide", "1280-square", "1280-tall", "1920-wide", "1920-square"],
)
def test_from_a_dropped_picture_to_before_and_after_nothing_is_scrolled(
    site, screen: Any, colours: Any, size: tuple[int, int], tmp_path: Path
) -> None:
    with visit(*site, viewport=screen, color_scheme=colours) as visited:
        visited.drop(photograph(tmp_path, size))
        visited.locate("#ip2p_templates input").click()
        visited.page.get_by_role("option", name="Make it {a season or time of day}").click()
        visited.page.wait_for_function("document.activeElement?.closest('#img2img_prompt') !== null")
        visited.page.keyboard.type("winter")
        visited.set("img2img_steps", 2)
        visited.set("img2img_batch_count", 4)
        visited.generate()
        visited.page.wait_for_function("document.querySelectorAll('#img2img_gallery .thumbnail-item').length === 4")
        visited.page.wait_for_function("[...document.images].every((one) => one.complete)")
        visited.locate("#img2img_gallery .thumbnail-item").nth(2).click()
        visited.locate("#img2img_reuse_seed").click()  # to tune at this seed
        visited.page.wait_for_function("document.querySelector('#img2img_seed input').value >= 0")
        visited.set("ip2p_image_cfg", 1.2)

        picture, result, thumbs, buttons, generate = in_view(
            visited,
            f"{PICTURE} img",
            "#ip2p_compare",
            "#img2img_gallery",
            "#ip2p_result_buttons",
            GENERATE,
        )
        assert scrolled(visited) == [0, 0, 0] and is_no_wider_than_the_screen(visited)
        in_view(visited, INSTRUCTION, *SCALES, "#img2img_seed", "#img2img_batch_count", "#img2img_progress")
        assert are_apart([picture, result, thumbs, buttons, generate])
        # beside each other, at one height, and large: as wide as their place or as high
        assert right(picture) <= result["x"] and abs(picture["y"] - result["y"]) < 8
        assert result["width"] > 0.33 * screen["width"]
        assert abs(picture["width"] - result["width"]) < 8 and abs(picture["height"] - result["height"]) < 8
        fills = result["height"] * size[0] / size[1]
        assert fills > result["width"] - 8 or result["height"] > 0.37 * screen["height"]
        assert visited.errors == []


@in_browser
def test_an_example_is_seen_before_and_after_its_edit(at_page: Visit) -> None:
    images = at_page.locate("#ip2p_examples img")
    images.nth(3).wait_for()
    for image, name in zip(images.all(), ("house", "car", "ball", "night"), strict=True):
        pair = at_page.fetch(image.get_attribute("src")).convert("RGB")
        assert pair.width == pytest.approx(2 * pair.height, rel=0.05)
        side = pair.height
        before, after = (np.asarray(pair.crop((x, 0, x + side, side))).astype(int) for x in (0, pair.width - side))
        picture = Image.open(EXAMPLES / f"{name}.png").convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        assert np.abs(before - np.asarray(picture)).mean() < 6
        assert np.abs(after - before).max(axis=2).max() > 80
    # where a folder is edited there are none, and none once there are results
    at_page.open_tab("Batch")
    at_page.locate("#ip2p_examples").wait_for(state="hidden")
    at_page.open_tab("Picture")
    images.nth(2).click()
    at_page.locate(f"{PICTURE} img").wait_for()
    at_page.set("img2img_steps", 2)
    at_page.generate()
    at_page.locate("#ip2p_examples").wait_for(state="hidden")


# --- wherever one is ---


@in_browser
@EVERY_SCREEN
def test_generate_and_interrupt_stay_in_reach_at_the_last_setting(site, screen: Any) -> None:
    with visit(*site, **screen) as visited:
        visited.locate("#ip2p_examples .thumbnail-item").first.click()
        visited.locate(f"{PICTURE} img").wait_for()
        visited.unfold("Size of the edit")
        visited.unfold("More settings")
        visited.locate("#ip2p_vae input").wait_for()
        visited.locate("#ip2p_vae").evaluate("(one) => one.scrollIntoView({ block: 'center' })")
        visited.set("img2img_steps", 100)
        visited.locate("#ip2p_vae").evaluate("(one) => one.scrollIntoView({ block: 'center' })")
        in_view(visited, "#ip2p_vae", GENERATE)
        require_uncovered(visited, GENERATE, "#ip2p_vae input")
        visited.generate(wait=False)
        in_view(visited, "#img2img_interrupt")
        require_uncovered(visited, "#img2img_interrupt")
        # what becomes of it is in sight
        visited.page.wait_for_function(
            """() => {
                const box = document.querySelector("#img2img_progress").getBoundingClientRect();
                return 0 <= box.top && box.bottom <= innerHeight;
            }"""
        )
        visited.locate("#img2img_interrupt").click()
        visited.wait_for_end()


# --- on a phone ---


@in_browser
@COLOURS
def test_on_a_phone_picture_instruction_generate_and_result_follow_one_another(site, colours: Any) -> None:
    with visit(*site, **PHONE, color_scheme=colours) as visited:
        order = [PICTURE, INSTRUCTION, GENERATE, "#img2img_results", *SCALES, "#img2img_seed", "#ip2p_more_settings"]

        def is_in_order() -> None:
            visited.page.evaluate("scrollTo(0, 0)")
            boxes = [box(visited, selector) for selector in order]
            assert are_apart(boxes)
            tops = [one["y"] for one in boxes]
            assert tops == sorted(tops)
            assert is_no_wider_than_the_screen(visited)
            in_view(visited, INSTRUCTION, GENERATE)

        visited.locate("#ip2p_examples img").nth(3).wait_for()
        is_in_order()
        visited.locate("#ip2p_examples .thumbnail-item").nth(1).click()
        visited.locate(f"{PICTURE} img").wait_for()
        visited.set("img2img_steps", 2)
        visited.set("img2img_batch_count", 2)
        visited.generate()
        visited.locate("#ip2p_compare img").first.wait_for()
        is_in_order()
        assert box(visited, "#ip2p_compare")["width"] > 340


SMALL_TARGETS = """() => {
    const seen = (one) => one.checkVisibility({ visibilityProperty: true, opacityProperty: true });
    const places = [...document.querySelectorAll("button, a[href], input, select, textarea, [role=button], summary")];
    const inText = (one) => one.matches("p a, small a");
    const measures = (one) => one.closest(".visually-hidden"); // gradio's copy of a row of tabs
    const area = (one) => {
        const label = one.matches("[type=checkbox], [type=radio]") ? one.closest("label") : null;
        return (label ?? one).getBoundingClientRect();
    };
    return places.filter((one) => seen(one) && !inText(one) && !measures(one))
        .map((one) => [area(one), one])
        .filter(([{ width, height }]) => width > 0 && Math.min(width, height) < 23.99)
        .map(([{ width, height }, one]) => `${width.toFixed(1)} x ${height.toFixed(1)} ${one.outerHTML.slice(0, 160)}`);
}"""


@in_browser
def test_a_finger_finds_nothing_smaller_than_24_pixels(site) -> None:
    with visit(*site, **PHONE) as visited:
        visited.locate("#ip2p_examples .thumbnail-item").first.click()
        visited.locate(f"{PICTURE} img").wait_for()
        visited.set("img2img_steps", 2)
        visited.locate("#ip2p_keep_rest").get_by_label("always").check()
        visited.locate("#ip2p_keep_amount").wait_for()
        visited.generate()
        visited.locate("#ip2p_compare img").first.wait_for()
        for fold in ("What was kept", "Size of the edit", "More settings"):
            visited.unfold(fold)
        visited.locate("#ip2p_vae input").wait_for()
        visited.locate("#img2img_sizing").get_by_label("Width × height").check()
        visited.locate("#img2img_width").wait_for()
        visited.locate("#ip2p_matrix_open").click()
        assert visited.page.evaluate(SMALL_TARGETS) == []
        visited.locate("#ip2p_by_strength input").check()
        visited.locate("#ip2p_strength").wait_for()
        assert visited.page.evaluate(SMALL_TARGETS) == []
        for tab in ("Inpaint", "Batch", "PNG Info", "Models", "Settings"):
            visited.open_tab(tab)
            visited.page.wait_for_timeout(300)
            assert visited.page.evaluate(SMALL_TARGETS) == [], tab
            assert is_no_wider_than_the_screen(visited), tab


# --- numbers ---


@in_browser
def test_an_emptied_number_goes_back_to_its_default(at_page: Visit) -> None:
    defaults = {
        "img2img_steps": 20,
        "ip2p_text_cfg": 7.5,
        "ip2p_image_cfg": 1.5,
        "img2img_batch_count": 4,
        "img2img_seed": -1,
    }

    def empty(elem_id: str) -> None:
        field = at_page.locate(f"#{elem_id} input[type=number]")
        field.click()
        at_page.page.keyboard.press("Control+a")
        at_page.page.keyboard.press("Delete")
        at_page.page.keyboard.press("Tab")

    for elem_id, default in defaults.items():
        at_page.set(elem_id, 3)
        empty(elem_id)
        assert at_page.number(elem_id) == default, elem_id
    # also of what the page remembered from another visit, and for the edit itself
    at_page.drop(EXAMPLES / "house.png")
    at_page.write("make it winter")
    at_page.set("img2img_steps", 3)
    at_page.set("img2img_batch_count", 1)
    at_page.set("ip2p_text_cfg", 3)
    at_page.generate()
    at_page.reload()
    at_page.page.wait_for_function("document.querySelector('#ip2p_text_cfg input[type=number]').value == 3")
    empty("ip2p_text_cfg")
    assert at_page.number("ip2p_text_cfg") == 7.5
    at_page.generate()
    [result] = at_page.results()
    assert "CFG scale: 7.5, Image CFG scale: 1.5" in result.info["parameters"]


# --- how much has to come ---


@in_browser
def test_the_first_view_is_less_than_a_megabyte(site) -> None:
    browser, address, worker = site
    with browser.new_context(viewport=DESKTOP) as made:
        page = made.new_page()
        network, sizes = made.new_cdp_session(page), []
        network.on("Network.loadingFinished", lambda told: sizes.append(told["encodedDataLength"]))
        network.send("Network.enable")
        page.goto(address)
        visited = Visit(page, worker)
        visited.ready()
        visited.locate("#ip2p_examples img").nth(3).wait_for()
        page.wait_for_timeout(500)
        assert 100_000 < sum(sizes) < 1_000_000


# --- words ---


def entry(name: str, kind: str, family: str, *missing: str) -> ModelEntry:
    found = Checkpoint(Path(name), kind, "ldm", family, 8, 768, False, "float16", 1, "", missing=missing)
    return ModelEntry(name, Path(f"{name}.safetensors"), found, None)


@pytest.mark.parametrize(
    ("model", "label"),
    [
        (ModelEntry("demo", DEMO, inspect(DEMO), None), "demo: drawn landscapes"),
        (entry("a", "instruct-pix2pix", "sd1"), "a: photographs, 512 px"),
        (entry("b", "CosXL-Edit", "sdxl"), "b: photographs, 1024 px"),
        (entry("c", "instruct-pix2pix", "other"), "c: edits pictures"),
        (entry("d", "Stable Diffusion", "sd1"), "d: cannot edit (Stable Diffusion)"),
        (entry("e", "instruct-pix2pix", "sd1", "VAE"), "e: cannot edit (without VAE)"),
        (ModelEntry("f", Path("f.ckpt"), None, "torn"), "f: cannot be read"),
    ],
)
def test_a_model_is_called_by_what_it_is_for(model: ModelEntry, label: str) -> None:
    assert html.model_choice(model) == label
