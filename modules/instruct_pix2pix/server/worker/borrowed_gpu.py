"""Tasks carried out by another process, which has a GPU while one is lent to it, as Hugging Face's ZeroGPU does.

The worker's process never touches the GPU. What goes over is the order of a task, and back come statuses as they
change, results included: so a task looks the same to all who ask for it, but for previews, of which there are none.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from ...engine.model import EditModel
from ...engine.precision import choose_machine
from ...errors import Interrupted, UserError
from ...models.registry import model_hash
from ..visitors import Visitor
from .queue import TaskQueue
from .task import LoadedModel, Order, Task, TaskState, TaskStatus

LOOK_SECONDS = 0.5
"""Between two statuses at most: so soon an interrupt is noticed."""

Statuses = Callable[[Order], Iterator[TaskStatus]]


class Lend(Protocol):
    """Makes of a function one that has a GPU while it runs, such as `spaces.GPU(duration=60)`."""

    def __call__(self, work: Statuses, /) -> Statuses:
        """Return the function."""
        ...


class BorrowedGpu:
    """The work on a GPU that is lent for one task at a time."""

    def __init__(
        self,
        lend: Lend,
        models: Sequence[Path] = (),
        *,
        device: str = "cuda",
        charge: Callable[[Visitor], None] = lambda visitor: None,
    ) -> None:
        """To be made before the lender counts what is to be lent; `models` as for `EditModel.load`.

        `charge` is told whose task comes next, in the thread that asks for the GPU.
        """
        self._models, self._device, self._charge = models, device, charge
        self._loaded: LoadedModel | None = None  # in the process that has the GPU, as long as that lives

        def on_gpu(order: Order) -> Iterator[TaskStatus]:  # ZeroGPU tells what it lends by the function
            yield from self._statuses(order)

        self._lent = lend(on_gpu)

    def carry_out(self, task: Task[Any]) -> None:
        """Have a task done elsewhere. Raises as `Task.run` does."""
        if task.status().interrupted:
            raise Interrupted
        self._charge(task.visitor)
        statuses = self._lent(task.order())
        for status in statuses:
            if status.state.ended:
                task.follow(status)
                _raise(status)
                return
            if task.follow(status):
                close = getattr(statuses, "close", None)
                if close is not None:
                    close()  # which interrupts it there
                raise Interrupted
        raise UserError("The GPU was taken away before the edit was done: take fewer steps, or try again.")

    # --- in the other process ---

    def _statuses(self, order: Order) -> Iterator[TaskStatus]:
        """Carry out an order; what it yields ends with the status of the end."""
        queue = TaskQueue()
        task = order.task(queue)
        queue.enqueue(task)
        thread = threading.Thread(target=self._run, args=(queue, order.checkpoint), daemon=True)
        thread.start()
        try:
            status = task.status()
            while not status.state.ended:
                yield status
                status = task.wait(status.version, LOOK_SECONDS)
            yield status
        finally:
            task.interrupt()
            thread.join()

    def _run(self, queue: TaskQueue, checkpoint: Path) -> None:
        task = queue.take(LOOK_SECONDS)
        if task is None:
            return
        problem: Exception | None = None
        try:
            task.run(self._load(checkpoint))
        except Exception as error:
            problem = error
        queue.end(task, problem)

    def _load(self, path: Path) -> LoadedModel:
        loaded = self._loaded
        if loaded is None or loaded.path != path:
            self._loaded = loaded = None
            model = EditModel.load(path, choose_machine(self._device), self._models)
            self._loaded = loaded = LoadedModel(path, time.time(), model, model_hash(path))
        return loaded


def _raise(status: TaskStatus) -> None:
    if status.state is TaskState.INTERRUPTED:
        raise Interrupted
    if status.problem is not None:
        raise status.problem
