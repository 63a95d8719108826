"""The routes of strip.js: what a session keeps, and the pictures of it. Another session's are not there."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, HTTPException, Response
from fastapi import Path as InPath
from fastapi.responses import FileResponse
from pydantic import BaseModel, Field, StringConstraints
from starlette.concurrency import run_in_threadpool

from ...small_copy import LONGEST
from .. import html
from ..results import Results, ShownEdit, result_id
from .sessions import MOST_PINNED, MOST_TASKS, MOST_UNPINNED, Keeping, Session, Sessions

SessionId = Annotated[str, InPath(pattern=r"^[0-9a-f]{32}$")]
TaskId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
"""Of the page's own tasks, whose ids cannot be guessed: other clients may choose theirs."""
ResultId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}-[0-9]{1,5}$")]

TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp", ".avif": "image/avif"}
KEPT = {"Cache-Control": "private, max-age=86400"}


class StoredSession(BaseModel):
    """A session as its tab remembers it; see `sessions.Session`."""

    entries: dict[ResultId, Keeping] = Field({}, max_length=MOST_PINNED + MOST_UNPINNED)
    tasks: dict[TaskId, Annotated[int, Field(ge=0, lt=10**5)]] = Field({}, max_length=MOST_TASKS)


def add_routes(app: FastAPI, sessions: Sessions, results: Results) -> None:
    """Add the routes below /strip."""
    making = asyncio.Lock()  # those who wait for a thumbnail take no thread

    def found(session_id: str, id_: str) -> tuple[ShownEdit, int]:
        one = results.one(id_) if sessions.has(session_id, id_) else None
        if one is None:
            raise HTTPException(404)
        return one

    @app.post("/strip/{session_id}", include_in_schema=False)
    def update(session_id: SessionId, stored: StoredSession) -> dict[str, object]:
        """Take in new results; tell all that the session has, the newest first, and what to remember of it."""
        session, lost = sessions.update(session_id, Session(dict(stored.entries), dict(stored.tasks)))
        shown = [id_ for id_, how in session.entries.items() if how is not Keeping.THROWN]
        known = [(id_, session.entries[id_], results.one(id_)) for id_ in reversed(shown)]
        return {
            "results": [_described(*one, how) for _, how, one in known if one is not None],
            "lost": lost,
            "stored": {"entries": session.entries, "tasks": session.tasks},
        }

    @app.put("/strip/{session_id}/{id_}", include_in_schema=False)
    def keep(session_id: SessionId, id_: str, how: Keeping) -> Response:
        """Pin a result, throw it away, or neither."""
        if not sessions.keep(session_id, id_, how):
            raise HTTPException(404)
        return Response(status_code=204)

    @app.get("/strip/{session_id}/{id_}/thumb", include_in_schema=False)
    async def thumb(session_id: SessionId, id_: str) -> Response:
        shown, number = found(session_id, id_)
        async with making:
            data = await run_in_threadpool(results.thumb_of, shown, number)
        return Response(data, media_type="image/webp", headers=KEPT)

    @app.get("/strip/{session_id}/{id_}/{side}", include_in_schema=False)
    def picture(session_id: SessionId, id_: str, side: str) -> Response:
        """Give the result ('whole'), what is shown of it ('after'), or the input to compare with ('before')."""
        shown, number = found(session_id, id_)
        if side == "before":
            file = results.before_of(shown)
        elif side in ("after", "whole"):
            one = results.there(shown, number)
            file = one.shown if side == "after" else one.file
        else:
            file = None
        if file is None or not Path(file).is_file():
            raise HTTPException(404)
        kind = TYPES.get(Path(file).suffix.lower(), "application/octet-stream")
        return FileResponse(file, media_type=kind, headers=KEPT)


def _described(shown: ShownEdit, number: int, how: Keeping) -> dict[str, object]:
    one = shown.ones[number]
    return {
        "id": result_id(shown.task_id, number),
        "instruction": one.settings.instruction,
        "caption": html.caption(one.settings),
        "pinned": how is Keeping.PINNED,
        "large": max(one.size) > LONGEST,
        "before": bool(shown.before),
    }
