"""An edit as a task of the worker: its steps, its results, and previews of what they are becoming."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from ...conditioning import Fit
from ...engine.edit import Edited, Progress, edit, plan_for
from ...engine.model import EditModel
from ...errors import Interrupted, UserError
from ...files import write_whole
from ...images import Picture, encode_picture
from ...settings import EditSettings
from .preview import preview
from .task import LoadedModel, Task, TaskQueue, TaskState, TaskStatus

MOST_RESULT_PIXELS = 300_000_000
"""Pixels of the results that one job may make, and of those that are kept, all together."""
PREVIEW_PAUSE = 40
"""How many times as long as a preview took until the next: the edit is to be hardly slower for being watched."""
PREVIEW_FROM, PREVIEW_LEFT = 2.0, 1.0
"""Seconds that an edit runs before its first preview, and that are left at its last: what is over soon needs none."""
PREVIEW_PATIENCE = 1.0
"""Seconds that who asks for a preview waits for the step to end."""


@dataclass(frozen=True)
class EditRequest:
    """What is to be edited, by which model and how; `settings` says how many pictures and how many at once."""

    checkpoint: Path
    picture: Picture
    settings: EditSettings
    mask: Image.Image | None = None
    """White is edited, black is kept; any size."""
    outputs: Path | None = None
    """The folder to save each result in, as soon as it is finished; None saves none."""


@dataclass(frozen=True)
class EditResult:
    """One finished picture."""

    image: Image.Image
    """RGB, or RGBA where the input was transparent."""
    settings: EditSettings
    """Those of this picture: its own seed, and its own scales where they were drawn."""
    infotext: str
    seconds: float
    """Its share of the batch's time."""
    exif: bytes | None = None
    icc: bytes | None = None

    def png(self) -> bytes:
        """Return the bytes of a PNG with the infotext in it."""
        return encode_picture(self.image, "PNG", self.infotext, exif=self.exif, icc=self.icc)


@dataclass(frozen=True)
class EditStatus(TaskStatus):
    """How an edit stands. A step is one step of one picture; a skipped picture counts as done."""

    batch: int = 0
    """Pictures before the present batch: finished or skipped."""
    batch_step: int = 0
    """Steps done in the present batch."""
    batch_steps: int = 0
    results: tuple[EditResult, ...] = ()
    saved: str = ""
    """The folder of today in the order's `outputs`, once a result is saved there."""
    unsaved: str = ""
    """Why a result could not be saved, a sentence for a person; the result itself is not lost by that."""


class _Skipped(Exception):  # noqa: N818 - an outcome, not an error
    """The person gave up this batch."""


