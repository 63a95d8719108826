"""What happens to a matrix on the page: every handler returns the components that change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import gradio as gr
from gradio.blocks import Block

from ....engine.candidates import Search
from ....errors import UserError
from ....grid import around, values
from ...visitors import Visitor
from ...worker.edit_task import EditTask
from ...worker.matrix_task import MatrixRequest, MatrixTask
from .. import html
from ..form import ONE_EDIT, SEARCH, values_of
from ..form_handlers import FormHandlers
from ..gradio_compat import visitor_of
from ..handlers import EditHandlers, painted
from ..layout import Layout, Updates
from ..results import sent_path
from . import markup
from .layout import MOST_SEEDS, offer


class MatrixHandlers:
    """The handlers of a matrix. A method that gets `data` gets the values of its inputs by component."""

    def __init__(self, layout: Layout, edit: EditHandlers, form: FormHandlers) -> None:
        self.layout, self.edit, self.form = layout, edit, form
        self.worker, self.catalog = edit.worker, edit.catalog
        self.fields, self.board = layout.settings.matrix, layout.board

    # --- its controls ---

    def suit(self, name: str) -> Updates:
        """Set the values that suit a model, and one seed."""
        try:
            found = self.catalog.find(str(name)).checkpoint
        except UserError:
            found = None  # the page keeps the model before
        if found is None:
            return {self.fields.seeds: gr.skip()}
        texts, images = around(found.suited.text_cfg, found.suited.image_cfg)
        return {self.fields.text_cfg: texts, self.fields.image_cfg: images, self.fields.seeds: 1}

    def reset(self) -> Updates:
        """Set what suits the model that is chosen by default."""
        return self.suit(self.catalog.default.name)

    def offer(self, text_cfg: str, image_cfg: str, seeds: float) -> str:
        """Return what the button says."""
        return offer(text_cfg or "", image_cfg or "", int(seeds or 1))

    def submit(self, data: Mapping[Block, Any], visitor: Visitor) -> Updates:
        """Submit a matrix; the page then follows its task."""
        layout, memory, fields = self.layout, self.layout.memory, self.fields
        try:
            if data[layout.pictures.mode] == "batch":
                raise UserError("A matrix is of one picture: open the tab Picture or Inpaint beside Batch.")
            texts = values(str(data[fields.text_cfg] or ""), "text_cfg")
            images = values(str(data[fields.image_cfg] or ""), "image_cfg")
            seeds = _seeds(data[fields.seeds])
            with self.edit.request(data, visitor) as request:
                mask = self.edit.kept_mask(data, request)
                edit = replace(
                    request, settings=replace(request.settings, count=seeds, batch_size=1), search=Search()
                )
                task = self.worker.submit_matrix(MatrixRequest(edit, texts, images))
        except UserError as error:
            return self._problem(str(error))
        self.edit.results.begin(task.id, edit.owner, str(sent_path(data[layout.pictures.picture])), mask)
        return {
            memory.followed: task.id,
            memory.last_task: task.id,
            layout.progress: "",
            layout.results.selected: None,
            **self._table(task, live=bool(data[layout.preferences.live])),
        }

    def _table(self, task: MatrixTask, *, live: bool) -> Updates:
        return {self.board.table: markup.table(task, live=live), self.board.shown: task.id}

    def _problem(self, sentence: str) -> Updates:
        return {self.layout.progress: html.line(sentence, "problem")}

    # --- its task ---

    def found(self, task_id: object) -> MatrixTask | None:
        """Return the task of this id if it is a matrix."""
        task = self.worker.queue.find(task_id) if isinstance(task_id, str) else None
        return task if isinstance(task, MatrixTask) else None

    def show(self, task: MatrixTask, selected: str | None) -> Updates:
        """Say how a matrix ended; matrix.js shows its cells."""
        status = task.status()
        said = markup.progress(status, len(task.cells), "", 0.0) if status.state.ended else gr.skip()
        return {self.layout.results.selected: selected, self.layout.progress: said}

    def interrupt(self, task_id: str | None) -> None:
        """Stop the matrix in the table, if it is still under way."""
        if task := self.found(task_id):
            task.interrupt()

    # --- a cell ---

    def choose(
        self,
        wanted: str,
        followed: str | None,
        sent: object,
        mode: str,
        sent_mask: object,
        save: bool,
        stored: object,
        caller: gr.Request,
    ) -> Updates:
        """Make the edit of a cell as Generate would, and set all controls to it, its picture too.

        `wanted` is what `MatrixBoard.wanted` holds; `stored` what the browser remembers of the settings.
        """
        layout, memory, pictures = self.layout, self.layout.memory, self.layout.pictures
        task_id, _, word = str(wanted).partition(" ")
        place = int(word) if word.isascii() and word.isdigit() and len(word) < 9 else -1
        task, shown = self.found(task_id), self.edit.results.find(task_id)
        try:
            if task is None or shown is None or not 0 <= place < len(task.cells):
                raise UserError("The server no longer knows this matrix: make it again.")
            before = self._before(task, followed)
            one = task.ordinary(place)
            mask = painted(mode, sent_mask)
            save_to, visitor = self.edit.save_to(save), visitor_of(caller)
            with self.edit.requested(
                shown.session, shown.picture, mask, task.checkpoint, one, save_to, Search(), visitor
            ) as request:
                if not task.has_mask(request.mask):
                    raise UserError("Something else is painted over now than in this matrix: make it again.")
                edit = self.worker.submit(request)
        except UserError as error:
            return {self.board.wanted: "", **self._problem(str(error))}
        if before is not None:
            before.interrupt()
        self.edit.results.begin(edit.id, shown.session, shown.picture, shown.mask)
        names = [entry.name for entry in self.catalog.entries if entry.path == task.checkpoint]
        known = dict(stored) if isinstance(stored, dict) else {}
        searched = known["search"] if isinstance(known.get("search"), dict) else SEARCH
        known |= {"settings": asdict(one), "search": {**searched, **ONE_EDIT}}
        known |= {"checkpoint": names[0]} if names else {}
        return {
            **self.form.set({**values_of(one), **ONE_EDIT}),
            **(self.form.choices(names[0]) if names else {}),
            **({} if sent_path(sent) == shown.picture else {pictures.picture: shown.picture}),
            **(self._single() if mode == "batch" else {}),
            memory.followed: edit.id,
            memory.last_task: edit.id,
            memory.settings: known,
            layout.progress: "",
            layout.results.selected: None,
            self.board.wanted: wanted,
        }

    def _single(self) -> Updates:
        """Leave the tab of folders."""
        pictures = self.layout.pictures
        return {pictures.modes: gr.Tabs(selected="img2img"), pictures.mode: "img2img"}

    def _before(self, task: MatrixTask, followed: str | None) -> EditTask | None:
        """Return the edit of another cell that this page has under way. Raises UserError for any other task."""
        going = self.worker.queue.find(followed or "")
        if going is None or going is task or going.status().state.ended:
            return None
        if isinstance(going, EditTask) and any(going.settings == task.ordinary(i) for i in range(len(task.cells))):
            return going
        raise UserError("Another edit is under way: wait for it, or interrupt it, then choose again.")

    # --- the page ---

    def opened(self, stored: object, task_id: object, shown_id: object) -> Updates:
        """The page was opened, perhaps again: restore the controls, the table, and what is followed."""
        fields = stored.get("matrix") if isinstance(stored, dict) else None
        updates: Updates = {}
        for name, control in self.fields.fields.items():
            value = fields.get(name) if isinstance(fields, dict) else None
            if isinstance(value, (int, float) if name == "seeds" else str):
                updates[control] = gr.update(value=value)
        task = self.found(task_id) or self.found(shown_id)
        shown = None if task is None else self.edit.results.find(task.id)
        if task is None or shown is None:
            return updates
        live = not isinstance(stored, dict) or stored.get("live") is not False
        updates |= self._table(task, live=live)
        if task.id == task_id:
            updates |= {
                **self.edit.picture_again(shown),
                self.layout.memory.followed: task.id,
                self.layout.results.selected: None,
            }
        return updates


def _seeds(value: object) -> int:
    """Return the number of a slider. Raises UserError for what no slider sends."""
    if isinstance(value, (int, float)) and 1 <= value <= MOST_SEEDS and value == int(value):
        return int(value)
    raise UserError(f"Seeds must be a whole number between 1 and {MOST_SEEDS}: choose one in that range.")
