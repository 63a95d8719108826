"""Who works on what in a cluster: starts workers, hands out units, and gives those of a lost worker to another.

Nothing here knows Ray: the machines and processes are behind the protocols `Cluster` and `RemoteWorker`.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from ...errors import Remedy, UserError
from ..local_executor import SentFiles, paths_of
from ..units import Control, Result, ResultRequest, Unit
from .worker import FileState, WorkerReady, WorkerSetup, file_state

IN_FLIGHT = 3
"""Units with a worker at once: one is prepared, one is in the model, one is encoded."""

MOST_TRIES = 3
"""How many workers may end while they have a unit before the unit counts as the cause."""

CPUS_EACH = 4
"""Cores for a worker on a machine without GPUs; more for one model gain little."""

BYTES_EACH = 2 << 30
"""Memory for a worker on a machine without GPUs, besides its model."""

TICK = 0.5
"""Seconds between looks at `Control`, if no worker answers sooner."""
LOOK_ROUND = 5.0
"""Seconds between looks at the machines of the cluster."""
SILENCE = 60.0
"""Seconds without a ready worker after which the user is told."""
PATIENCE = 600.0
"""Seconds without any worker after which the run ends."""

LOST_REASON = "The process that made it ended each time, perhaps because memory ran out: try a smaller size."


# --- the cluster as the scheduler sees it ---

Call = Hashable
"""A call of a worker that is under way."""


@dataclass(frozen=True)
class WorkerLost:
    """The answer of a worker that has ended or failed."""

    reason: str
    unfit: bool = False
    """Whether every other worker on its machine would fail for the same reason."""


Answer = WorkerReady | list[Result] | WorkerLost | None
"""To `load` a WorkerReady, to `make` what `RayWorker.make` returns, to either WorkerLost."""


@dataclass(frozen=True)
class NodeInfo:
    """A machine of the cluster."""

    id: str
    name: str
    cpus: int
    gpus: int
    memory: int
    """Bytes for workers."""


class RemoteWorker(Protocol):
    """A process on a machine. `load` and `make` return at once; `Cluster.wait` returns their answers."""

    def load(self, setup: WorkerSetup, threads: int | None, *, send_model: bool) -> Call:
        """Have it load its model, which is sent to it if `send_model`."""
        ...

    def make(self, unit: Unit, states: Mapping[Path, FileState], files: SentFiles) -> Call:
        """Have it carry out a unit: see `RayWorker.make`."""
        ...

    def stop(self) -> None:
        """Have it start no further unit."""
        ...

    def kill(self) -> None:
        """End the process at once."""
        ...


class Cluster(Protocol):
    """The machines that may work."""

    def nodes(self) -> Sequence[NodeInfo]:
        """Return the machines that belong to the cluster now."""
        ...

    def start_worker(self, node_id: str, *, cpus: int, gpus: int) -> RemoteWorker:
        """Start a process on a machine that claims these resources; it may have to wait for them."""
        ...

    def wait(self, calls: Collection[Call], seconds: float) -> Sequence[tuple[Call, Answer]]:
        """Wait until one of the calls is answered or the seconds have passed; return the answers."""
        ...


# --- what the scheduler keeps ---


@dataclass
class PendingUnit:
    """A unit that has no results yet."""

    unit: Unit
    tries: int = 0
    """How many workers ended while they had it."""


@dataclass(eq=False)
class Node:
    """A machine, and what the scheduler has learnt about it."""

    id: str
    name: str
    slots: int
    """How many workers it has room for."""
    cpus_each: int
    gpus_each: int
    threads: int | None = None
    """For each worker's model; None leaves it to torch."""
    sees_files: bool = True
    """Whether it finds the pictures at their paths."""
    losses: int = 0
    """Workers that ended since the last unit that was made."""
    unfit: str = ""
    """Why it gets no work any more."""


@dataclass(eq=False)
class WorkerHandle:
    """A worker, and what it has to do."""

    node: Node
    process: RemoteWorker
    loading: Call | None
    """The call of `load` that is under way."""
    units: dict[Call, PendingUnit] = field(default_factory=dict)
    """The units it works on, by call."""

    @property
    def ready(self) -> bool:
        """Whether its model is loaded."""
        return self.loading is None


