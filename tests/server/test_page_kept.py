"""Instructions that a person keeps in the list of templates, and takes out of it."""

from __future__ import annotations

import json

import pytest

from tools.browser import CHROMIUM, Visit, visit

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

MINE = "make it {warm|cold}, in (oil:1.2) paint"
FIRST = "Turn the {something in the photo} into {a new object}"


def listed(visited: Visit) -> list[str]:
    """Open the list, and return its entries."""
    visited.locate("#ip2p_templates input").click()
    options = visited.page.get_by_role("option")
    options.first.wait_for()
    texts = [text.strip().removeprefix("✓").strip() for text in options.all_inner_texts()]
    visited.locate("#ip2p_templates input").press("Escape")
    return texts


def star(visited: Visit):
    return visited.locate("#ip2p_keep_instruction")


def wait_until_kept(visited: Visit, kept: bool) -> None:
    visited.locate(f"#ip2p_keep_instruction[aria-pressed={str(kept).lower()}]").wait_for()


def kept_in(visited: Visit) -> list[str]:
    return json.loads(visited.page.evaluate("localStorage.getItem('ip2p_instructions')") or "[]")


def test_an_instruction_is_kept_found_again_and_taken_out(at_page: Visit) -> None:
    built_in = listed(at_page)
    assert built_in[0] == FIRST
    at_page.write(MINE)
    wait_until_kept(at_page, False)
    star(at_page).click()
    wait_until_kept(at_page, True)
    assert "kept" in at_page.says()
    assert listed(at_page) == [f"★ {MINE}", *built_in]

    # it is there after a reload, and is written as it was: its braces are no blanks
    at_page.reload()
    at_page.write("")
    at_page.locate("#ip2p_templates input").click()
    at_page.page.get_by_role("option", name=MINE).click()
    at_page.page.wait_for_function(f"document.querySelector('#img2img_prompt textarea').value === {json.dumps(MINE)}")
    wait_until_kept(at_page, True)

    # a template of the program's own is still one to fill in
    at_page.locate("#ip2p_templates input").click()
    at_page.page.get_by_role("option", name=FIRST).click()
    at_page.page.wait_for_function("getSelection().toString() === 'something in the photo'")
    wait_until_kept(at_page, False)

    at_page.write(MINE)
    wait_until_kept(at_page, True)
    star(at_page).press("Enter")
    wait_until_kept(at_page, False)
    assert "no longer" in at_page.says()
    assert listed(at_page) == built_in and kept_in(at_page) == []


def test_what_cannot_be_kept_is_a_sentence_and_what_is_kept_stays(at_page: Visit) -> None:
    many = [f"make it {number}" for number in range(100)]
    at_page.page.evaluate("(texts) => localStorage.setItem('ip2p_instructions', JSON.stringify(texts))", many)
    at_page.reload()
    for text, said in [
        ("", "The instruction is empty"),
        ("x" * 2001, "more than 2000 letters"),
        ("one more", "100 instructions are kept already"),
    ]:
        at_page.write(text)
        star(at_page).click()
        at_page.locate("#img2img_progress").get_by_text(said).wait_for()
        assert kept_in(at_page) == many


def test_two_tabs_keep_instructions_in_one_list(at_page: Visit) -> None:
    at_page.write("make it red")
    other = at_page.page.context.new_page()
    other.goto(at_page.page.url)
    other.wait_for_selector("#ip2p_keep_instruction[aria-pressed]")
    star(at_page).click()
    wait_until_kept(at_page, True)
    other.locator("#img2img_prompt textarea").fill("make it blue")
    other.locator("#ip2p_keep_instruction").click()
    other.wait_for_selector("#ip2p_keep_instruction[aria-pressed=true]")
    assert kept_in(at_page) == ["make it blue", "make it red"]
    other.close()


def test_what_is_damaged_in_the_browser_is_left_out(at_page: Visit) -> None:
    for damaged in ("{", "5", "null", '[1, "", {}]'):
        at_page.page.evaluate("(text) => localStorage.setItem('ip2p_instructions', text)", damaged)
        at_page.reload()
        assert listed(at_page)[0] == FIRST


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 800), (1920, 1080), (390, 844)], ids=str)
def test_the_star_stands_beside_the_list_and_is_large_enough(site, scheme: str, size: tuple[int, int]) -> None:
    with visit(*site, viewport={"width": size[0], "height": size[1]}, color_scheme=scheme) as visited:
        button, field = star(visited).bounding_box(), visited.locate("#ip2p_templates").bounding_box()
        assert min(button["width"], button["height"]) >= 24
        assert button["x"] >= field["x"] + field["width"] and button["x"] + button["width"] <= size[0]
        assert field["y"] < button["y"] + button["height"] / 2 < field["y"] + field["height"]
