"""Makes the units of a batch on the machines of a Ray cluster: one loaded model in each worker, work as they finish."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from ... import __version__
from ...engine.model import EditModel
from ...engine.precision import choose_machine
from ...errors import Interrupted, UserError
from ...models.checkpoints import short_hash
from ...models.registry import model_hash
from ...paths import PACKAGE
from ..local_executor import Files, UnitRunner, paths_of
from ..units import Control, Executor, Made, Unit

IN_FLIGHT = 3
"""Units with a worker at once: one is read, one is in the model, one is encoded."""

MOST_TRIES = 3
"""How many workers may end over a unit before it counts as what ended them."""

CPUS_EACH = 4
"""Cores for a worker on a machine without GPUs; more for one model gain little."""

BYTES_EACH = 2 << 30
"""Memory for a worker on a machine without GPUs, besides its model."""

CHUNK = 256 << 20
"""Bytes in which a model is sent to machines that do not have it."""

TICK, LOOK_ROUND, SILENCE, PATIENCE = 0.5, 5.0, 60.0, 600.0
"""Seconds: between looks at `Control` and at the machines; until a wait is told of; to wait when all are lost."""

INSTALL = "pip install 'instruct-pix2pix-studio[cluster]'"

FileState = tuple[int, float]
"""Size and time of change of a file: by these a worker tells that it sees the same disk."""


def cluster_executor(
    address: str,
    path: Path,
    hash: str | None,
    device: str,
    precision: str,
    control: Control,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> Executor:
    """Return an executor whose models are on the machines of a Ray cluster, as many as it has GPUs.

    `address` is HOST:PORT of the cluster's head, or 'auto': the cluster that RAY_ADDRESS names, or else one that
    begins and ends with the run, on this machine alone. `path` and `hash` are those of the model; a machine without
    it gets it sent. A cluster without GPUs gets a worker for every OMP_NUM_THREADS cores, or else CPUS_EACH. Raises
    UserError where Ray is not installed or nothing answers at the address; the executor, when no machine can work.
    """
    _check(address)
    order = WorkerSetup(path.absolute(), _beside(path), hash, device, precision)

    def execute(units: Iterator[Unit | None]) -> Generator[Made, None, None]:
        first = next((unit for unit in units if unit is not None), None)
        if first is None:
            return  # nothing to make: no reason to call a cluster together
        with joined(address, say) as ray, contextlib.closing(Scheduler(ray, order, say)) as crew:
            yield from _made(chain([first], units), crew, control)

    return execute


def _made(units: Iterator[Unit | None], crew: Scheduler, control: Control) -> Generator[Made, None, None]:
    more, pausing = True, False
    while not control.aborting:
        if control.stopping:
            more = False
            crew.stop()
        crew.look_round()
        while more and not pausing and (worker := crew.free()):
            try:
                unit = next(units)
            except StopIteration:
                more = False
            else:
                pausing = unit is None
                if unit is not None:
                    crew.hand(_PendingUnit(_absolute(unit)), worker)
        if not crew.busy:
            if not more:
                return
            if pausing:  # all is handed over: the next unit comes when the run goes on
                pausing = False
                continue
        yield from crew.finished()


# --- a worker: a process on some machine ---


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker is to load. Picklable."""

    path: Path
    config: bytes | None
    """The yaml beside it."""
    hash: str | None
    device: str
    precision: str
    version: str = __version__

    def is_met_by(self, path: Path, hash: Callable[[Path], str]) -> bool:
        """Tell whether this is the model that is meant."""
        return path.exists() and _beside(path) == self.config and self.hash in (None, hash(path))


@dataclass(frozen=True)
class WorkerReady:
    """What became of an order."""

    pid: int
    what: str
    """The device and the number format; empty where the model has to be sent."""


