"""Routes of the page for a folder: rows of its table, thumbnails, a zip of its results; and for dropped pictures."""

from __future__ import annotations

import asyncio
import io
import shutil
import tempfile
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import StreamingResponse
from PIL import Image, ImageOps
from starlette.concurrency import run_in_threadpool

from ...batch.contact_sheet import NAME as SHEET
from ...batch.journal import PictureState, entries_of
from ...batch.planning import PICTURES
from ...errors import UserError
from ...images import open_picture
from ...text import printable
from ..budget import Budget
from ..folder_access import FolderAccess
from ..pictures import pixels_of
from ..upload_space import ROOM
from ..uploads import Uploads
from ..worker.folder_task import FolderTask, TableRow
from ..worker.worker import Worker
from . import wording

THUMB = 96
"""Pixels of a thumbnail's longest side, twice what is shown."""
MOST_THUMBS = 1000
NOTHING = (
    b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 48 48"><path d="M14 14 34 34M34 14 14 34" '
    b'stroke="#888" stroke-width="2" fill="none"/></svg>'
)
"""The thumbnail of a picture that cannot be read."""
CHUNK = 1 << 20


class Thumbs:
    """Thumbnails as JPEG, made when they are asked for, one at a time; the last MOST_THUMBS are kept."""

    def __init__(self, decoding: Budget) -> None:
        """`decoding` is the budget of pixels."""
        self._decoding = decoding
        self._kept: OrderedDict[tuple[str, int, str], bytes] = OrderedDict()
        self._making = asyncio.Lock()  # those who wait for it take no thread

    async def get(self, task: FolderTask, row: TableRow, side: str) -> bytes:
        """Return the thumbnail of a row's picture 'before' or 'after'. Raises UserError."""
        path = row.source if side == "before" else row.result
        if path is None:
            raise UserError("There is no such picture.")
        key = (task.id, row.place, side)
        async with self._making:
            data = self._kept.get(key)
            if data is None:
                data = self._kept[key] = await run_in_threadpool(self._make, path)
            self._kept.move_to_end(key)
            while len(self._kept) > MOST_THUMBS:
                self._kept.popitem(last=False)
        return data

    def _make(self, path: Path) -> bytes:
        data = io.BytesIO()
        with self._decoding.within(pixels_of(path), patient=True):
            image = open_picture(path).image
            image.thumbnail((THUMB * 4, THUMB * 4), Image.Resampling.BILINEAR, reducing_gap=2.0)
            ImageOps.contain(image, (THUMB, THUMB)).save(data, "JPEG", quality=80)
        return data.getvalue()


def add_routes(app: FastAPI, worker: Worker, drops: Uploads, places: FolderAccess) -> None:
    """Add the routes of the page's script below /folders and /drops."""
    thumbs = Thumbs(worker.decoding)
    zipping = asyncio.Lock()  # each looks how full the disk is

    def found(job_id: str) -> FolderTask:
        task = worker.queue.find(job_id)
        if not isinstance(task, FolderTask):
            raise HTTPException(404)
        return task

    @app.get("/folders/{job_id}", include_in_schema=False)
    def rows(job_id: str, request: Request, after: int = -1) -> dict[str, object]:
        task = found(job_id)
        version, shown, new, counts = task.table(after)
        here = places.is_here(request)
        names = wording.names_for(task.request, places, here=here)
        return {
            "version": version,
            "places": shown,
            "rows": [_described(row, names) for row in new],
            "counts": {stage.value: count for stage, count in counts.items()},
            "pictures": task.status().pictures,
        }

    @app.get("/folders/{job_id}/{place}/{side}", include_in_schema=False)
    async def thumb(job_id: str, place: int, side: str) -> Response:
        task = found(job_id)
        row = task.row(place)
        if row is None or side not in ("before", "after"):
            raise HTTPException(404)
        try:
            data = await thumbs.get(task, row, side)
        except UserError:
            return Response(NOTHING, media_type="image/svg+xml")
        return Response(data, media_type="image/jpeg", headers={"Cache-Control": "private, max-age=86400"})

    @app.get("/folders/{job_id}/results.zip", include_in_schema=False)
    async def results(job_id: str) -> Response:
        output = found(job_id).request.output
        async with zipping:
            file, size = await run_in_threadpool(zipped, output, drops.folder)
        name = "".join(c if c.isascii() and c.isalnum() else "-" for c in output.name).strip("-")
        headers = {
            "Content-Length": str(size),
            "Content-Disposition": f'attachment; filename="{name or "results"}.zip"',
        }
        return StreamingResponse(_read(file), media_type="application/zip", headers=headers)

    @app.get("/drops/{drop_id}", include_in_schema=False)
    def dropped(drop_id: str) -> dict[str, object]:
        drops.find(drop_id)
        return {"pictures": drops.count(drop_id)}

    @app.post("/drops/{drop_id}", include_in_schema=False)
    async def drop(drop_id: str, name: str, request: Request) -> dict[str, object]:
        part = await run_in_threadpool(drops.begin, drop_id, name)
        try:
            async for chunk in request.stream():
                await run_in_threadpool(part.write, chunk)
        except BaseException:
            part.give_up()
            raise
        return {"name": await run_in_threadpool(part.finish), "pictures": drops.count(drop_id)}


