"""The page on a desktop and in a chat: the folder of the results is opened, and a link to the page shows what it is."""

from __future__ import annotations

import io
import os
import re
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from instruct_pix2pix.errors import UserError
from instruct_pix2pix.server import desktop
from instruct_pix2pix.server.page import link_preview
from tools.browser import CHROMIUM, EXAMPLES, Visit, chromium, served_page, visit

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A desktop whose xdg-open writes down what it is to open; the file where it does."""
    log, program = tmp_path / "opened", tmp_path / "bin" / "xdg-open"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >> "{log}.part" && mv "{log}.part" "{log}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("DISPLAY", ":0")
    return log


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


@pytest.fixture(scope="module")
def site(outputs: Path):
    with served_page(outputs) as (address, worker), chromium() as browser:
        yield browser, address, worker


def edit(visited: Visit) -> None:
    visited.drop(EXAMPLES / "house.png")
    visited.write("make it winter")
    visited.set("img2img_steps", 1)
    visited.set("img2img_batch_count", 1)
    visited.generate()


def test_who_sits_at_the_desktop_opens_the_folder_of_the_results(opened: Path, site, outputs: Path) -> None:
    with visit(*site) as visited:
        edit(visited)
        visited.locate("#img2img_open_folder").click()
        [folder] = wait_for(opened).splitlines()
        assert Path(folder).parent == outputs and list(Path(folder).glob("*.png"))

        # the folder is the server's to name, and one that has gone is told of
        for file in Path(folder).iterdir():
            file.unlink()
        Path(folder).rmdir()
        told = visited.locate("#img2img_progress").get_by_text("Nothing is saved yet")
        for _ in range(60):  # a click while the last one is still answered does nothing
            if told.count():
                break
            visited.locate("#img2img_open_folder").click()
            visited.page.wait_for_timeout(500)
        assert told.count() == 1
        assert visited.errors == []


def wait_for(file: Path) -> str:
    for _ in range(1000):
        if file.exists():
            return file.read_text()
        time.sleep(0.02)
    raise AssertionError(f"{file} was not written")


def test_nobody_else_is_offered_a_folder(site, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in desktop.SCREENS:
        monkeypatch.delenv(name, raising=False)
    with visit(*site) as visited:  # no desktop
        edit(visited)
        assert not visited.locate("#img2img_open_folder").is_visible()


def test_a_visitor_from_elsewhere_opens_nothing(opened: Path, site) -> None:
    with visit(*site, extra_http_headers={"X-Forwarded-For": "203.0.113.7"}) as visited:
        edit(visited)
        assert not visited.locate("#img2img_open_folder").is_visible()
    assert not opened.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="xdg-open is Linux's")
def test_a_file_manager_that_is_missing_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("DISPLAY", ":0")
    assert not desktop.has_desktop()
    with pytest.raises(UserError, match="could not be opened"):
        desktop.show_folder(tmp_path)


def test_a_link_to_the_page_shows_our_own_title_sentence_and_picture(site) -> None:
    browser, address, _ = site
    with browser.new_context() as messenger:
        page = messenger.request.get(address).text()
        tags = re.findall(r'<meta (?:property|name)="([^"]*)" content="([^"]*)"', page)
        told = dict(tags)
        assert len(told) == len(tags)  # each once
        assert told["og:title"] == "instruct-pix2pix" and told["og:description"].startswith("Edit a picture")
        assert "gradio" not in str([tag for tag in tags if tag[0].startswith(("og:", "twitter:"))]).lower()
        assert told["og:url"] == f"{address}/"
        picture = messenger.request.get(told["og:image"])
        assert picture.ok and told["og:image"].startswith(f"{address}/")
        image = Image.open(io.BytesIO(picture.body()))
        assert image.format == "JPEG" and len(picture.body()) < 300_000
        assert image.size == link_preview.SIZE == (int(told["og:image:width"]), int(told["og:image:height"]))
        assert min(image.size) >= 315 and 1.7 < image.width / image.height < 2.1


def test_behind_a_proxy_the_picture_has_the_address_that_others_know() -> None:
    headers = [(b"host", b"edit.example.org"), (b"x-forwarded-proto", b"https")]
    tags = link_preview.tags({"type": "http", "scheme": "http", "headers": headers}, "/studio/")
    assert 'content="https://edit.example.org/studio/link-preview.jpg"' in tags
    hostile = [(b"host", b'x"><script>')]
    tags = link_preview.tags({"type": "http", "scheme": "http", "headers": hostile}, "")
    assert "<script" not in tags