class RayWorker:
    """A loaded model in a process of its own. Several calls of `make` run at once, in the model one by one."""

    def __init__(self) -> None:
        self._control = Control()
        self._model = ThreadPoolExecutor(1, "batch-model")  # loading too: the one thread that uses torch
        self._maker: UnitRunner | None = None

    def load(self, order: WorkerSetup, threads: int | None, parts: Sequence[Any] | None = None) -> WorkerReady:
        """Load the model from its path, or from `parts`: references to its bytes. Raises UserError."""
        if order.version != __version__:
            raise UserError(f"it has version {__version__} of this program, not {order.version}")
        if threads:
            torch.set_num_threads(threads)
        machine = choose_machine(order.device, order.precision)

        def maker_of(path: Path) -> UnitRunner:
            return UnitRunner(EditModel.load(path, machine), order.hash)

        if parts is not None:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                path = Path(folder) / order.path.name  # results name their model
                _receive(path, order, parts)
                if not order.is_met_by(path, short_hash):
                    raise UserError("the model did not arrive as it was sent")
                self._maker = self._model.submit(maker_of, path).result()
        elif order.is_met_by(order.path, model_hash):
            self._maker = self._model.submit(maker_of, order.path).result()
        else:
            return WorkerReady(os.getpid(), "")
        return WorkerReady(os.getpid(), f"{machine.device.type}, {str(machine.dtype).removeprefix('torch.')}")

    def make(self, unit: Unit, states: Mapping[Path, FileState], files: Files) -> list[Made] | None:
        """Make a unit; nothing where it was stopped; None where a file is not as in `states`: it must be sent."""
        assert self._maker is not None
        if any(_state_of(path) != state for path, state in states.items()):
            return None
        reading, maker = self._maker.read(unit, files), self._maker

        def edit() -> Any:  # noqa: ANN401 - an Editing
            if self._control.stopping:
                raise Interrupted
            return maker.edit(reading, self._control)

        try:
            return maker.encode(self._model.submit(edit).result())
        except Interrupted:
            return []

    def stop(self) -> None:
        """Begin no unit any more."""
        self._control.stop()


def _receive(path: Path, order: WorkerSetup, parts: Sequence[Any]) -> None:
    import ray

    try:
        if order.config is not None:
            path.with_suffix(".yaml").write_bytes(order.config)
        with path.open("wb") as file:
            for part in parts:  # one at a time in memory
                file.write(ray.get(part))
    except OSError as error:
        raise UserError(f"the model cannot be kept in {path.parent} ({error.strerror})") from error


def _beside(path: Path) -> bytes | None:
    """The yaml that describes a model file, if there is one."""
    try:
        return path.with_suffix(".yaml").read_bytes() if path.is_file() else None
    except OSError:
        return None


# --- the workers as the driver sees them ---


@dataclass
class _PendingUnit:
    unit: Unit
    tries: int = 0
    """How many workers ended while they had it."""


@dataclass(eq=False)
class _Node:
    id: str
    name: str
    seats: int
    """Workers that it has room for."""
    options: Mapping[str, Any]
    threads: int | None
    sees_files: bool = True
    losses: int = 0
    """Workers that ended since the last unit that was made."""
    out: str = ""
    """Why it is not asked any more."""


@dataclass(eq=False)
class _WorkerHandle:
    machine: _Node
    actor: Any
    loading: Any
    """The reference of a call of `load` on its way."""
    jobs: dict[Any, _PendingUnit] = field(default_factory=dict)
    """What it works on, by reference."""


