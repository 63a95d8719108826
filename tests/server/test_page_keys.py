"""The page by keyboard alone: lists, tabs, results, blanks and weights of an instruction, and where the focus is."""

from __future__ import annotations

from typing import Any

import pytest

from tools.browser import CHROMIUM, EXAMPLES, Visit

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

PROMPT = "#img2img_prompt textarea"
LISTS = ("#img2img_sampling input", "#ip2p_templates input", "#setting_sd_model_checkpoint input")


def press(at_page: Visit, *keys: str) -> None:
    for key in keys:
        at_page.page.keyboard.press(key)


def selected(at_page: Visit) -> str:
    """Return what is selected in the prompt."""
    return at_page.locate(PROMPT).evaluate("(area) => area.value.slice(area.selectionStart, area.selectionEnd)")


def select(at_page: Visit, text: str) -> None:
    """Select a text in the prompt."""
    at_page.locate(PROMPT).evaluate(
        """(area, text) => {
            const start = area.value.indexOf(text);
            area.focus();
            area.setSelectionRange(start, start + text.length);
        }""",
        text,
    )


def focused(at_page: Visit, selector: str) -> None:
    """Wait until an element has the focus."""
    at_page.page.wait_for_function("(selector) => document.activeElement?.matches(selector)", arg=selector)


def edit(at_page: Visit, count: int, steps: int = 2) -> None:
    at_page.drop(EXAMPLES / "house.png")
    at_page.write("make it winter")
    at_page.set("img2img_steps", steps)
    at_page.set("img2img_batch_count", count)


# --- the instruction ---


def choose_template(at_page: Visit, text: str) -> None:
    at_page.locate("#ip2p_templates input").click()
    at_page.page.get_by_role("option", name=text).click()
    focused(at_page, PROMPT)


def test_tab_walks_the_blanks_of_a_template_and_then_leaves_the_field(at_page: Visit) -> None:
    choose_template(at_page, "Turn the {something in the photo} into {a new object}")
    assert selected(at_page) == "something in the photo"
    press(at_page, "Tab")
    assert selected(at_page) == "a new object"
    press(at_page, "Shift+Tab")
    assert selected(at_page) == "something in the photo"
    at_page.page.keyboard.type("horse")
    press(at_page, "Tab")
    at_page.page.keyboard.type("dragon")
    assert at_page.prompt() == "Turn the horse into dragon"
    press(at_page, "Tab")
    assert at_page.locate(PROMPT).evaluate("(area) => document.activeElement !== area")


def test_a_blank_that_is_left_is_asked_about_once(at_page: Visit) -> None:
    at_page.drop(EXAMPLES / "house.png")
    at_page.set("img2img_steps", 2)
    at_page.set("img2img_batch_count", 1)
    choose_template(at_page, "Make the {something in the photo} {a color}")
    at_page.page.keyboard.type("house")
    press(at_page, "Control+Enter")
    asked = at_page.page.get_by_role("alert").filter(has_text="“a color” is a blank")
    asked.wait_for()
    assert selected(at_page) == "a color"
    assert len(at_page.worker.queue) == 0 and at_page.locate("#img2img_gallery img").count() == 0
    press(at_page, "Control+Enter")  # the second time it goes on
    at_page.locate("#img2img_gallery .thumbnail-item").wait_for(timeout=60_000)
    assert "Make the house a color" in at_page.results()[0].info["parameters"]
    assert not asked.is_visible()

    # what is filled in is not asked about
    at_page.wait_for_end()
    select(at_page, "a color")
    at_page.page.keyboard.type("a colorful red")
    at_page.generate()
    assert "a colorful red" in at_page.results()[0].info["parameters"]


WEIGHED = (
    ("make it winter", "winter", ["Up"], "make it (winter:1.1)"),
    ("make it winter", "winter", ["Up", "Up", "Up"], "make it (winter:1.3)"),
    ("make it winter", "winter", ["Down"], "make it (winter:0.9)"),
    ("make it winter", "winter", ["Up", "Down"], "make it winter"),
    ("make it winter", "it winter", ["Up", "Up"], "make (it winter:1.2)"),
    ("make it winter", " winter", ["Up"], "make it (winter:1.1)"),
    ("make it (winter)", "winter", ["Up"], "make it (winter:1.2)"),
    ("make it (cold winter:1.5)", "cold winter", ["Down"], "make it (cold winter:1.4)"),
    ("make it (cold winter:1.5)", "cold", ["Up"], "make it ((cold:1.1) winter:1.5)"),
    (r"a \(red\) car", "red", ["Up"], r"a \((red:1.1)\) car"),
    ("winter <lora:ice:0.8>", "ice", ["Up"], "winter <lora:ice:0.85>"),
    ("winter", "winter", ["Down"] * 12, "(winter:0)"),
)
"""An instruction, the words that are selected, the keys that are pressed with Ctrl, and what becomes of it."""


