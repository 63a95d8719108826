"""The HTTP API, with the paths and shapes of the AUTOMATIC1111 web UI, so that its clients work unchanged."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException as AnyHTTPException

from ... import __version__
from ...engine.process_memory import cuda, ram
from ...engine.sampling.samplers import SAMPLERS
from ...engine.sampling.schedules import SCHEDULE_NAMES
from ...errors import UserError
from ...images import encode_picture
from ...models.catalog import Catalog
from ..worker.edit_task import EditStatus, EditTask
from ..worker.task import QueueFull, Task, TaskState, TaskStatus
from ..worker.worker import Worker
from .docs_page import docs_page
from .schemas import Img2Img, Img2ImgAnswer, Options, PngInfo, answer_of, order_of, png_info, read_picture, timestamp

ABOUT = (
    "Edits pictures by instruction. The paths and shapes are those of the AUTOMATIC1111 web UI; what differs is said "
    "with each of them. Errors are JSON, with a sentence for a person in 'detail'."
)

# What clients ask for when they start, and what this program has none of.
EMPTY_LISTS = (
    "upscalers",
    "latent-upscale-modes",
    "sd-vae",
    "loras",
    "hypernetworks",
    "face-restorers",
    "realesrgan-models",
    "prompt-styles",
    "script-info",
    "extensions",
)


class Json(JSONResponse):
    """JSON in plain ASCII: what a client sent may hold halves of letters that UTF-8 cannot write."""

    def render(self, content: object) -> bytes:
        """Return the body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def make_api(worker: Worker, catalog: Catalog, outputs: Path, flags: Mapping[str, object]) -> FastAPI:
    """Make the app. `outputs` is where save_images saves; `flags` are shown to clients as the server's words."""
    options = Options(catalog)
    app = FastAPI(
        title="instruct-pix2pix",
        description=ABOUT,
        version=__version__,
        docs_url=None,  # FastAPI's own page loads its scripts from elsewhere
        redoc_url=None,
        default_response_class=Json,
    )
    for kind, handler in _HANDLERS.items():
        app.add_exception_handler(kind, handler)

    def submitted(body: Img2Img) -> tuple[EditTask, list[str]]:
        order, notes = order_of(body, options)  # nobody but the worker keeps the picture
        order = replace(order, outputs=outputs if body.save_images else None)
        return worker.submit(order, body.force_task_id), notes

    @app.get("/docs", include_in_schema=False)
    def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi()))

    @app.post("/sdapi/v1/img2img", response_model=Img2ImgAnswer)
    async def img2img(body: Img2Img, request: Request) -> Response:
        """Edit a picture. Waits for its turn and for all its pictures; an interrupted request returns those finished.

        A client that hangs up interrupts its request, unless save_images is set.
        """
        job, notes = await run_in_threadpool(submitted, body)
        status = await _ended(job, request, give_up=not body.save_images)
        if status.state is TaskState.FAILED and not status.results:
            if status.unexpected:
                raise HTTPException(500, status.error)
            raise UserError(status.error)
        if body.override_settings and body.override_settings_restore_afterwards is False:
            options.change(body.override_settings)
        return Json(await run_in_threadpool(answer_of, body, job, status, notes))

    @app.post("/sdapi/v1/txt2img")
    def txt2img() -> None:
        """Refused: an instruct-pix2pix model changes a picture, it does not make one from nothing."""
        raise UserError(
            "An instruct-pix2pix model changes a picture and needs one: send it to /sdapi/v1/img2img, in init_images."
        )

    @app.get("/sdapi/v1/progress")
    def progress(skip_current_image: bool = False) -> dict[str, Any]:
        """Tell how the present job stands, and show what it is becoming (PNG in base64)."""
        job = worker.running
        return _progress(job, None if job is None or skip_current_image else job.preview(), worker.queued)

    @app.post("/sdapi/v1/interrupt")
    def interrupt(task: str | None = None) -> dict[str, Any]:
        """Stop the present job within one step, whosever it is, or the one whose force_task_id is `task`.

        Its finished pictures are returned; the other jobs go on.
        """
        job = worker.find(task) if task else worker.running
        if job is not None:
            job.interrupt()
        return {}

    @app.post("/sdapi/v1/skip")
    def skip(task: str | None = None) -> None:
        """Give up the present batch, of the present job or of `task`, and go on with the next."""
        job = worker.find(task) if task else worker.running
        if job is not None:
            job.skip()

    @app.get("/sdapi/v1/options")
    def get_options() -> dict[str, Any]:
        """The checkpoint, and what is taken where a request says nothing."""
        loaded = worker.loaded
        return {**options.shown(), "sd_checkpoint_hash": loaded.hash if loaded else ""}

    @app.post("/sdapi/v1/options")
    def set_options(changes: dict[str, Any]) -> None:
        """Change options, all or none; a checkpoint is loaded by the next job. Names not listed by GET do nothing."""
        options.change(changes)

    @app.get("/sdapi/v1/sd-models")
    def sd_models() -> list[dict[str, Any]]:
        """The models that are here. 'editable' and 'about' say which can edit, and what each of them is."""
        loaded = worker.loaded
        hashes = {loaded.path: loaded.hash} if loaded else {}
        return [
            {
                "title": entry.name,
                "model_name": entry.name,
                "hash": hashes.get(entry.path),
                "sha256": None,
                "filename": entry.path.name,
                "config": None,
                "editable": bool(entry.checkpoint and entry.checkpoint.editable),
                "about": entry.checkpoint.label if entry.checkpoint else entry.problem,
            }
            for entry in catalog.entries
        ]

    @app.post("/sdapi/v1/refresh-checkpoints")
    def refresh_checkpoints() -> None:
        """Look for models again."""
        catalog.refresh()

    @app.get("/sdapi/v1/samplers")
    def samplers() -> list[dict[str, Any]]:
        """The sampling methods."""
        return [
            {
                "name": name,
                "aliases": [f"k_{name.lower().replace('++', 'pp').replace(' ', '_')}"],
                "options": {"scheduler": sampler.default_schedule},
            }
            for name, sampler in SAMPLERS.items()
        ]

    @app.get("/sdapi/v1/schedulers")
    def schedulers() -> list[dict[str, Any]]:
        """The schedule types."""
        rest = {"aliases": None, "default_rho": -1, "need_inner_model": False}
        return [{"name": name.lower().replace(" ", "_"), "label": name, **rest} for name in SCHEDULE_NAMES]

    @app.post("/sdapi/v1/png-info")
    def read_png_info(body: PngInfo) -> dict[str, Any]:
        """Read the settings that a picture carries: as text, and taken apart."""
        return png_info(read_picture(body.image, "The picture"))

    @app.get("/sdapi/v1/memory")
    def memory() -> dict[str, Any]:
        """Bytes of main memory and of CUDA's."""
        return {"ram": ram(), "cuda": cuda()}

    @app.get("/sdapi/v1/cmd-flags")
    def cmd_flags() -> dict[str, object]:
        """How the server was started, without what is secret."""
        return dict(flags)

    @app.get("/sdapi/v1/scripts")
    def scripts() -> dict[str, list[str]]:
        """None: scripts are programs of the web UI."""
        return {"txt2img": [], "img2img": []}

    @app.get("/sdapi/v1/embeddings")
    def embeddings() -> dict[str, dict[str, Any]]:
        """None."""
        return {"loaded": {}, "skipped": {}}

    def nothing() -> list[Any]:
        """Return an empty list: there are none here."""
        return []

    for name in EMPTY_LISTS:
        app.add_api_route(f"/sdapi/v1/{name}", nothing, methods=["GET"], name=name)
    return app


