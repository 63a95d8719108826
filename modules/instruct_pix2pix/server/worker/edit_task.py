"""The worker: one thread that owns the loaded model and makes the edits of all doors, one after the other.

A door submits an `Order` and gets a `Job` that can be asked, waited for, interrupted and found again by its id; what is
no single edit is put into the same line as another kind of `Turn`. First come, first served. Every method may be called
from any thread; none but `wait` and `close` waits.
"""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from ...conditioning import Fit
from ...engine.edit import Edited, Progress, canonical, edit, plan_for
from ...engine.loader import find_config
from ...engine.model import EditModel
from ...engine.precision import Machine
from ...engine.process_memory import give_back
from ...errors import Interrupted, UserError
from ...files import write_whole
from ...images import Picture, encode_picture
from ...models.checkpoints import inspect, model_files
from ...models.registry import model_hash
from ...settings import EditSettings
from .preview import preview
from .task import LoadedModel, QueueFull, Task, TaskQueue, TaskState, TaskStatus

MOST_WAITING = 64
MOST_INPUT_PIXELS = 400_000_000
"""Pixels of the pictures that wait, all together (3 bytes each)."""
MOST_RESULT_PIXELS = 300_000_000
"""Pixels of the results that one job may make, and of those that are kept, all together."""
IDLE_SECONDS = 20.0
"""After so long without work memory is given back; who makes one edit after the other need not wait for it anew."""
SPARE_BYTES = 64 << 20
"""Freed memory that the next edit may find ready; a large photograph leaves more, which goes back at once."""
MOST_KEPT = 64
KEPT_SECONDS = 3600.0
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


class Worker:
    """The thread, the line of turns before it and the model it holds. Ends with `close` or its `with` block."""

    def __init__(
        self,
        machine: Machine,
        *,
        most_waiting: int = MOST_WAITING,
        most_kept: int = MOST_KEPT,
        kept_seconds: float = KEPT_SECONDS,
    ) -> None:
        """Ended turns are forgotten, the oldest first, beyond `most_kept` of them and after `kept_seconds`."""
        self.machine = machine
        self.line = TaskQueue()
        self._most_waiting, self._most_kept, self._kept_seconds = most_waiting, most_kept, kept_seconds
        self._changed = self.line.changed
        self._turns: dict[str, Task[Any]] = {}
        self._loaded: LoadedModel | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._thread.start()

    def submit(self, order: EditRequest, id_: str | None = None) -> EditTask:
        """Put an order at the end of the line; `id_` is a name that its door may choose for the job.

        Raises UserError for settings that cannot be right (no instruction, an unknown sampler) and for an id of a job
        that has not ended, Busy when the line is too long.
        """
        settings = canonical(order.settings.require_instruction())
        job = EditTask(self.line, replace(order, settings=settings), id_)
        self.enqueue(job)
        return job

    def enqueue(self, turn: Task[Any]) -> None:
        """Put a turn, made with this worker's `line`, at its end. Raises UserError and Busy as `submit` does."""
        with self._changed:
            waiting = self.line.turns
            if any(other.id == turn.id for other in waiting):
                raise UserError(f"There is a job {turn.id[:40]!r} already: choose another id.")
            if self._closing:
                raise QueueFull("The program is about to stop: start it again.")
            pixels = turn.pixels + sum(other.pixels for other in waiting)
            if len(waiting) > self._most_waiting or (waiting and pixels > MOST_INPUT_PIXELS):
                raise QueueFull(f"{len(waiting)} edits are in the queue, which is full: try again when some are done.")
            waiting.append(turn)
            self._turns[turn.id] = turn
            self._forget()
            self._changed.notify_all()

    def find(self, id_: str) -> Task[Any] | None:
        """Return the turn of this id, as long as it is not forgotten."""
        with self._changed:
            return self._turns.get(id_)

    @property
    def running(self) -> Task[Any] | None:
        """The one whose turn it is."""
        with self._changed:
            head = self.line.turns[0] if self.line.turns else None
            return head if head and head.status().state in (TaskState.LOADING, TaskState.RUNNING) else None

    @property
    def queued(self) -> int:
        """How many turns are in the line, with the present one."""
        with self._changed:
            return len(self.line.turns)

    @property
    def loaded(self) -> LoadedModel | None:
        """The model in memory, if any."""
        with self._changed:
            return self._loaded

    def close(self, timeout: float = 10.0) -> None:
        """Interrupt what runs and what waits, take no more, and wait for the thread to end."""
        with self._changed:
            self._closing = True
            for turn in tuple(self.line.turns):
                turn.interrupt()
            self._changed.notify_all()
        self._thread.join(timeout)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the thread ---

    def _run(self) -> None:
        while turn := self._next():  # only this thread takes from the head, once it is taken
            problem: Exception | None = None
            try:
                turn.run(self._load(turn.checkpoint))
            except Exception as error:
                problem = error
            with self._changed:
                turn.over(problem)
                self._forget()
            del turn, problem
            give_back(SPARE_BYTES)

    def _next(self) -> Task[Any] | None:
        """Wait for a turn, and tell it that it has come; None when there will be none any more."""
        waiting = self.line.turns
        idle = iter([(1.0, SPARE_BYTES), (IDLE_SECONDS, 0)])  # a door may hold its picture until it has answered
        while True:
            pause, spare = next(idle, (60.0, 0))
            with self._changed:
                if self._changed.wait_for(lambda: waiting or self._closing, pause):
                    if waiting:
                        waiting[0].called()
                    return waiting[0] if waiting else None
                self._forget()
            give_back(spare)

    def _load(self, path: Path) -> LoadedModel:
        """Return the model of this path, loaded unless it is there. Raises UserError."""
        content = [(file.stat().st_size, file.stat().st_mtime_ns) for file in model_files(path) if file.exists()]
        loaded = self._loaded
        if loaded is None or (loaded.path, loaded.content) != (path, content):
            find_config(inspect(path))  # nearly all that can be wrong shows here, before the present model goes
            loaded = None
            with self._changed:
                self._loaded = None  # two models may not fit into memory
            if self.machine.device.type == "cuda":
                torch.cuda.empty_cache()
            loaded = LoadedModel(path, content, EditModel.load(path, self.machine), model_hash(path))
            with self._changed:
                self._loaded = loaded
        return loaded

    def _forget(self) -> None:
        """Drop the oldest ended turns beyond the limits; the newest stays for its time, however large."""
        ended = [turn for turn in self._turns.values() if turn.ended_at < float("inf")]
        pixels, oldest = 0, time.monotonic() - self._kept_seconds
        for i, turn in enumerate(sorted(ended, key=lambda turn: -turn.ended_at)):
            pixels += turn.pixels
            if i >= self._most_kept or turn.ended_at < oldest or (i and pixels > MOST_RESULT_PIXELS):
                del self._turns[turn.id]


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