def test_the_words_of_a_prompt_are_weighed(at_page: Visit) -> None:
    for text, words, keys, becomes in WEIGHED:
        at_page.write(text)
        select(at_page, words)
        press(at_page, *(f"Control+Arrow{key}" for key in keys))
        assert at_page.prompt() == becomes
        if keys == ["Up"]:
            press(at_page, "Control+z")
            assert at_page.prompt() == text

    # without a selection: the word, or the brackets, around the caret
    at_page.write("make it winter")
    press(at_page, "Home", "ArrowRight", "Control+ArrowUp", "Control+ArrowUp")
    assert at_page.prompt() == "(make:1.2) it winter"
    press(at_page, "ArrowLeft", "Control+ArrowDown")
    assert at_page.prompt() == "(make:1.1) it winter"


# --- lists ---


def test_a_list_closes_on_escape_on_tab_and_on_a_click_elsewhere(at_page: Visit) -> None:
    for field in LISTS:
        name = at_page.locate(field).get_attribute("aria-controls")
        opened = at_page.locate(f"ul#{name}")
        at_page.locate(field).click()
        opened.wait_for()
        press(at_page, "Escape")
        opened.wait_for(state="detached")
        focused(at_page, field)
        press(at_page, "ArrowDown")
        opened.wait_for()
        press(at_page, "Tab")
        opened.wait_for(state="detached")
        assert not at_page.locate(field).evaluate("(input) => input === document.activeElement")
        press(at_page, "Escape")  # Tab may have led to a list that opens over this one
        at_page.locate(field).click()
        opened.wait_for()
        at_page.page.mouse.click(3, 3)
        opened.wait_for(state="detached")


def test_what_is_chosen_by_keys_leaves_the_focus_where_it_was(at_page: Visit) -> None:
    field = "#img2img_sampling input"
    at_page.locate(field).focus()
    before = at_page.locate(field).input_value()
    press(at_page, "ArrowDown", "ArrowDown", "Enter")
    at_page.locate("ul[role=listbox]").wait_for(state="detached")
    focused(at_page, field)
    chosen = at_page.locate(field).input_value()
    assert chosen != before
    press(at_page, "Tab")
    assert at_page.locate(field).input_value() == chosen


# --- tabs, results, before and after ---


def test_arrow_keys_go_from_tab_to_tab(at_page: Visit) -> None:
    at_page.locate("#tab_img2img-button").focus()
    press(at_page, "ArrowRight")
    focused(at_page, "#tab_pnginfo-button[aria-selected=true]")
    at_page.locate("#pnginfo_text").wait_for()
    press(at_page, "End")
    focused(at_page, "#tab_settings-button[aria-selected=true]")
    press(at_page, "ArrowRight")
    focused(at_page, "#tab_img2img-button[aria-selected=true]")
    at_page.locate(PROMPT).wait_for()


def test_arrow_keys_go_from_result_to_result_and_move_the_line_between_before_and_after(at_page: Visit) -> None:
    edit(at_page, count=3)
    at_page.generate()
    pictures = at_page.locate("#img2img_gallery .thumbnail-item")
    seed = int((pictures.nth(0).inner_text()).split()[1])
    pictures.nth(0).focus()
    press(at_page, "ArrowRight")
    at_page.page.wait_for_function(
        f"document.querySelector('#html_info_img2img textarea').value.includes('Seed: {(seed + 1) % 2**32},')"
    )
    assert pictures.nth(1).evaluate("(one) => one === document.activeElement")
    press(at_page, "End")
    assert pictures.nth(2).evaluate("(one) => one === document.activeElement")
    assert (pictures.nth(2).get_attribute("aria-label") or "").startswith(f"seed {(seed + 2) % 2**32}")

    line: Any = at_page.page.get_by_role("slider", name="Before and after")
    line.focus()
    assert line.get_attribute("aria-valuenow") == "50"
    left = line.bounding_box()["x"]
    press(at_page, "ArrowRight", "ArrowRight")
    assert line.get_attribute("aria-valuenow") == "60"
    assert line.bounding_box()["x"] > left
    press(at_page, "Home")
    assert line.get_attribute("aria-valuenow") == "0"
    press(at_page, "ArrowLeft", "PageUp")
    assert line.get_attribute("aria-valuenow") == "20"


# --- the focus ---


def test_the_focus_goes_from_generate_to_interrupt_and_back(at_page: Visit) -> None:
    edit(at_page, count=50, steps=20)
    at_page.locate("#img2img_generate").focus()
    press(at_page, "Enter")
    focused(at_page, "#img2img_interrupt")
    press(at_page, "Enter")
    focused(at_page, "#img2img_generate")
    assert at_page.says().startswith("Interrupted")


def test_the_focus_outlives_the_picture_that_had_it(at_page: Visit) -> None:
    edit(at_page, count=4)
    at_page.generate()
    at_page.locate("#img2img_gallery .thumbnail-item").nth(0).focus()
    press(at_page, "End")
    at_page.locate("#img2img_gallery .thumbnail-item").nth(3).evaluate("(one) => one.parentElement.remove()")
    at_page.page.wait_for_function(
        "document.activeElement === [...document.querySelectorAll('#img2img_gallery .thumbnail-item')].at(-1)"
    )
