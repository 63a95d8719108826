"""What happens to an edit on the page: every handler returns the components that change."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block

from ...engine.candidates import Search
from ...errors import UserError
from ...images import Picture, encode_picture
from ...models.catalog import Catalog
from ...settings import EditSettings
from ..desktop import show_folder
from ..pictures import SentPicture, bytes_of, decoded
from ..visitors import Visitor
from ..worker.edit_task import EditRequest, EditResult, EditTask
from ..worker.worker import Worker
from . import html
from .form import SEARCH, SHOWN, edit_of, search_values, values_of
from .form_handlers import FormHandlers
from .layout import Layout, Updates
from .panes.examples import EXAMPLES, picture_of
from .panes.settings import LOOK
from .results import Results, ShownEdit, result_id, sent_path

LOOK_SECONDS = 120.0
"""How long a visitor waits for a map, the tasks before it included."""
ENDED = 10**9
"""A version that no status reaches: to wait for a task's end."""

MOST_FORMER = 20
"""Pictures that can come back, one after the other, after 'Use as input'."""

LOST = "This result is no longer kept: generate again."
NOTHING_PAINTED = (
    "Nothing is painted over, so nothing may change: paint over a part of the picture, or go to the tab Picture."
)

SHOWN_BY_BROWSERS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".avif")


