"""The worker: one thread that owns the loaded model and makes the edits of all doors, one after the other.

A door submits an `Order` and gets a `Job` that can be asked, waited for, interrupted and found again by its id.
First come, first served. Every method may be called from any thread; none but `wait` and `close` waits.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

import torch
from PIL import Image

from ..checkpoints import inspect, model_files
from ..conditioning import Fit
from ..engine.edit import Edited, Progress, canonical, edit, plan_for
from ..engine.loader import find_config
from ..engine.model import EditModel
from ..engine.precision import Machine
from ..errors import Interrupted, UserError
from ..images import Picture, encode_picture, write_whole
from ..settings import EditSettings
from .edit import alpha_of, infotext_of
from .library import model_hash
from .memory import give_back
from .preview import preview

MOST_WAITING = 64
MOST_INPUT_PIXELS = 400_000_000
"""Pixels of the pictures that wait, all together (3 bytes each)."""
MOST_RESULT_PIXELS = 300_000_000
"""Pixels of the results that one job may make, and of those that are kept, all together."""
MOST_KEPT = 64
KEPT_SECONDS = 3600.0
PREVIEW_PAUSE = 40
"""How many times as long as a preview took until the next: the edit is to be hardly slower for being watched."""
PREVIEW_PATIENCE = 1.0
"""Seconds that who asks for a preview waits for the step to end."""

log = logging.getLogger(__name__)


class Busy(UserError):  # noqa: N818 - what it says
    """There is no room for another job now: try again later."""


class State(str, Enum):
    """Where a job is. It goes from one to a later one, never back."""

    QUEUED = "queued"
    LOADING = "loading"  # also for the moment in which a loaded model is found to be the right one
    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self in (State.FINISHED, State.INTERRUPTED, State.FAILED)


@dataclass(frozen=True)
class Order:
    """What is to be edited, by which model and how; `settings` says how many pictures and how many at once."""

    checkpoint: Path
    picture: Picture
    settings: EditSettings
    mask: Image.Image | None = None
    """White is edited, black is kept; any size."""
    outputs: Path | None = None
    """The folder to save each result in, as soon as it is finished; None saves none."""


@dataclass(frozen=True)
class Result:
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
class Status:
    """How a job stands. A picture-step is one step of one picture; a skipped picture counts as done."""

    version: int = 0
    """Grows with every change, except that of `position`: see `Job.wait`."""
    state: State = State.QUEUED
    position: int = 0
    """Jobs before this one; 0 when it is its turn or over."""
    step: int = 0
    """Picture-steps done."""
    steps: int = 0
    """Picture-steps in all."""
    batch: int = 0
    """Pictures before the present batch: finished or skipped."""
    batch_step: int = 0
    """Steps done in the present batch."""
    batch_steps: int = 0
    seconds: float = 0.0
    """Since the edit began, without loading and queueing."""
    eta: float | None = None
    """Seconds until it is finished; None as long as that is not known."""
    results: tuple[Result, ...] = ()
    model: str = ""
    model_hash: str = ""
    interrupted: bool = False
    """Whether it was asked to stop."""
    saved: str = ""
    """The folder of today in the order's `outputs`, once a result is saved there."""
    unsaved: str = ""
    """Why a result could not be saved, a sentence for a person; the result itself is not lost by that."""
    error: str = ""
    """For a failed job, a sentence for a person."""
    unexpected: bool = False
    """Whether it failed by a fault of this program rather than by what it was asked."""


