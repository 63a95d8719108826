"""A matrix of edits as a task of the worker: all of its cells together, coarse pictures of them, then each as it is."""

from __future__ import annotations

import contextlib
import hashlib
import time
from dataclasses import dataclass, replace

from PIL import Image

from ...engine.edit import Edited, Progress, fitted, plan_for
from ...engine.model import EditModel
from ...engine.search import MOST_CANDIDATES, edit_together
from ...errors import Interrupted, UserError
from ...grid import cells, check, plot_fields
from ...images import encode_picture
from ...settings import EditSettings
from ..small_copy import small_copy
from .edit_task import PREVIEW_PAUSE, EditRequest
from .pace import Pace
from .preview import sheet
from .task import MOST_RESULT_PIXELS, LoadedModel, Order, OwnQueue, Task, TaskStatus

SMALL_CELL = 256
"""Pixels of the longest side of what a table shows of a cell."""
COARSE_QUALITY = 85


@dataclass(frozen=True)
class MatrixRequest:
    """An edit, and the values of its two scales; `count` of its settings is how many seeds there are."""

    edit: EditRequest
    text_cfg: tuple[float, ...]
    image_cfg: tuple[float, ...]

    def cells(self) -> list[EditSettings]:
        """Return the settings of all cells: a layer for each seed, in it a row for each Image CFG.

        They have the size at which the model edits. Raises UserError for more than are made together, and for several
        variations of the instruction.
        """
        asked = self.edit.settings
        check(asked)
        count = asked.count * len(self.text_cfg) * len(self.image_cfg)
        if count > MOST_CANDIDATES:
            raise UserError(
                f"{count} edits are too many for one matrix: take fewer values or seeds, {MOST_CANDIDATES} edits are "
                "the most."
            )
        same = {"count": 1, "batch_size": 1, "result_size": "model", "zoom": False}
        layers = (replace(one, **same) for one in replace(asked, randomize_cfg="off").pictures())
        return [cell for layer in layers for cell in cells(layer, self.text_cfg, self.image_cfg)]


@dataclass(frozen=True)
class MatrixCell:
    """One finished cell. It may differ by 1/255 from an edit by itself: sums are rounded in another order."""

    png: bytes
    """The picture (RGB), with an infotext."""
    small: bytes | None
    """A copy (WebP) of one that is larger than `SMALL_CELL`."""

    @property
    def bytes_held(self) -> int:
        """Bytes of memory that it takes."""
        return len(self.png) + len(self.small or b"")


@dataclass(frozen=True)
class MatrixStatus(TaskStatus):
    """How a matrix stands. A step is one step of one cell."""

    size: tuple[int, int] = (1, 1)
    """(Width, height) in pixels of each cell; until it runs, those of the input."""
    before: bytes = b""
    """The input in the framing of the cells (PNG), once it runs."""
    coarse: bytes = b""
    """What all cells were becoming (JPEG), a layer below the other, as the table has them."""
    coarse_step: int = 0
    """The step after which that was."""
    results: tuple[MatrixCell, ...] = ()
    """The finished cells, the first ones of all."""
    sheets: tuple[str, ...] = ()
    """The infotext of the picture of each layer, of those that have begun to be finished."""


