"""The queue of the worker: tasks in the order in which they came, and those that ended a while ago."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

from ...errors import UserError
from ..budget import ServerBusy
from ..visitors import NOBODY
from .task import MOST_RESULT_PIXELS, Task, TaskState

MOST_WAITING = 64
MOST_INPUT_PIXELS = 150_000_000
"""Pixels of the pictures that wait, all together (4 bytes each)."""
MOST_KEPT = 64
KEPT_SECONDS = 3600.0


class QueueFull(ServerBusy):
    """There is no room for another task now: try again later."""


class TaskQueue:
    """First come, first served. Every method may be called from any thread; none but `take` waits."""

    def __init__(
        self,
        *,
        most_waiting: int = MOST_WAITING,
        most_kept: int = MOST_KEPT,
        kept_seconds: float = KEPT_SECONDS,
        most_each: int | None = None,
    ) -> None:
        """Ended tasks are forgotten, the oldest first, beyond `most_kept` of them and after `kept_seconds`.

        `most_each` is how many tasks one visitor may have that have not ended.
        """
        self.changed = threading.Condition()
        """The lock on all that happens to the tasks, and the signal that something did."""
        self.most_waiting, self.most_kept, self.kept_seconds = most_waiting, most_kept, kept_seconds
        self.most_each = most_each
        self._pending: list[Task[Any]] = []  # have not ended; the running one is the first
        self._known: dict[str, Task[Any]] = {}
        self._closed = False

    # --- for the doors ---

    def enqueue(self, task: Task[Any]) -> None:
        """Put a task, made with this queue, at its end.

        Raises UserError for an id of a task that has not ended, QueueFull where there is no room, or none for more
        tasks of its visitor.
        """
        with self.changed:
            if any(other.id == task.id for other in self._pending):
                raise UserError(f"There is already a task {task.id[:40]!r}: choose another id.")
            if self._closed:
                raise QueueFull("The program is about to stop: start it again.")
            self._check_share(task)
            count, pixels = len(self._pending), task.pixels + sum(other.pixels for other in self._pending)
            if count > self.most_waiting or (count and pixels > MOST_INPUT_PIXELS):
                raise QueueFull(f"{count} edits are in the queue, which is full: try again when some are done.")
            self._pending.append(task)
            self._known[task.id] = task
            self._forget_old()
            self.changed.notify_all()

    def find(self, id_: str) -> Task[Any] | None:
        """Return the task of this id, as long as it is not forgotten."""
        with self.changed:
            return self._known.get(id_)

    @property
    def running(self) -> Task[Any] | None:
        """The task that the worker has taken."""
        with self.changed:
            head = self._pending[0] if self._pending else None
            return None if head is None or head.status().state is TaskState.QUEUED else head

    def files(self) -> list[Path]:
        """Return the files and folders that tasks which have not ended read."""
        with self.changed:
            return [path for task in self._pending for path in task.files]

    def __len__(self) -> int:
        """Return how many tasks have not ended, the running one included."""
        with self.changed:
            return len(self._pending)

    # --- for its tasks ---

    def position(self, task: Task[Any]) -> int:
        """Return how many tasks are before this one; 0 for one that has ended."""
        with self.changed:
            return self._pending.index(task) if task in self._pending else 0

    def remove(self, task: Task[Any]) -> None:
        """Take a task out: it has ended. It can still be found."""
        with self.changed:
            self._pending.remove(task)

    # --- for the worker ---

    def take(self, timeout: float) -> Task[Any] | None:
        """Wait for a task and start it; None after `timeout` seconds without one, and when the queue is closed.

        To be called again only after `end`: the task stays the first of the queue until then.
        """
        with self.changed:
            self.changed.wait_for(lambda: self._pending or self._closed, timeout)
            if self._pending:
                self._pending[0].start()
                return self._pending[0]
            self._forget_old()
            return None

    def end(self, task: Task[Any], problem: BaseException | None) -> None:
        """End the task that was taken, well or with a problem."""
        with self.changed:
            task.end(problem)
            self._forget_old()

    def close(self) -> None:
        """Interrupt what runs and what waits, and take no more."""
        with self.changed:
            self._closed = True
            for task in tuple(self._pending):
                task.interrupt()
            self.changed.notify_all()

    @property
    def closed(self) -> bool:
        """Whether no task will come any more."""
        with self.changed:
            return self._closed

    def _check_share(self, task: Task[Any]) -> None:
        if self.most_each is None or task.visitor == NOBODY:
            return
        own = sum(other.visitor.name == task.visitor.name for other in self._pending)
        if own >= self.most_each:
            raise QueueFull(f"{own} of your edits are still under way here: wait for one of them, or interrupt it.")

    def _forget_old(self) -> None:
        """Forget the oldest ended tasks beyond the limits; the newest stays for its time, however large."""
        ended = [task for task in self._known.values() if task.ended_at < float("inf")]
        pixels, oldest = 0, time.monotonic() - self.kept_seconds
        for i, task in enumerate(sorted(ended, key=lambda task: -task.ended_at)):
            pixels += task.pixels
            if i >= self.most_kept or task.ended_at < oldest or (i and pixels > MOST_RESULT_PIXELS):
                del self._known[task.id]