class Job:
    """An edit on its way, for those who wait for it."""

    def __init__(self, id_: str, order: Order, line: deque[Job], changed: threading.Condition) -> None:
        """Made by `Worker.submit`. `line` and `changed` are the worker's own."""
        self.id = id_
        self.settings = order.settings
        self.seeds = tuple(order.settings.seeds())
        """The seeds of all pictures asked for, drawn when there was none."""
        self.submitted_at = time.time()
        self.done: Future[Status] = Future()
        """Gets the last status. In asyncio, `await asyncio.wrap_future(job.done)`."""
        self.done.set_running_or_notify_cancel()  # nobody who waits can cancel it for the others
        self.ended_at = float("inf")
        self._order: Order | None = order
        self._line = line
        self._changed = changed
        count = order.settings.count
        self._status = Status(steps=count * order.settings.steps, batch_steps=order.settings.steps)
        self._began = self._stepped = 0.0  # time.monotonic()
        self._computed = 0  # picture-steps computed, that is without the skipped
        self._skip: int | None = None  # the batch to skip, by the pictures before it
        self._preview: Image.Image | None = None
        self._preview_wanted = False
        self._preview_due = 0.0  # time.monotonic()

    def status(self) -> Status:
        """Return how it stands now."""
        with self._changed:
            status = self._status
            if status.state is State.QUEUED:
                return replace(status, position=self._line.index(self) if self in self._line else 0)
            if status.state is not State.RUNNING:
                return status
            now = time.monotonic()
            eta = None
            if self._computed:
                each = (self._stepped - self._began) / self._computed
                eta = max(0.0, each * (status.steps - status.step) - (now - self._stepped))
            return replace(status, seconds=now - self._began, eta=eta)

    def wait(self, after: int = -1, timeout: float | None = None) -> Status:
        """Wait until the version is above `after`, the job has ended, or the seconds have passed; return the status.

        `wait(status.version, 10)` in a loop follows a job; `wait(10**9)` waits for its end.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._status.version > after or self._status.state.ended, timeout)
            return self.status()

    def preview(self) -> Image.Image | None:
        """Return what the present batch is becoming; None where there is nothing to see.

        The worker makes it after its next step, unless it made one a moment ago; the caller waits a second at most.
        """
        with self._changed:
            if self._status.state is State.RUNNING and time.monotonic() >= self._preview_due:
                self._preview_wanted = True
                self._changed.wait_for(lambda: not self._preview_wanted, PREVIEW_PATIENCE)
            return self._preview

    def interrupt(self) -> None:
        """Stop within one step; finished pictures stay. A job that waits never begins."""
        with self._changed:
            if self._status.state.ended:
                return
            self._change(interrupted=True)
            if self._status.state is State.QUEUED:
                self._line.remove(self)
                self._end(State.INTERRUPTED)

    def skip(self) -> None:
        """Give up the present batch and go on with the next."""
        with self._changed:
            if self._status.state is State.RUNNING:
                self._skip = self._status.batch

    # What follows is the worker's business; it holds the lock.

    def _change(self, **values: object) -> None:
        self._status = replace(self._status, version=self._status.version + 1, **values)
        self._changed.notify_all()

    def _end(self, state: State, error: str = "", unexpected: bool = False) -> None:
        seconds = time.monotonic() - self._began if self._began else 0.0
        self._order = self._preview = None  # pictures are large
        self._preview_wanted = False
        self.ended_at = time.monotonic()
        self._change(state=state, error=error, unexpected=unexpected, seconds=seconds)
        self.done.set_result(self._status)


@dataclass(frozen=True)
class Loaded:
    """The model in memory."""

    path: Path
    content: object
    """Sizes and times of its files: a file that was replaced is another model."""
    model: EditModel
    hash: str


class _Skipped(Exception):  # noqa: N818 - an outcome, not an error
    """The person gave up this batch."""


class Worker:
    """The thread, the line of jobs before it and the model it holds. Ends with `close` or its `with` block."""

    def __init__(
        self,
        machine: Machine,
        *,
        most_waiting: int = MOST_WAITING,
        most_kept: int = MOST_KEPT,
        kept_seconds: float = KEPT_SECONDS,
    ) -> None:
        """Ended jobs are forgotten, the oldest first, beyond `most_kept` of them and after `kept_seconds`."""
        self.machine = machine
        self._most_waiting, self._most_kept, self._kept_seconds = most_waiting, most_kept, kept_seconds
        self._changed = threading.Condition()
        self._line: deque[Job] = deque()  # the one at its head is the present one
        self._jobs: dict[str, Job] = {}
        self._loaded: Loaded | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._thread.start()

    def submit(self, order: Order, id_: str | None = None) -> Job:
        """Put an order at the end of the line; `id_` is a name that its door may choose for the job.

        Raises UserError for settings that cannot be right (no instruction, an unknown sampler) and for an id of a job
        that has not ended, Busy when the line is too long.
        """
        settings = canonical(order.settings.require_instruction())
        job = Job(id_ or secrets.token_hex(8), replace(order, settings=settings), self._line, self._changed)
        with self._changed:
            if any(other.id == job.id for other in self._line):
                raise UserError(f"There is a job {job.id[:40]!r} already: choose another id.")
            if self._closing:
                raise Busy("The program is about to stop: start it again.")
            waiting = [order, *(other._order for other in self._line if other._order)]
            pixels = sum(one.picture.image.width * one.picture.image.height for one in waiting)
            if len(self._line) > self._most_waiting or (self._line and pixels > MOST_INPUT_PIXELS):
                raise Busy(f"{len(self._line)} edits are in the queue, which is full: try again when some are done.")
            self._line.append(job)
            self._jobs[job.id] = job
            self._forget()
            self._changed.notify_all()
        return job

    def find(self, id_: str) -> Job | None:
        """Return the job of this id, as long as it is not forgotten."""
        with self._changed:
            return self._jobs.get(id_)

    @property
    def running(self) -> Job | None:
        """The job whose turn it is."""
        with self._changed:
            head = self._line[0] if self._line else None
            return head if head and head._status.state in (State.LOADING, State.RUNNING) else None

    @property
    def queued(self) -> int:
        """How many jobs are in the line, with the present one."""
        with self._changed:
            return len(self._line)

    @property
    def loaded(self) -> Loaded | None:
        """The model in memory, if any."""
        with self._changed:
            return self._loaded

    def close(self, timeout: float = 10.0) -> None:
        """Interrupt what runs and what waits, take no more, and wait for the thread to end."""
        with self._changed:
            self._closing = True
            for job in tuple(self._line):
                job.interrupt()
            self._changed.notify_all()
        self._thread.join(timeout)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the thread ---

    def _run(self) -> None:
        while self._wait_for_turn():
            job = self._line[0]  # only this thread takes from the head, once it is taken
            state, error, unexpected = State.FINISHED, "", False
            try:
                self._make(job)
            except Interrupted:
                state = State.INTERRUPTED
            except UserError as problem:
                state, error = State.FAILED, str(problem)
            except Exception as problem:
                state, error, unexpected = State.FAILED, *_explained(problem)
            with self._changed:
                self._line.popleft()
                job._end(state, error, unexpected)
                self._forget()
            del job

    def _wait_for_turn(self) -> bool:
        """Wait for a job, and tell it that its turn has come; False when there will be none any more."""
        pause = 1.0  # by then the last answer is on its way, and what it held is free
        while True:
            with self._changed:
                if self._changed.wait_for(lambda: self._line or self._closing, pause):
                    if self._line:
                        self._line[0]._change(state=State.LOADING)
                    return bool(self._line)
                self._forget()
            give_back()
            pause = 60.0

    def _make(self, job: Job) -> None:
        """Load what is needed and make all pictures. Raises UserError, Interrupted, or whatever went wrong."""
        order = job._order
        assert order is not None  # only an ended job has none
        loaded = self._load(job, order.checkpoint)
        model, settings = loaded.model, order.settings
        plan = plan_for(model, order.picture.image, settings)
        pixels = settings.count * plan.size[0] * plan.size[1]
        if pixels > MOST_RESULT_PIXELS:
            most = max(1, MOST_RESULT_PIXELS // (plan.size[0] * plan.size[1]))
            raise UserError(f"{settings.count} pictures of this size are too many for one job: make {most} at most.")
        alpha = alpha_of(model, order.picture, settings)
        with self._changed:
            job._began = time.monotonic()
            job._change(state=State.RUNNING, model=model.name, model_hash=loaded.hash)

        def on_step(progress: Progress) -> None:
            self._on_step(job, progress, plan, model)

        while (passed := job._status.batch) < settings.count:
            rest = replace(settings, seed=job.seeds[passed], count=settings.count - passed)
            try:
                for edited in edit(model, order.picture.image, rest, mask=order.mask, on_step=on_step):
                    result = _result(edited, order, alpha, loaded)
                    places = {} if order.outputs is None else _save(result, job, order.outputs)
                    with self._changed:
                        job._preview = None
                        results, passed = (*job._status.results, result), job._status.batch + 1
                        job._change(results=results, batch=passed, batch_step=0, **places)
            except _Skipped:
                continue  # the next seeds, in a new edit

    def _on_step(self, job: Job, progress: Progress, plan: Fit, model: EditModel) -> None:
        size = len(progress.seeds)
        with self._changed:
            status = job._status
            if status.interrupted:
                raise Interrupted
            if job._skip == status.batch:
                job._skip = job._preview = None
                passed = status.batch + size
                job._change(batch=passed, step=passed * progress.steps, batch_step=0)
                raise _Skipped
            job._computed += size
            job._stepped = time.monotonic()
            job._change(
                step=status.batch * progress.steps + progress.step * size,
                steps=job.settings.count * progress.steps,
                batch_step=progress.step,
                batch_steps=progress.steps,
            )
            wanted = job._preview_wanted
        if wanted:
            self._show(job, progress, plan, model)

    def _show(self, job: Job, progress: Progress, plan: Fit, model: EditModel) -> None:
        """Make a preview, here: networks that run in two threads at once halve each other's speed, and more."""
        began = time.monotonic()
        image = None
        with contextlib.suppress(UserError, RuntimeError):  # of bounds or of memory: the edit itself will say so
            image = preview(model, progress.denoised, plan)
        now = time.monotonic()
        with self._changed:
            job._preview, job._preview_wanted = image, False
            job._preview_due = now + PREVIEW_PAUSE * (now - began)
            self._changed.notify_all()

    def _load(self, job: Job, path: Path) -> Loaded:
        """Return the model of this path, loaded unless it is there. Raises UserError, Interrupted."""
        content = [(file.stat().st_size, file.stat().st_mtime_ns) for file in model_files(path) if file.exists()]
        loaded = self._loaded
        if loaded is None or (loaded.path, loaded.content) != (path, content):
            find_config(inspect(path))  # nearly all that can be wrong shows here, before the present model goes
            loaded = None
            with self._changed:
                self._loaded = None  # two models may not fit into memory
            if self.machine.device.type == "cuda":
                torch.cuda.empty_cache()
            loaded = Loaded(path, content, EditModel.load(path, self.machine), model_hash(path))
            with self._changed:
                self._loaded = loaded
        if job._status.interrupted:
            raise Interrupted
        return loaded

    def _forget(self) -> None:
        """Drop the oldest ended jobs beyond the limits; the newest stays for its time, however large."""
        ended = sorted((job for job in self._jobs.values() if job._status.state.ended), key=lambda job: -job.ended_at)
        pixels, oldest = 0, time.monotonic() - self._kept_seconds
        for i, job in enumerate(ended):
            pixels += sum(result.image.width * result.image.height for result in job._status.results)
            if i >= self._most_kept or job.ended_at < oldest or (i and pixels > MOST_RESULT_PIXELS):
                del self._jobs[job.id]


def _result(edited: Edited, order: Order, alpha: Image.Image | None, loaded: Loaded) -> Result:
    text = infotext_of(edited, loaded.model.name, loaded.hash)
    if alpha is not None:
        edited.image.putalpha(alpha)
    return Result(edited.image, edited.settings, text, edited.seconds, order.picture.exif, order.picture.icc)


def _save(result: Result, job: Job, outputs: Path) -> dict[str, str]:
    """Save a result in the folder of its day; return what is to be told of that."""
    day, moment = time.strftime("%Y-%m-%d %H%M%S", time.localtime(job.submitted_at)).split()
    try:
        write_whole(outputs / day / f"{moment}-{job.id[:6]}-{result.settings.seed}.png", result.png())
    except UserError as error:
        return {"unsaved": str(error)}
    return {"saved": day}


def _explained(error: Exception) -> tuple[str, bool]:
    """A sentence for an error that was not meant for a person, and whether it is a fault of this program."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return "There is not enough memory: choose a smaller size or batch size.", False
    log.error("An edit failed: %s: %s", type(error).__name__, error, exc_info=log.isEnabledFor(logging.DEBUG))
    return "Something went wrong in this program: its log says what.", True
