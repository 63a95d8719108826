"""What a person who looks elsewhere is told when an edit is done: a sound, and a notification."""

from __future__ import annotations

import pytest

from tools.browser import CHROMIUM, EXAMPLES, Visit, visit

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

SOUND, NOTIFICATION = "Play a sound", "Show a notification"
SPIES = """(answer) => {
    window.tones = 0;
    window.shown = [];
    window.asked = 0;
    const start = OscillatorNode.prototype.start;
    OscillatorNode.prototype.start = function (...words) { tones += 1; return start.apply(this, words); };
    const Real = Notification;
    window.Notification = class extends Real {
        constructor(title, options) { super(title, options); shown.push([title, options.body]); }
        static get permission() { return answer[asked ? 1 : 0] ?? Real.permission; }
        static async requestPermission() { asked += 1; return this.permission; }
    };
}"""
"""Count tones and notifications, made all the same; `answer` is the permission before and after it is asked for."""


def spy(visited: Visit, *answer: str) -> None:
    visited.page.evaluate(SPIES, list(answer))


def switch(visited: Visit, name: str):
    return visited.locate("#ip2p_when_done").get_by_label(name)


def edit(visited: Visit, count: int = 1, wait: bool = True) -> None:
    visited.locate("#tabs").get_by_role("tab", name="img2img", exact=True).first.click()
    visited.drop(EXAMPLES / "house.png")
    visited.write("make it winter")
    visited.set("img2img_steps", 2)
    visited.set("img2img_batch_count", count)
    visited.generate(wait)


def heard(visited: Visit) -> int:
    return visited.page.evaluate("tones")


def test_an_edit_ends_silently_unless_a_person_wants_to_be_told(at_page: Visit) -> None:
    spy(at_page)
    at_page.page.evaluate("document.hasFocus = () => false")
    edit(at_page)
    at_page.open_tab("Settings")
    assert not switch(at_page, SOUND).is_checked() and not switch(at_page, NOTIFICATION).is_checked()
    assert at_page.page.evaluate("[tones, shown.length, asked]") == [0, 0, 0]


def test_the_end_of_an_edit_is_heard_and_shown_to_who_looks_elsewhere(site) -> None:
    with visit(*site, permissions=["notifications"]) as visited:
        spy(visited)
        visited.open_tab("Settings")
        switch(visited, SOUND).check()
        visited.page.wait_for_function("tones === 2")  # how it sounds
        switch(visited, NOTIFICATION).check()
        visited.page.wait_for_function("localStorage.getItem('ip2p_when_done').includes('notification')")

        # the browser remembers it, and what ended before is not told again
        edit(visited)
        visited.page.wait_for_function("tones === 4")
        assert visited.page.evaluate("shown.length") == 0  # the page is in front
        visited.reload()
        spy(visited)
        visited.locate("#img2img_gallery .thumbnail-item").wait_for()
        visited.open_tab("Settings")
        assert switch(visited, SOUND).is_checked() and switch(visited, NOTIFICATION).is_checked()
        assert heard(visited) == 0

        visited.page.evaluate("document.hasFocus = () => false")
        edit(visited)
        visited.page.wait_for_function("tones === 2 && shown.length === 1")
        [[title, body]] = visited.page.evaluate("shown")
        assert title == "instruct-pix2pix" and body.startswith("1 picture in ")

        # who stops an edit knows that it has ended
        edit(visited, count=100, wait=False)
        visited.locate("#img2img_interrupt").click()
        visited.wait_for_end()
        assert visited.page.evaluate("[tones, shown.length]") == [2, 1]

        visited.open_tab("Settings")
        switch(visited, SOUND).uncheck()
        switch(visited, NOTIFICATION).uncheck()
        visited.page.wait_for_function("localStorage.getItem('ip2p_when_done') === '[]'")
        edit(visited)
        assert visited.page.evaluate("[tones, shown.length]") == [2, 1]
        assert (visited.errors, visited.elsewhere) == ([], [])


def test_a_browser_that_shows_no_notifications_is_named_and_the_sound_stays(at_page: Visit) -> None:
    spy(at_page, "default", "denied")
    at_page.open_tab("Settings")
    switch(at_page, SOUND).check()
    switch(at_page, NOTIFICATION).click()
    at_page.locate("#ip2p_when_done_said").get_by_text("shows no notifications").wait_for()
    assert at_page.page.evaluate("asked") == 1
    assert switch(at_page, SOUND).is_checked() and not switch(at_page, NOTIFICATION).is_checked()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 800), (390, 844)], ids=str)
def test_the_switches_are_large_enough_to_touch_and_to_read(site, scheme: str, size: tuple[int, int]) -> None:
    with visit(*site, viewport={"width": size[0], "height": size[1]}, color_scheme=scheme) as visited:
        visited.open_tab("Settings")
        for name in (SOUND, NOTIFICATION):
            box = visited.locate("#ip2p_when_done label").filter(has_text=name).bounding_box()
            assert box["width"] >= 24 and box["height"] >= 24
            assert box["x"] >= 0 and box["x"] + box["width"] <= size[0]
