"""In each real host: the panel on the host's page, in a real browser."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from tests.hosts import checkpoints
from tests.hosts.running import Host, picture

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Locator, WebSocket

playwright = pytest.importorskip("playwright.sync_api")

PATIENCE = 240_000
"""Milliseconds: hosts take their time on a busy CPU."""

CHECKPOINT = "#setting_sd_model_checkpoint input, .model_selection input"
OPTIONS = "ul.options li, [role=option]"


def browser_path() -> str | None:
    return next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as engine:
        running = engine.chromium.launch(executable_path=browser_path(), args=["--no-sandbox"])
        yield running
        running.close()


class Page:
    """The img2img tab of a host."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.page = browser.new_page(viewport={"width": 1400, "height": 1600})
        self.page.set_default_timeout(PATIENCE)
        self.complaints: list[str] = []
        self.sockets: list[WebSocket] = []
        self.page.on("websocket", lambda one: self.sockets.append(one))  # Playwright takes no built-in
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.complaints.append(f"{error} {error.stack}"))
        self.page.goto(url, wait_until="domcontentloaded")
        self.ready()

    def _note(self, message: ConsoleMessage) -> None:
        if message.type == "error":
            self.complaints.append(f"{message.text} {message.location}")

    def close(self) -> None:
        """Close it when nothing is asked of the host any more.

        gradio 3 never ends the event of a page that left in its middle, and Reload UI then waits for it for ever.
        """
        for _ in range(PATIENCE // 100):
            if all(one.is_closed() for one in self.sockets):
                break
            self.page.wait_for_timeout(100)
        self.page.close()

    def ready(self) -> None:
        self.page.wait_for_selector("#img2img_prompt textarea", state="attached")
        self.page.wait_for_function("typeof switch_to_img2img === 'function'")
        self.page.wait_for_timeout(3000)
        self.page.evaluate("switch_to_img2img()")
        self.page.locator("#ip2p_panel").wait_for(state="visible")

    def number(self, elem_id: str) -> Locator:
        return self.page.locator(f"#{elem_id} input[type=number]").first

    def set(self, elem_id: str, value: float) -> None:
        field = self.number(elem_id)
        field.fill(str(value))
        field.blur()

    def shows(self, elem_id: str, value: float) -> None:
        """Wait for a number to show this value."""
        self.page.wait_for_function(
            "([id, value]) => Number(document.querySelector(`#${id} input[type=number]`).value) === value",
            arg=[elem_id, value],
            timeout=90_000,
        )

    def status(self, words: str) -> None:
        """Wait for the panel to say this."""
        self.page.wait_for_function(
            "words => document.querySelector('#ip2p_status').textContent.includes(words)", arg=words, timeout=60_000
        )

    def is_open(self, wanted: bool) -> None:
        self.sees("ip2p_text_cfg", wanted)

    def advanced(self) -> None:
        """Open the part of the panel with what is changed less often."""
        self.page.locator("#ip2p_advanced > .label-wrap").click()
        self.page.locator("#ip2p_rescale").wait_for(state="visible")

    def sees(self, elem_id: str, wanted: bool) -> None:
        """Wait for an element to be in sight, or not."""
        self.page.locator(f"#{elem_id}").wait_for(state="visible" if wanted else "hidden", timeout=90_000)

    def note(self) -> str:
        """What stands below the tab's denoising strength."""
        said = "getComputedStyle(document.querySelector('#img2img_denoising_strength'), '::after').content"
        return self.page.evaluate(said)

    def choose_checkpoint(self, name: str) -> None:
        self.page.locator(CHECKPOINT).first.click()
        self.page.locator(OPTIONS).filter(has_text=f"{name}.safetensors").first.click()

    def settle(self, host: Host) -> None:
        """Wait until the host has loaded what was chosen: at its end AUTOMATIC1111 sets the dropdown once more."""
        host.job()
        self.page.wait_for_timeout(3000)

    def tab(self, group: str, name: str) -> None:
        self.page.locator(f"{group} > .tab-nav button, {group} button[role=tab]").filter(has_text=name).first.click()

    def upload(self, file: Path) -> None:
        self.page.locator("#img2img_image input[type=file]").first.set_input_files(str(file))
        self.page.wait_for_timeout(2000)

    def small(self) -> None:
        for elem_id, value in (("img2img_steps", 2), ("img2img_width", 64), ("img2img_height", 64)):
            self.set(elem_id, value)

    def generate(self, tab: str = "img2img") -> None:
        self.page.locator(f"#{tab}_generate").click()

    def said(self, selector: str, words: str) -> str:
        """Wait for an element to hold the words; return all that it says."""
        self.page.wait_for_function(
            "([s, w]) => [...document.querySelectorAll(s)].some(e => e.textContent.includes(w))", arg=[selector, words]
        )
        return " ".join(self.page.locator(selector).all_text_contents())

    def ours(self) -> list[str]:
        """Complaints of the browser that name something of ours."""
        return [one for one in self.complaints if re.search("ip2p|instruct.pix2pix", one, re.IGNORECASE)]


@pytest.fixture
def page(editor: Host, browser: Browser) -> Iterator[Page]:
    opened = Page(browser, editor.url)
    yield opened
    complaints = opened.ours()
    opened.close()
    assert complaints == []


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.png"
    picture().save(path)
    return path


def test_the_panel_follows_the_checkpoint_that_is_chosen(page: Page, editor: Host) -> None:
    page.status("instruct-pix2pix, SD1, 8 channels")
    page.is_open(True)
    page.choose_checkpoint(checkpoints.PLAIN)
    page.status(f"{checkpoints.PLAIN}: Stable Diffusion, SD1, 4 channels")
    page.status("pick an instruct-pix2pix checkpoint")
    page.is_open(False)
    page.settle(editor)
    page.choose_checkpoint(checkpoints.EDITS)
    page.status("instruct-pix2pix, SD1, 8 channels")
    page.is_open(True)
    page.settle(editor)
    page.is_open(True)


def test_a_scale_stands_once_and_its_hidden_twin_keeps_its_value(page: Page, editor: Host) -> None:
    page.set("ip2p_text_cfg", 9)
    page.set("ip2p_image_cfg", 2.2)
    page.sees("img2img_cfg_scale", False)
    page.sees("img2img_image_cfg_scale", False)
    page.page.locator("#ip2p_panel > .label-wrap").click()  # with the panel closed the tab's own is there
    page.is_open(False)
    page.sees("img2img_cfg_scale", True)
    page.shows("img2img_cfg_scale", 9)
    page.shows("img2img_image_cfg_scale", 2.2)
    page.set("img2img_cfg_scale", 5)
    page.page.locator("#ip2p_panel > .label-wrap").click()
    page.shows("ip2p_text_cfg", 5)
    page.choose_checkpoint(checkpoints.PLAIN)
    page.status("4 channels")
    page.sees("img2img_cfg_scale", True)
    page.settle(editor)
    page.choose_checkpoint(checkpoints.EDITS)  # Neo's page keeps what was chosen there, whatever its API is told
    page.settle(editor)


def test_the_denoising_strength_says_when_it_plays_no_part(page: Page, editor: Host) -> None:
    assert "Start from noise" in page.note()
    page.advanced()
    page.page.locator("#ip2p_from_noise input").uncheck()
    assert page.note() == "none"
    page.page.locator("#ip2p_from_noise input").check()
    assert "Start from noise" in page.note()
    page.choose_checkpoint(checkpoints.PLAIN)
    page.status("4 channels")
    assert page.note() == "none"
    page.settle(editor)
    page.choose_checkpoint(checkpoints.EDITS)
    page.settle(editor)


def test_the_help_of_a_checkbox_stands_below_it(page: Page) -> None:
    page.advanced()
    box = page.page.locator("#ip2p_from_noise input").bounding_box()
    told = page.page.locator("#ip2p_from_noise").get_by_text("As in the paper").bounding_box()
    assert box and told
    assert told["y"] >= box["y"] + box["height"]


def test_the_models_scales_and_steps_are_offered_and_never_set_unasked(page: Page) -> None:
    offer = page.page.locator("#ip2p_defaults")
    page.set("img2img_steps", 31)  # a person's own, before anything is pressed
    offer.wait_for(state="hidden")
    page.shows("img2img_steps", 31)
    page.page.reload(wait_until="domcontentloaded")
    page.ready()
    offer.wait_for(state="visible")  # no host's tab begins with all of them
    offer.click()
    for elem_id, value in (("ip2p_text_cfg", 7.5), ("ip2p_image_cfg", 1.5), ("img2img_steps", 20)):
        page.shows(elem_id, value)
    page.shows("img2img_cfg_scale", 7.5)
    page.shows("img2img_image_cfg_scale", 1.5)
    offer.wait_for(state="hidden")


def test_a_size_far_from_the_models_can_be_left_for_it_in_the_shape_of_the_picture(page: Page, tmp_path: Path) -> None:
    offer = page.page.locator("#ip2p_size")
    for elem_id in ("img2img_width", "img2img_height"):
        page.set(elem_id, 512)
    offer.wait_for(state="hidden")
    page.set("img2img_width", 1024)
    offer.wait_for(state="visible")
    offer.click()  # no picture: the shape that stands there
    page.shows("img2img_width", 512)
    page.shows("img2img_height", 256)
    offer.wait_for(state="hidden")
    picture(300, 900).save(tmp_path / "tall.png")
    page.upload(tmp_path / "tall.png")
    page.set("img2img_width", 1024)
    offer.click()
    step = int(page.page.locator("#img2img_width input[type=range]").get_attribute("step") or 0)
    least = int(page.page.locator("#img2img_width input[type=range]").get_attribute("min") or 0)
    page.shows("img2img_width", max(round(512 / 3 / step) * step, least))
    page.shows("img2img_height", 512)


def test_generate_without_a_picture_says_what_to_drop_where(page: Page) -> None:
    page.small()
    page.generate()
    page.said("#html_log_img2img", "There is no picture to edit: drop one in the img2img tab.")


def test_a_template_fills_the_prompt_with_its_first_blank_selected(page: Page) -> None:
    page.page.locator("#ip2p_templates input").click()
    choice = page.page.locator(OPTIONS).filter(has_text="{").first
    text = choice.inner_text().strip().removeprefix("✓").strip()
    choice.click()
    page.page.wait_for_function(
        "text => document.querySelector('#img2img_prompt textarea').value === text", arg=re.sub("[{}]", "", text)
    )
    blank = page.page.evaluate(
        "(() => {const t = document.querySelector('#img2img_prompt textarea');"
        "return t.value.slice(t.selectionStart, t.selectionEnd)})()"
    )
    assert blank == re.findall("{(.*?)}", text)[0]


def test_generate_edits_the_picture_and_its_infotext_can_be_pasted_back(page: Page, source: Path) -> None:
    page.upload(source)
    page.page.locator("#img2img_prompt textarea").fill("make it snow")
    page.small()
    page.set("ip2p_image_cfg", 1.7)
    page.set("ip2p_text_cfg", 6)
    page.advanced()
    page.set("ip2p_rescale", 0.5)
    page.generate()
    infotext = page.said("#html_info_img2img", "Image CFG scale: 1.7")
    assert "CFG scale: 6" in infotext
    assert "Guidance rescale: 0.5" in infotext
    page.page.locator("#img2img_gallery img").first.wait_for()
    page.set("ip2p_image_cfg", 1.1)
    page.set("ip2p_text_cfg", 3)
    page.set("ip2p_rescale", 0)
    text = "make it rain\nSteps: 2, Sampler: Euler a, CFG scale: 4.5, Seed: 1, Size: 64x64, "
    page.page.locator("#img2img_prompt textarea").fill(text + "Image CFG scale: 1.9, Guidance rescale: 0.25")
    page.page.locator("#tab_img2img #paste").first.click()
    page.shows("ip2p_image_cfg", 1.9)
    page.shows("img2img_image_cfg_scale", 1.9)
    page.shows("ip2p_text_cfg", 4.5)
    page.shows("img2img_cfg_scale", 4.5)
    page.shows("ip2p_rescale", 0.25)


def test_an_error_is_a_sentence_on_the_page(page: Page) -> None:
    page.page.evaluate("switch_to_txt2img()")
    page.page.locator("#txt2img_prompt textarea").fill("a house")
    page.generate("txt2img")
    page.said("#html_log_txt2img", "This checkpoint edits pictures: open the img2img tab")


def test_the_batch_tab_keeps_names_and_metadata(page: Page, editor: Host, tmp_path: Path) -> None:
    given, made = tmp_path / "in", tmp_path / "out"
    given.mkdir()
    made.mkdir()
    for name, size in (("one", 64), ("two", 64), ("three", 96)):
        picture(size, size).save(given / f"{name}.png")
    wanted = {"samples_save": True, "img2img_batch_use_original_name": True}  # the second where there is such an option
    editor.post("options", {name: value for name, value in wanted.items() if name in editor.get("options")})
    try:
        page.page.locator("#img2img_prompt textarea").fill("make it snow")
        page.small()
        page.tab("#mode_img2img", "Batch")
        if page.page.locator("#img2img_batch_source").count():
            page.tab("#img2img_batch_source", "From directory")
        for elem_id, folder in (("img2img_batch_input_dir", given), ("img2img_batch_output_dir", made)):
            page.page.locator(f"#{elem_id} textarea, #{elem_id} input").first.fill(str(folder))
        page.generate()
        for _ in range(PATIENCE // 1000):
            files = sorted(made.rglob("*.png"))
            if len(files) == 3:
                break
            page.page.wait_for_timeout(1000)
        page.page.wait_for_timeout(2000)
    finally:
        editor.post("options", {"samples_save": False})
    names = [re.sub(r"^\d+-|-\d+$", "", file.stem) for file in made.rglob("*.png")]  # some hosts add a number
    assert sorted(names) == ["one", "three", "two"]
    for file in made.rglob("*.png"):
        with Image.open(file) as image:
            assert "Image CFG scale: 1.5" in image.info["parameters"]


def test_after_reload_ui_the_panel_and_a_job_work(page: Page, editor: Host, browser: Browser) -> None:
    page.page.evaluate(
        "(() => {const t = [...document.querySelectorAll('#tabs > .tab-nav button, #tabs button[role=tab]')];"
        "t.find(b => b.textContent.trim() === 'Settings').click()})()"
    )
    page.page.locator("#settings_restart_gradio").click()
    page.page.wait_for_timeout(15_000)
    editor.wait()
    again = Page(browser, editor.url)
    again.status("instruct-pix2pix, SD1, 8 channels")
    again.set("ip2p_text_cfg", 9)
    again.shows("img2img_cfg_scale", 9)
    assert again.ours() == []
    again.close()
    assert "Image CFG scale: 1.5" in editor.job().infotext
