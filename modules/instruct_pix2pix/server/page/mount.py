"""Puts the page together, handlers and all, and mounts it beside the API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import gradio as gr
from fastapi import FastAPI
from starlette.types import ASGIApp

from ...models.catalog import Catalog
from ...models.checkpoints import SUITED, Suited
from ...models.registry import DEMO
from ...paths import DATA, PACKAGE, checkout_of
from ...settings import KNOBS
from ..allowance import Allowance
from ..app import Page
from ..downloads import Downloads
from ..folder_access import FolderAccess
from ..upload_space import KEPT_SECONDS, UploadSpace
from ..uploads import Uploads
from ..worker.worker import Worker
from . import folder_routes, gradio_compat, html, link_preview, sheet_route, task_routes
from .batch_handlers import BatchHandlers
from .events import Handlers, connect
from .form_handlers import FormHandlers, PngInfoHandlers
from .handlers import EditHandlers
from .layout import build
from .limited import keep_within
from .matrix import routes as matrix_routes
from .matrix.handlers import MatrixHandlers
from .models_tab import routes as models_routes
from .panes.settings import vae_choices
from .photo_offer import PhotoOfferHandlers
from .results import Results
from .strip import routes as strip_routes
from .strip.handlers import StripHandlers
from .strip.sessions import Sessions

ROOT = checkout_of() or PACKAGE
EXAMPLES = next((f for f in (ROOT / "examples", DATA / "examples") if f.is_dir()), ROOT / "examples")
WEB = DATA / "web"
FIRST_SCRIPTS = ("first.js", "connection.js")
"""Before gradio's own, whose requests connection.js passes on."""
PAGE_SCRIPTS = (
    "picture.js",
    "easel.js",
    "paint.js",
    "batch.js",
    "progress.js",
    "notify.js",
    "matrix.js",
    "models.js",
    "compare.js",
    "strip.js",
    "numbers.js",
    "blanks.js",
    "saved.js",
    "weights.js",
    "focus.js",
    "arrows.js",
    "before_after.js",
    "photo_offer.js",
    "page.js",
)

SYSTEM_FONTS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
FIXED_FONTS = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace")

MOST_UPLOAD = 60 * 2**20
"""Bytes of one picture, which a camera's of 200 megapixels may take; a little less than of a body."""
SWEEP_SECONDS = 3600.0
FAST_COUNT = 4
"""Edits differ from seed to seed: where that takes seconds, make a few and pick one."""


def page(
    worker: Worker,
    catalog: Catalog,
    outputs: Path,
    cache: Path,
    folder_access: FolderAccess | None = None,
    root_path: str = "",
) -> Page:
    """Return what `server.app.build` takes as its page; `outputs` is where it saves results.

    `cache` is a folder for what visitors send and are shown, which the caller removes in the end. `folder_access` says
    which folders visitors may name, by default those of a server for this machine alone; strangers none. `root_path` is
    where a proxy has put the page, such as '/edit'.
    """
    limits = worker.limits
    access = FolderAccess.none(outputs) if limits else folder_access or FolderAccess.beside(outputs)

    def mount(app: FastAPI) -> ASGIApp:
        gradio_compat.set_environment(cache)
        kept = KEPT_SECONDS if limits is None else limits.kept_seconds
        space = UploadSpace(cache, kept_seconds=kept, in_use=worker.queue.files)
        uploads, results = Uploads(space), Results(space, worker.decoding, outputs)
        sessions = Sessions(results)
        if limits is None:
            folder_routes.add_routes(app, worker, uploads, access)
        task_routes.add_routes(app, worker, access, results)
        sheet_route.add_route(app, worker)
        link_preview.add_route(app)
        matrix_routes.add_routes(app, worker)
        strip_routes.add_routes(app, sessions, results)
        downloads = Downloads(catalog.dirs[0] if catalog.dirs else None, catalog.refresh)
        models_routes.add_routes(app, catalog, downloads, access)
        fast = worker.machine.device.type != "cpu" or catalog.default.path == DEMO
        count = min(FAST_COUNT if fast else 1, FAST_COUNT if limits is None else limits.edits)
        blocks = make(worker, catalog, outputs, count, uploads, access, results, sessions)
        app.router.lifespan_context = _sweeping(space, blocks, downloads)
        script = _text("instruct_pix2pix.js", *PAGE_SCRIPTS)
        served = gr.mount_gradio_app(
            app,
            blocks,
            path="/",
            root_path=root_path or None,
            footer_links=[],
            run_history=False,
            show_error=False,
            max_file_size=MOST_UPLOAD if limits is None else min(MOST_UPLOAD, limits.upload << 20),
            ssr_mode=False,
            enable_monitoring=False,
            mcp_server=False,
            pwa=False,
            allowed_paths=[str(EXAMPLES)] if EXAMPLES.is_dir() else [],
            theme=_theme(),
            css=_text("style.css", "page.css", "strip.css"),
            head=f"<script>{script}</script>",
        )
        gradio_compat.make_safe_and_quiet(blocks)
        allowance = None if limits is None else Allowance(limits.uploads << 20, limits.kept_seconds)
        gate = gradio_compat.GradioGate(served, space, blocks, allowance)
        return gradio_compat.HeadScript(gate, _text(*FIRST_SCRIPTS), lambda scope: link_preview.tags(scope, root_path))

    return mount


