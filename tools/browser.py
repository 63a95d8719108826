"""Serves the page on loopback and opens it in headless Chromium, for tests and for the pictures in docs/."""

import io
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Browser, Page, Route, sync_playwright
from starlette.types import ASGIApp

from instruct_pix2pix.models.catalog import Catalog
from instruct_pix2pix.server.app import build
from instruct_pix2pix.server.folder_access import FolderAccess
from instruct_pix2pix.server.limits import Limits
from instruct_pix2pix.server.page import mount
from instruct_pix2pix.server.temp_folder import temporary_folder
from instruct_pix2pix.server.worker.worker import Worker
from tools.serving import serving

EXAMPLES = Path(__file__).parent.parent / "examples"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@contextmanager
def served_page(
    folder: Path,
    models: Path | None = None,
    folder_access: FolderAccess | None = None,
    root_path: str = "",
    limits: Limits | None = None,
    **options: Any,
) -> Iterator[tuple[str, Worker]]:
    """Serve the page with the demo model and those of the folder `models`; yield its address and the worker.

    Results are saved in `folder`; `root_path` is that of `mount.page`, `limits` are the worker's, `options` those of
    `server.app.build`.
    """

    def make_app(worker: Worker, catalog: Catalog) -> ASGIApp:
        page = mount.page(worker, catalog, folder, cache, folder_access, root_path)
        return build(worker, catalog, outputs=folder, page=page, **options)

    with temporary_folder() as cache, serving(make_app, models, limits) as (port, worker):
        yield f"http://127.0.0.1:{port}", worker


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the browser."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Visit:
    """One visitor on the page, in a browser without a past."""

    page: Page
    worker: Worker
    elsewhere: list[str] = field(default_factory=list)
    """Requests that would have left this machine."""
    errors: list[str] = field(default_factory=list)
    """Exceptions of scripts, and errors in the browser's console."""

    def locate(self, selector: str) -> Any:
        return self.page.locator(selector)

    def open_tab(self, name: str) -> None:
        self.page.get_by_role("tab", name=name, exact=True).click()

    def unfold(self, name: str) -> None:
        """Open a fold of the settings."""
        self.page.get_by_role("button", name=name).click()

    def drop(self, file: Path, onto: str = "#img2img_image") -> None:
        """Drop a file with the mouse, as the browser reports that."""
        self.locate(onto).dispatch_event("drop", {"dataTransfer": self.transfer(file)})
        self.locate(f"{onto} .image-frame img").wait_for()

    def paste(self, file: Path) -> None:
        """Paste a file."""
        event = "new ClipboardEvent('paste', { clipboardData: data, bubbles: true })"
        self.page.evaluate(f"(data) => document.body.dispatchEvent({event})", self.transfer(file))

    def transfer(self, file: Path) -> Any:
        """Return a file as a drop or a paste carries it."""
        script = """([bytes, name]) => {
            const data = new DataTransfer();
            const type = /heic$/i.test(name) ? "" : "image/png";  // many systems know no such kind
            data.items.add(new File([new Uint8Array(bytes)], name, { type }));
            return data;
        }"""
        return self.page.evaluate_handle(script, [list(file.read_bytes()), file.name])

    def set(self, elem_id: str, value: float) -> None:
        """Type a number into a control."""
        field = self.locate(f"#{elem_id} input[type=number]")
        field.fill(str(value))
        field.blur()

    def ready_to_paint(self) -> None:
        self.page.wait_for_function(
            "Math.max(...['width', 'height'].map((side) => "
            "document.querySelector('#ip2p_paint canvas')[side])) === 1024"
        )

    def number(self, elem_id: str) -> float:
        return float(self.locate(f"#{elem_id} input[type=number]").input_value())

    def write(self, text: str) -> None:
        self.locate("#img2img_prompt textarea").fill(text)

    def prompt(self) -> str:
        return self.locate("#img2img_prompt textarea").input_value()

    def generate(self, wait: bool = True) -> None:
        """Press Generate and wait for the end, or only for the beginning."""
        self.locate("#img2img_generate").click()
        self.locate("#img2img_interrupt").wait_for()
        if wait:
            self.wait_for_end()

    def wait_for_end(self) -> None:
        self.locate("#img2img_generate").wait_for(timeout=180_000)  # on a busy machine

    def says(self) -> str:
        """Return what the page says about the edit."""
        return self.locate("#img2img_progress").inner_text()

    def results(self) -> list[Image.Image]:
        """Return the pictures in the gallery."""
        urls = self.locate("#img2img_gallery img").evaluate_all("(all) => all.map((one) => one.src)")
        return [self.fetch(url) for url in urls]

    def fetch(self, url: str) -> Image.Image:
        """Return a picture of the page, its metadata included."""
        answer = self.page.request.get(url)
        assert answer.ok, url
        picture = Image.open(io.BytesIO(answer.body()))
        picture.load()
        return picture

    def input_picture(self) -> Image.Image:
        return self.fetch(self.locate("#img2img_image .image-frame img").get_attribute("src"))

    def reload(self) -> None:
        self.page.reload()
        self.ready()
        self.errors.clear()  # the old page complains that its connection was cut

    def ready(self) -> None:
        self.locate("#img2img_token_counter").get_by_text("/75").wait_for()


@contextmanager
def visit(browser: Browser, address: str, worker: Worker, **context: Any) -> Iterator[Visit]:
    """Open the page as a new visitor; the browser reaches nothing but the address."""
    with browser.new_context(**{**_screen(os.environ.get("IP2P_SCREEN", "1280x900 light")), **context}) as made:
        visited = Visit(made.new_page(), worker)

        def pass_on(route: Route) -> None:
            if route.request.url.startswith((address, "data:", "blob:")):
                route.continue_()
            else:
                visited.elsewhere.append(route.request.url)
                route.abort()

        made.route("**/*", pass_on)
        visited.page.on("pageerror", lambda error: visited.errors.append(str(error)))
        visited.page.on("console", lambda said: visited.errors.append(said.text) if said.type == "error" else None)
        visited.page.goto(address)
        visited.ready()
        yield visited


def _screen(named: str) -> dict[str, Any]:
    """Return the screen that tests see which ask for none: '1920x1080 dark' -> words for a browser's context."""
    size, colours = named.split()
    width, height = map(int, size.split("x"))
    return {"viewport": {"width": width, "height": height}, "color_scheme": colours}
