"""A worker of a cluster: a process on some machine, with one loaded model."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ... import __version__
from ...engine.loading.config import MOST_CONFIG
from ...engine.model import EditModel
from ...engine.precision import choose_machine
from ...errors import Interrupted, UserError
from ...models.bounded import read_small
from ...models.checkpoints import inspect, short_hash
from ...models.registry import model_hash
from ..local_executor import EditedUnit, SentFiles, UnitRunner
from ..units import Control, Result, Unit

FileState = tuple[int, float]
"""Size in bytes and time of change in whole seconds: they tell whether a worker sees the same file."""


@dataclass(frozen=True)
class WorkerSetup:
    """What a worker is to load. Picklable."""

    path: Path
    config: bytes | None
    """The content of the yaml beside the model."""
    hash: str | None
    device: str
    precision: str
    memory: float | None = None
    """The most of a card's memory to take, in GB; None is what is free."""
    version: str = __version__
    is_one_file: bool = True
    """Whether it can be sent: a folder, or a checkpoint whose VAE is a file beside it, is not."""

    @classmethod
    def of(
        cls, path: Path, hash: str | None, device: str, precision: str, memory: float | None = None
    ) -> WorkerSetup:
        """Return the setup for a model of this path and hash, which may be a relative path."""
        is_one_file = path.is_file() and inspect(path).vae is None
        found = config_beside(path)
        return cls(path.absolute(), found, hash, device, precision, memory, is_one_file=is_one_file)

    def is_met_by(self, path: Path, hash_of: Callable[[Path], str]) -> bool:
        """Tell whether the model at `path` is this one."""
        there = os.path.exists(path)  # noqa: PTH110 - Path.exists would raise in a folder that may not be read
        return there and config_beside(path) == self.config and self.hash in (None, hash_of(path))


@dataclass(frozen=True)
class WorkerReady:
    """The answer of a worker that was told to load its model. Picklable."""

    pid: int
    loaded: str
    """The device and the number format; empty if the machine does not have the model."""
    notes: tuple[str, ...] = ()
    """What a person should know of how the model was loaded: sentences."""


class RayWorker:
    """A loaded model in a process of its own. Several calls of `make` overlap; only one at a time uses the model."""

    def __init__(self) -> None:
        self._control = Control()
        self._model_thread = ThreadPoolExecutor(1, "batch-model")  # the only thread that uses torch, for loading too
        self._runner: UnitRunner | None = None

    def load(self, setup: WorkerSetup, threads: int | None, parts: Sequence[Any] | None = None) -> WorkerReady:
        """Load the model from its path, or from `parts`, Ray's references to its bytes. Raises UserError."""
        if setup.version != __version__:
            raise UserError(f"it has version {__version__} of this program, not {setup.version}")
        if threads:
            torch.set_num_threads(threads)
        machine = choose_machine(setup.device, setup.precision, setup.memory)

        def runner_of(path: Path) -> UnitRunner:
            return UnitRunner(EditModel.load(path, machine), setup.hash)

        if parts is not None:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                path = Path(folder) / setup.path.name  # results carry the model's name
                _receive(path, setup, parts)
                if not setup.is_met_by(path, short_hash):
                    raise UserError("the model did not arrive as it was sent")
                self._runner = self._model_thread.submit(runner_of, path).result()
        elif setup.is_met_by(setup.path, model_hash):
            self._runner = self._model_thread.submit(runner_of, setup.path).result()
        else:
            return WorkerReady(os.getpid(), "")
        return WorkerReady(os.getpid(), f"{machine.device.type}, {machine.number}", self._runner.model.notes)

    def make(self, unit: Unit, states: Mapping[Path, FileState], files: SentFiles) -> list[Result] | None:
        """Return the results of a unit; none if it was stopped.

        `states` are those of its files as the driver sees them. Returns None if one differs here: its bytes are needed
        in `files`.
        """
        assert self._runner is not None
        if any(file_state(path) != state for path, state in states.items()):
            return None
        runner = self._runner
        prepared = runner.prepare(unit, files)

        def edit() -> EditedUnit:
            if self._control.stopping:
                raise Interrupted
            return runner.edit(prepared, self._control)

        try:
            return runner.encode(self._model_thread.submit(edit).result())
        except Interrupted:
            return []

    def stop(self) -> None:
        """Start no further unit."""
        self._control.stop()


def chosen_precision(device: str, precision: str) -> str:
    """Return the number format that the machine on which this runs chooses. Raises UserError."""
    return choose_machine(device, precision).precision


def file_state(path: Path) -> FileState | None:
    """Return the state of a file; None where there is no file."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return (status.st_size, float(int(status.st_mtime))) if path.is_file() else None


def config_beside(path: Path) -> bytes | None:
    """Return the content of the yaml that describes a model file, if there is one."""
    try:
        return read_small(path.with_suffix(".yaml"), MOST_CONFIG) if path.is_file() else None
    except (OSError, ValueError):
        return None


def _receive(path: Path, setup: WorkerSetup, parts: Sequence[Any]) -> None:
    import ray

    try:
        if setup.config is not None:
            path.with_suffix(".yaml").write_bytes(setup.config)
        with path.open("wb") as file:
            for part in parts:  # one at a time in memory
                file.write(ray.get(part))
    except OSError as error:
        raise UserError(f"the model cannot be kept in {path.parent} ({error.strerror})") from error
