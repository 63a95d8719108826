"""The HTTP API, with the paths and shapes of the AUTOMATIC1111 web UI, so that its clients work unchanged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from ... import __version__
from ...models.catalog import Catalog
from ..responses import ERROR_HANDLERS, Json
from ..worker.worker import Worker
from .docs_page import docs_page
from .edit_routes import edit_routes
from .info_routes import info_routes
from .option_routes import option_routes
from .options import Options
from .state_routes import state_routes

ABOUT = (
    "Edits pictures by instruction. The paths and shapes are those of the AUTOMATIC1111 web UI; what differs is said "
    "with each of them. Errors are JSON, with a sentence for a person in 'detail'."
)


def make_api(worker: Worker, catalog: Catalog, outputs: Path, flags: Mapping[str, object]) -> FastAPI:
    """Make the app. `outputs` is where save_images saves; `flags` tell clients how the server was started."""
    app = make_bare()

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi()))

    options = Options(catalog)
    app.include_router(edit_routes(worker, options, outputs))
    app.include_router(state_routes(worker.queue))
    app.include_router(option_routes(worker, catalog, options))
    app.include_router(info_routes(flags))
    return app


def make_bare() -> FastAPI:
    """Make an app that has nothing but the shape of its errors: the page is added to it where there is no API."""
    app = FastAPI(
        title="instruct-pix2pix",
        description=ABOUT,
        version=__version__,
        docs_url=None,  # FastAPI's own page loads its scripts from elsewhere
        redoc_url=None,
        default_response_class=Json,
    )
    for kind, handler in ERROR_HANDLERS.items():
        app.add_exception_handler(kind, handler)
    return app
