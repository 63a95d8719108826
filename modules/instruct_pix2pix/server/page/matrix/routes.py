"""The routes of matrix.js: how a matrix stands, its pictures, and the whole of it in one."""

from __future__ import annotations

import asyncio
import io
import math

from fastapi import FastAPI, HTTPException, Response
from PIL import Image
from starlette.concurrency import run_in_threadpool

from ....grid import CELL, draw
from ....images import encode_picture
from ...worker.matrix_task import MatrixTask
from ...worker.worker import Worker

PAUSE = 1.0
"""Seconds between two answers to a page that follows a matrix."""
MOST_DRAWN = 20_000_000
"""Pixels of all cells in the picture of a matrix: of more, each is drawn smaller."""
KEPT = {"Cache-Control": "private, max-age=86400"}


def add_routes(app: FastAPI, worker: Worker) -> None:
    """Add the routes below /matrices."""
    drawing = asyncio.Lock()

    def found(job_id: str) -> MatrixTask:
        task = worker.queue.find(job_id)
        if not isinstance(task, MatrixTask):
            raise HTTPException(404)
        return task

    @app.get("/matrices/{job_id}", include_in_schema=False)
    async def stands(job_id: str, live: bool = False, again: bool = False) -> dict[str, object]:
        """Tell what there is to see; if asked `again`, only after a moment or when the task has ended."""
        task = found(job_id)
        if live:
            task.watch()
        if again:
            await asyncio.wait([asyncio.wrap_future(task.last_status)], timeout=PAUSE)
        status = task.status()
        return {
            "size": status.size,
            "before": bool(status.before),
            "coarse": status.coarse_step if live else 0,
            "done": len(status.results),
            "cells": len(task.cells),
            "ended": status.state.ended,
        }

    @app.get("/matrices/{job_id}/before", include_in_schema=False)
    def before(job_id: str) -> Response:
        return _picture(found(job_id).status().before, "image/png")

    @app.get("/matrices/{job_id}/coarse/{step}", include_in_schema=False)
    def coarse(job_id: str, step: int) -> Response:
        """Return the coarse picture of all cells; `step` only tells a browser that it is another one."""
        return _picture(found(job_id).status().coarse, "image/jpeg")

    @app.get("/matrices/{job_id}/cells/{place}", include_in_schema=False)
    def cell(job_id: str, place: int, small: bool = False) -> Response:
        results = found(job_id).status().results
        if not 0 <= place < len(results):
            raise HTTPException(404)
        one = results[place]
        return _picture(one.small, "image/webp") if small and one.small else _picture(one.png, "image/png")

    @app.get("/matrices/{job_id}/matrix.png", include_in_schema=False)
    async def whole(job_id: str, layer: int = 0) -> Response:
        task = found(job_id)
        if not 0 <= layer < len(task.status().results) // task.layer_size:
            raise HTTPException(404)
        async with drawing:
            data = await run_in_threadpool(picture_of, task, layer)
        name = f"matrix-{task.seeds[layer]}.png"
        return Response(data, media_type="image/png", headers={"Content-Disposition": f'attachment; filename="{name}"'})


def _picture(data: bytes, kind: str) -> Response:
    if not data:
        raise HTTPException(404)
    return Response(data, media_type=kind, headers=KEPT)


def picture_of(task: MatrixTask, layer: int) -> bytes:
    """Return one layer, whose cells are all finished, as a picture (PNG) with its infotext."""
    status, first = task.status(), layer * task.layer_size
    side = min(CELL, int(math.sqrt(MOST_DRAWN / task.layer_size)))
    source, icc = _opened(status.before, side)
    cells = [_opened(cell.png, side)[0] for cell in status.results[first : first + task.layer_size]]
    drawn = draw(cells, task.text_cfg, task.image_cfg, source)
    return encode_picture(drawn, "PNG", status.sheets[layer], icc=icc)


def _opened(png: bytes, side: int) -> tuple[Image.Image, bytes | None]:
    """Return a picture, RGB and no larger than `side`, and its profile."""
    with Image.open(io.BytesIO(png)) as image:
        icc = image.info.get("icc_profile")
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        return image.convert("RGB"), icc
