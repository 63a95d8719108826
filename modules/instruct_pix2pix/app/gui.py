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

from . import folder_routes, gui_text, job_routes
from .catalogue import Catalogue
from .drops import Drops
from .gui_batch import FolderDesk
from .gui_events import Desk
from .gui_gate import Gate
from .gui_head import Headed
from .gui_layout import build
from .gui_results import Results
from .gui_wiring import connect
from .jobs import Worker
from .library import DEMO, PACKAGE
from .places import Places
from .server import Page

ROOT = PACKAGE.parents[1]
EXAMPLES = next((f for f in (ROOT / "examples", PACKAGE / "data" / "examples") if f.is_dir()), ROOT / "examples")
WEB = PACKAGE / "data" / "web"

SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
FIXED_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

MOST_UPLOAD = 48 * 2**20
"""Bytes of one picture."""
KEPT_HOURS = 24
FAST_COUNT = 4
"""Edits differ from seed to seed: where that takes seconds, make a few and pick one."""


def page(worker: Worker, catalogue: Catalogue, outputs: Path, places: Places | None = None) -> Page:
    """Return what `server.build` takes as its page; `outputs` is where it saves results.

    `places` are the folders that visitors may name, by default those of a server for this machine alone.
    """
    places = places or Places.beside(outputs)

    def mount(app: FastAPI) -> ASGIApp:
        _set_up_gradio()
        drops = Drops(Path(get_upload_folder()) / "drops")
        folder_routes.add_routes(app, worker, drops, places)
        results = Results(Path(get_upload_folder()))
        job_routes.add_routes(app, worker, places, results)
        fast = worker.machine.device.type != "cpu" or catalogue.default.path == DEMO
        blocks = make(worker, catalogue, outputs, FAST_COUNT if fast else 1, drops, places, results)
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
        return Headed(Gate(served, Path(get_upload_folder())), _text("first.js"))

    return mount


def make(
    worker: Worker, catalogue: Catalogue, outputs: Path, count: int, drops: Drops, places: Places, results: Results
) -> gr.Blocks:
    """Make the page; `count` is how many pictures an edit makes unless told otherwise."""
    entry = catalogue.default
    hours = KEPT_HOURS * 3600
    with gr.Blocks(
        title="instruct-pix2pix", analytics_enabled=False, fill_width=True, delete_cache=(3600, hours)
    ) as blocks:
        layout = build(
            choices=[(gui_text.model_choice(one), one.name) for one in catalogue.entries],
            chosen=entry.name,
            models=gui_text.models_table(catalogue.entries, catalogue.dirs),
            count=count,
            examples=EXAMPLES,
        )
        desk = Desk(worker, catalogue, layout, results, examples=EXAMPLES, outputs=outputs)
        folders = FolderDesk(worker, catalogue, layout, drops=drops, places=places, outputs=outputs)
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