class Scheduler:
    """All workers of a run: hires them, hands out, collects, and gives the jobs of a lost one to another."""

    def __init__(self, ray: Any, order: WorkerSetup, say: Callable[[str], None]) -> None:  # noqa: ANN401
        self.ray, self.order, self.say = ray, order, say
        self.machines: dict[str, _Node] = {}
        self.hands: list[_WorkerHandle] = []
        self.again: deque[_PendingUnit] = deque()
        """Jobs that lost their worker."""
        self._lost: list[Made] = []
        self._parts: list[Any] | None = None
        self._looked = float("-inf")
        self._alone_since = self._idle_since = time.monotonic()
        self._told = False
        self._missed = False
        """Whether a machine that could work has left, and may come back."""
        self._stopped = False

    @property
    def busy(self) -> bool:
        """Whether anything is still to come."""
        return bool(self.again or self._lost or any(hand.jobs for hand in self.hands))

    def look_round(self) -> None:
        """Take on the machines that have come, fill the places of workers that were lost, hand out their jobs.

        Raises UserError when nobody is left who could work.
        """
        now = time.monotonic()
        if now - self._looked > LOOK_ROUND and not self._stopped:
            self._looked = now
            self._hire()
        idle = [hand for hand in self.hands if not hand.loading and not hand.jobs]
        while self.again and idle:
            self.hand(self.again.popleft(), idle.pop())
        if any(not hand.loading for hand in self.hands):
            self._idle_since, self._told = now, False
        elif not self._told and now - self._idle_since > SILENCE:
            self._told = True
            self.say("No worker is ready yet: models are loading, others use the cluster, or its machines are gone.")
        if self.hands:
            self._alone_since = now
            return
        reasons = sorted({f"{machine.name}: {machine.out}" for machine in self.machines.values() if machine.out})
        waiting = any(not machine.out for machine in self.machines.values())
        if not (waiting or self._missed) or now - self._alone_since > PATIENCE:
            why = f" ({'; '.join(reasons[:3])})" if reasons else ""
            raise UserError(f"No machine of the cluster can work{why}: mend that, then give the same command again.")

    def free(self) -> _WorkerHandle | None:
        """Return the loaded worker with the least to do that can take more.

        A job that lost a worker is made alone, so that what ends a worker is known and does not take others with it:
        for each such job one worker is let run empty.
        """
        loaded = sorted((hand for hand in self.hands if not hand.loading), key=lambda hand: len(hand.jobs))
        open_ = (hand for hand in loaded[len(self.again) :] if len(hand.jobs) < IN_FLIGHT)
        return next((hand for hand in open_ if not any(job.tries for job in hand.jobs.values())), None)

    def hand(self, job: _PendingUnit, hand: _WorkerHandle) -> None:
        """Give a job to a worker, with the pictures' bytes where its machine does not see the files."""
        states, files = {}, {}
        for path in paths_of(job.unit):
            state = _state_of(path)
            if state is None:
                continue  # whoever opens it will say what is wrong
            if hand.machine.sees_files:
                states[path] = state
            else:
                with contextlib.suppress(OSError):
                    files[path] = path.read_bytes()
        hand.jobs[hand.actor.make.remote(job.unit, states, files)] = job

    def finished(self) -> Iterator[Made]:
        """Wait a moment for any worker; yield what it made."""
        waiting = {ref: hand for hand in self.hands for ref in (*hand.jobs, *([hand.loading] if hand.loading else []))}
        if waiting:
            ready, _ = self.ray.wait(list(waiting), num_returns=1, timeout=TICK)
        else:
            ready = []
            time.sleep(0 if self._lost else TICK)
        for ref in ready:
            hand = waiting[ref]
            try:
                answer = self.ray.get(ref)
            except self.ray.exceptions.RayError as error:
                self._dismiss(hand, error)
            else:
                if ref == hand.loading:
                    self._loaded(hand, answer)
                else:
                    yield from self._answered(hand, hand.jobs.pop(ref), answer)
        while self._lost:
            yield self._lost.pop()

    def stop(self) -> None:
        """Hand out nothing again, and have the workers begin nothing."""
        if not self._stopped:
            self._stopped = True
            self.again.clear()
            for hand in self.hands:
                hand.actor.stop.remote()

    def close(self) -> None:
        """End all workers, whatever they do."""
        for hand in self.hands:
            self._kill(hand)
        self.hands.clear()

    def _hire(self) -> None:
        nodes = {node["NodeID"]: node for node in self.ray.nodes() if node["Alive"]}
        for id in self.machines.keys() - nodes.keys():
            machine = self.machines.pop(id)
            self._missed = self._missed or not machine.out
            self.say(f"{machine.name} has left the cluster.")
        with_gpus = self.order.device == "cuda" or (
            self.order.device == "auto" and any(node["Resources"].get("GPU", 0) for node in nodes.values())
        )
        size = self.order.path.stat().st_size if self.order.path.is_file() else 0
        for id, node in nodes.items():
            if id not in self.machines:
                self.machines[id] = _machine(node, with_gpus, 2 * size + BYTES_EACH)
            machine = self.machines[id]
            here = sum(hand.machine is machine for hand in self.hands)
            for _ in range(0 if machine.out else machine.seats - here):
                self._engage(machine)

    def _engage(self, machine: _Node) -> None:
        strategy = self.ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(machine.id, soft=False)
        options = {**machine.options, "max_concurrency": IN_FLIGHT + 1, "scheduling_strategy": strategy}
        actor = self.ray.remote(RayWorker).options(**options).remote()
        self.hands.append(_WorkerHandle(machine, actor, actor.load.remote(self.order, machine.threads)))

    def _loaded(self, hand: _WorkerHandle, answer: WorkerReady) -> None:
        hand.loading = None
        if answer.what:
            self.say(f"{hand.machine.name} is ready (process {answer.pid}, {answer.what}).")
        elif self.order.path.is_dir():
            self._leave(hand.machine, f"it has no {self.order.path}, and a model that is a folder is not sent")
        else:
            self.say(f"{hand.machine.name} does not have {self.order.path.name}: it is sent.")
            hand.loading = hand.actor.load.remote(self.order, hand.machine.threads, self._model_in_parts())

    def _model_in_parts(self) -> list[Any]:
        if self._parts is None:
            with self.order.path.open("rb") as file:
                self._parts = [self.ray.put(chunk) for chunk in iter(lambda: file.read(CHUNK), b"")]
        return self._parts

    def _answered(self, hand: _WorkerHandle, job: _PendingUnit, answer: list[Made] | None) -> Iterator[Made]:
        hand.machine.losses = 0
        if answer is not None:
            yield from answer
        elif not self._stopped:
            if hand.machine.sees_files:
                hand.machine.sees_files = False
                self.say(f"{hand.machine.name} does not see the pictures where they are: they are sent.")
            self.hand(job, hand)

    def _dismiss(self, hand: _WorkerHandle, error: Exception) -> None:
        """Let a worker go that has ended or that failed; its jobs are for another."""
        self.hands.remove(hand)
        self._kill(hand)
        machine, cause = hand.machine, getattr(error, "cause", None)
        if isinstance(cause, UserError):
            return self._leave(machine, str(cause))
        if "ModuleNotFoundError" in str(error):
            return self._leave(machine, f"this program is not installed there: {INSTALL}")
        machine.losses += 1
        reason = _first_line(cause) if cause else "killed, or its machine lost"
        jobs = [] if self._stopped else list(hand.jobs.values())
        follows = f": what it had in hand ({len(jobs)} batches) is made again" if jobs else ""
        self.say(f"A worker on {machine.name} has ended ({reason}){follows}.")
        for job in jobs:
            self._try_again(job)
        if machine.losses >= MOST_TRIES * machine.seats:
            self._leave(machine, f"its workers end again and again ({reason})")
        self._looked = float("-inf")
        return None

    def _try_again(self, job: _PendingUnit) -> None:
        job.tries += 1
        shots = [shot for shot in job.unit.shots if shot.wanted]
        if job.tries < MOST_TRIES:
            self.again.append(job)
        elif len(job.unit.shots) > 1:  # one of them may be to blame: each gets a last try by itself
            self.again.extend(_PendingUnit(replace(job.unit, shots=(shot,)), MOST_TRIES) for shot in shots)
        else:
            reason = "The process that made it ended each time, perhaps for want of memory: try a smaller size."
            self._lost.extend(Made(shot.item.name, shot.index, None, reason) for shot in shots)

    def _leave(self, machine: _Node, reason: str) -> None:
        """Ask nothing of a machine any more."""
        if not machine.out:
            machine.out = reason
            self.say(f"{machine.name} cannot help: {reason}.")
        for hand in [hand for hand in self.hands if hand.machine is machine]:
            self.hands.remove(hand)
            self._kill(hand)
            self.again.extend([] if self._stopped else hand.jobs.values())

    def _kill(self, hand: _WorkerHandle) -> None:
        with contextlib.suppress(Exception):
            self.ray.kill(hand.actor)