def _described(row: TableRow, names: wording.FolderNames) -> dict[str, object]:
    return {
        "place": row.place,
        "name": printable(row.name),
        "stage": row.stage.value,
        "seconds": round(row.seconds, 2),
        "reason": printable(" ".join(row.notes)) if row.problem is None else names.said(row.problem),
        "before": row.source is not None and row.name.lower().endswith(tuple(PICTURES)),
        "after": row.result is not None,
    }


# --- a zip of the results ---


def zipped(output: Path, scratch: Path) -> tuple[IO[bytes], int]:
    """Return an unnamed file with a zip of all results that the journal says are done, and its size in bytes.

    Files outside the folder are left out, even if the journal names them. `scratch` is the folder for the file. Raises
    UserError if there are no results, and if the disk is too full.
    """
    members = list(_members(output))
    if not members:
        raise UserError("There are no results to download yet.")
    scratch.mkdir(parents=True, exist_ok=True)
    needed = sum(path.stat().st_size + 512 for _, path in members)
    if shutil.disk_usage(scratch).free < needed + ROOM:
        raise UserError("The disk of the server is too full to make a zip: copy the folder of the results instead.")
    file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - `_read` closes it
    try:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, strict_timestamps=False) as archive:  # they are compressed
            for name, path in members:
                archive.write(path, name)
        size = file.tell()
        file.seek(0)
    except OSError as error:
        file.close()
        raise UserError(
            f"A zip could not be made ({error.strerror}): copy the folder of the results instead."
        ) from error
    except BaseException:
        file.close()
        raise
    return file, size


def _members(output: Path) -> Iterator[tuple[str, Path]]:
    """Yield the results with the names that they get in the zip."""
    root = output.resolve()
    names = [name for entry in entries_of(output) if entry.state is PictureState.DONE for name in entry.outputs]
    taken: set[str] = set()
    for name in [*dict.fromkeys(names), *(path.name for path in sorted(output.glob(f"{SHEET}*.jpg")))]:
        try:
            path = (root / name).resolve()
            sound = path.is_relative_to(root) and path.is_file() and path.suffix.lower() in PICTURES
        except (OSError, ValueError):
            continue
        if sound:
            safe = _safe(name)
            while safe.casefold() in taken:
                stem, dot, ending = safe.rpartition(".")
                safe = f"{stem}~{dot}{ending}"
            taken.add(safe.casefold())
            yield safe, path


def _safe(name: str) -> str:
    """Return a name that every system can unpack, and that stays inside the folder."""
    parts = []
    for part in PurePosixPath(name).parts:
        clean = "".join("_" if c in '\\:*?"<>|/' or not c.isprintable() else c for c in part).rstrip(" .")
        if clean:
            parts.append(clean)
    return "/".join(parts) or "picture"


def _read(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while chunk := file.read(CHUNK):
            yield chunk
