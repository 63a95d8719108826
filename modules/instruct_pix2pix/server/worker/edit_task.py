"""An edit as a task of the worker: its steps, its results, and previews of what they are becoming."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image, ImageOps

from ...engine.candidates import Glimpse, Search
from ...engine.edit import Progress, plan_for
from ...engine.edit_batch import FittedPicture
from ...engine.model import EditModel
from ...engine.result_size import framed, size_of, to_write, with_transparency
from ...engine.search import Winner, find_each
from ...errors import Interrupted, UserError
from ...files import write_whole
from ...images import Picture, encode_picture
from ...settings import EditSettings
from ..small_copy import small_copy, small_size
from ..visitors import NOBODY, Visitor
from .pace import Pace
from .preview import preview
from .saved_results import path_of
from .task import MOST_RESULT_PIXELS, LoadedModel, Order, OwnQueue, Task, TaskState, TaskStatus

PREVIEW_PAUSE = 40
"""Pause before the next preview, in times that the last one took: watching an edit shall hardly slow it."""
PREVIEW_FROM, PREVIEW_LEFT = 2.0, 1.0
"""Seconds that an edit has run at its first preview, and has left at its last: a short one needs none."""
PREVIEW_PATIENCE = 1.0
"""Seconds that a caller who asks for a preview waits for the step to end."""

CANDIDATE_SIDE = 192
"""Pixels of the longest side of a candidate's picture."""
CANDIDATE_PIXELS = 10_000
"""What such a picture takes, as a WebP, of the pixels (4 bytes each) that a task may keep."""


