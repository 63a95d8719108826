"""The route of the page for one picture of all that an edit tried."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from itertools import islice

from fastapi import FastAPI, HTTPException, Response
from PIL import Image

from ...images import encode_picture
from ...sheet import MOST_CELLS, caption_of, draw_sheet, marked, small
from ..worker.edit_task import EditResult, EditTask
from ..worker.worker import Worker
from . import html

SHEET_PIXELS = 50_000_000
"""Of the largest sheet, about."""
MOST_IN_A_ROW = 8
"""Candidates of a result that stand in one row."""


def add_route(app: FastAPI, worker: Worker) -> None:
    """Add the contact sheet of a task, below /jobs."""

    @app.get("/jobs/{job_id}/contact-sheet.jpg", include_in_schema=False)
    def contact_sheet(job_id: str) -> Response:
        task = worker.queue.find(job_id)
        results = task.status().results if isinstance(task, EditTask) else ()
        if not results:
            raise HTTPException(404)
        with worker.decoding.within(SHEET_PIXELS):
            data = encode_picture(sheet_of(results), "JPEG", quality=90)
        return Response(data, media_type="image/jpeg")


def sheet_of(results: tuple[EditResult, ...]) -> Image.Image:
    """Return one picture (RGB) of results and of all that they were chosen from, the chosen ones marked.

    Those after the first MOST_CELLS are left out.
    """
    each = max(1, *(len(result.candidates) for result in results))
    count = min(MOST_CELLS, sum(max(1, len(result.candidates)) for result in results))
    cells = [
        (_opened(picture, chosen=chosen), caption) for picture, caption, chosen in islice(_tried(results), count)
    ]
    rows_of = each if 1 < each <= MOST_IN_A_ROW else None
    return draw_sheet(cells, rows_of and rows_of * max(1, round(math.sqrt(count) / rows_of)))


def _tried(results: tuple[EditResult, ...]) -> Iterator[tuple[bytes, str, bool]]:
    """Return a picture's file, its caption, and whether it was chosen, for each that was tried."""
    for result in results:
        finished = result.small or result.png
        if not result.candidates:
            yield finished, caption_of(result.settings), False
        for one, changed in zip(result.candidates, html.changes(result.candidates), strict=True):
            caption = f"{'kept: ' if one.chosen else ''}{changed}\n{caption_of(one.settings)}"
            yield finished if one.chosen else one.picture, caption, one.chosen


def _opened(data: bytes, *, chosen: bool) -> Image.Image:
    picture = small(Image.open(io.BytesIO(data)).convert("RGB"))
    return marked(picture) if chosen else picture
