"""The banner over a photograph in a real browser: the model for it comes from a hub on this machine, and is chosen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from skimage import data

from instruct_pix2pix.models.known import KNOWN, PHOTO_MODEL
from instruct_pix2pix.models.registry import DEMO
from tests.helpers.hub import Hub, asked_by_downloads
from tools.browser import CHROMIUM, EXAMPLES, Visit, chromium, served_page, visit

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

FILE = "instruct-pix2pix-00-22000-pruned-fp16.safetensors"
BANNER = "#ip2p_photo"
SIZES = [
    pytest.param({"viewport": {"width": 1280, "height": 800}}, id="1280"),
    pytest.param({"viewport": {"width": 390, "height": 844}, "color_scheme": "dark", "has_touch": True}, id="390"),
]
"""What a browser is like: large and light, small and dark."""


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with asked_by_downloads(KNOWN[PHOTO_MODEL].repo, {FILE: DEMO.read_bytes()}) as found:
        yield found


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models folder of the server; the sizes of the model to come, which is the demo's copy, lie there already."""
    folder = tmp_path_factory.mktemp("gui") / "models"
    folder.mkdir()
    shutil.copy(DEMO.with_suffix(".yaml"), folder / Path(FILE).with_suffix(".yaml").name)
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photographs")
    for name in ("chelsea", "astronaut"):
        Image.fromarray(getattr(data, name)()).save(folder / f"{name}.png")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def site(hub: Hub, models: Path, tmp_path_factory: pytest.TempPathFactory):
    with served_page(tmp_path_factory.mktemp("outputs"), models) as (address, worker), chromium() as browser:
        yield browser, address, worker


@pytest.fixture
def at_page(request: pytest.FixtureRequest, site, hub: Hub, models: Path) -> Iterator[Visit]:
    """A visit to a server that has no model for photographs, with what a test asks of the browser."""
    (models / FILE).unlink(missing_ok=True)
    hub.gets.clear()
    hub.tokens.clear()
    hub.lies.clear()
    hub.pace = None
    with visit(*site, **getattr(request, "param", {})) as visited:
        yield visited
        assert visited.elsewhere == []
        assert visited.errors == []


def says(visited: Visit, text: str) -> None:
    visited.locate(BANNER).get_by_text(text).wait_for(timeout=60_000)


def press(visited: Visit, name: str) -> None:
    visited.locate(BANNER).get_by_role("button", name=name).click()


def wait_until_gone(visited: Visit) -> None:
    visited.locate(BANNER).wait_for(state="hidden", timeout=60_000)


def wait_for_share(visited: Visit, least: float) -> float:
    script = "([at, least]) => Number(document.querySelector(at)?.getAttribute('aria-valuenow') ?? -1) >= least"
    visited.page.wait_for_function(script, arg=[f"{BANNER} [role=progressbar]", least], timeout=60_000)
    return float(visited.locate(f"{BANNER} [role=progressbar]").get_attribute("aria-valuenow"))


def wait_for_model(visited: Visit, name: str) -> None:
    script = "(name) => document.querySelector('#setting_sd_model_checkpoint input').value.startsWith(name)"
    visited.page.wait_for_function(script, arg=name, timeout=60_000)


def looked(visited: Visit, file: Path) -> None:
    """Drop a picture, and wait until the server has looked at it."""
    with visited.page.expect_response(lambda answer: "queue/join" in answer.url):
        visited.drop(file)
    visited.page.wait_for_timeout(1500)


@pytest.mark.parametrize("at_page", SIZES, indirect=True)
def test_a_photograph_is_offered_the_model_for_it_which_is_chosen_when_it_is_here(
    at_page: Visit, hub: Hub, models: Path, photographs: list[Path]
) -> None:
    content = hub.repos[KNOWN[PHOTO_MODEL].repo][FILE]
    looked(at_page, EXAMPLES / "house.png")
    assert not at_page.locate(BANNER).is_visible()
    at_page.drop(photographs[0])
    says(at_page, "This looks like a photograph: the demo knows only drawn landscapes")
    assert "Licence: none named there" in at_page.locate(BANNER).inner_text()
    assert hub.tokens == []  # nothing was asked of the hub
    banner, picture, width = at_page.page.evaluate(
        """() => [...["ip2p_photo", "img2img_image"].map((id) => document.getElementById(id).getBoundingClientRect()),
            document.documentElement.clientWidth]"""
    )
    assert banner["left"] >= 0 and banner["right"] <= width
    assert banner["bottom"] <= picture["top"] or picture["bottom"] <= banner["top"]  # a telephone has the picture first

    # a wrong hash is told, and nothing of it stays
    hub.lies[FILE] = content[:-1] + bytes([content[-1] ^ 1])
    press(at_page, "Get the photo model (2.1 GB)")
    says(at_page, "came without the size and hash that the hub gives for it, so it was removed: press Download again.")
    assert not list(models.rglob("*.part"))
    hub.lies.clear()

    # it is paused, found again after a reload, and goes on where it was
    hub.gets.clear()
    hub.pace = 0.15
    press(at_page, "Download again")
    first = wait_for_share(at_page, 10)
    says(at_page, "MB/s")
    press(at_page, "Pause")
    says(at_page, "Paused at")
    assert at_page.page.evaluate("document.activeElement.textContent") == "Resume"  # the focus is not lost
    at_page.reload()
    says(at_page, "Paused at")
    paused = wait_for_share(at_page, first)
    at_page.drop(photographs[0])
    hub.pace = 0.02
    press(at_page, "Resume")
    wait_for_model(at_page, Path(FILE).stem)
    wait_until_gone(at_page)
    assert int(str(hub.gets[1][1]).removeprefix("bytes=").removesuffix("-")) >= paused / 100 * 0.98 * len(content)
    assert (models / FILE).read_bytes() == content

    # it edits, and no photograph is too much for it
    at_page.write("make it winter")
    at_page.set("img2img_steps", 1)
    at_page.set("img2img_batch_count", 1)
    at_page.generate()
    (edited,) = at_page.results()
    assert f"Model: {Path(FILE).stem}" in edited.info["parameters"]
    looked(at_page, photographs[1])
    assert not at_page.locate(BANNER).is_visible()


