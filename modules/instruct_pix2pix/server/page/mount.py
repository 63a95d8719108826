"""The page of the stand-alone program, in the manner of the AUTOMATIC1111 web UI."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import gradio as gr
from fastapi import FastAPI
from gradio.utils import get_upload_folder
from starlette.types import ASGIApp

from ...models.catalog import Catalog
from ...models.registry import DEMO
from ...paths import DATA, PACKAGE, checkout_of
from ..app import Page
from ..folder_access import FolderAccess
from ..uploads import Uploads
from ..worker.worker import Worker
from . import folder_routes, html, task_routes
from .batch_handlers import BatchHandlers
from .events import connect
from .gradio_gate import GradioGate
from .handlers import EditHandlers
from .head_script import HeadScript
from .layout import build
from .results import Results

ROOT = checkout_of() or PACKAGE
EXAMPLES = next((f for f in (ROOT / "examples", DATA / "examples") if f.is_dir()), ROOT / "examples")
WEB = DATA / "web"

SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
FIXED_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

MOST_UPLOAD = 48 * 2**20
"""Bytes of one picture."""
KEPT_HOURS = 24
FAST_COUNT = 4
"""Edits differ from seed to seed: where that takes seconds, make a few and pick one."""


def page(worker: Worker, catalog: Catalog, outputs: Path, places: FolderAccess | None = None) -> Page:
    """Return what `server.build` takes as its page; `outputs` is where it saves results.

    `places` are the folders that visitors may name, by default those of a server for this machine alone.
    """
    places = places or FolderAccess.beside(outputs)

    def mount(app: FastAPI) -> ASGIApp:
        _set_up_gradio()
        drops = Uploads(Path(get_upload_folder()) / "drops")
        folder_routes.add_routes(app, worker, drops, places)
        results = Results(Path(get_upload_folder()))
        task_routes.add_routes(app, worker, places, results)
        fast = worker.machine.device.type != "cpu" or catalog.default.path == DEMO
        blocks = make(worker, catalog, outputs, FAST_COUNT if fast else 1, drops, places, results)
        script = _text("instruct_pix2pix.js", "paint.js", "batch.js", "progress.js", "page.js")
        served = gr.mount_gradio_app(
            app,
            blocks,
            path="/",
            footer_links=[],
            run_history=False,
            show_error=False,
            max_file_size=MOST_UPLOAD,
            ssr_mode=False,
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            allowed_paths=[str(EXAMPLES)] if EXAMPLES.is_dir() else [],
            theme=_theme(),
            css=_text("style.css", "page.css"),
            head=f"<script>{script}</script>",
        )
        # Else gradio takes a path that a browser makes up for an upload: it checks only pages that it launched itself.
        blocks.has_launched = True
        # Seconds; by gradio's own choice it wakes 1000 and 100 times a second, each time at the cost of the edit.
        blocks._queue.sleep_when_free = 0.03
        blocks._queue.progress_update_sleep_when_free = 1.0  # nothing here tells gradio of its progress
        return HeadScript(GradioGate(served, Path(get_upload_folder())), _text("first.js"))

    return mount


def make(
    worker: Worker, catalog: Catalog, outputs: Path, count: int, drops: Uploads, places: FolderAccess, results: Results
) -> gr.Blocks:
    """Make the page; `count` is how many pictures an edit makes unless told otherwise."""
    entry = catalog.default
    hours = KEPT_HOURS * 3600
    with gr.Blocks(
        title="instruct-pix2pix", analytics_enabled=False, fill_width=True, delete_cache=(3600, hours)
    ) as blocks:
        layout = build(
            choices=[(html.model_choice(one), one.name) for one in catalog.entries],
            chosen=entry.name,
            models=html.models_table(catalog.entries, catalog.dirs),
            count=count,
            examples=EXAMPLES,
        )
        desk = EditHandlers(worker, catalog, layout, results, examples=EXAMPLES, outputs=outputs)
        folders = BatchHandlers(worker, catalog, layout, drops=drops, places=places, outputs=outputs)
        connect(blocks, layout, desk, folders, count)
    return blocks


def _set_up_gradio() -> None:
    """Say to gradio what it takes from the environment alone: where its files go, and to gather no figures.

    Uploads and results lie in a folder that nobody else can read and that goes with the program.
    """
    if "GRADIO_TEMP_DIR" not in os.environ:
        folder = tempfile.mkdtemp(prefix="instruct-pix2pix-")
        os.environ["GRADIO_TEMP_DIR"] = folder
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "100"
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = "1000000000"  # a table with pandas after each click


def _theme() -> gr.themes.Base:
    """The colours of the AUTOMATIC1111 web UI; fonts that are on every machine, since none may be fetched."""
    theme = gr.themes.Default(
        primary_hue=gr.themes.colors.orange,
        neutral_hue=gr.themes.colors.gray,
        spacing_size=gr.themes.sizes.spacing_sm,
        radius_size=gr.themes.sizes.radius_md,
        font=SYSTEM_FONTS,
        font_mono=FIXED_FONTS,
    )
    return theme.set(block_label_text_weight="500")


def _text(*names: str) -> str:
    """The page's own files, and those of the extension, which lie where a host looks for them."""
    places = [ROOT, ROOT / "javascript", WEB]
    return "\n".join(
        (place / name).read_text(encoding="utf-8") for name in names for place in places if (place / name).is_file()
    )