async def _ended(job: EditTask, request: Request, *, give_up: bool) -> EditStatus:
    """Wait for the end of a job, which comes soon when its client has gone and `give_up` is set."""
    done = asyncio.wrap_future(job.done)
    while not done.done():
        await asyncio.wait([done], timeout=1.0)
        if give_up and not done.done() and await request.is_disconnected():
            job.interrupt()
    return done.result()


def _progress(turn: Task[Any] | None, shown: Any, queued: int) -> dict[str, Any]:  # noqa: ANN401 - a picture or None
    status = turn.status() if turn else TaskStatus()
    done, rounds = turn.rounds if turn else (0, 0)
    of_batch = status if isinstance(status, EditStatus) else EditStatus()
    state = {
        "skipped": False,
        "interrupted": status.interrupted,
        "stopping_generation": False,
        "job": f"{turn.kind} {turn.id}" if turn else "",
        "job_count": rounds,
        "job_timestamp": timestamp(turn) if turn else "0",
        "job_no": done,
        "sampling_step": of_batch.batch_step,
        "sampling_steps": of_batch.batch_steps,
    }
    text = ["Loading the model"] if status.state is TaskState.LOADING else []
    text += [f"{queued - 1} more in the queue"] if queued > 1 else []
    return {
        "progress": round(status.step / status.steps, 4) if status.steps else 0.0,
        "eta_relative": round(status.eta or 0.0, 2),
        "state": state,
        "current_image": base64.b64encode(encode_picture(shown, "PNG")).decode() if shown else None,
        "textinfo": ", ".join(text) or None,
        "current_task": turn.id if turn else None,
    }


# --- errors ---


def error_answer(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error in the web UI's shape; `detail` is for a person."""
    content = {"error": HTTPStatus(status).phrase, "detail": sentence, "body": "", "errors": sentence}
    return Json(content, status, headers)


def _on_user_error(_: Request, error: Exception) -> Response:
    if isinstance(error, QueueFull):
        return error_answer(503, str(error), {"Retry-After": "5"})
    return error_answer(422, str(error))


def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    if first["type"] == "json_invalid":
        sentence = "The body of the request is not JSON: send it whole, as JSON."
    elif not where:
        sentence = "The body of the request is not a JSON object: send one, with Content-Type: application/json."
    else:
        sentence = f"{where[:100]}: {first['msg'][:200]}."
    return error_answer(422, sentence)


def _on_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, AnyHTTPException)
    known = {404: "There is nothing at this address: /docs lists what there is."}
    sentence = known.get(error.status_code, str(error.detail))
    return error_answer(error.status_code, sentence, error.headers)


def _on_fault(_: Request, __: Exception) -> Response:
    return error_answer(500, "Something went wrong in this program: its log says what.")


_HANDLERS = {
    UserError: _on_user_error,
    RequestValidationError: _on_invalid,
    AnyHTTPException: _on_http_error,
    Exception: _on_fault,  # which is raised further, for the log
}
