"""The page while its server does not answer, and after the same one or another answers again."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from instruct_pix2pix.infotext import settings_from
from tools.browser import CHROMIUM, EXAMPLES, Visit, visit

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

MODULES = Path(__file__).parents[2] / "modules"
START_SECONDS = 180.0
SILENT, BACK = "The server does not answer", "The server answers again"


class Server:
    """A process of its own, as the command line starts it, always on the same port."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        words = ["serve", "--port", str(self.port), "--device", "cpu", "--precision", "fp32"]
        environ = {**os.environ, "PYTHONPATH": str(MODULES)}
        program = [sys.executable, "-m", "instruct_pix2pix.cli.main", *words]
        self.process = subprocess.Popen(program, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def wait(self) -> None:
        """Wait until it answers."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end and self.process is not None and self.process.poll() is None:
            try:
                if httpx.get(f"{self.address}/gradio_api/app_id", trust_env=False).is_success:
                    return
            except httpx.TransportError:
                time.sleep(0.2)
        raise AssertionError("the server did not start")

    def kill(self) -> None:
        """End it as a crash does: it cannot say a word."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@contextmanager
def running() -> Iterator[Server]:
    server = Server()
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.kill()


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB")).astype(int)


def told(visited: Visit, sentence: str) -> None:
    """Wait until the page says something of the server, which takes long only where that must start."""
    seconds = START_SECONDS if sentence == BACK else 30.0
    visited.locate("#ip2p_connection").get_by_text(sentence).wait_for(timeout=seconds * 1000)


def save_nothing(visited: Visit) -> None:
    visited.open_tab("Settings")
    visited.locate("#ip2p_save input").uncheck()
    visited.locate("#tab_img2img-button").click()


def instruction_of(result: Image.Image) -> str:
    return settings_from(result.info["parameters"])[0].instruction


def test_a_server_that_died_in_the_middle_comes_back_and_each_tab_goes_on_as_it_was(site) -> None:
    with running() as server, visit(site[0], server.address, site[2]) as one:
        other = Visit(one.page.context.new_page(), site[2])
        other.page.goto(server.address)
        other.ready()
        for visited, picture, text in ((one, "house.png", "make it winter"), (other, "car.png", "make the car blue")):
            save_nothing(visited)
            visited.page.evaluate("window.sameVisit = true")
            visited.drop(EXAMPLES / picture)
            visited.write(text)

        # a mask is painted, an edit runs, and an event of gradio's waits for the model
        one.locate("#ip2p_keep_rest").get_by_label("automatic").check()
        one.locate("#ip2p_look_first").wait_for()
        one.locate("#img2img_inpaint_tab-button").click()
        one.ready_to_paint()
        one.locate("#ip2p_paint canvas").focus()
        one.page.keyboard.press("Enter")
        one.page.wait_for_function("document.querySelector('#ip2p_mask textarea').value.length > 100")
        one.set("img2img_steps", 100)
        one.set("img2img_batch_count", 50)
        one.generate(wait=False)
        one.locate("#img2img_progress [aria-valuenow]").wait_for()
        one.locate("#ip2p_look_first").click()
        one.locate("#ip2p_look_first").get_by_text("Looking").wait_for()

        server.kill()
        told(one, SILENT)
        told(other, SILENT)  # where nothing was under way, too
        one.locate("#img2img_progress").get_by_text("cannot be told").wait_for()
        one.write("make it night or so")  # whose tokens can be counted only later

        server.start()
        told(one, BACK)
        one.locate("#img2img_progress").get_by_text("The server no longer knows this edit").wait_for()
        one.wait_for_end()
        one.locate("#img2img_token_counter").get_by_text("5/75").wait_for()
        one.locate("#ip2p_look_first").get_by_text("Show what would be kept").wait_for()

        # all is as it was, and works
        one.locate("#ip2p_keep_rest").get_by_label("off").check()
        one.set("img2img_steps", 3)
        one.set("img2img_batch_count", 1)
        one.generate()
        (result,) = one.results()
        assert instruction_of(result) == "make it night or so"
        house = pixels(Image.open(EXAMPLES / "house.png"))
        changed = np.abs(pixels(result) - house).max(axis=2) > 1
        assert changed[40:56, 40:56].any()
        assert not changed[:24].any() and not changed[-24:].any()  # outside of the mask
        assert (pixels(one.input_picture()) == house).all()

        assert (pixels(other.input_picture()) == pixels(Image.open(EXAMPLES / "car.png"))).all()
        other.set("img2img_steps", 2)
        other.set("img2img_batch_count", 1)
        other.generate()
        assert [instruction_of(made) for made in other.results()] == ["make the car blue"]
        assert [instruction_of(made) for made in one.results()] == ["make it night or so"]
        for visited in (one, other):
            assert visited.page.evaluate("window.sameVisit"), "the page was loaded again"
            assert visited.page.get_by_text("Connection Lost").count() == 0


def test_what_is_begun_while_the_network_is_away_begins_when_it_is_back(site) -> None:
    with visit(*site) as visited:
        visited.drop(EXAMPLES / "house.png")
        visited.write("make it winter")
        visited.set("img2img_steps", 2)
        visited.set("img2img_batch_count", 1)
        visited.page.context.set_offline(True)
        visited.locate("#img2img_generate").click()
        told(visited, SILENT)
        visited.page.context.set_offline(False)
        told(visited, BACK)
        visited.locate("#img2img_gallery .thumbnail-item").wait_for(timeout=60_000)
        assert len(visited.results()) == 1
        assert visited.page.get_by_text("Connection Lost").count() == 0


def test_a_tab_that_is_opened_leaves_the_edit_of_another_to_it(site) -> None:
    with visit(*site) as one:
        one.drop(EXAMPLES / "house.png")
        one.write("make it winter")
        one.set("img2img_steps", 100)
        one.set("img2img_batch_count", 4)
        one.generate(wait=False)
        one.locate("#img2img_progress [aria-valuenow]").wait_for()

        other = Visit(one.page.context.new_page(), one.worker)
        other.page.goto(site[1])
        other.ready()
        assert other.locate("#img2img_generate").is_visible() and not other.locate("#img2img_interrupt").is_visible()
        other.drop(EXAMPLES / "car.png")
        other.write("make the car blue")
        other.set("img2img_steps", 2)
        other.set("img2img_batch_count", 1)
        other.generate(wait=False)
        for visited in (one, other):
            visited.reload()
        one.wait_for_end()
        other.wait_for_end()
        for visited, text, count in ((one, "make it winter", 4), (other, "make the car blue", 1)):
            visited.locate("#img2img_gallery .thumbnail-item").first.wait_for()
            assert [instruction_of(result) for result in visited.results()] == [text] * count

        # once the other tabs are closed, a new one goes on with what was last
        other.page.close()
        one.page.close()
        third = Visit(one.page.context.new_page(), one.worker)
        third.page.goto(site[1])
        third.ready()
        third.locate("#img2img_gallery .thumbnail-item").first.wait_for()
        assert {instruction_of(result) for result in third.results()} == {"make the car blue"}
