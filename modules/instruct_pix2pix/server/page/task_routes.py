"""The route by which the page's script follows a task, without the cost of gradio for each answer."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from fastapi import FastAPI, HTTPException, Request

from ...errors import UserError
from ..folder_access import FolderAccess
from ..worker.edit_task import EditTask
from ..worker.folder_task import FolderTask
from ..worker.matrix_task import MatrixTask
from ..worker.task import TaskState
from ..worker.worker import Worker
from . import html, wording
from .matrix import markup as matrix_markup
from .results import Results

ShownTask = EditTask | FolderTask | MatrixTask
"""What the page follows."""

LOOK_OFTEN, LOOK_SELDOM = 1.0, 2.0
"""Seconds between two answers: a tenth of the time that the task has run, within these bounds."""


def add_routes(app: FastAPI, worker: Worker, places: FolderAccess, results: Results) -> None:
    """Add the status of tasks, below /jobs."""

    @app.get("/jobs/{job_id}", include_in_schema=False)
    async def progress(job_id: str, request: Request, live: bool = False, again: bool = False) -> dict[str, object]:
        """Return the status of a task; if asked `again`, only after a moment or when it has ended."""
        task = worker.queue.find(job_id)
        if not isinstance(task, ShownTask):
            raise HTTPException(404)
        if again:
            pause = min(LOOK_SELDOM, max(LOOK_OFTEN, task.status().seconds / 10))
            await asyncio.wait([asyncio.wrap_future(task.last_status)], timeout=pause)
        here = places.is_here(request)
        described = await asyncio.to_thread(_described, task, live, places, here, results)
        return {"kind": task.kind, **described, "stopped": task.status().state is TaskState.INTERRUPTED}


def _described(
    task: ShownTask, live: bool, places: FolderAccess, here: bool, results: Results
) -> dict[str, object]:
    """Return HTML to show; `news` changes when other buttons make sense, `results` are files for the gallery."""
    if isinstance(task, FolderTask):
        status = task.status()
        markup = wording.folder_progress(task, places, here=here)
        news = f"{status.state.value} {status.paused} {status.stopping}"
        return {"html": markup, "news": news, "results": [], "ended": status.state.ended}
    waited = time.time() - task.submitted_at
    model = task.checkpoint.name if task.checkpoint.is_dir() else task.checkpoint.stem
    if isinstance(task, MatrixTask):
        status = task.status()
        markup = matrix_markup.progress(status, len(task.cells), model, waited)
        ended = status.state.ended
        return {"html": markup, "news": "ended" if ended else "", "results": [], "ended": ended}
    preview = task.preview() if live else None
    status = task.status()
    markup = html.progress(status, model, waited, preview)
    with suppress(UserError):  # the page is told when it asks for the results
        results.write(task.id, status)
    ended, kept = status.state.ended, results.find(task.id)
    return {"html": markup, "news": "ended" if ended else "", "results": kept.results if kept else [], "ended": ended}
