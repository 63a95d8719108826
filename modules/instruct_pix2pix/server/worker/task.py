"""A task: work for the worker's thread, which has the loaded model to itself until it has ended."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import torch
from PIL import Image

from ...engine.model import EditModel
from ...errors import Interrupted, UserError, out_of_memory
from ..visitors import NOBODY, Visitor

MOST_RESULT_PIXELS = 300_000_000
"""Pixels of the results that one task may make, and of those that are kept, all together."""

log = logging.getLogger(__name__)


class TaskState(str, Enum):
    """How far a task is. It moves on to a later state, never back."""

    QUEUED = "queued"
    LOADING = "loading"  # also for the moment in which a loaded model is found to be the right one
    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self in (TaskState.FINISHED, TaskState.INTERRUPTED, TaskState.FAILED)


@dataclass(frozen=True)
class LoadedModel:
    """The model in memory."""

    path: Path
    content: object
    """Sizes and times of its files: a file that was replaced is another model."""
    model: EditModel
    hash: str


@dataclass(frozen=True)
class TaskStatus:
    """How a task stands, of whatever kind it is."""

    version: int = 0
    """Grows with every change, except that of `position`: see `Task.wait`."""
    state: TaskState = TaskState.QUEUED
    position: int = 0
    """Tasks before this one; 0 when it runs or has ended."""
    step: int = 0
    """Work done, in the unit that the kind of task counts in."""
    steps: int = 0
    """Work in all."""
    seconds: float = 0.0
    """Since the work began, without loading and queueing."""
    eta: float | None = None
    """Seconds until it is finished, never less than `pace.LEAST_LEFT`; None as long as that is not known."""
    model: str = ""
    model_hash: str = ""
    interrupted: bool = False
    """Whether it was asked to stop."""
    notes: tuple[str, ...] = ()
    """What a person should know of how the model was loaded and the request was read, a sentence each."""
    problem: UserError | None = None
    """Why a task failed."""
    unexpected: bool = False
    """Whether it failed by a fault of this program rather than by what it was asked."""

    @property
    def error(self) -> str:
        """Why a task failed, a sentence for a person; empty for any other."""
        return "" if self.problem is None else str(self.problem)


class OwnQueue(Protocol):
    """The queue as one of its tasks sees it."""

    changed: threading.Condition
    """The lock on all that happens to the tasks of the queue, and the signal that something did."""

    def position(self, task: Task[Any]) -> int:
        """Return how many tasks are before this one; 0 for one that has ended."""
        ...

    def remove(self, task: Task[Any]) -> None:
        """Take a task out: it has ended. Called with the lock."""
        ...

    def __len__(self) -> int:
        """Return how many tasks have not ended."""
        ...


S = TypeVar("S", bound=TaskStatus)


@dataclass(frozen=True)
class Order:
    """What a task is asked, in a form that can be sent to another process."""

    kind: Callable[[Any, Any, str], Task[Any]]
    request: object
    id: str
    checkpoint: Path

    def task(self, queue: OwnQueue) -> Task[Any]:
        """Return a task of that queue which does the same."""
        return self.kind(queue, self.request, self.id)


class Task(ABC, Generic[S]):
    """Work for the worker's thread and its model. Every method may be called from any thread."""

    kind: ClassVar[str]
    """What the API calls it."""

    def __init__(
        self, queue: OwnQueue, checkpoint: Path, status: S, id_: str | None = None, visitor: Visitor = NOBODY
    ) -> None:
        """`queue` is the one that will be given it."""
        self.id = id_ or secrets.token_hex(8)
        self.checkpoint, self.visitor = checkpoint, visitor
        self.submitted_at = time.time()
        self.last_status: Future[S] = Future()
        """Done when the task has ended. In asyncio, `await asyncio.wrap_future(task.last_status)`."""
        self.last_status.set_running_or_notify_cancel()  # nobody who waits can cancel it for the others
        self.ended_at = float("inf")
        """`time.monotonic()` of its end."""
        self._queue = queue
        self._changed = queue.changed
        self._status = status
        self._began = 0.0  # time.monotonic()

    # --- what each kind of task defines ---

    @abstractmethod
    def carry_out(self, loaded: LoadedModel) -> None:
        """Do the work, in the worker's thread. Raises UserError, Interrupted, or whatever went wrong."""

    @property
    @abstractmethod
    def pixels(self) -> int:
        """Pixels (4 bytes each) of the pictures that it holds in memory: inputs until it has ended, then results."""

    @property
    @abstractmethod
    def parts(self) -> tuple[int, int]:
        """How many of the parts that a person counts are done, and how many there are."""

    @property
    def precision(self) -> str | None:
        """The number format to compute in, one of `engine.precision.FORMATS`; None leaves it to the worker."""
        return None

    @property
    def files(self) -> Collection[Path]:
        """Files and folders that it reads until it has ended."""
        return ()

    def order(self) -> Order:
        """Return what it is asked, for another process. Raises UserError for a kind that is done in this one alone."""
        raise UserError("This cannot be done on a GPU that is lent: run the program on a machine of your own.")

    def preview(self) -> Image.Image | None:
        """Return what is being made; None where there is nothing to see. Costs the caller's time."""
        return None

    def skip(self) -> None:
        """Give up the present part and go on with the next, where that can be."""

    def _left(self) -> float | None:
        """Return the seconds left of work that is under way; called with the lock."""
        return None

    def _stop(self) -> None:
        """It was interrupted: let `carry_out` end soon. Called with the lock."""

    def _forget(self) -> None:
        """It has ended: let go of what is large. Called with the lock."""

    # --- what is the same for all ---

    def status(self) -> S:
        """Return how it stands now."""
        with self._changed:
            status = self._status
            if status.state is TaskState.QUEUED:
                return replace(status, position=self._queue.position(self))
            if status.state is not TaskState.RUNNING:
                return status
            return replace(status, seconds=time.monotonic() - self._began, eta=self._left())

    def wait(self, after: int = -1, timeout: float | None = None) -> S:
        """Wait until the version is above `after`, the task has ended, or the seconds have passed; return the status.

        `wait(status.version, 10)` in a loop follows it; `wait(10**9)` waits for its end.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._status.version > after or self._status.state.ended, timeout)
            return self.status()

    def interrupt(self) -> None:
        """Stop within one step; what is finished stays. A task that still waits never begins."""
        with self._changed:
            if self._status.state.ended:
                return
            self._change(interrupted=True)
            self._stop()
            if self._status.state is TaskState.QUEUED:
                self._end_as(TaskState.INTERRUPTED)

    def stop_late(self, sentence: str) -> None:
        """Stop it as `interrupt` does, since it took too long, and tell why."""
        with self._changed:
            if not self._status.state.ended:
                self._change(notes=(*self._status.notes, sentence))
                self.interrupt()

    # --- the worker's side ---

    def start(self) -> None:
        """The worker has taken it from the queue, and sees to its model."""
        self._change(state=TaskState.LOADING)

    def run(self, loaded: LoadedModel) -> None:
        """Carry it out with this model, unless it was interrupted while that was loaded."""
        if self._status.interrupted:
            raise Interrupted
        self.carry_out(loaded)

    def follow(self, status: S) -> bool:
        """Take over how the same task stands in another process; return whether this one was asked to stop.

        An end is left to `end`.
        """
        with self._changed:
            if not self._began and status.state is TaskState.RUNNING:
                self._began = time.monotonic()
            own = ("version", "position", "interrupted", "seconds", "eta", "problem", "unexpected")
            told = {one.name: getattr(status, one.name) for one in fields(status) if one.name not in own}
            if status.state.ended:
                del told["state"]
            told["notes"] = tuple(dict.fromkeys((*status.notes, *self._status.notes)))
            self._change(**told)
            return self._status.interrupted

    def end(self, problem: BaseException | None) -> None:
        """`run` returned, or raised this problem."""
        with self._changed:
            if problem is None:
                self._end_as(TaskState.FINISHED)
            elif isinstance(problem, Interrupted):
                self._end_as(TaskState.INTERRUPTED)
            elif isinstance(problem, UserError):
                self._end_as(TaskState.FAILED, problem)
            else:
                self._end_as(TaskState.FAILED, *_explained(problem))

    def _begin(self, loaded: LoadedModel, **values: object) -> None:
        """The work itself begins; `values` change the status too."""
        with self._changed:
            self._began = time.monotonic()
            model = {"model": loaded.model.name, "model_hash": loaded.hash, "notes": loaded.model.notes}
            self._change(state=TaskState.RUNNING, **model, **values)

    def _change(self, **values: object) -> None:
        """Change fields of the status, and tell those who wait."""
        with self._changed:
            self._status = replace(self._status, version=self._status.version + 1, **values)
            self._changed.notify_all()

    def _end_as(self, state: TaskState, problem: UserError | None = None, unexpected: bool = False) -> None:
        self._queue.remove(self)
        seconds = time.monotonic() - self._began if self._began else 0.0
        self._forget()
        self.ended_at = time.monotonic()
        self._change(state=state, problem=problem, unexpected=unexpected, seconds=seconds)
        self.last_status.set_result(self._status)


def _explained(error: BaseException) -> tuple[UserError, bool]:
    """Return a sentence for an error that was not meant for a person, and whether it is a fault of this program."""
    if short := out_of_memory(error):
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return short, False
    log.error("A job failed: %s: %s", type(error).__name__, error, exc_info=log.isEnabledFor(logging.DEBUG))
    return UserError("Something went wrong in this program: its log says what."), True
