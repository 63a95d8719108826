"""What happens on the page: every handler returns the components that change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache

from ... import panel
from ...errors import UserError
from ...images import Picture, encode_picture
from ...infotext import parse, settings_from
from ...models.catalog import Catalog
from ...models.registry import ModelEntry
from ...settings import EditSettings
from ..pictures import read_picture
from ..worker.edit_task import EditRequest, EditStatus, EditTask
from ..worker.worker import Worker
from . import html
from .form import settings_of, values_of
from .layout import EXAMPLES, Layout, sides_shown
from .results import Results, ShownEdit, opened

Updates = dict[Any, Any]
"""Component -> its new value, or a `gr.update`."""

SHOWN_BY_BROWSERS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".avif")


class EditHandlers:
    """The handlers. A method that gets `data` gets the values of its inputs by component."""

    def __init__(
        self, worker: Worker, catalog: Catalog, layout: Layout, results: Results, *, examples: Path, outputs: Path
    ) -> None:
        self.worker, self.catalog, self.ui, self.results = worker, catalog, layout, results
        self.examples, self.outputs = examples, outputs
        self.count_tokens = html.TokenCounter()

    # --- an edit ---

    def submit(self, data: Mapping[Any, Any]) -> Updates:
        """Submit an order; `following` gets the id of the job, when there is one."""
        ui = self.ui
        try:
            order = self._order(data)
            job = self.worker.submit(order)
        except UserError as error:
            return {ui.progress: html.line(str(error), "problem")}
        self.results.begin(job.id, str(_path(data[ui.picture])))
        return {ui.following: job.id, ui.job_id: job.id, ui.progress: "", ui.selected: None}

    def _order(self, data: Mapping[Any, Any]) -> EditRequest:
        """What the controls ask for. Raises UserError."""
        ui = self.ui
        picture = _path(data[ui.picture])
        if picture is None:
            raise UserError("There is no picture to edit: drop one into the field, or click one of the examples.")
        entry = self.catalog.find(str(data[ui.checkpoint] or ""))
        settings = settings_of({name: data[control] for name, control in ui.form.items()}).require_instruction()
        mask = None
        if data[ui.mode] == "inpaint":
            mask = read_picture(str(data[ui.mask]), "The mask").image.convert("L") if data[ui.mask] else None
            if mask is None or mask.getbbox() is None:
                raise UserError(
                    "Nothing is painted over, so nothing may change: paint over a part of the picture, or go to the "
                    "img2img tab."
                )
        return EditRequest(entry.path, opened(picture), settings, mask, self.outputs if data[ui.save] else None)

    def show(self, job_id: str, selected: int | None) -> Updates:
        """Show the results that there are, and how it ended."""
        job, shown = self._found(job_id)
        if job is None or shown is None:
            lost = html.line("The server no longer knows this edit: generate again.", "problem")
            return {self.ui.selected: selected, self.ui.progress: lost}
        status = job.status()
        self.results.write(job_id, status)
        updates: Updates = {}
        if status.state.ended:
            updates[self.ui.progress] = html.progress(status, "", 0.0)
        if status.results or status.state.ended:
            updates |= self._gallery(status, shown)
        if status.results and selected is None:
            updates |= self._details(status, shown, 0)
        return {self.ui.selected: selected, **updates}

    def _gallery(self, status: EditStatus, shown: ShownEdit) -> Updates:
        captions = [html.caption(result.settings) for result in status.results]
        pictures = list(zip(shown.results, captions, strict=False))
        return {self.ui.gallery: pictures}

    def _details(self, status: EditStatus, shown: ShownEdit, index: int) -> Updates:
        ui = self.ui
        return {
            ui.selected: index,
            ui.compare: (shown.before, shown.results[index]),
            ui.infotext: status.results[index].infotext,
            ui.download: shown.results[index],
        }

    def interrupt(self, job_id: str | None) -> None:
        """Stop the job of this page, an edit or a folder, within one step."""
        if turn := self.worker.queue.find(job_id or ""):
            turn.interrupt()

    def skip(self, job_id: str | None) -> None:
        """Give up the present batch."""
        if job := self._job(job_id):
            job.skip()

    def _job(self, job_id: object) -> EditTask | None:
        turn = self.worker.queue.find(job_id) if isinstance(job_id, str) else None
        return turn if isinstance(turn, EditTask) else None

    def _found(self, job_id: object) -> tuple[EditTask | None, ShownEdit | None]:
        return self._job(job_id), self.results.find(job_id)

    # --- the selected result ---

    def select(self, job_id: str | None, event: gr.SelectData) -> Updates:
        """Show one of the results beside what it was."""
        job, shown = self._found(job_id)
        if job is None or shown is None or not 0 <= event.index < len(shown.results):
            return {self.ui.progress: html.line("These results are no longer kept: generate again.", "problem")}
        return self._details(job.status(), shown, event.index)

    def use_as_input(self, job_id: str | None, selected: int | None) -> Updates:
        """Make the selected result the picture to edit."""
        _, shown = self._found(job_id)
        if shown is None or selected is None or not 0 <= selected < len(shown.results):
            return {self.ui.progress: html.line("This result is no longer kept: generate again.", "problem")}
        return {self.ui.picture: shown.results[selected]}

    def reuse(self, infotext: str) -> Updates:
        """Set the controls as they were for the selected result."""
        return self._from_infotext(infotext)

    def recycle(self, infotext: str) -> Updates:
        """Take the seed of the selected result."""
        return {self.ui.form["seed"]: settings_from(infotext or "")[0].seed}

    # --- pictures ---

    def admit(self, sent: object) -> Updates:
        """Look at a picture that was dropped; say at once what is wrong with it, and show it if the browser cannot."""
        ui, path = self.ui, _path(sent)
        if not path:
            return {ui.progress: ""}
        try:
            picture = opened(path)
        except UserError as error:
            return {ui.picture: None, ui.progress: html.line(str(error), "problem")}
        notes = html.line(" ".join(picture.notes)) if picture.notes else ""
        if Path(path).suffix.lower() in SHOWN_BY_BROWSERS:
            return {ui.progress: notes}
        return {ui.picture: self._as_png(picture), ui.progress: notes}

    def arrive(self, sent: object) -> Updates:
        """Take a picture that was dropped or pasted anywhere on the page."""
        return {self.ui.picture: _path(sent), **self.admit(sent), self.ui.arrival: None}

    def example(self, event: gr.SelectData) -> Updates:
        """Take one of the examples: its picture and its instruction."""
        ui = self.ui
        name, instruction = EXAMPLES[event.index]
        return {
            ui.picture: str(self.examples / name),
            ui.form["instruction"]: instruction,
            ui.examples: gr.update(selected_index=None),  # so that it can be clicked again
        }

    def _as_png(self, picture: Picture) -> str:
        data = encode_picture(picture.image, "PNG", picture.infotext, exif=picture.exif, icc=picture.icc)
        return save_bytes_to_cache(data, "picture.png", str(self.results.cache))

    # --- models ---

    def choose(self, name: str, before: str) -> Updates:
        """Choose a model, or say why it cannot be and keep the one before."""
        try:
            return self._chosen(self.catalog.find(str(name)))
        except UserError as error:
            return {self.ui.checkpoint: before, self.ui.status: panel.line(str(error))}

    def _chosen(self, entry: ModelEntry) -> Updates:
        ui = self.ui
        return {ui.checkpoint: entry.name, ui.chosen: entry.name, ui.status: ""}  # the list says what it is

    def refresh(self, chosen: str) -> Updates:
        """Look for models again."""
        self.catalog.refresh()
        return self._choices(chosen)

    def _choices(self, chosen: object) -> Updates:
        entries = self.catalog.entries
        try:
            entry = self.catalog.find(str(chosen))
        except UserError:
            entry = self.catalog.default
        choices = [(html.model_choice(one), one.name) for one in entries]
        return {
            **self._chosen(entry),
            self.ui.checkpoint: gr.update(choices=choices, value=entry.name),
            self.ui.models: html.models_table(entries, self.catalog.dirs),
        }

    # --- infotext ---

    def read_info(self, sent: object) -> Updates:
        """Show the infotext of a picture."""
        ui, path = self.ui, _path(sent)
        if not path:
            return {ui.info_text: ""}
        try:
            text = opened(path).infotext
        except UserError as error:
            gr.Warning(str(error))
            return {ui.info_picture: None, ui.info_text: ""}
        if not text:
            gr.Info("There are no settings in this picture.")
        return {ui.info_text: text or ""}

    def send(self, sent: object, text: str) -> Updates:
        """Set the controls and take the picture too."""
        path, updates = _path(sent), self.send_settings(text)
        return {**updates, self.ui.picture: path} if path and text.strip() else updates

    def send_settings(self, text: str) -> Updates:
        """Set the controls from an infotext and go to the tab img2img."""
        if not text.strip():
            gr.Warning("There is nothing to send: drop a picture that was made here or in another web UI.")
            return {self.ui.tabs: gr.skip()}
        return {**self._from_infotext(text), self.ui.tabs: gr.Tabs(selected="img2img")}

    def _from_infotext(self, text: str) -> Updates:
        settings, left_out = settings_from(text)
        for sentence in left_out:
            gr.Warning(sentence)
        values = values_of(settings)
        del values["batches"], values["batch_size"]  # not of one picture
        updates = self._set(values)
        name = parse(text).fields.get("Model")
        if name:
            same = [entry.name for entry in self.catalog.entries if name in (entry.name, entry.path.stem)]
            try:
                updates |= self._chosen(self.catalog.find(same[0] if same else name))
            except UserError:
                gr.Warning(f"The model '{name[:60]}' of this picture is not here: another one makes another picture.")
        return updates

    # --- the form ---

    def _set(self, values: Mapping[str, Any]) -> Updates:
        """Set controls of the form, and show those that then have a meaning."""
        form = self.ui.form
        updates: Updates = {form[name]: gr.update(value=value) for name, value in values.items()}
        for component, update in {**self.sizing(values["sizing"]), **self.start(values["from_noise"])}.items():
            updates[component] = {**updates.get(component, {}), **update}
        return updates

    def sizing(self, sizing: str) -> Updates:
        """Show the controls that a way of sizing needs."""
        ui = self.ui
        parts = {**ui.form, "by_hand": ui.by_hand, "swap": ui.swap}
        return {parts[name]: gr.update(visible=visible) for name, visible in sides_shown(sizing).items()}

    def start(self, from_noise: bool) -> Updates:
        """Show the denoising strength where it has an effect."""
        return {self.ui.form["denoise"]: gr.update(visible=not from_noise)}

    def tokens(self, text: str, steps: float | None) -> str:
        """Count the tokens of a prompt."""
        return self.count_tokens(text or "", int(steps or 1))

    def reset(self, count: int) -> Callable[[], Updates]:
        """Return the handler that sets everything to its default and forgets what was remembered."""

        def handler() -> Updates:
            values = values_of(EditSettings(count=count))
            known = {self.ui.memory: {}, self.ui.live: True, self.ui.save: True}
            return {**self._set(values), **self._choices(None), **known}

        return handler

    def opened(self, memory: object, job_id: object) -> Updates:
        """The page was opened, perhaps again: restore its settings, and find its job so that it is followed."""
        ui = self.ui
        remembered = memory if isinstance(memory, dict) else {}
        updates = self._choices(remembered.get("checkpoint"))
        updates |= {ui.live: remembered.get("live") is not False, ui.save: remembered.get("save") is not False}
        try:
            settings = EditSettings.from_mapping(remembered.get("settings") or {})
            if remembered:
                updates |= self._set(values_of(settings))
        except (UserError, TypeError, AttributeError):
            pass  # of another version, or not ours
        job, shown = self._found(job_id)
        if job is None or shown is None:
            return updates
        if Path(shown.picture).is_file():
            updates[ui.picture] = shown.picture
        return {**updates, ui.following: job.id, ui.selected: None}


def _path(sent: object) -> str | None:
    """The file of what a picture component sends; gradio has checked that it is one that was uploaded or shown."""
    path = sent.get("path") if isinstance(sent, dict) else None
    return path if isinstance(path, str) else None
