"""What is served: the API and the page on one address, behind the checks that every request passes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from starlette.types import ASGIApp

from ..models.catalog import Catalog
from .api.routes import make_api
from .security import MOST_BODY, Credentials, Guard
from .worker.worker import Worker

Page = Callable[[FastAPI], ASGIApp]
"""Adds a page at '/' to the API's app and returns the app to serve."""


def build(
    worker: Worker,
    catalog: Catalog,
    *,
    outputs: Path,
    page: Page | None = None,
    credentials: Credentials | None = None,
    host_names: Collection[str] = (),
    most_body: int = MOST_BODY,
    listen: bool = False,
) -> Guard:
    """Make the app that is served; without a `page`, '/' leads to the list of the API."""
    flags = {"api": True, "listen": listen, "auth": credentials is not None}
    api = make_api(worker, catalog, outputs, flags)
    app: ASGIApp = api
    if page is not None:
        app = page(api)
    else:
        api.add_api_route("/", lambda: RedirectResponse("docs"), include_in_schema=False)
    return Guard(app, credentials=credentials, host_names=host_names, most_body=most_body)
