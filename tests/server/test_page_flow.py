"""One photograph edited from drop to save, as a person does it: without scrolling, and in few clicks."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from instruct_pix2pix.engine.edit import settings_here
from tools.browser import CHROMIUM, Visit, visit

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

MOST_CLICKS = 18
SHOWN = "#html_info_img2img textarea"


def photograph(folder: Path) -> Path:
    noise = np.random.default_rng(5).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    picture = Image.fromarray(noise).resize((1200, 800), Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(8))
    grain = np.random.default_rng(6).normal(0, 6, (800, 1200, 3))
    Image.fromarray((np.asarray(picture) + grain).clip(0, 255).astype(np.uint8)).save(folder / "holiday.jpg")
    return folder / "holiday.jpg"


class Person:
    """Counts clicks, and looks after each whether the page has been scrolled."""

    def __init__(self, visited: Visit) -> None:
        self.visited, self.clicks = visited, 0

    def click(self, what: Any, **how: Any) -> None:
        locator = self.visited.locate(what) if isinstance(what, str) else what
        size = self.visited.page.viewport_size or {}
        locator.scroll_into_view_if_needed()  # in a list; the page itself stays where it is
        box = locator.bounding_box()
        assert box is not None and box["y"] >= 0 and box["y"] + box["height"] <= size["height"], what
        locator.click(**how)
        self.clicks += 1
        assert self.visited.page.evaluate("[scrollX, scrollY]") == [0, 0], what

    def generate(self) -> None:
        self.click("#img2img_generate")
        self.visited.locate("#img2img_interrupt").wait_for()
        self.visited.wait_for_end()

    def shows(self, seed: int) -> None:
        script = "([box, words]) => document.querySelector(box).value.includes(words)"
        self.visited.page.wait_for_function(script, arg=[SHOWN, f"Seed: {seed},"])


def thumb(visited: Visit, seed: int):
    return visited.locate("#ip2p_strip li button").filter(has_text=re.compile(rf"^seed {seed}\s"))


@pytest.mark.parametrize("colours", ["light", "dark"])
def test_a_photograph_from_drop_to_save(site, colours: str, tmp_path: Path) -> None:
    with visit(*site, viewport={"width": 1280, "height": 800}, color_scheme=colours) as visited:
        person, page = Person(visited), visited.page
        visited.drop(photograph(tmp_path))
        for name, value in (("img2img_steps", 2), ("img2img_seed", 7), ("img2img_batch_count", 4)):
            visited.set(name, value)  # four is the default; few steps and one seed are the test's

        # a template, four seeds
        person.click("#ip2p_templates input")
        person.click(page.get_by_role("option", name="Make it {a season or time of day}"))
        page.wait_for_function("document.activeElement?.closest('#img2img_prompt') !== null")
        page.keyboard.type("winter")
        person.generate()
        person.shows(7)

        # tune one of them at its seed
        person.click(visited.locate("#img2img_gallery .thumbnail-item").nth(1))
        person.shows(8)
        person.click("#ip2p_more_change")
        visited.locate("#img2img_interrupt").wait_for()
        visited.wait_for_end()
        page.wait_for_function("document.querySelectorAll('#ip2p_strip li').length === 5")
        person.shows(8)
        assert settings_here(visited.locate(SHOWN).input_value())[0].text_cfg > 7.5

        # compare two: the one that is shown with the best of before
        person.click(thumb(visited, 7), modifiers=["Shift"])
        visited.locate("#ip2p_lightbox").wait_for()
        page.keyboard.press("Escape")
        visited.locate("#ip2p_lightbox").wait_for(state="hidden")

        # take one as input, take that back
        person.click("#ip2p_use_as_input")
        visited.locate("#img2img_image .image-frame img:not([src*='holiday'])").wait_for()
        person.click("#ip2p_former_input")
        visited.locate("#img2img_image .image-frame img[src*='holiday']").wait_for()

        # paint over a part, undo a stroke, edit that part alone
        person.click(page.get_by_role("tab", name="Inpaint", exact=True))
        visited.ready_to_paint()
        canvas = visited.locate("#ip2p_paint canvas").bounding_box()
        x, y = canvas["x"] + canvas["width"] / 3, canvas["y"] + canvas["height"] / 2
        for step in (0, 40):
            page.mouse.move(x, y + step)
            page.mouse.down()
            page.mouse.move(x + 60, y + step, steps=4)
            page.mouse.up()
            person.clicks += 1
        page.keyboard.press("Control+z")
        person.generate()
        person.shows(8)  # the seed that was tuned stays

        # save
        with page.expect_download() as saved:
            person.click("#ip2p_download")
        with Image.open(saved.value.path()) as picture:
            assert picture.size == (1200, 800)  # its own
        assert person.clicks <= MOST_CLICKS
        assert visited.elsewhere == [] and visited.errors == []