class EditHandlers:
    """The handlers of an edit, its picture and its results, and of the page as a whole.

    A method that gets `data` gets the values of its inputs by component.
    """

    def __init__(
        self,
        worker: Worker,
        catalog: Catalog,
        layout: Layout,
        form: FormHandlers,
        results: Results,
        *,
        examples: Path,
        outputs: Path,
    ) -> None:
        self.worker, self.catalog, self.form, self.results = worker, catalog, form, results
        self.layout, self.memory, self.pane = layout, layout.memory, layout.results
        self.examples, self.outputs = examples, outputs

    # --- an edit ---

    def submit(self, data: Mapping[Block, Any], visitor: Visitor) -> Updates:
        """Submit an edit; the page then follows its task."""
        layout, memory = self.layout, self.memory
        try:
            with self.request(data, visitor) as request:
                mask = self.kept_mask(data, request)
                task = self.worker.submit(request)
        except UserError as error:
            return self._problem(str(error))
        self.results.begin(task.id, request.owner, str(sent_path(data[layout.pictures.picture])), mask)
        return {memory.followed: task.id, memory.last_task: task.id, layout.progress: "", self.pane.selected: None}

    def kept_mask(self, data: Mapping[Block, Any], request: EditRequest) -> str:
        """Keep what was painted over for a request; return the path, '' for none. Raises UserError."""
        if request.mask is None:
            return ""
        return self.results.keep(bytes_of(str(data[self.layout.pictures.mask]), "The mask"), "mask.png")

    def looking(self) -> Updates:
        """Say that `look` is under way."""
        return {self.layout.settings.look: gr.update(value="Looking …", interactive=False)}

    def looked(self) -> Updates:
        """Say that `look` is over, also where it was cut short: the server may be another one by then."""
        return {self.layout.settings.look: gr.update(value=LOOK, interactive=True)}

    def look(self, data: Mapping[Block, Any], visitor: Visitor) -> Updates:
        """Show what an edit would keep, before it is made."""
        settings = self.layout.settings
        updates = self.looked()
        try:
            with self.request(data, visitor) as request:
                amount, task = request.settings.keep_amount, self.worker.submit_map(request)
            status = task.wait(ENDED, LOOK_SECONDS)
            task.interrupt()
            if status.relevance is None:
                busy = "The model is busy with other work: look again when that is done."
                return {**updates, **self._problem(status.error or busy)}
            picture = str(sent_path(data[self.layout.pictures.picture]))
            shown = self.results.what_would_be_kept(picture, status.relevance, amount)
        except UserError as error:
            return {**updates, **self._problem(str(error))}
        return {**updates, settings.looked: gr.update(value=shown, visible=True), self.layout.progress: ""}

    @contextmanager
    def request(self, data: Mapping[Block, Any], visitor: Visitor) -> Iterator[EditRequest]:
        """Give what the controls ask for; in the block the worker takes its pictures. Raises UserError."""
        layout, pictures = self.layout, self.layout.pictures
        picture = sent_path(data[pictures.picture])
        if picture is None:
            raise UserError("There is no picture to edit: drop one into the field, or click one of the examples.")
        entry = self.catalog.find(str(data[layout.top.checkpoint] or ""))
        settings, search = edit_of({name: data[control] for name, control in layout.form.items()})
        settings = settings.require_instruction()
        save_to = self.save_to(data[layout.preferences.save])
        mask, session = painted(data[pictures.mode], data[pictures.mask]), str(data[layout.strip.session] or "")
        with self.requested(session, picture, mask, entry.path, settings, save_to, search, visitor) as request:
            yield request

    def save_to(self, wanted: object) -> Path | None:
        """Return where results are saved, if they are: those of strangers never."""
        return self.outputs if wanted and self.worker.limits is None else None

    @contextmanager
    def requested(
        self,
        session: str,
        picture: str,
        mask: SentPicture | None,
        checkpoint: Path,
        settings: EditSettings,
        save_to: Path | None,
        search: Search,
        visitor: Visitor,
    ) -> Iterator[EditRequest]:
        """Give a session's edit of an uploaded picture, of a part of it where there is a mask. Raises UserError."""
        sent = [SentPicture.in_file(picture, deep=True), *([mask] if mask else [])]
        with decoded(self.worker.decoding, *sent) as (opened, *masks):
            where = masks[0].mask if masks else None
            if mask is not None and (where is None or where.getbbox() is None):
                raise UserError(NOTHING_PAINTED)
            yield EditRequest(checkpoint, opened, settings, where, save_to, search, SHOWN, session, visitor)

    def show(self, task_id: str, selected: str | None) -> Updates:
        """Show the results that there are, and how the edit ended."""
        task, shown = self._found(task_id)
        if task is None or shown is None:
            lost = self._problem("The server no longer knows this edit: generate again.")
            return {self.pane.selected: selected, **lost}
        status = task.status()
        try:
            self.results.write(task_id, status)
        except UserError as error:
            return {self.pane.selected: selected, **self._problem(str(error))}
        updates: Updates = {}
        if status.state.ended:
            updates[self.layout.progress] = html.progress(status, "", 0.0)
        if status.results or status.state.ended:
            captions = html.captions(task.settings.instruction, status.results)
            # The gallery's own download would give the small copies of large results.
            whole = all(one.shown == one.file for one in shown.ones.values())
            updates[self.pane.gallery] = gr.Gallery(
                list(zip(shown.results, captions, strict=False)), buttons=["download_all"] if whole else []
            )
            several = len(status.results) > 1 or any(result.candidates for result in status.results)
            updates[self.pane.sheet] = gr.update(value=html.sheet_link(task_id), visible=several)
        if status.results and not selected:
            updates |= self.details(shown, status.results[0].number)
        return {self.pane.selected: selected, **updates}

    def details(self, shown: ShownEdit, number: int) -> Updates:
        """Show one result beside what it was, with its settings and all that is known of how it came about."""
        pane, made = self.pane, self._made(shown, number)
        try:
            one = self.results.there(shown, number)
        except UserError as error:
            return self._problem(str(error))
        before = self.results.before_of(shown)
        updates: Updates = {
            pane.selected: result_id(shown.task_id, number),
            pane.compare: (before or one.shown, one.shown),
            pane.infotext: one.infotext,
            pane.download: one.file,
        }
        if before is None:
            alone = "The input of this result is no longer here, so the result is shown alone."
            updates[self.layout.progress] = html.line(alone)
        kept, candidates = None, []
        try:
            if made is not None:
                kept = self.results.what_was_kept(shown, number, made)
                candidates = self.results.candidates_of(shown, number, made)
        except UserError as error:
            updates |= self._problem(str(error))
        updates[pane.candidates_pane] = gr.update(visible=bool(candidates))
        if made is not None and candidates:
            pictures = [*zip(candidates, html.candidate_captions(made.candidates), strict=True)]
            chosen = [one.chosen for one in made.candidates].index(True)
            updates[pane.candidates] = gr.update(value=pictures, selected_index=chosen)
        updates[pane.kept_pane] = gr.update(visible=kept is not None)
        if made is not None and kept is not None:
            updates |= {pane.kept: kept, pane.kept_text: html.line(html.kept(made.kept))}
        return updates

    def interrupt(self, task_id: str | None) -> None:
        """Stop the task of this page, an edit or a folder, within one step."""
        if task := self.worker.queue.find(task_id or ""):
            task.interrupt()

    def skip(self, task_id: str | None) -> None:
        """Give up the present batch."""
        if task := self._task(task_id):
            task.skip()

    def _task(self, task_id: object) -> EditTask | None:
        task = self.worker.queue.find(task_id) if isinstance(task_id, str) else None
        return task if isinstance(task, EditTask) else None

    def _found(self, task_id: object) -> tuple[EditTask | None, ShownEdit | None]:
        return self._task(task_id), self.results.find(task_id)

    def _made(self, shown: ShownEdit, number: int) -> EditResult | None:
        """Return a result as its task made it, as long as that is known."""
        task = self._task(shown.task_id)
        results = () if task is None else task.status().results
        return next((one for one in results if one.number == number), None)

    def _problem(self, sentence: str) -> Updates:
        return {self.layout.progress: html.line(sentence, "problem")}

    # --- the selected result ---

    def select(self, task_id: str | None, event: gr.SelectData) -> Updates:
        """Show one of the results beside what it was."""
        shown = self.results.find(task_id)
        if shown is None or not 0 <= event.index < len(shown.ones):
            return self._problem("These results are no longer kept: generate again.")
        return self.details(shown, [*shown.ones][event.index])

    def take_candidate(self, selected: str | None, event: gr.SelectData) -> Updates:
        """Set the seed and the scales of one of those among which the selected result was found."""
        found = self.results.one(selected)
        made = None if found is None else self._made(*found)
        if made is None:
            return self._problem(LOST)
        candidates = made.candidates
        return self.form.take(candidates[event.index].settings) if 0 <= event.index < len(candidates) else {}

    def use_as_input(self, selected: str | None, sent: object, former: list[str | None]) -> Updates:
        """Make the selected result the picture to edit; `sent` is the picture there, `former` those before it."""
        found = self.results.one(selected)
        if found is None:
            return self._problem(LOST)
        try:
            file = self.results.there(*found).file
        except UserError as error:
            return self._problem(str(error))
        path = sent_path(sent)
        return {self.layout.pictures.picture: file, **({} if path == file else self._formers([*former, path]))}

    def give_back(self, former: list[str | None]) -> Updates:
        """Take back the last 'Use as input'."""
        path = former[-1] if former else None
        if path is not None and not Path(path).is_file():
            lost = self._problem("The former picture is no longer here: drop it again.")
            return {**self._formers(former[:-1]), **lost}
        return {self.layout.pictures.picture: path, **self._formers(former[:-1])}

    def _formers(self, former: list[str | None]) -> Updates:
        return {self.pane.former: former[-MOST_FORMER:], self.pane.give_back: gr.update(visible=bool(former))}

    def open_folder(self, task_id: str | None) -> Updates:
        """Show the folder where the results of an edit are saved on this machine's desktop."""
        task = self._task(task_id)
        folder = self.outputs / (task.status().saved if task is not None else "")
        try:
            if not folder.is_dir():
                raise UserError("Nothing is saved yet: “Save every result” in the Settings tab does that.")
            show_folder(folder)
        except UserError as error:
            return self._problem(str(error))
        return {self.layout.progress: gr.skip()}

    def send_to_inpaint(self, selected: str | None, sent: object, former: list[str | None]) -> Updates:
        """Make the selected result the picture to edit, in the Inpaint tab, with nothing painted over."""
        updates = self.use_as_input(selected, sent, former)
        return {**updates, **self._inpainting(updates.get(self.layout.pictures.picture))}

    def use_as_mask(self, selected: str | None, sent: object) -> Updates:
        """Lay where the selected result was edited over its input in the Inpaint tab; `sent` is the picture there."""
        found = self.results.one(selected)
        made = None if found is None else self._made(*found)
        if found is None or made is None or not Path(found[0].picture).is_file():
            return {**self._problem(LOST), **self._inpainting(None)}
        picture = found[0].picture
        try:
            mask = self.results.mask_of(made)
        except UserError as error:
            return {**self._problem(str(error)), **self._inpainting(None)}
        changed = {} if sent_path(sent) == picture else {self.layout.pictures.picture: picture}
        return {**changed, **self._inpainting(picture, mask)}

    def _inpainting(self, picture: str | None, mask: str | None = None) -> Updates:
        """Open the Inpaint tab on a picture with a mask, or an empty one; without a picture paint.js takes nothing."""
        if picture is None:
            return {self.pane.sent_mask: ""}
        pictures = self.layout.pictures
        return {
            pictures.modes: gr.Tabs(selected="inpaint"),
            pictures.mode: "inpaint",
            self.pane.sent_mask: json.dumps({"mask": mask, "picture": picture}),
        }

    # --- pictures ---

    def admit(self, sent: object) -> Updates:
        """Look at a picture that was dropped; say at once what is wrong with it, and show it if the browser cannot."""
        layout, path = self.layout, sent_path(sent)
        if not path:
            return {layout.progress: ""}
        try:
            with decoded(self.worker.decoding, SentPicture.in_file(path)) as (picture,):
                notes = html.line(" ".join(picture.notes)) if picture.notes else ""
                if Path(path).suffix.lower() in SHOWN_BY_BROWSERS:
                    return {layout.progress: notes}
                return {layout.pictures.picture: self._as_png(picture), layout.progress: notes}
        except UserError as error:
            return {layout.pictures.picture: None, **self._problem(str(error))}

    def arrive(self, sent: object) -> Updates:
        """Take a picture that was dropped or pasted anywhere on the page."""
        pictures = self.layout.pictures
        return {pictures.picture: sent_path(sent), **self.admit(sent), pictures.arrival: None}

    def example(self, event: gr.SelectData) -> Updates:
        """Take one of the examples: its picture and its instruction."""
        name, instruction = EXAMPLES[event.index % len(EXAMPLES)]
        return {
            self.layout.pictures.picture: str(self.examples / picture_of(name)),
            self.layout.prompts.instruction: instruction,
            self.layout.examples: gr.update(selected_index=None),  # none stays marked
        }

    def _as_png(self, picture: Picture) -> str:
        data = encode_picture(picture.image, "PNG", picture.infotext, exif=picture.exif, icc=picture.icc)
        return self.results.keep(data, "picture.png")

    # --- the page ---

    def reset(self, count: int) -> Callable[[], Updates]:
        """Return the handler that sets everything to its default and forgets what was remembered."""
        preferences = self.layout.preferences

        def handler() -> Updates:
            values = {**values_of(EditSettings(count=count)), **SEARCH}
            known = {self.memory.settings: {}, preferences.live: True, preferences.save: True}
            return {**self.form.set(values), **self.form.choices(None), **known}

        return handler

    def opened(self, stored: object, task_id: object) -> Updates:
        """The page was opened, perhaps again: restore its settings, and find its task so that it is followed."""
        preferences = self.layout.preferences
        remembered = stored if isinstance(stored, dict) else {}
        updates = self.form.choices(remembered.get("checkpoint"))
        updates[preferences.live] = remembered.get("live") is not False
        updates[preferences.save] = remembered.get("save") is not False
        try:
            settings = EditSettings.from_mapping(remembered.get("settings") or {})
            if remembered:
                updates |= self.form.set({**values_of(settings), **search_values(remembered.get("search"))})
        except (UserError, TypeError, AttributeError):
            pass  # remembered by another version, or not by this program
        task, shown = self._found(task_id)
        if task is None or shown is None:
            return updates
        return {**updates, **self.picture_again(shown), self.memory.followed: task.id, self.pane.selected: None}

    def picture_again(self, shown: ShownEdit) -> Updates:
        """Take the input of an edit, if it is still there."""
        return {self.layout.pictures.picture: shown.picture} if Path(shown.picture).is_file() else {}


def painted(mode: object, sent: object) -> SentPicture | None:
    """Return the mask that paint.js sent, None outside of the Inpaint tab. Raises UserError where there is no paint."""
    if mode != "inpaint":
        return None
    if not sent:
        raise UserError(NOTHING_PAINTED)
    return SentPicture.in_base64(str(sent), "The mask")
