"""Edits: a picture and an instruction in, pictures out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from fastapi import APIRouter, HTTPException, Request, Response
from starlette.concurrency import run_in_threadpool

from ...errors import UserError
from ..bodies import body_schema, forget_body, parse_body, read_body
from ..responses import Json
from ..worker.edit_task import EditRequest
from ..worker.task import Task, TaskState, TaskStatus
from ..worker.worker import Worker
from .answer import answer_of, grey_png
from .options import Options
from .request import request_of
from .schemas import Img2Img, Img2ImgAnswer, MapAnswer

S = TypeVar("S", bound=TaskStatus)
T = TypeVar("T", bound=Task[Any])


def edit_routes(worker: Worker, options: Options, outputs: Path) -> APIRouter:
    """Return the routes; `outputs` is where save_images saves."""
    router = APIRouter()

    def submitted(
        request: Request, data: bytearray, submit: Callable[[EditRequest, str | None], T]
    ) -> tuple[Img2Img, T, list[str]]:
        body = parse_body(request, data, Img2Img)
        with request_of(body, options, outputs, worker.decoding) as (edit, notes):
            task = submit(edit, body.force_task_id or None)  # the worker alone keeps the picture
        if not body.include_init_images:  # a request may wait for long, and its pictures are large
            body.init_images = body.mask = None
            forget_body(request)
        return body, task, notes

    # FastAPI would keep a body, and what was in it, until it is answered
    @router.post("/sdapi/v1/img2img", response_model=Img2ImgAnswer, openapi_extra=body_schema(Img2Img))
    async def img2img(request: Request) -> Response:
        """Edit a picture. Waits for its turn and for all its pictures; an interrupted request returns those finished.

        A client that hangs up interrupts its request, unless save_images is set.
        """
        body, task, notes = await run_in_threadpool(submitted, request, await read_body(request), worker.submit)
        status = await _last_status(task, request, give_up=not body.save_images)
        if not status.results:
            _raise_failure(status)
        if body.override_settings and body.override_settings_restore_afterwards is False:
            options.change(body.override_settings)
        return Json(await run_in_threadpool(answer_of, body, task, status, notes))

    @router.post("/sdapi/v1/relevance-map", response_model=MapAnswer, openapi_extra=body_schema(Img2Img))
    async def relevance_map(request: Request) -> Response:
        """Show where an edit would change the picture, before it is made: takes two rows of the model.

        The body is that of img2img.
        """
        _, task, notes = await run_in_threadpool(submitted, request, await read_body(request), worker.submit_map)
        status = await _last_status(task, request, give_up=True)
        _raise_failure(status)
        if status.relevance is None:
            raise UserError("The request was interrupted.")
        return Json({"image": grey_png(status.relevance), "notes": [*notes, *status.notes]})

    @router.post("/sdapi/v1/txt2img")
    def txt2img() -> None:
        """Refused: an instruct-pix2pix model changes a picture, it does not make one from nothing."""
        raise UserError(
            "An instruct-pix2pix model changes a picture and needs one: send it to /sdapi/v1/img2img, in init_images."
        )

    return router


def _raise_failure(status: TaskStatus) -> None:
    if status.state is TaskState.FAILED:
        if status.unexpected:
            raise HTTPException(500, status.error)
        raise UserError(status.error)


async def _last_status(task: Task[S], request: Request, *, give_up: bool) -> S:
    """Wait for the end of a task, which comes soon when its client has gone and `give_up` is set."""
    last = asyncio.wrap_future(task.last_status)
    while not last.done():
        await asyncio.wait([last], timeout=1.0)
        if give_up and not last.done() and await request.is_disconnected():
            task.interrupt()
    return last.result()