@dataclass(frozen=True)
class EditRequest:
    """The picture to edit, by which model and how; `settings` says how many results, and how many at once."""

    checkpoint: Path
    picture: Picture
    settings: EditSettings
    mask: Image.Image | None = None
    """White is edited, black is kept; any size."""
    outputs: Path | None = None
    """The folder to save each result in, as soon as it is finished; None saves none."""
    search: Search = field(default_factory=Search)
    """How each result is found."""
    asked: frozenset[str] = frozenset()
    """The settings that a person has named, by their names: see `Search.settled`."""
    owner: str = ""
    """A secret of who asks, by which saved results are found again: see `saved_results`."""
    visitor: Visitor = NOBODY
    """Who asks, as the queue counts it."""

    @property
    def pixels(self) -> int:
        """Pixels (4 bytes each) of its pictures; grey takes a quarter of the memory."""
        picture = self.picture
        images = [one for one in (picture.image, picture.alpha, self.mask) if one is not None]
        deep = 0 if picture.deep is None else picture.deep.nbytes // 4
        return deep + sum(image.width * image.height // (4 if image.mode == "L" else 1) for image in images)


@dataclass(frozen=True)
class Candidate:
    """One of those among which a result was found; see `engine.search.Glimpse`."""

    settings: EditSettings
    """Those of an edit that makes it."""
    outside: float
    inside: float
    chosen: bool
    """Whether it became the result."""
    picture: bytes
    """What it was becoming: a small WebP in the framing of the result."""


@dataclass(frozen=True)
class EditResult:
    """One finished picture."""

    png: bytes
    """The picture, RGB, or RGBA where the input was transparent, with the infotext in it."""
    size: tuple[int, int]
    """(Width, height) in pixels."""
    settings: EditSettings
    """Those of this picture: its own seed, and its own scales where they were drawn."""
    infotext: str
    seconds: float
    """Its share of the batch's time."""
    number: int = 1
    """Its place, from 1, among all that were asked for: of those that were skipped there is none."""
    small: bytes | None = None
    """What `small_copy` makes of it."""
    kept: float = 0.0
    """The share of the picture, 0..1, that is the input's own."""
    relevance: Image.Image | None = None
    """Where the instruction means to change the picture (L), where the rest was to be kept; any size."""
    inside: Image.Image | None = None
    """Where the picture was edited: L, 255 is edited, 0 is the input's own; any size. None: everywhere."""
    candidates: tuple[Candidate, ...] = ()
    """All that were looked at, where it was found among several."""
    cost: float = 1.0
    """The work for it, that for the other candidates included, in edits like its own."""

    @property
    def bytes_held(self) -> int:
        """Bytes of memory that it takes."""
        maps = [one.width * one.height for one in (self.relevance, self.inside) if one is not None]
        looks = [len(one.picture) for one in self.candidates]
        return len(self.png) + len(self.small or b"") + sum(maps) + sum(looks)


@dataclass(frozen=True)
class EditStatus(TaskStatus):
    """How an edit stands. A step is one step of one picture, of each candidate; a skipped picture counts as done."""

    pictures: int = 1
    """Results that were asked for."""
    candidates: int = 1
    """Edits that are under way for the present picture: several until they are looked at."""
    batch: int = 0
    """Pictures before the present batch: finished or skipped."""
    batch_step: int = 0
    """Steps done in the present batch."""
    batch_steps: int = 0
    results: tuple[EditResult, ...] = ()
    saved: str = ""
    """The folder of the day in the request's `outputs`, once a result is saved there."""
    unsaved: str = ""
    """Why a result could not be saved, a sentence for a person; the result itself is not lost by that."""


class _Skipped(Exception):  # noqa: N818 - an outcome, not an error
    """The person gave up this batch."""


class EditTask(Task[EditStatus]):
    """An edit: its steps, its results, its previews."""

    kind = "img2img"

    def __init__(self, queue: OwnQueue, request: EditRequest, id_: str | None = None) -> None:
        """`Worker.submit` makes it, with settings that have been checked."""
        self.settings = replace(request.settings, seed=request.settings.seeds()[0])
        """Those of all results; with a seed that is drawn where the request has none."""
        self.search = request.search
        count, steps = self.settings.results, self.settings.steps
        status = EditStatus(steps=count * self.search.steps(steps), batch_steps=steps, pictures=count)
        super().__init__(queue, request.checkpoint, status, id_, request.visitor)
        self._request: EditRequest | None = request
        self._pace = Pace()
        self._computed = 0  # steps of pictures, without those that were skipped
        self._of_batch = 0  # steps of pictures in the present batch
        self._each = 0  # steps that a picture takes
        self._skip: int | None = None  # the batch to skip, by the pictures before it
        self._preview: Image.Image | None = None
        self._preview_wanted = False
        self._preview_due = 0.0  # time.monotonic()

    @property
    def pixels(self) -> int:
        """Pixels of its pictures, or what its results take once it has ended."""
        if self._request is None:
            return sum(result.bytes_held for result in self._status.results) // 4
        return self._request.pixels

    @property
    def parts(self) -> tuple[int, int]:
        """Batches done, and in all."""
        size = 1 if self.search.candidates > 1 else self.settings.batch_size
        return self._status.batch // size, -(-self._status.pictures // size)

    def preview(self) -> Image.Image | None:
        """Return what the present batch is becoming; None where there is nothing to see.

        The worker makes it after its next step, unless it made one a moment ago; the caller waits a second at most.
        """
        with self._changed:
            left = self._left() if self._status.state is TaskState.RUNNING else None
            if time.monotonic() >= self._preview_due and left is not None and left > PREVIEW_LEFT:
                self._preview_wanted = True
                self._changed.wait_for(lambda: not self._preview_wanted, PREVIEW_PATIENCE)
            return self._preview

    def order(self) -> Order:
        """See `Task`; with the seed that was drawn, so that it is the same there."""
        assert self._request is not None
        return Order(EditTask, replace(self._request, settings=self.settings), self.id, self.checkpoint)

    def skip(self) -> None:
        """Give up the present batch and go on with the next."""
        with self._changed:
            if self._status.state is TaskState.RUNNING:
                self._skip = self._status.batch

    def _left(self) -> float | None:
        return self._pace.left(self._status.steps - self._status.step, time.monotonic())

    def _forget(self) -> None:
        self._request = self._preview = None  # pictures are large
        self._preview_wanted = False

    def carry_out(self, loaded: LoadedModel) -> None:
        """Make all pictures. Raises UserError, Interrupted, or whatever went wrong."""
        request = self._request
        assert request is not None  # only a task that has ended has none
        model, settings, count = loaded.model, self.settings, self._status.pictures
        plan = plan_for(model, request.picture.image, settings)
        size = size_of(plan, settings)
        deep = request.picture.deep if size == plan.own else None  # at another size a result has 8 bits a channel
        looks = self.search.candidates * CANDIDATE_PIXELS if self.search.candidates > 1 else 0
        most = MOST_RESULT_PIXELS // (size[0] * size[1] * (1 if deep is None else 2) + looks)
        if count > most:
            shown = f"{count} pictures of {size[0]}x{size[1]} pixels"
            raise UserError(f"{shown} are too many at once: make {most} at most.")
        alpha = request.picture.alpha and framed(request.picture.alpha, plan, settings)
        self._begin(loaded)
        self._pace.reach(0, self._began)
        self._preview_due = self._began + PREVIEW_FROM
        factor = model.config.vae.factor
        picture = FittedPicture.by(plan, request.picture.image, request.mask, factor, deep)

        def on_step(progress: Progress) -> None:
            self._on_step(progress, model)

        together = settings.batch_size if settings.batch_size > 1 else None
        while (passed := self._status.batch) < count:
            try:
                for found in find_each(model, picture, settings, self.search, on_step, together, passed):
                    result = _result(found, request, alpha, loaded, self._status.batch + 1)
                    self._keep(result, found.edited.beside.notes, request)
            except _Skipped:
                continue  # the next seeds, in a new edit

    def _keep(self, result: EditResult, notes: tuple[str, ...], request: EditRequest) -> None:
        saved = {} if request.outputs is None else _save(result, self, request.outputs, request.owner)
        with self._changed:
            status = self._status
            self._preview, self._of_batch = None, 0
            self._change(
                results=(*status.results, result),
                notes=tuple(dict.fromkeys((*status.notes, *notes))),
                step=max(status.step, (status.batch + 1) * self._each),
                batch=status.batch + 1,
                batch_step=0,
                **saved,
            )

    def _on_step(self, progress: Progress, model: EditModel) -> None:
        size, races = len(progress.seeds), self.search.candidates > 1
        with self._changed:
            status = self._status
            if status.interrupted:
                raise Interrupted
            if progress.enlarged:
                return
            if not self._of_batch or not races:
                self._each = self._steps_of_each(progress.steps)
            if self._skip == status.batch:
                self._skip = self._preview = None
                self._of_batch, passed = 0, status.batch + (1 if races else size)
                self._change(batch=passed, step=max(status.step, passed * self._each), batch_step=0)
                raise _Skipped
            if not progress.within:
                self._of_batch += size
            begun = self._of_batch + int(size * progress.within)
            step = max(status.step, status.batch * self._each + begun)
            if step > status.step:
                self._computed += step - status.step
                self._pace.reach(self._computed, time.monotonic())
            self._change(
                step=step,
                steps=status.pictures * self._each,
                batch_step=progress.step,
                batch_steps=progress.steps,
                candidates=size if races else 1,
            )
            wanted = self._preview_wanted and not progress.within
        if wanted:
            self._show(progress, model)

    def _steps_of_each(self, steps: int) -> int:
        """Return the steps that a picture takes, whose edits have so many."""
        request = self._request
        assert request is not None  # only a task that has ended has none
        halves = 1 if request.mask is not None else 2  # of an edit of the region alone
        return self.search.steps(steps, halves * steps if self.settings.zoom else 0)

    def _show(self, progress: Progress, model: EditModel) -> None:
        """Make a preview, here: networks that run in two threads at once halve each other's speed, and more."""
        began = time.monotonic()
        image = None
        with contextlib.suppress(UserError, RuntimeError):  # of bounds or of memory: the edit itself will say so
            image = preview(model, progress.denoised, progress.plan)
        now = time.monotonic()
        with self._changed:
            self._preview, self._preview_wanted = image, False
            self._preview_due = now + PREVIEW_PAUSE * (now - began)
            self._changed.notify_all()


def _result(
    found: Winner, request: EditRequest, alpha: Image.Image | None, loaded: LoadedModel, number: int
) -> EditResult:
    """Return what is kept of an edit: a large picture takes a fraction of its memory as a PNG."""
    edited = found.edited
    text, image = edited.infotext(loaded.model.name, loaded.hash), with_transparency(edited.image, alpha)
    exif, icc = request.picture.exif, request.picture.icc
    return EditResult(
        encode_picture(to_write(edited, alpha, "PNG"), "PNG", text, exif=exif, icc=icc),
        image.size,
        edited.settings,
        text,
        edited.seconds,
        number=number,
        small=small_copy(image, icc),
        kept=edited.kept,
        relevance=_bounded(edited.relevance),
        inside=_bounded(edited.made.inside),
        candidates=tuple(_candidate(one, edited.settings) for one in found.looks),
        cost=found.cost,
    )


def _candidate(glimpse: Glimpse, winner: EditSettings) -> Candidate:
    picture, side = glimpse.picture, CANDIDATE_SIDE
    small = ImageOps.contain(picture, (side, side)) if max(picture.size) > side else picture
    data = encode_picture(small, "WEBP", quality=85)
    return Candidate(glimpse.settings, glimpse.outside, glimpse.inside, glimpse.settings == winner, data)


def _bounded(grey: Image.Image | None) -> Image.Image | None:
    """Return a map at a size to look at."""
    return grey and grey.resize(small_size(*grey.size), Image.Resampling.BILINEAR)


def _save(result: EditResult, task: EditTask, outputs: Path, owner: str) -> dict[str, str]:
    """Save a result in the folder of its day; return the fields of the status that say so."""
    path = path_of(outputs, owner, task.id, task.submitted_at, result.number, result.settings.seed)
    try:
        write_whole(path, result.png)
    except UserError as error:
        return {"unsaved": str(error)}
    return {"saved": path.parent.name}