class EditTask(Task[EditStatus]):
    """An edit on its way, for those who wait for it."""

    kind = "img2img"

    def __init__(self, line: TaskQueue, order: EditRequest, id_: str | None = None) -> None:
        """Made by `Worker.submit`."""
        count, steps = order.settings.count, order.settings.steps
        super().__init__(line, order.checkpoint, EditStatus(steps=count * steps, batch_steps=steps), id_)
        self.settings = order.settings
        self.seeds = tuple(order.settings.seeds())
        """The seeds of all pictures asked for, drawn when there was none."""
        self._order: EditRequest | None = order
        self._stepped = 0.0  # time.monotonic()
        self._computed = 0  # picture-steps computed, that is without the skipped
        self._skip: int | None = None  # the batch to skip, by the pictures before it
        self._preview: Image.Image | None = None
        self._preview_wanted = False
        self._preview_due = 0.0  # time.monotonic()

    @property
    def pixels(self) -> int:
        """Pixels of its picture, or of its results once it has ended."""
        order = self._order
        images = [order.picture.image] if order else [result.image for result in self._status.results]
        return sum(image.width * image.height for image in images)

    @property
    def rounds(self) -> tuple[int, int]:
        """Batches done, and in all."""
        size = self.settings.batch_size
        return self._status.batch // size, -(-self.settings.count // size)

    def preview(self) -> Image.Image | None:
        """Return what the present batch is becoming; None where there is nothing to see.

        The worker makes it after its next step, unless it made one a moment ago; the caller waits a second at most.
        """
        with self._changed:
            left = self._left() if self._status.state is TaskState.RUNNING else None
            if time.monotonic() >= self._preview_due and left is not None and left >= PREVIEW_LEFT:
                self._preview_wanted = True
                self._changed.wait_for(lambda: not self._preview_wanted, PREVIEW_PATIENCE)
            return self._preview

    def skip(self) -> None:
        """Give up the present batch and go on with the next."""
        with self._changed:
            if self._status.state is TaskState.RUNNING:
                self._skip = self._status.batch

    def _left(self) -> float | None:
        if not self._computed:
            return None
        each = (self._stepped - self._began) / self._computed
        return max(0.0, each * (self._status.steps - self._status.step) - (time.monotonic() - self._stepped))

    def _forget(self) -> None:
        self._order = self._preview = None  # pictures are large
        self._preview_wanted = False

    def carry_out(self, loaded: LoadedModel) -> None:
        """Make all pictures. Raises UserError, Interrupted, or whatever went wrong."""
        order = self._order
        assert order is not None  # only an ended job has none
        model, settings = loaded.model, order.settings
        plan = plan_for(model, order.picture.image, settings)
        pixels = settings.count * plan.size[0] * plan.size[1]
        if pixels > MOST_RESULT_PIXELS:
            most = max(1, MOST_RESULT_PIXELS // (plan.size[0] * plan.size[1]))
            raise UserError(f"{settings.count} pictures of this size are too many for one job: make {most} at most.")
        alpha = order.picture.alpha and plan.framed(order.picture.alpha)
        self._begin(loaded)
        self._preview_due = self._began + PREVIEW_FROM

        def on_step(progress: Progress) -> None:
            self._on_step(progress, plan, model)

        while (passed := self._status.batch) < settings.count:
            rest = replace(settings, seed=self.seeds[passed], count=settings.count - passed)
            try:
                for edited in edit(model, order.picture.image, rest, mask=order.mask, on_step=on_step):
                    result = _result(edited, order, alpha, loaded)
                    places = {} if order.outputs is None else _save(result, self, order.outputs)
                    with self._changed:
                        self._preview = None
                        results, passed = (*self._status.results, result), self._status.batch + 1
                        self._change(results=results, batch=passed, batch_step=0, **places)
            except _Skipped:
                continue  # the next seeds, in a new edit

    def _on_step(self, progress: Progress, plan: Fit, model: EditModel) -> None:
        size = len(progress.seeds)
        with self._changed:
            status = self._status
            if status.interrupted:
                raise Interrupted
            if self._skip == status.batch:
                self._skip = self._preview = None
                passed = status.batch + size
                self._change(batch=passed, step=passed * progress.steps, batch_step=0)
                raise _Skipped
            self._computed += size
            self._stepped = time.monotonic()
            self._change(
                step=status.batch * progress.steps + progress.step * size,
                steps=self.settings.count * progress.steps,
                batch_step=progress.step,
                batch_steps=progress.steps,
            )
            wanted = self._preview_wanted
        if wanted:
            self._show(progress, plan, model)

    def _show(self, progress: Progress, plan: Fit, model: EditModel) -> None:
        """Make a preview, here: networks that run in two threads at once halve each other's speed, and more."""
        began = time.monotonic()
        image = None
        with contextlib.suppress(UserError, RuntimeError):  # of bounds or of memory: the edit itself will say so
            image = preview(model, progress.denoised, plan)
        now = time.monotonic()
        with self._changed:
            self._preview, self._preview_wanted = image, False
            self._preview_due = now + PREVIEW_PAUSE * (now - began)
            self._changed.notify_all()


def _result(edited: Edited, order: EditRequest, alpha: Image.Image | None, loaded: LoadedModel) -> EditResult:
    text = edited.infotext(loaded.model.name, loaded.hash)
    if alpha is not None:
        edited.image.putalpha(alpha)
    return EditResult(edited.image, edited.settings, text, edited.seconds, order.picture.exif, order.picture.icc)


def _save(result: EditResult, job: EditTask, outputs: Path) -> dict[str, str]:
    """Save a result in the folder of its day; return what is to be told of that."""
    day, moment = time.strftime("%Y-%m-%d %H%M%S", time.localtime(job.submitted_at)).split()
    try:
        write_whole(outputs / day / f"{moment}-{job.id[:6]}-{result.settings.seed}.png", result.png())
    except UserError as error:
        return {"unsaved": str(error)}
    return {"saved": day}
