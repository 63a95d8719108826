"""Routes of the tab Models: what is here, a hash, and downloads, which only those may begin who are known or here."""

from __future__ import annotations

import asyncio

from fastapi import FastAPI, HTTPException, Request
from starlette.concurrency import run_in_threadpool

from ....errors import UserError
from ....models.add_on_cards import all_cards
from ....models.add_ons import AddOnFolders
from ....models.catalog import Catalog
from ....models.registry import model_hash
from ...downloads import Downloads, DownloadState
from ...folder_access import FolderAccess
from ...security import USER
from .. import wording
from . import markup


def add_routes(app: FastAPI, catalog: Catalog, downloads: Downloads, access: FolderAccess) -> None:
    """Add the routes of models.js, below /models."""
    hashing = asyncio.Lock()  # each reads a whole model from the disk
    actions = {
        "look-up": downloads.look_up,
        "start": downloads.start,
        "pause": downloads.pause,
        "cancel": downloads.cancel,
    }

    def may(request: Request) -> bool:
        return USER in request.scope or access.is_here(request)

    def words(request: Request) -> wording.FolderNames:
        return wording.FolderNames(access, access.is_here(request), {})

    def described(request: Request) -> dict[str, object]:
        statuses = {name: downloads.status(name) for name in downloads.offers}
        said, allowed = words(request).said, may(request)
        return {
            "html": markup.offers(downloads, catalog.entries, said, may=allowed),
            "photo": markup.photo_offer(downloads, catalog.entries, said, may=allowed),
            "going": [name for name, one in statuses.items() if one and one.state.going],
            "finished": [name for name, one in statuses.items() if one and one.state is DownloadState.FINISHED],
        }

    @app.get("/models", include_in_schema=False)
    def here() -> dict[str, object]:
        cards = all_cards(AddOnFolders.near(models=catalog.dirs))
        return {"html": markup.here(catalog.entries, catalog.dirs, cards)}

    @app.get("/models/hash", include_in_schema=False)
    async def short_hash(name: str) -> dict[str, object]:
        entry = next((one for one in catalog.entries if one.name == name), None)
        if entry is None:
            raise UserError("This model is no longer here: look again.")
        async with hashing:
            return {"hash": await run_in_threadpool(model_hash, entry.path)}

    @app.get("/models/downloads", include_in_schema=False)
    def look(request: Request) -> dict[str, object]:
        return described(request)

    @app.post("/models/downloads/{action}", include_in_schema=False)
    def act(action: str, name: str, request: Request) -> dict[str, object]:
        if not may(request):
            raise HTTPException(403, markup.NOT_ALLOWED)
        if action not in actions:
            raise HTTPException(404)
        try:
            found = actions[action](name)
        except UserError as error:
            raise UserError(words(request).said(error)) from error
        return {**described(request), "found": found}
