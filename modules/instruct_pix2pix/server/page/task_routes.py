"""What the page's script asks for while a job is under way: how it stands, without gradio's cost for each answer."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fastapi import FastAPI, HTTPException, Request

from ..folder_access import FolderAccess
from ..worker.edit_task import EditTask
from ..worker.folder_task import FolderTask
from ..worker.task import Task
from ..worker.worker import Worker
from . import html, wording
from .results import Results

LOOK_OFTEN, LOOK_SELDOM = 1.0, 2.0
"""Seconds between two looks at a job: a tenth of the time it runs already, within these bounds."""


def add_routes(app: FastAPI, worker: Worker, places: FolderAccess, results: Results) -> None:
    """Add how a job stands, below /jobs."""

    @app.get("/jobs/{job_id}", include_in_schema=False)
    async def progress(job_id: str, request: Request, live: bool = False, again: bool = False) -> dict[str, object]:
        """Say how a job stands; when asked `again` only after a moment, or at once when it has ended."""
        turn = worker.queue.find(job_id)
        if turn is None:
            raise HTTPException(404)
        if again:
            pause = min(LOOK_SELDOM, max(LOOK_OFTEN, turn.status().seconds / 10))
            await asyncio.wait([asyncio.wrap_future(turn.last_status)], timeout=pause)
        here = places.is_here(request.client.host if request.client else None, request.headers)
        return {"kind": turn.kind, **await asyncio.to_thread(_described, turn, live, places, here, results)}


def _described(turn: Task[Any], live: bool, places: FolderAccess, here: bool, results: Results) -> dict[str, object]:
    """HTML to show; `news` changes when other buttons make sense, `results` are the files that the gallery can show."""
    if isinstance(turn, FolderTask):
        status = turn.status()
        markup = wording.folder_progress(turn, places, here=here)
        news = f"{status.state.value} {status.paused} {status.stopping}"
        return {"html": markup, "news": news, "results": [], "ended": status.state.ended}
    assert isinstance(turn, EditTask)
    preview = turn.preview() if live else None
    status, model = turn.status(), turn.checkpoint
    waited = time.time() - turn.submitted_at
    markup = html.progress(status, model.name if model.is_dir() else model.stem, waited, preview)
    ended, kept = status.state.ended, results.write(turn.id, status)
    return {"html": markup, "news": "ended" if ended else "", "results": kept.results if kept else [], "ended": ended}
