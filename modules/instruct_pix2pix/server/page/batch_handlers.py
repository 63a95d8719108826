"""What happens in the sub-tab Batch: every handler returns the components that change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gradio as gr

from ...batch.planning import BatchRequest, check_folders
from ...engine.edit import canonical
from ...errors import UserError
from ...models.catalog import Catalog
from ..folder_access import FolderAccess
from ..uploads import Uploads
from ..worker.folder_task import FolderStatus, FolderTask
from ..worker.task import TaskState
from ..worker.worker import Worker
from . import html, wording
from .batch_layout import AS_EACH
from .form import settings_of
from .layout import Layout

Updates = dict[Any, Any]


class BatchHandlers:
    """The handlers. `here` says whether who asks sits at this machine."""

    def __init__(
        self, worker: Worker, catalog: Catalog, layout: Layout, *, drops: Uploads, places: FolderAccess, outputs: Path
    ) -> None:
        self.worker, self.catalog, self.ui = worker, catalog, layout
        self.drops, self.places, self.outputs = drops, places, outputs.resolve()

    def is_here(self, request: gr.Request) -> bool:
        """Whether who asks sits at this machine."""
        client = request.client
        return self.places.is_here(client.host if client else None, request.headers)

    # --- a folder ---

    def submit(self, data: Mapping[Any, Any], here: bool) -> Updates:
        """Put a folder into the line; `following` gets the id of its job, or nothing when there is none."""
        ui = self.ui
        try:
            checkpoint = self.catalog.find(str(data[ui.checkpoint] or "")).path
            request = self._request(data, here)
            job = FolderTask(self.worker.line, checkpoint, request)
            names = wording.names_for(request, self.places, here=here)
            try:
                check_folders(request)
            except UserError as error:
                raise UserError(names.said(error)) from error
            self.worker.enqueue(job)
        except UserError as error:
            return {ui.progress: html.line(str(error), "problem")}
        return self._begun(job)

    def retry(self, job_id: str | None) -> Updates:
        """Try again what failed, with the same request."""
        ui, job = self.ui, self.found(job_id)
        if job is None:
            text = "This folder is no longer known here: Generate goes on with it."
            return {ui.progress: html.line(text, "problem")}
        again = FolderTask(self.worker.line, job.checkpoint, replace(job.request, retry_failed=True))
        try:
            self.worker.enqueue(again)
        except UserError as error:
            return {ui.progress: html.line(str(error), "problem")}
        return self._begun(again)

    def _begun(self, job: FolderTask) -> Updates:
        return {self.ui.following: job.id, self.ui.job_id: job.id, self.ui.progress: "", **self.running(job)}

    def _request(self, data: Mapping[Any, Any], here: bool) -> BatchRequest:
        """What the controls ask for. Raises UserError."""
        fields = {name: data[control] for name, control in self.ui.batch.fields.items()}
        settings = settings_of({name: data[control] for name, control in self.ui.form.items()})
        typed, dropped = str(fields["input"] or "").strip(), str(fields["drop"] or "")
        if typed:
            source = self.places.find(typed, here=here)
        elif dropped:
            source = self.drops.find(dropped)
        else:
            raise UserError("There are no pictures to edit: drop some into the field, or name an input folder.")
        masks = str(fields["masks"] or "").strip()
        table = data[self.ui.batch.instructions]
        request = BatchRequest(
            source,
            Path(),
            canonical(replace(settings, batch_size=1)),
            batch_size=_whole(fields["together"], 0, 16) or None,
            instructions=Path(table["path"]) if isinstance(table, dict) and table.get("path") else None,
            recursive=bool(fields["recursive"]) or not typed,
            overwrite=bool(fields["overwrite"]),
            fmt=None if fields["format"] in (None, AS_EACH) else str(fields["format"]),
            quality=_whole(fields["quality"], 1, 100),
            masks=self.places.find(masks, here=here) if masks else None,
            contact_sheet=bool(fields["contact_sheet"]),
            use_infotext=bool(fields["use_infotext"]),
        )
        wanted = str(fields["output"] or "").strip()
        output = self.places.find(wanted, here=here) if wanted else self._output_for(request, named=bool(typed))
        return replace(request, output=output)

    def _output_for(self, request: BatchRequest, *, named: bool) -> Path:
        """Return the folder of a request that names none: the same request goes on there, another gets another."""
        asked = asdict(replace(request, overwrite=False, contact_sheet=False, batch_size=None))
        if request.instructions is not None:
            asked["instructions"] = hashlib.sha256(request.instructions.read_bytes()).hexdigest()
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode("utf-8", "replace")).hexdigest()
        return self.outputs / "batch" / f"{request.input.name if named else 'dropped'}-{digest[:6]}"

    def found(self, job_id: object) -> FolderTask | None:
        """Return the job of this id if it is a folder's."""
        job = self.worker.find(job_id) if isinstance(job_id, str) and job_id else None
        return job if isinstance(job, FolderTask) else None

    def show(self, job: FolderTask, here: bool) -> Updates:
        """Show the buttons that make sense now, and how it ended."""
        updates = self._buttons(job.status(), job.id)
        if job.status().state.ended:
            updates[self.ui.progress] = wording.folder_progress(job, self.places, here=here)
        return updates

    def running(self, job: FolderTask) -> Updates:
        """Show the table of a job, in place of the results of an edit."""
        ui = self.ui
        return {
            ui.batch.board: html.board(job.id),
            **self._buttons(job.status(), job.id),
        }

    def _buttons(self, status: FolderStatus, job_id: str) -> Updates:
        ui, running = self.ui, not status.state.ended
        summary = status.summary
        results = bool(summary and (summary.done or summary.before))
        failed = bool(summary and summary.failed)
        steering = status.state is TaskState.RUNNING and not status.stopping and not status.interrupted
        return {
            ui.batch.steering: gr.update(visible=steering),
            ui.batch.pause: gr.update(visible=not status.paused),
            ui.batch.resume: gr.update(visible=status.paused),
            ui.batch.after: gr.update(visible=not running and (results or failed)),
            ui.batch.retry: gr.update(visible=failed),
            ui.batch.download: gr.update(value=html.zip_link(job_id), visible=results),
        }

    def pause(self, job_id: str | None) -> None:
        """Begin no further picture for now."""
        if job := self.found(job_id):
            job.pause()

    def resume(self, job_id: str | None) -> None:
        """Go on."""
        if job := self.found(job_id):
            job.resume()

    def stop(self, job_id: str | None) -> None:
        """End after what is in the model."""
        if job := self.found(job_id):
            job.stop()

    # --- the page ---

    def opened(self, memory: object, job_id: object) -> Updates:
        """The page was opened, perhaps again: restore what was said of a folder, and find its job."""
        ui = self.ui
        remembered = memory.get("batch") if isinstance(memory, dict) else None
        updates: Updates = {}
        if isinstance(remembered, dict):
            for name, control in ui.batch.fields.items():
                value = remembered.get(name)
                if isinstance(value, (str, bool, int, float)):
                    updates[control] = gr.update(value=value)
        job = self.found(job_id)
        if job is None:
            return updates
        running = self.running(job)
        return {
            **updates,
            ui.modes: gr.Tabs(selected="batch"),
            **self.entered("batch"),
            ui.following: job.id,
            **running,
        }

    def entered(self, mode: str) -> Updates:
        """A sub-tab was chosen: examples are for single edits."""
        return {self.ui.mode: mode, self.ui.examples: gr.update(visible=mode != "batch" and self.ui.has_examples)}


def _whole(value: object, least: int, most: int) -> int:
    """The number of a slider. Raises UserError for what no slider sends."""
    if isinstance(value, (int, float)) and least <= value <= most and value == int(value):
        return int(value)
    raise UserError(f"A slider says {str(value)[:20]}, but must lie between {least} and {most}: move it.")