def _machine(node: Mapping[str, Any], with_gpus: bool, bytes_each: int) -> _Node:
    """Say how many workers a node has room for, and what each asks of Ray."""
    has = node["Resources"]
    cpus, gpus = int(has.get("CPU", 0)), int(has.get("GPU", 0))
    name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    if with_gpus:
        options = {"num_gpus": 1, "num_cpus": 1 if cpus >= gpus else 0}
        out = "" if gpus else "it has no GPU"
        return _Node(node["NodeID"], name, gpus, options, None, out=out)
    if not cpus:
        return _Node(node["NodeID"], name, 0, {}, None, out="it has no core to spare")
    asked = os.environ.get("OMP_NUM_THREADS", "")
    each = min(cpus, int(asked)) if asked.isdecimal() and int(asked) else min(cpus, CPUS_EACH)
    seats = max(1, min(cpus // each, int(has.get("memory", 0)) // bytes_each))
    each = each if asked else cpus // seats
    return _Node(node["NodeID"], name, seats, {"num_cpus": each}, each)


# --- the cluster ---


def _check(address: str) -> None:
    """Raise UserError where no cluster can be had, before anything is begun."""
    if importlib.util.find_spec("ray") is None:
        raise UserError(f"A cluster needs Ray, which is not installed: {INSTALL}.")
    named = _named(address)
    if named in (None, "auto"):
        return
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(\d{1,5})", named)
    if not match or not 0 < int(match[2]) < 65536:
        raise UserError(f"'{named[:60]}' is no address of a cluster: give HOST:PORT of its head, or auto.")
    try:
        socket.create_connection((match[1].strip("[]"), int(match[2])), 10).close()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"No cluster answers at {named} ({reason}): look to the address, or start one there: "
            "ray start --head --port 6379."
        ) from error


def _named(address: str) -> str | None:
    """The cluster to join; None for one of our own."""
    return (os.environ.get("RAY_ADDRESS") or None) if address == "auto" else address


@contextlib.contextmanager
def joined(address: str, say: Callable[[str], None] = lambda _: None) -> Iterator[Any]:
    """Join or start a cluster, and leave or end it after the block: runs inside share it. Yields `ray`.

    Raises UserError where that is not possible.
    """
    named = _named(address)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if named is None:
        # The one way to have all of Ray's own servers listen on loopback alone; read when ray is imported.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray
    from ray.util import scheduling_strategies  # noqa: F401 - not imported by ray itself

    if ray.is_initialized():
        yield ray
        return
    say("Starting a cluster on this machine …" if named is None else f"Joining the cluster at {named} …")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        with _at_home():
            if named is None:
                ray.init(address="local", include_dashboard=False, **quiet)
            else:
                ray.init(address=named, **quiet)
    except (Exception, SystemExit) as error:
        with contextlib.suppress(Exception):
            ray.shutdown()
        if named is None:
            raise UserError(f"Ray could not be started ({_first_line(error)}): leave out --cluster.") from error
        raise UserError(
            f"The cluster at {named} cannot be joined ({_first_line(error)}): this machine has to be one of its own, "
            "with the same Ray and Python, and RAY_AUTH_MODE=token if the head asks for it (docs/many-machines.md)."
        ) from error
    try:
        if named is None and ray.nodes()[0]["NodeManagerAddress"] not in ("127.0.0.1", "::1"):
            raise UserError("Ray was imported before, and would let other machines in: start this program by itself.")
        yield ray
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _at_home() -> Iterator[None]:
    """Be in the folder of this package for a moment.

    Ray has workers import from where it was called: from here the program may come, but nothing from among pictures.
    """
    before = Path.cwd()
    os.chdir(PACKAGE.parent)
    try:
        yield
    finally:
        os.chdir(before)


def _absolute(unit: Unit) -> Unit:
    """The same with whole paths: a worker's current folder is another."""
    shots = []
    for shot in unit.shots:
        mask = shot.item.mask and shot.item.mask.absolute()
        shots.append(replace(shot, item=replace(shot.item, source=shot.item.source.absolute(), mask=mask)))
    return replace(unit, shots=tuple(shots))


def _state_of(path: Path) -> FileState | None:
    """None for what is no file."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return (status.st_size, float(int(status.st_mtime))) if path.is_file() else None


def _first_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:4] if "ersion mismatch" in str(error) else lines[:1])
    return f"{text or type(error).__name__}".rstrip(".:")[:400]
