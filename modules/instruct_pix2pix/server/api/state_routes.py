"""The task that runs: how it stands, and how to stop it or a part of it."""

from __future__ import annotations

import base64
from typing import Any

from fastapi import APIRouter
from PIL import Image

from ...images import encode_picture
from ..worker.edit_task import EditStatus
from ..worker.queue import TaskQueue
from ..worker.task import Task, TaskState, TaskStatus
from .answer import timestamp


def state_routes(queue: TaskQueue) -> APIRouter:
    """Return the routes."""
    router = APIRouter()

    def found(id_: str | None) -> Task[Any] | None:
        return queue.find(id_) if id_ else queue.running

    @router.get("/sdapi/v1/progress")
    def progress(skip_current_image: bool = False) -> dict[str, Any]:
        """Tell how the present job stands, and show what it is becoming (PNG in base64)."""
        task = queue.running
        return _progress(task, None if task is None or skip_current_image else task.preview(), len(queue))

    @router.post("/sdapi/v1/interrupt")
    def interrupt(task: str | None = None) -> dict[str, Any]:
        """Stop the present job within one step, whoever sent it, or the one whose force_task_id is `task`.

        Its finished pictures are returned; the other jobs go on.
        """
        if stopped := found(task):
            stopped.interrupt()
        return {}

    @router.post("/sdapi/v1/skip")
    def skip(task: str | None = None) -> None:
        """Give up the present batch, of the present job or of `task`, and go on with the next."""
        if skipping := found(task):
            skipping.skip()

    return router


def _progress(task: Task[Any] | None, preview: Image.Image | None, count: int) -> dict[str, Any]:
    """Return how a task stands, and how many of the `count` tasks of the queue wait behind it."""
    status = task.status() if task else TaskStatus()
    done, parts = task.parts if task else (0, 0)
    of_batch = status if isinstance(status, EditStatus) else EditStatus()
    state = {
        "skipped": False,
        "interrupted": status.interrupted,
        "stopping_generation": False,
        "job": f"{task.kind} {task.id}" if task else "",
        "job_count": parts,
        "job_timestamp": timestamp(task) if task else "0",
        "job_no": done,
        "sampling_step": of_batch.batch_step,
        "sampling_steps": of_batch.batch_steps,
    }
    text = ["Loading the model"] if status.state is TaskState.LOADING else []
    text += [f"{count - 1} more in the queue"] if count > 1 else []
    return {
        "progress": round(status.step / status.steps, 4) if status.steps else 0.0,
        "eta_relative": round(_seconds_left(status), 2),
        "state": state,
        "current_image": base64.b64encode(encode_picture(preview, "PNG")).decode() if preview else None,
        "textinfo": ", ".join(text) or None,
        "current_task": task.id if task else None,
    }


def _seconds_left(status: TaskStatus) -> float:
    """Return the seconds until a task is finished; 0 where it has not begun.

    Before its first step as the web UI has them: from the time that it has run, as if a hundredth of it were done.
    """
    return status.seconds * 99 if status.eta is None else status.eta
