"""The worker: one thread that owns the loaded model and carries out the tasks of all doors, one after the other.

A door submits an `EditRequest` and gets an `EditTask` that can be asked, waited for, interrupted and found again by its
id; another kind of `Task` joins the same queue. First come, first served. Every method may be called from any thread;
none but `wait` and `close` waits.
"""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...engine.edit import resolved
from ...engine.loader import find_config
from ...engine.model import EditModel
from ...engine.precision import Machine
from ...engine.process_memory import give_back
from ...errors import UserError
from ...models.checkpoints import inspect, model_files
from ...models.registry import model_hash
from .edit_task import MOST_RESULT_PIXELS, EditRequest, EditTask
from .task import LoadedModel, QueueFull, Task, TaskQueue, TaskState

MOST_WAITING = 64
MOST_INPUT_PIXELS = 400_000_000
"""Pixels of the pictures that wait, all together (3 bytes each)."""
IDLE_SECONDS = 20.0
"""After so long without work memory is given back; who makes one edit after the other need not wait for it anew."""
SPARE_BYTES = 64 << 20
"""Freed memory that the next edit may find ready; a large photograph leaves more, which goes back at once."""
MOST_KEPT = 64
KEPT_SECONDS = 3600.0


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
        settings = resolved(order.settings.require_instruction())
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