class MatrixTask(Task[MatrixStatus]):
    """All cells of a matrix."""

    kind = "matrix"

    def __init__(self, queue: OwnQueue, request: MatrixRequest, id_: str | None = None) -> None:
        """`Worker.submit_matrix` makes it, with settings that have been checked. Raises UserError."""
        self.cells = tuple(request.cells())
        """The settings of each, in order."""
        self.text_cfg, self.image_cfg = request.text_cfg, request.image_cfg
        self.layer_size = len(self.text_cfg) * len(self.image_cfg)
        self.seeds = tuple(layer.seed for layer in self.cells[:: self.layer_size])
        edit = request.edit
        steps = len(self.cells) * edit.settings.steps
        status = MatrixStatus(steps=steps, size=edit.picture.image.size)
        super().__init__(queue, edit.checkpoint, status, id_, edit.visitor)
        self.settings = edit.settings
        """Those that were asked for."""
        self._mask = _digest(edit.mask)
        self._request: EditRequest | None = edit
        self._done = 0.0  # steps of cells
        self._pace = Pace()  # from the second step on: cells of a seed share the first
        self._coarse_wanted = True
        self._coarse_due = 0.0  # time.monotonic()

    @property
    def pixels(self) -> int:
        """Pixels of its picture, or what its results take once it has ended."""
        if self._request is not None:
            return self._request.pixels
        status = self._status
        held = len(status.before) + len(status.coarse) + sum(cell.bytes_held for cell in status.results)
        return held // 4

    @property
    def parts(self) -> tuple[int, int]:
        """Cells that are finished, and in all."""
        return len(self._status.results), len(self.cells)

    def order(self) -> Order:
        """See `Task`; with the first seed that was drawn, so that the cells are the same there."""
        assert self._request is not None
        settings = replace(self._request.settings, seed=self.seeds[0])
        edit = replace(self._request, settings=settings)
        return Order(MatrixTask, MatrixRequest(edit, self.text_cfg, self.image_cfg), self.id, self.checkpoint)

    def ordinary(self, place: int) -> EditSettings:
        """Return the settings of the edit that one cell stands for, as it was asked for: also of its result's size."""
        cell, asked = self.cells[place], self.settings
        return replace(cell, result_size=asked.result_size, zoom=asked.zoom)

    def has_mask(self, mask: Image.Image | None) -> bool:
        """Tell whether it was asked for with this mask; None: with none."""
        return self._mask == _digest(mask)

    def watch(self) -> None:
        """Somebody looks: make a coarse picture after the next step, unless one was made a moment ago."""
        with self._changed:
            if time.monotonic() >= self._coarse_due:
                self._coarse_wanted = True

    def carry_out(self, loaded: LoadedModel) -> None:
        """Make all cells. Raises UserError, Interrupted, or whatever went wrong."""
        request, model = self._request, loaded.model
        assert request is not None  # only a task that has ended has none
        picture, one = request.picture, self.cells[0]
        plan = plan_for(model, picture.image, one)
        most = MOST_RESULT_PIXELS // (plan.size[0] * plan.size[1])
        if len(self.cells) > most:
            shown = f"{len(self.cells)} pictures of {plan.size[0]}x{plan.size[1]} pixels"
            raise UserError(f"{shown} are too many at once: take fewer values or seeds, {most} pictures are the most.")
        before = encode_picture(plan.framed(picture.image), "PNG", icc=picture.icc)
        self._begin(loaded, size=plan.size, before=before)
        fit = fitted(model, picture.image, one, request.mask)

        def on_step(progress: Progress) -> None:
            self._on_step(progress, model, picture.icc)

        for edited in edit_together(model, fit, self.cells, on_step):
            self._keep(edited, loaded, picture.icc)

    def _on_step(self, progress: Progress, model: EditModel, icc: bytes | None) -> None:
        count = len(self.cells)
        with self._changed:
            if self._status.interrupted:
                raise Interrupted
            self._done = (progress.step + progress.within) * count
            if progress.step:
                self._pace.reach(self._done, time.monotonic())
            self._change(step=int(self._done), steps=progress.steps * count)
            wanted = self._coarse_wanted and not progress.within
        if wanted:
            self._show(progress, model, icc)

    def _show(self, progress: Progress, model: EditModel, icc: bytes | None) -> None:
        """Make a coarse picture, here and as seldom as an edit makes its previews, for the same reasons."""
        began, made = time.monotonic(), {}
        with contextlib.suppress(UserError, RuntimeError):  # of bounds or of memory: the edit itself will say so
            picture = sheet(model, progress.denoised, progress.plan, len(self.text_cfg))
            made = {"coarse": encode_picture(picture, "JPEG", icc=icc, quality=COARSE_QUALITY)}
        now = time.monotonic()
        with self._changed:
            self._coarse_wanted, self._coarse_due = False, now + PREVIEW_PAUSE * (now - began)
            if made:
                self._change(coarse_step=progress.step, **made)

    def _keep(self, edited: Edited, loaded: LoadedModel, icc: bytes | None) -> None:
        name, hash_ = loaded.model.name, loaded.hash
        png = encode_picture(edited.image, "PNG", edited.infotext(name, hash_), icc=icc)
        cell = MatrixCell(png, small_copy(edited.image, icc, SMALL_CELL))
        fields = plot_fields(self.text_cfg, self.image_cfg)
        with self._changed:
            status = self._status
            if status.interrupted:
                raise Interrupted
            begins = len(status.results) % self.layer_size == 0
            sheets = (*status.sheets, edited.infotext(name, hash_, fields)) if begins else status.sheets
            notes = tuple(dict.fromkeys((*status.notes, *edited.beside.notes)))
            self._change(results=(*status.results, cell), sheets=sheets, notes=notes)

    def _left(self) -> float | None:
        return self._pace.left(self._status.steps - self._done, time.monotonic())

    def _forget(self) -> None:
        self._request = None  # pictures are large


def _digest(mask: Image.Image | None) -> str:
    """Return what tells masks apart; '' for none."""
    return "" if mask is None else hashlib.sha256(repr((mask.mode, mask.size)).encode() + mask.tobytes()).hexdigest()