def test_a_model_that_is_here_is_chosen_by_one_click(at_page: Visit, models: Path, photographs: list[Path]) -> None:
    shutil.copy(DEMO, models / FILE)
    at_page.locate("#refresh_sd_model_checkpoint").click()
    at_page.page.wait_for_timeout(1500)
    at_page.drop(photographs[0])
    says(at_page, f"{Path(FILE).stem} is here")
    press(at_page, "Choose it")
    wait_for_model(at_page, Path(FILE).stem)
    wait_until_gone(at_page)
    # and the demo is as helpless as before
    at_page.locate("#setting_sd_model_checkpoint input").click()
    at_page.locate("#setting_sd_model_checkpoint [role=option]").filter(has_text="demo").click()
    says(at_page, "Choose it")


def test_the_banner_comes_and_goes_with_the_picture_whichever_way_it_comes(
    at_page: Visit, photographs: list[Path]
) -> None:
    at_page.paste(photographs[0])
    says(at_page, "This looks like a photograph")
    at_page.locate("#ip2p_examples .thumbnail-item").first.click()
    wait_until_gone(at_page)
    at_page.drop(photographs[1])
    says(at_page, "This looks like a photograph")


def test_who_does_not_want_it_is_not_asked_again_in_this_visit(at_page: Visit, photographs: list[Path]) -> None:
    at_page.drop(photographs[0])
    says(at_page, "This looks like a photograph")
    press(at_page, "Not now")
    wait_until_gone(at_page)
    looked(at_page, photographs[1])
    assert not at_page.locate(BANNER).is_visible()
    at_page.reload()
    looked(at_page, photographs[0])
    assert not at_page.locate(BANNER).is_visible()


def test_a_folder_of_photographs_is_told_too(at_page: Visit, photographs: list[Path]) -> None:
    at_page.open_tab("Batch")
    at_page.locate("#ip2p_pick_files").set_input_files([EXAMPLES / "house.png", *photographs])
    says(at_page, "This looks like a photograph")
    at_page.locate(".ip2p-undrop").click()
    wait_until_gone(at_page)
    at_page.locate("#img2img_batch_input_dir :is(input, textarea)").fill(str(photographs[0].parent))
    at_page.locate("#img2img_batch_output_dir :is(input, textarea)").focus()
    says(at_page, "This looks like a photograph")


def test_one_download_is_seen_in_the_banner_and_in_the_tab(
    at_page: Visit, hub: Hub, photographs: list[Path]
) -> None:
    hub.pace = 0.5
    at_page.drop(photographs[0])
    press(at_page, "Get the photo model (2.1 GB)")
    wait_for_share(at_page, 5)
    at_page.open_tab("Models")
    at_page.locate(f"#ip2p_models [data-name='{PHOTO_MODEL}'][data-state=running]").wait_for()
    assert len(hub.gets) == 1
    at_page.locate(f"#ip2p_models [data-name='{PHOTO_MODEL}'] [data-action=cancel]").click()
    at_page.open_tab("img2img")
    says(at_page, "Get the photo model (2.1 GB)")


@pytest.mark.parametrize("at_page", SIZES, indirect=True)
def test_what_can_be_pressed_is_large_enough_for_a_finger_and_has_a_name(
    at_page: Visit, photographs: list[Path]
) -> None:
    at_page.drop(photographs[0])
    says(at_page, "This looks like a photograph")
    buttons = at_page.locate(f"{BANNER} button").all()
    assert len(buttons) == 2
    for button in buttons:
        box = button.bounding_box()
        assert min(box["width"], box["height"]) >= 24
        assert button.evaluate("(one) => (one.getAttribute('aria-label') ?? one.textContent).trim()")
    assert at_page.page.evaluate("document.documentElement.scrollWidth") <= at_page.page.evaluate("innerWidth")
