"""What happens to a result of the strip: it is shown, or its edit is made again with more or less change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from gradio.blocks import Block

from ....engine.candidates import PAIRS, Search
from ....engine.edit import settings_here
from ....errors import UserError
from ....settings import KNOBS, STRENGTH, EditSettings
from ...pictures import SentPicture
from ...visitors import Visitor
from .. import html
from ..form import ONE_EDIT, values_of
from ..form_handlers import FormHandlers
from ..handlers import LOST, EditHandlers
from ..layout import Layout, Updates
from ..results import sent_path
from .sessions import Sessions

TEXT_STEP, IMAGE_STEP = next(pair for pair in PAIRS if pair[0] > 1)
"""Factors of Text CFG and Image CFG from one edit to the next that changes more."""
STRENGTH_STEP = 0.15
"""Half of the way from one of `STRENGTHS` to the next."""


class StripHandlers:
    """The handlers of the strip, and of the two buttons beside the shown result."""

    def __init__(self, layout: Layout, edit: EditHandlers, form: FormHandlers, sessions: Sessions) -> None:
        self.layout, self.edit, self.form, self.sessions = layout, edit, form, sessions

    def choose(self, wanted: str) -> Updates:
        """Show a result of a session; `wanted` is what `StripPane.wanted` holds."""
        session_id, _, id_ = str(wanted).partition(" ")
        found = self.edit.results.one(id_) if self.sessions.has(session_id, id_) else None
        return self._problem(LOST) if found is None else self.edit.details(*found)

    def vary(
        self, direction: int, data: Mapping[Block, Any], visitor: Visitor
    ) -> tuple[Updates, Mapping[Block, Any]]:
        """Make the edit of the shown result again with the same seed and more change (1) or less (-1).

        `data` are the values of the page's controls; returns the updates, and those values as they are then.
        """
        layout, memory, edit = self.layout, self.layout.memory, self.edit
        found = edit.results.one(data[layout.results.selected])
        if found is None:
            return self._problem(LOST), data
        shown, number = found
        infotext = shown.ones[number].infotext
        try:
            if not shown.picture:
                raise UserError("The input of this result is no longer here: drop it, then reuse these settings.")
            settings = replace(settings_here(infotext)[0], count=1, batch_size=1, randomize_cfg="off")
            values: dict[str, Any] = dict(ONE_EDIT)
            if data[layout.form["by_strength"]]:
                values = {"by_strength": True, "strength": _stronger(data[layout.form["strength"]], direction)}
            else:
                settings = stepped(settings, direction)
            entry = self.form.model_of(infotext) or self.form.catalog.find(str(data[layout.top.checkpoint] or ""))
            mask = SentPicture.in_file(shown.mask) if shown.mask else None
            save_to = edit.save_to(data[layout.preferences.save])
            search = Search(strength=values.get("strength"))
            session = str(data[layout.strip.session] or "")
            with edit.requested(
                session, shown.picture, mask, entry.path, settings, save_to, search, visitor
            ) as request:
                task = edit.worker.submit(request)
        except UserError as error:
            return self._problem(str(error)), data
        edit.results.begin(task.id, session, shown.picture, shown.mask)
        values = {**values_of(settings), **values}
        for name in ("batches", "batch_size"):  # how many Generate makes is as it was
            del values[name]
        picture = layout.pictures.picture
        updates = {
            **self.form.set(values),
            **self.form.choices(entry.name),
            **({} if sent_path(data[picture]) == shown.picture else {picture: shown.picture}),
            memory.followed: task.id,
            memory.last_task: task.id,
            layout.progress: "",
            layout.results.selected: None,
        }
        asked = {layout.form[name]: value for name, value in values.items()}
        return updates, {**data, **asked, layout.top.checkpoint: entry.name}

    def _problem(self, sentence: str) -> Updates:
        return {self.layout.progress: html.line(sentence, "problem")}


def stepped(settings: EditSettings, direction: int) -> EditSettings:
    """Return settings with scales that change more (1) or less (-1). Raises UserError where they go no further."""
    text, image = KNOBS["text_cfg"], KNOBS["image_cfg"]
    least = min(1.0, settings.image_cfg)  # below 1 the picture is no longer kept
    changed = replace(
        settings,
        text_cfg=_stepped(settings.text_cfg * TEXT_STEP**direction, text.step, text.minimum, text.maximum),
        image_cfg=_stepped(settings.image_cfg * IMAGE_STEP**direction, image.step, least, image.maximum),
    )
    if (changed.text_cfg, changed.image_cfg) == (settings.text_cfg, settings.image_cfg):
        raise UserError("Both scales are as far as they go: change the words of the instruction, or the seed.")
    return changed


def _stronger(strength: object, direction: int) -> float:
    value = STRENGTH.check(strength)
    changed = _stepped(value + direction * STRENGTH_STEP, STRENGTH.step, STRENGTH.minimum, STRENGTH.maximum)
    if changed == value:
        raise UserError(f"“{STRENGTH.label}” is as far as it goes: change the words of the instruction, or the seed.")
    return changed


def _stepped(value: float, step: float | None, least: float | None, most: float | None) -> float:
    """Return the nearest value that a slider with these steps has."""
    step = step or 1
    return round(min(max(round(value / step) * step, least or 0.0), most or value), 2)