class Scheduler:
    """The workers of one run. Ends with `close`."""

    def __init__(
        self,
        cluster: Cluster,
        setup: WorkerSetup,
        say: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`say` tells the user a sentence; `clock` returns seconds."""
        self._cluster, self._setup, self._say, self._clock = cluster, setup, say, clock
        self._nodes: dict[str, Node] = {}
        self._workers: list[WorkerHandle] = []
        self._again: deque[PendingUnit] = deque()  # units that lost their worker
        self._failed: list[Result] = []  # of units that no worker survives
        self._looked_at = float("-inf")
        self._had_worker_at = self._had_ready_worker_at = clock()
        self._told_of_silence = False
        self._may_return = False  # whether a machine that could work has left
        self._stopped = False

    def results(self, units: Iterator[Unit | None], control: Control) -> Generator[Result, None, None]:
        """Yield the results of the units, as an `Executor` does. Raises UserError when no machine can work."""
        more, pausing = True, False
        while not control.aborting:
            if control.stopping:
                more = False
                self._stop()
            self._update()
            while more and not pausing and (worker := self._free_worker()):
                try:
                    unit = next(units)
                except StopIteration:
                    more = False
                else:
                    pausing = unit is None
                    if unit is not None:
                        self._send(PendingUnit(unit), worker)
            if not self._busy:
                if not more:
                    return
                if pausing:  # every result is handed over: the next unit comes when the run goes on
                    pausing = False
                    continue
            yield from self._finished()

    def close(self) -> None:
        """End all workers, whatever they do."""
        for worker in self._workers:
            worker.process.kill()
        self._workers.clear()

    @property
    def _busy(self) -> bool:
        """Whether any result is still to come."""
        return bool(self._again or self._failed or any(worker.units for worker in self._workers))

    # --- handing out ---

    def _free_worker(self) -> WorkerHandle | None:
        """Return the loaded worker with the fewest units that can take another.

        A unit that lost its worker is made alone, so that it is known what ends a worker, and other units are not lost
        with it: for each such unit one worker is left without further work.
        """
        loaded = sorted((worker for worker in self._workers if worker.ready), key=lambda one: len(one.units))
        free = (worker for worker in loaded[len(self._again) :] if len(worker.units) < IN_FLIGHT)
        return next((worker for worker in free if not any(unit.tries for unit in worker.units.values())), None)

    def _send(self, pending: PendingUnit, worker: WorkerHandle) -> None:
        """Give a unit to a worker, with the pictures' bytes if its machine does not see the files."""
        states: dict[Path, FileState] = {}
        files: dict[Path, bytes] = {}
        for path in paths_of(pending.unit):
            state = file_state(path)
            if state is None:
                continue  # opening it will raise a sentence
            if worker.node.sees_files:
                states[path] = state
            else:
                with contextlib.suppress(OSError):
                    files[path] = path.read_bytes()
        worker.units[worker.process.make(pending.unit, states, files)] = pending

    def _stop(self) -> None:
        """Hand out nothing again, and have the workers start nothing."""
        if not self._stopped:
            self._stopped = True
            self._again.clear()
            for worker in self._workers:
                worker.process.stop()

    # --- machines and workers ---

    def _update(self) -> None:
        """Look for machines, fill free slots, give units that lost their worker to idle ones.

        Raises UserError when no machine can work, or none has for too long.
        """
        now = self._clock()
        if now - self._looked_at > LOOK_ROUND and not self._stopped:
            self._looked_at = now
            self._look_round()
        idle = [worker for worker in self._workers if worker.ready and not worker.units]
        while self._again and idle:
            self._send(self._again.popleft(), idle.pop())
        self._tell_of_silence(now)
        self._check_patience(now)

    def _tell_of_silence(self, now: float) -> None:
        if any(worker.ready for worker in self._workers):
            self._had_ready_worker_at, self._told_of_silence = now, False
        elif not self._told_of_silence and now - self._had_ready_worker_at > SILENCE:
            self._told_of_silence = True
            self._say("No worker is ready yet: models are loading, others use the cluster, or its machines are gone.")

    def _check_patience(self, now: float) -> None:
        if self._workers:
            self._had_worker_at = now
            return
        may_work = self._may_return or any(not node.unfit for node in self._nodes.values())
        if not may_work or now - self._had_worker_at > PATIENCE:
            reasons = sorted({f"{node.name}: {node.unfit}" for node in self._nodes.values() if node.unfit})
            why = f" ({'; '.join(reasons[:3])})" if reasons else ""
            raise UserError(f"No machine of the cluster can work{why}: fix that", remedy=Remedy.RUN_AGAIN)

    def _look_round(self) -> None:
        """Forget machines that have left; start workers in the free slots of the others."""
        infos = {info.id: info for info in self._cluster.nodes()}
        for id_ in self._nodes.keys() - infos.keys():
            node = self._nodes.pop(id_)
            self._may_return = self._may_return or not node.unfit
            self._say(f"{node.name} has left the cluster.")
        device, path = self._setup.device, self._setup.path
        with_gpus = device == "cuda" or (device == "auto" and any(info.gpus for info in infos.values()))
        model_bytes = path.stat().st_size if path.is_file() else 0
        for id_, info in infos.items():
            if id_ not in self._nodes:
                self._nodes[id_] = node_of(info, with_gpus, 2 * model_bytes + BYTES_EACH)
            node = self._nodes[id_]
            here = sum(worker.node is node for worker in self._workers)
            for _ in range(0 if node.unfit else node.slots - here):
                self._start_worker(node)

    def _start_worker(self, node: Node) -> None:
        process = self._cluster.start_worker(node.id, cpus=node.cpus_each, gpus=node.gpus_each)
        loading = process.load(self._setup, node.threads, send_model=False)
        self._workers.append(WorkerHandle(node, process, loading))

    # --- answers ---

    def _finished(self) -> Iterator[Result]:
        """Wait a moment for any worker; yield what it made."""
        if self._failed:
            yield from self._failed
            self._failed.clear()
            return
        waiting: dict[Call, WorkerHandle] = {}
        for worker in self._workers:
            waiting |= dict.fromkeys(worker.units, worker)
            if worker.loading is not None:
                waiting[worker.loading] = worker
        for call, answer in self._cluster.wait(list(waiting), TICK):
            worker = waiting[call]
            if worker not in self._workers:
                continue  # dropped with its machine by an answer before this one: its units are for another
            if isinstance(answer, WorkerLost):
                self._dismiss(worker, answer)
            elif isinstance(answer, WorkerReady):
                self._loaded(worker, answer)
            else:
                yield from self._made(worker, worker.units.pop(call), answer)

    def _loaded(self, worker: WorkerHandle, answer: WorkerReady) -> None:
        worker.loading = None
        name, path = worker.node.name, self._setup.path
        if answer.loaded:
            self._say(f"{name} is ready (process {answer.pid}, {answer.loaded}).")
            for note in answer.notes:
                self._say(note)
        elif path.is_dir():
            self._give_up(worker.node, f"it has no {path}, and a model that is a folder is not sent")
        elif not self._setup.is_one_file:
            self._give_up(worker.node, f"it has no {path}, and a model with its VAE in a file beside it is not sent")
        else:
            self._say(f"{name} does not have {path.name}: it is sent.")
            worker.loading = worker.process.load(self._setup, worker.node.threads, send_model=True)

    def _made(self, worker: WorkerHandle, pending: PendingUnit, results: list[Result] | None) -> Iterator[Result]:
        worker.node.losses = 0
        if results is not None:
            yield from results
        elif not self._stopped:
            if worker.node.sees_files:
                worker.node.sees_files = False
                self._say(f"{worker.node.name} does not see the pictures where they are: they are sent.")
            self._send(pending, worker)

    # --- losses ---

    def _dismiss(self, worker: WorkerHandle, lost: WorkerLost) -> None:
        """Drop a worker that has ended or failed; its units are for another."""
        node = worker.node
        if lost.unfit:
            self._give_up(node, lost.reason)
            return
        self._remove(worker)
        node.losses += 1
        units = [] if self._stopped else list(worker.units.values())
        follows = f": its unfinished batches ({len(units)}) are made again" if units else ""
        self._say(f"A worker on {node.name} has ended ({lost.reason}){follows}.")
        for pending in units:
            self._try_again(pending)
        if node.losses >= MOST_TRIES * node.slots:
            self._give_up(node, f"its workers end again and again ({lost.reason})")
        self._looked_at = float("-inf")  # its slot is free

    def _try_again(self, pending: PendingUnit) -> None:
        """Queue a unit that lost its worker; after MOST_TRIES divide it, and then give up its pictures."""
        pending.tries += 1
        wanted = pending.unit.wanted
        if pending.tries < MOST_TRIES:
            self._again.append(pending)
        elif len(pending.unit.requests) > 1:  # one of them may be the cause: each gets a last try by itself
            self._again.extend(PendingUnit(_alone(pending.unit, request), MOST_TRIES) for request in wanted)
        else:
            self._failed.extend(Result(one.item.name, one.index, None, UserError(LOST_REASON)) for one in wanted)

    def _give_up(self, node: Node, reason: str) -> None:
        """Give no more work to a machine, and its units to others."""
        if not node.unfit:
            node.unfit = reason
            self._say(f"{node.name} cannot help: {reason}.")
        for worker in [worker for worker in self._workers if worker.node is node]:
            self._remove(worker)
            self._again.extend([] if self._stopped else worker.units.values())

    def _remove(self, worker: WorkerHandle) -> None:
        self._workers.remove(worker)
        worker.process.kill()


def node_of(info: NodeInfo, with_gpus: bool, bytes_each: int) -> Node:
    """Return how many workers a machine has room for, and what each claims of it.

    With GPUs, one worker for each. Without, one for every OMP_NUM_THREADS cores, or else CPUS_EACH, as far as the
    memory has `bytes_each` for them.
    """
    if with_gpus:
        unfit = "" if info.gpus else "it has no GPU"
        return Node(info.id, info.name, info.gpus, 1 if info.cpus >= info.gpus else 0, 1, unfit=unfit)
    if not info.cpus:
        return Node(info.id, info.name, 0, 0, 0, unfit="it has no core to spare")
    asked = os.environ.get("OMP_NUM_THREADS", "")
    each = min(info.cpus, int(asked)) if asked.isdecimal() and int(asked) else min(info.cpus, CPUS_EACH)
    slots = max(1, min(info.cpus // each, info.memory // bytes_each))
    each = each if asked else info.cpus // slots
    return Node(info.id, info.name, slots, each, 0, threads=each)


def _alone(unit: Unit, request: ResultRequest) -> Unit:
    return replace(unit, requests=(request,))
