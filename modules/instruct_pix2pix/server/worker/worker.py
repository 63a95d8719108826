"""The worker: one thread that owns the loaded model and carries out the tasks of all doors, one after the other.

A door submits an `EditRequest` and gets an `EditTask` that can be asked, waited for, interrupted and found again by its
id; another kind of `Task` is put into the same queue.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ...engine.edit import resolved
from ...engine.loading.loader import find_config
from ...engine.model import EditModel
from ...engine.precision import FORMATS, Machine, choose_machine
from ...engine.process_memory import give_back
from ...models.add_ons import AddOnFolders
from ...models.checkpoints import inspect, model_files, vae_names
from ...models.registry import model_hash
from ..budget import Budget
from ..limits import Limits
from .borrowed_gpu import BorrowedGpu
from .edit_task import EditRequest, EditTask
from .map_task import MapTask
from .matrix_task import MatrixRequest, MatrixTask
from .queue import TaskQueue
from .task import LoadedModel, Task

log = logging.getLogger(__name__)

IDLE_SECONDS = 20.0
"""After so long without work memory is given back; who makes one edit after the other need not wait for it anew."""
SPARE_BYTES = 64 << 20
"""Freed memory that the next edit may find ready; a large photograph leaves more, which goes back at once."""

MOST_DECODING = 50_000_000
"""Pixels of pictures that are decoded at once, of whatever door; 14 bytes each where they are transparent."""


class Worker:
    """The thread and the model it holds. Ends with `close` or its `with` block.

    Every method may be called from any thread; none but `close` waits.
    """

    def __init__(
        self,
        machine: Machine,
        queue: TaskQueue | None = None,
        models: Sequence[Path] = (),
        limits: Limits | None = None,
        borrowed: BorrowedGpu | None = None,
    ) -> None:
        """Take the tasks of this queue, by default one of its own; `models` as for `EditModel.load`.

        `limits` are those of strangers, where such are served; `borrowed` does the work in another process.
        """
        self.machine, self.limits, self._borrowed = machine, limits, borrowed
        self._models = models
        self.queue = _queue_for(limits) if queue is None else queue
        self.decoding = Budget(MOST_DECODING)
        """Pixels that are being decoded: every door that decodes a picture asks for a share."""
        self._loaded: LoadedModel | None = None
        self._thread = threading.Thread(target=self._run, name="worker", daemon=True)
        self._thread.start()

    def submit(self, request: EditRequest, id_: str | None = None) -> EditTask:
        """Put a request at the end of the queue; `id_` is a name that its door may choose for the task.

        Raises UserError for settings that cannot be right (no instruction, an unknown sampler or LoRA) or are beyond
        the limits, as `Search.settled` does, and as `TaskQueue.enqueue` does.
        """
        task = EditTask(self.queue, self._resolved(request), id_)
        self.queue.enqueue(task)
        return task

    def submit_map(self, request: EditRequest, id_: str | None = None) -> MapTask:
        """Put the question where an edit would change its picture at the end of the queue. Raises as `submit`."""
        task = MapTask(self.queue, self._resolved(request), id_)
        self.queue.enqueue(task)
        return task

    def submit_matrix(self, request: MatrixRequest, id_: str | None = None) -> MatrixTask:
        """Put a matrix of edits at the end of the queue. Raises as `submit`, and for too many cells."""
        task = MatrixTask(self.queue, replace(request, edit=self._resolved(request.edit)), id_)
        if self.limits is not None:
            self.limits.check_edits(len(task.cells))
        self.queue.enqueue(task)
        return task

    @property
    def loaded(self) -> LoadedModel | None:
        """The model in memory, if any."""
        return self._loaded

    def close(self, timeout: float = 10.0) -> None:
        """Close the queue, which interrupts its tasks, and wait up to `timeout` seconds for the thread to end."""
        self.queue.close()
        self._thread.join(timeout)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the thread ---

    def _run(self) -> None:
        while task := self._next():
            problem: Exception | None = None
            try:
                self._carry_out(task)
            except Exception as error:
                problem = error
            self.queue.end(task, problem)
            del task, problem
            give_back(SPARE_BYTES)

    def _next(self) -> Task[Any] | None:
        """Wait for a task; None when none will come any more."""
        pauses = iter([(1.0, SPARE_BYTES), (IDLE_SECONDS, 0)])  # a door may hold its picture until it has answered
        while not self.queue.closed:
            pause, spare = next(pauses, (60.0, 0))
            if task := self.queue.take(pause):
                return task
            give_back(spare)
        return None

    def _carry_out(self, task: Task[Any]) -> None:
        if self._borrowed is not None:
            with self._in_time(task):
                self._borrowed.carry_out(task)
            return
        loaded = self._load(task.checkpoint, self._machine_for(task))
        with self._in_time(task):
            task.run(loaded)

    @contextmanager
    def _in_time(self, task: Task[Any]) -> Iterator[None]:
        """Stop a task that runs for longer than the limits say."""
        if self.limits is None:
            yield
            return
        timer = threading.Timer(self.limits.seconds, task.stop_late, [self.limits.out_of_time])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _machine_for(self, task: Task[Any]) -> Machine:
        """Return the machine with the precision that a task asks for. Raises UserError where it cannot have it."""
        asked = task.precision
        return choose_machine(str(self.machine.device), asked) if asked in FORMATS else self.machine

    def _load(self, path: Path, machine: Machine) -> LoadedModel:
        """Return the model of this path on this machine, loaded unless it is there. Raises UserError."""
        files = [file for file in (*model_files(path), *vae_names(path)) if file.exists()]
        content = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        loaded = self._loaded
        if loaded is None or (loaded.path, loaded.content, loaded.model.machine) != (path, content, machine):
            find_config(inspect(path))  # nearly all that can be wrong shows here, before the present model goes
            loaded = None
            self._loaded = None  # two models may not fit into memory
            if self.machine.device.type != "cpu":
                torch.get_device_module(self.machine.device).empty_cache()
            loaded = LoadedModel(path, content, EditModel.load(path, machine, self._models), model_hash(path))
            for note in loaded.model.notes:
                log.warning("%s", note)
            self._loaded = loaded
        return loaded

    def _resolved(self, request: EditRequest) -> EditRequest:
        settings, search = resolved(request.settings.require_instruction()), request.search
        settings = search.settled(settings, request.asked)
        AddOnFolders.near(request.checkpoint, self._models).require_loras(settings.instruction)
        if search.strength is not None:  # scales are looked for around those of the model
            settings = inspect(request.checkpoint).suited.fill(settings, {"steps"})
        if self.limits is not None:
            settings = self.limits.admit(settings, search, request.picture.image.size)
        return replace(request, settings=settings)


def _queue_for(limits: Limits | None) -> TaskQueue:
    if limits is None:
        return TaskQueue()
    return TaskQueue(most_waiting=limits.waiting, most_each=limits.each, kept_seconds=limits.kept_seconds)