def make(
    worker: Worker,
    catalog: Catalog,
    outputs: Path,
    count: int,
    uploads: Uploads,
    folder_access: FolderAccess,
    results: Results,
    sessions: Sessions,
) -> gr.Blocks:
    """Make the page; `count` is how many pictures an edit makes unless told otherwise."""
    with gr.Blocks(title="instruct-pix2pix", analytics_enabled=False, fill_width=True) as blocks:
        layout = build(
            choices=[(html.model_choice(one), one.name) for one in catalog.entries],
            chosen=catalog.default.name,
            offer=html.offer(catalog.default, [KNOBS[name].default for name in SUITED]),
            suited=Suited() if catalog.default.checkpoint is None else catalog.default.checkpoint.suited,
            count=count,
            vaes=vae_choices(catalog.dirs),
            examples=EXAMPLES,
        )
        if worker.limits is not None:
            keep_within(layout, worker.limits)
        form = FormHandlers(catalog, layout.form, layout.settings, layout.top, layout.tabs)
        edit = EditHandlers(worker, catalog, layout, form, results, examples=EXAMPLES, outputs=outputs)
        handlers = Handlers(
            edit=edit,
            matrix=MatrixHandlers(layout, edit, form),
            batch=BatchHandlers(worker, catalog, layout, uploads=uploads, folder_access=folder_access, outputs=outputs),
            form=form,
            png_info=PngInfoHandlers(layout.png_info, layout.pictures.picture, layout.tabs, form),
            strip=StripHandlers(layout, edit, form, sessions),
            photo_offer=PhotoOfferHandlers(worker, catalog, uploads, folder_access),
        )
        connect(blocks, layout, handlers, count)
    return blocks


def _sweeping(
    space: UploadSpace, blocks: gr.Blocks, downloads: Downloads
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return what runs while the app does: every hour or sooner it removes visitors' files that were kept long enough.

    In the end it stops the downloads.
    """

    async def sweep() -> None:
        while True:
            await asyncio.sleep(min(SWEEP_SECONDS, space.kept_seconds / 4))
            await asyncio.to_thread(space.sweep)
            gradio_compat.forget_removed(blocks)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(sweep())
        yield
        task.cancel()
        downloads.close()

    return lifespan


def _theme() -> gr.themes.Base:
    """Return the colours of the AUTOMATIC1111 web UI, with fonts that every machine has: none may be fetched.

    Text is darker, or in the dark lighter, than gradio's own where that has a contrast below 4.5 : 1.
    """
    theme = gr.themes.Default(
        primary_hue=gr.themes.colors.orange,
        neutral_hue=gr.themes.colors.gray,
        spacing_size=gr.themes.sizes.spacing_sm,
        radius_size=gr.themes.sizes.radius_md,
        font=SYSTEM_FONTS,
        font_mono=FIXED_FONTS,
    )
    return theme.set(
        block_label_text_weight="500",
        block_label_text_color="*neutral_600",
        block_title_text_color="*neutral_600",
        body_text_color_subdued="*neutral_600",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        color_accent="*primary_700",  # page.css has that of the dark, for which there is no name here
        link_text_color_dark="*secondary_400",
        link_text_color_visited="*secondary_700",
        link_text_color_visited_dark="*secondary_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_hover_dark="*primary_800",
        button_cancel_background_fill=gr.themes.colors.red.c700,
        button_cancel_background_fill_hover=gr.themes.colors.red.c800,
    )


def _text(*names: str) -> str:
    """Return the texts of the page's own files, and of the extension's, which lie where a host looks for them."""
    folders = [ROOT, ROOT / "javascript", WEB]
    return "\n".join(
        (folder / name).read_text(encoding="utf-8") for name in names for folder in folders if (folder / name).is_file()
    )
