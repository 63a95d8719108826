"""What happens to a folder on the page: every handler returns the components that change."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from ...batch.planning import BatchRequest, check_folders
from ...engine.candidates import Search
from ...engine.edit import resolved
from ...errors import UserError
from ...files import short_name
from ...models.catalog import Catalog
from ..folder_access import FolderAccess
from ..uploads import Uploads
from ..worker.folder_task import FolderStatus, FolderTask
from ..worker.task import TaskState
from ..worker.worker import Worker
from . import html, wording
from .batch_layout import AS_EACH
from .form import SHOWN, edit_of
from .layout import Layout, Updates
from .results import sent_path


class BatchHandlers:
    """The handlers of a folder. `here` says whether the visitor sits at this machine.

    A method that gets `data` gets the values of its inputs by component.
    """

    def __init__(
        self,
        worker: Worker,
        catalog: Catalog,
        layout: Layout,
        *,
        uploads: Uploads,
        folder_access: FolderAccess,
        outputs: Path,
    ) -> None:
        self.worker, self.catalog = worker, catalog
        self.layout, self.memory, self.tab, self.pane = layout, layout.memory, layout.batch, layout.batch_results
        self.uploads, self.folder_access, self.outputs = uploads, folder_access, outputs.resolve()

    # --- a folder ---

    def submit(self, data: Mapping[Block, Any], here: bool) -> Updates:
        """Submit a folder; the page then follows its task."""
        try:
            if self.worker.limits is not None:
                raise UserError("This server edits no folders: edit one picture, or run the program yourself.")
            entry = self.catalog.find(str(data[self.layout.top.checkpoint] or ""))
            request = self._request(data, here)
            if request.search.strength is not None and entry.checkpoint is not None:  # around the model's scales
                request = replace(request, settings=entry.checkpoint.suited.fill(request.settings, {"steps"}))
            task = self._task(entry.path, request)
            names = wording.names_for(request, self.folder_access, here=here)
            try:
                check_folders(request)
            except UserError as error:
                raise UserError(names.said(error)) from error
            self.worker.queue.enqueue(task)
        except UserError as error:
            return self._problem(str(error))
        return self._begun(task)

    def retry(self, task_id: str | None) -> Updates:
        """Try again what failed, with the same request."""
        task = self.found(task_id)
        if task is None:
            return self._problem("The server no longer knows this folder: press Generate to go on with it.")
        again = self._task(task.checkpoint, replace(task.request, retry_failed=True))
        try:
            self.worker.queue.enqueue(again)
        except UserError as error:
            return self._problem(str(error))
        return self._begun(again)

    def _task(self, checkpoint: Path, request: BatchRequest) -> FolderTask:
        admit = partial(self.worker.decoding.within, patient=True)
        return FolderTask(self.worker.queue, checkpoint, request, admit=admit)

    def _problem(self, sentence: str) -> Updates:
        return {self.layout.progress: html.line(sentence, "problem")}

    def _begun(self, task: FolderTask) -> Updates:
        memory = self.memory
        return {memory.followed: task.id, memory.last_task: task.id, self.layout.progress: "", **self._table(task)}

    def _request(self, data: Mapping[Block, Any], here: bool) -> BatchRequest:
        """Return what the controls ask for. Raises UserError."""
        fields = {name: data[control] for name, control in self.tab.fields.items()}
        settings, search = edit_of({name: data[control] for name, control in self.layout.form.items()})
        typed, dropped = str(fields["input"] or "").strip(), str(fields["drop"] or "")
        if typed:
            source = self.folder_access.find(typed, here=here)
        elif dropped:
            source = self.uploads.find(dropped)
        else:
            raise UserError("There are no pictures to edit: drop some into the field, or name an input folder.")
        masks = str(fields["masks"] or "").strip()
        table = sent_path(data[self.tab.instructions])
        if table is not None and not Path(table).is_file():
            raise UserError("The file of instructions is no longer here: drop it again.")
        request = BatchRequest(
            source,
            Path(),
            resolved(replace(settings, batch_size=1)),
            batch_size=_whole(fields["together"], 0, 16) or None,
            instructions=Path(table) if table else None,
            recursive=bool(fields["recursive"]) or not typed,
            overwrite=bool(fields["overwrite"]),
            fmt=None if fields["format"] in (None, AS_EACH) else str(fields["format"]),
            quality=_whole(fields["quality"], 1, 100),
            masks=self.folder_access.find(masks, here=here) if masks else None,
            contact_sheet=bool(fields["contact_sheet"]),
            use_infotext=bool(fields["use_infotext"]),
            search=search,
            asked=SHOWN,
        )
        wanted = str(fields["output"] or "").strip()
        output = self.folder_access.find(wanted, here=here) if wanted else self._output_for(request, named=bool(typed))
        return replace(request, output=output)

    def _output_for(self, request: BatchRequest, *, named: bool) -> Path:
        """Return the output folder of a request without one: the same for the same request, so that it goes on."""
        asked = asdict(replace(request, overwrite=False, contact_sheet=False, batch_size=None))
        del asked["asked"]
        if request.search == Search():
            del asked["search"]  # so that folders from before there was one go on
        if request.instructions is not None:
            asked["instructions"] = hashlib.sha256(request.instructions.read_bytes()).hexdigest()
        digest = hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode("utf-8", "replace")).hexdigest()
        return self.outputs / "batch" / short_name(request.input.name if named else "dropped", f"-{digest[:6]}")

    def found(self, task_id: object) -> FolderTask | None:
        """Return the task of this id if it is a folder's."""
        task = self.worker.queue.find(task_id) if isinstance(task_id, str) and task_id else None
        return task if isinstance(task, FolderTask) else None

    def show(self, task: FolderTask, here: bool) -> Updates:
        """Show the buttons that make sense now, and how the folder ended."""
        updates = self._buttons(task.status(), task.id)
        if task.status().state.ended:
            updates[self.layout.progress] = wording.folder_progress(task, self.folder_access, here=here)
        return updates

    def _table(self, task: FolderTask) -> Updates:
        return {self.pane.board: html.board(task.id), **self._buttons(task.status(), task.id)}

    def _buttons(self, status: FolderStatus, task_id: str) -> Updates:
        pane, running = self.pane, not status.state.ended
        summary = status.summary
        results = bool(summary and (summary.done or summary.before))
        failed = bool(summary and summary.failed)
        steering = status.state is TaskState.RUNNING and not status.stopping and not status.interrupted
        return {
            pane.steering: gr.update(visible=steering),
            pane.pause: gr.update(visible=not status.paused),
            pane.resume: gr.update(visible=status.paused),
            pane.after: gr.update(visible=not running and (results or failed)),
            pane.retry: gr.update(visible=failed),
            pane.download: gr.update(value=html.zip_link(task_id), visible=results),
        }

    def pause(self, task_id: str | None) -> None:
        """Begin no further picture for now."""
        if task := self.found(task_id):
            task.pause()

    def resume(self, task_id: str | None) -> None:
        """Go on."""
        if task := self.found(task_id):
            task.resume()

    def stop(self, task_id: str | None) -> None:
        """End after what is in the model."""
        if task := self.found(task_id):
            task.stop()

    # --- the page ---

    def opened(self, stored: object, task_id: object) -> Updates:
        """The page was opened, perhaps again: restore what was said of a folder, and find its task."""
        remembered = stored.get("batch") if isinstance(stored, dict) else None
        updates: Updates = {}
        if isinstance(remembered, dict):
            for name, control in self.tab.fields.items():
                value = remembered.get(name)
                if isinstance(value, (str, bool, int, float)):
                    updates[control] = gr.update(value=value)
        task = self.found(task_id)
        if task is None:
            return updates
        return {
            **updates,
            self.layout.pictures.modes: gr.Tabs(selected="batch"),
            self.layout.pictures.mode: "batch",
            self.memory.followed: task.id,
            **self._table(task),
        }


def _whole(value: object, least: int, most: int) -> int:
    """Return the number of a slider. Raises UserError for what no slider sends."""
    if isinstance(value, (int, float)) and least <= value <= most and value == int(value):
        return int(value)
    raise UserError(f"A slider says {str(value)[:20]}, but must lie between {least} and {most}: move it.")
