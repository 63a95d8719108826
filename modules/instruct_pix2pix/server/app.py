"""The app that is served: the API and the page on one address, behind the checks that every request passes."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from starlette.types import ASGIApp

from ..models.catalog import Catalog
from .api.routes import make_api, make_bare
from .bodies import BodyBudget
from .limits import Limits
from .security import (
    MOST_BODY,
    Authentication,
    BodyLimit,
    Credentials,
    Faults,
    HostCheck,
    SameOriginCheck,
    SecurityHeaders,
)
from .visitors import KnowsVisitors, Proxies
from .worker.worker import Worker

Page = Callable[[FastAPI], ASGIApp]
"""Adds a page at '/' to the API's app and returns the app to serve."""


def build(
    worker: Worker,
    catalog: Catalog,
    *,
    outputs: Path,
    page: Page | None = None,
    users: Collection[Credentials] = (),
    host_names: Collection[str] = (),
    most_body: int = MOST_BODY,
    listen: bool = False,
    proxies: Proxies | None = None,
    frames: Collection[str] = (),
    token_header: str = "",
) -> ASGIApp:
    """Make the app that is served; without a `page`, '/' leads to the list of the API.

    `outputs` is where the API saves results, `listen` what it tells clients of how it was started; the rest is as in
    `guarded`. A worker with limits serves strangers: the API of the web UI, whose clients share what is chosen, is left
    out.
    """
    flags = {"api": True, "listen": listen, "auth": bool(users)}
    api = make_api(worker, catalog, outputs, flags) if worker.limits is None else make_bare()
    if page is not None:
        app = page(api)
    else:
        api.add_api_route("/", lambda: RedirectResponse("docs"), include_in_schema=False)
        app = api
    return guarded(
        app,
        users=users,
        host_names=host_names,
        most_body=most_body if worker.limits is None else min(most_body, body_for(worker.limits)),
        proxies=proxies,
        frames=frames,
        token_header=token_header,
    )


def guarded(
    app: ASGIApp,
    *,
    users: Collection[Credentials] = (),
    host_names: Collection[str] = (),
    most_body: int = MOST_BODY,
    proxies: Proxies | None = None,
    frames: Collection[str] = (),
    token_header: str = "",
) -> ASGIApp:
    """Return an app behind all checks of `security`; the last one added sees a request first.

    `users` are the only ones who are answered, unless there are none; `host_names` are names of this machine, besides
    localhost and any IP address; `most_body` is in bytes. `proxies` say for whom they forward; `frames` are other sites
    that may show the page; `token_header` is the one with a visitor's token.
    """
    known = proxies or Proxies()
    app = BodyLimit(BodyBudget(app, most_body), most_body)
    if users:
        app = Authentication(app, users, known)
    app = SameOriginCheck(app)
    app = HostCheck(app, host_names)
    return SecurityHeaders(Faults(KnowsVisitors(app, known, token_header)), frames)


def body_for(limits: Limits) -> int:
    """Return the bytes of a body that has the largest picture that a stranger may send, and a mask beside it."""
    return (2 * limits.upload + 1) << 20
