"""The page as axe-core judges it, light and dark, wide and narrow: https://github.com/dequelabs/axe-core."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import pytest

from tools.browser import CHROMIUM, EXAMPLES, Visit, visit

pytest.importorskip("axe_playwright_python", reason="axe-core is in requirements-dev.txt")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

AXE = str(files("axe_playwright_python") / "axe.min.js")
RULES = {"rules": {"label-content-name-mismatch": {"enabled": True}}}
"""One that is off by default: what is read out must have the words that are seen."""
GRAVE = ("serious", "critical")

TABS = {
    "img2img": ("#tab_img2img-button", "#img2img_img2img_tab-button"),
    "Inpaint": ("#tab_img2img-button", "#img2img_inpaint_tab-button"),
    "Batch": ("#tab_img2img-button", "#img2img_batch_tab-button"),
    "PNG Info": ("#tab_pnginfo-button",),
    "Models": ("#tab_models-button",),
    "Settings": ("#tab_settings-button",),
}
SCREENS: dict[str, Any] = {"wide": {"width": 1280, "height": 800}, "narrow": {"width": 390, "height": 844}}


@pytest.fixture(scope="module")
def full(site):
    """A page with results of an edit that keeps the rest, and with a matrix."""
    with visit(*site) as visited:
        visited.page.add_script_tag(path=AXE)
        visited.drop(EXAMPLES / "ball.png")
        visited.write("remove the ball")
        visited.set("img2img_steps", 2)
        visited.set("img2img_batch_count", 2)
        visited.locate("#ip2p_keep_rest").get_by_label("automatic").check()
        visited.locate("#ip2p_matrix_open").click()
        visited.locate("#ip2p_matrix_text_cfg input").fill("3, 7.5")
        visited.locate("#ip2p_matrix_image_cfg input").fill("1.2, 1.5")
        visited.locate("#ip2p_matrix_make").click()
        visited.locate("#img2img_interrupt").wait_for()
        visited.wait_for_end()
        visited.generate()
        visited.locate("#ip2p_more_settings button").first.click()
        visited.locate("#ip2p_kept_pane button").first.click()
        yield visited


def findings(visited: Visit) -> list[str]:
    """Return what is grave, a line for each place."""
    visited.page.add_style_tag(content="* { transition: none !important }")  # colours that are on their way are none
    visited.page.wait_for_timeout(500)  # page.js gives names a moment after something has changed
    told: dict[str, Any] = visited.page.evaluate("(rules) => axe.run(document, rules)", RULES)
    return [
        f"{found['id']} {place['target']}: {place['html'][:150]} {place['failureSummary'][:300]}"
        for found in told["violations"]
        if found["impact"] in GRAVE
        for place in found["nodes"]
    ]


@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("tab", TABS)
def test_axe_finds_nothing_grave(full: Visit, tab: str, scheme: Any, screen: str) -> None:
    full.page.set_viewport_size(SCREENS[screen])
    full.page.emulate_media(color_scheme=scheme)
    for button in TABS[tab]:
        full.locate(button).click()
    full.locate(f"{TABS[tab][-1]}[aria-selected=true]").wait_for()
    if tab == "Models":
        full.locate(".ip2p-models tr").first.wait_for()
    assert findings(full) == []


def test_the_page_has_one_heading_of_the_first_level(full: Visit) -> None:
    assert full.page.get_by_role("heading", level=1).count() == 1
