"""What comes out of a file is text on the page, whatever it looks like: in a real browser against a real server."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin

from instruct_pix2pix import panel
from tools.browser import CHROMIUM, Visit, chromium, served_page, visit

in_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

HOSTILE = "<img src=hostile-{} onerror=top.ran=1>${{top.ran=1}}{{{{x}}}}`"
"""HTML that would make a browser ask the server for an address, and what a template would run."""
MODEL = HOSTILE.format("model")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory):
    """A server with a model whose file has a hostile name, and a browser."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "models").mkdir()
    (folder / "models" / f"{MODEL}.safetensors").write_bytes(b"no model")
    with served_page(folder / "outputs", folder / "models") as (address, worker), chromium() as browser:
        yield browser, address, worker


@pytest.fixture
def at_page(site, request: pytest.FixtureRequest) -> Iterator[Visit]:
    """A first visit, in which nothing hostile may be asked for or run."""
    with visit(*site) as visited:
        asked: list[str] = []
        visited.page.on("request", lambda request: asked.append(request.url))
        yield visited
        assert [url for url in asked if "/hostile-" in url] == []
        assert visited.page.evaluate("typeof top.ran") == "undefined"
        assert visited.elsewhere == []


def hostile_picture(path: Path) -> Path:
    """Save a picture whose settings are hostile."""
    fields = {"CFG scale": "7", "Seed": "1", "Size": "64x64"}
    fields |= {name: f'"{HOSTILE.format(name[:2])}"' for name in ("Image CFG scale", "Speed", "Sampler", "Model")}
    info = PngImagePlugin.PngInfo()
    settings = ", ".join(f"{name}: {value}" for name, value in {"Steps": "3", **fields}.items())
    prompts = f"{HOSTILE.format('prompt')}\nNegative prompt: {HOSTILE.format('negative')}"
    info.add_text("parameters", f"{prompts}\n{settings}")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (64, 64)).save(path, "PNG", pnginfo=info)
    return path


def messages(visited: Visit, count: int) -> list[str]:
    """Wait for this many messages over the page, and return their texts."""
    shown = visited.locate("[data-testid=toast-text]")
    shown.nth(count - 1).wait_for(state="attached", timeout=60_000)
    return shown.all_text_contents()


@in_browser
def test_the_settings_of_a_picture_are_text(at_page: Visit, tmp_path: Path) -> None:
    at_page.open_tab("PNG Info")
    field = at_page.locate("#pnginfo_image input[type=file]")
    field.set_input_files(str(hostile_picture(tmp_path / "settings.png")))
    at_page.page.wait_for_function("document.querySelector('#pnginfo_text textarea').value.includes('hostile-')")
    at_page.locate("#pnginfo_send_settings").click()
    said = messages(at_page, 3)
    for name in ("Im", "Sp", "Mo"):
        assert any(f"<img src=hostile-{name}" in text for text in said), said
    assert HOSTILE.format("prompt") in at_page.prompt()


@in_browser
def test_the_name_of_a_model_is_text(at_page: Visit) -> None:
    at_page.locate("#setting_sd_model_checkpoint input").click()
    at_page.locate("ul[role=listbox] li").filter(has_text="hostile-model").click()
    at_page.locate("#ip2p_status").get_by_text(MODEL[:20]).wait_for(timeout=60_000)
    assert MODEL in at_page.locate("#ip2p_status").inner_text()
    at_page.open_tab("Models")
    assert MODEL in at_page.locate("#ip2p_models tbody").inner_text()


def generate(visited: Visit, folder: Path, said: str) -> None:
    """Generate for a folder until the page says this of it."""
    visited.open_tab("Batch")
    visited.locate("#img2img_batch_input_dir :is(input, textarea)").fill(str(folder))
    visited.write("make it winter")
    visited.set("img2img_steps", 1)
    visited.locate("#img2img_generate").click()
    script = "(said) => document.querySelector('#img2img_progress').innerText.includes(said)"
    visited.page.wait_for_function(script, arg=said, timeout=120_000)


@in_browser
def test_names_and_reasons_in_a_folder_are_text(at_page: Visit, tmp_path: Path) -> None:
    folder = tmp_path / HOSTILE.format("folder")
    names = [f"{HOSTILE.format('name')}{number}.png" for number in range(2)]
    hostile_picture(folder / names[0])
    (folder / names[1]).write_bytes(b"no picture")
    generate(at_page, folder, "<img src=hostile-folder")
    board = at_page.locate("#ip2p_board tbody")
    board.locator("[data-stage=failed]").wait_for(timeout=60_000)
    assert all(name in board.inner_text() for name in names)


@in_browser
def test_what_a_table_says_is_text(at_page: Visit, tmp_path: Path) -> None:
    picture = hostile_picture(tmp_path / "pictures" / "one.png")
    table = tmp_path / "table.csv"
    with table.open("w", newline="") as file:
        rows = [["name", "instruction", "speed"], [picture.name, "winter", HOSTILE.format("speed")]]
        csv.writer(file).writerows(rows)
    at_page.open_tab("Batch")
    at_page.locate("#ip2p_batch_each").click()
    at_page.locate("#ip2p_batch_instructions input[type=file]").set_input_files(str(table))
    at_page.locate("#ip2p_batch_instructions").get_by_text("table").first.wait_for(timeout=60_000)
    generate(at_page, picture.parent, HOSTILE.format("speed")[:30])


def test_the_name_of_a_model_is_text_in_a_host(tmp_path: Path) -> None:
    shown = panel.look_at(tmp_path / f"{MODEL}.safetensors").status
    inside = shown.partition(">")[2].removesuffix("</p>")
    assert "hostile-model" in inside and not any(mark in inside for mark in "<>{`")
