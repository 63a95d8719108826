"""The cluster over Ray: checks its address, joins or starts it, and starts and calls workers on it."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
import socket
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import UserError
from ...paths import PACKAGE
from ..local_executor import SentFiles
from ..units import Unit
from .scheduler import IN_FLIGHT, Answer, Call, NodeInfo, WorkerLost
from .worker import FileState, RayWorker, WorkerSetup, chosen_precision

CHUNK = 256 << 20
"""Bytes in which a model is sent to machines that do not have it."""

INSTALL = "pip install 'instruct-pix2pix-studio[cluster]'"


def check_address(address: str) -> None:
    """Raise UserError if Ray is not installed or no cluster answers at the address."""
    if importlib.util.find_spec("ray") is None:
        raise UserError(f"A cluster needs Ray, which is not installed: {INSTALL}.")
    named = _named(address)
    if named in (None, "auto"):
        return
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(\d{1,5})", named)
    if not match or not 0 < int(match[2]) < 65536:
        raise UserError(f"'{named[:60]}' is not the address of a cluster: give HOST:PORT of its head, or auto.")
    try:
        socket.create_connection((match[1].strip("[]"), int(match[2])), 10).close()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"No cluster answers at {named} ({reason}): check the address, or start one there: "
            "ray start --head --port 6379."
        ) from error


def _named(address: str) -> str | None:
    """Return the address of the cluster to join; None for a cluster of our own."""
    return (os.environ.get("RAY_ADDRESS") or None) if address == "auto" else address


def is_own(address: str) -> bool:
    """Tell whether the address means a cluster that starts and ends with the run, on this machine alone."""
    return _named(address) is None


@contextlib.contextmanager
def joined(address: str, say: Callable[[str], None] = lambda _: None) -> Iterator[Any]:
    """Join or start a cluster, and leave or end it after the block; runs inside share it. Yields `ray`.

    Raises UserError if that is not possible.
    """
    named = _named(address)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    if named is None:
        # Only so do all of Ray's own servers listen on loopback alone; ray reads it when it is imported.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray

    if ray.is_initialized():
        yield ray
        return
    say("Starting a cluster on this machine …" if named is None else f"Joining the cluster at {named} …")
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        with _in_package_folder():
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
def _in_package_folder() -> Iterator[None]:
    """Make the folder of this package the current one for the block.

    Ray's workers import from the folder in which it was started: that must be this one, never one of pictures.
    """
    before = Path.cwd()
    os.chdir(PACKAGE.parent)
    try:
        yield
    finally:
        os.chdir(before)


class RayCluster:
    """A `scheduler.Cluster` over `ray`, as `joined` yields it."""

    def __init__(self, ray: Any) -> None:  # noqa: ANN401 - Ray is another program's object
        self._ray = ray
        self._parts: list[Any] | None = None

    def nodes(self) -> Sequence[NodeInfo]:
        """Return the machines that are alive."""
        return [_node_info(node) for node in self._ray.nodes() if node["Alive"]]

    def start_worker(self, node_id: str, *, cpus: int, gpus: int) -> RemoteRayWorker:
        """Start a `RayWorker` on that machine and no other."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        options: dict[str, Any] = {"num_cpus": cpus, "max_concurrency": IN_FLIGHT + 1}
        if gpus:
            options["num_gpus"] = gpus
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(node_id, soft=False)
        actor = self._ray.remote(RayWorker).options(**options).remote()
        return RemoteRayWorker(self, actor)

    def wait(self, calls: Collection[Call], seconds: float) -> Sequence[tuple[Call, Answer]]:
        """Wait for one of the calls, or without any just for the seconds."""
        ready, _ = self._ray.wait(list(calls), num_returns=1, timeout=seconds) if calls else ([], None)
        if not calls:
            time.sleep(seconds)
        return [(call, self._answer(call)) for call in ready]

    def model_parts(self, path: Path) -> list[Any]:
        """Return Ray's references to the bytes of the model, which are put into its store once."""
        if self._parts is None:
            with path.open("rb") as file:
                self._parts = [self._ray.put(chunk) for chunk in iter(lambda: file.read(CHUNK), b"")]
        return self._parts

    def precision(self, device: str, precision: str) -> str:
        """Return the number format that a machine chooses, one with a GPU if there are any. Raises UserError."""
        gpus = 1 if any(node.gpus for node in self.nodes()) else 0
        try:
            return self._ray.get(self._ray.remote(chosen_precision).options(num_gpus=gpus).remote(device, precision))
        except self._ray.exceptions.RayError as error:
            raise UserError(f"The cluster has no machine to work on ({_lost(error).reason}).") from error

    def kill(self, actor: Any) -> None:  # noqa: ANN401
        """End an actor's process, if it has not ended yet."""
        with contextlib.suppress(Exception):
            self._ray.kill(actor)

    def _answer(self, call: Call) -> Answer:
        try:
            return self._ray.get(call)
        except self._ray.exceptions.RayError as error:
            return _lost(error)


class RemoteRayWorker:
    """A `scheduler.RemoteWorker`: a RayWorker in its own process."""

    def __init__(self, cluster: RayCluster, actor: Any) -> None:  # noqa: ANN401
        self._cluster, self._actor = cluster, actor

    def load(self, setup: WorkerSetup, threads: int | None, *, send_model: bool) -> Call:
        """Call `RayWorker.load`."""
        parts = self._cluster.model_parts(setup.path) if send_model else None
        return self._actor.load.remote(setup, threads, parts)

    def make(self, unit: Unit, states: Mapping[Path, FileState], files: SentFiles) -> Call:
        """Call `RayWorker.make`."""
        return self._actor.make.remote(unit, states, files)

    def stop(self) -> None:
        """Call `RayWorker.stop`."""
        self._actor.stop.remote()

    def kill(self) -> None:
        """End the process."""
        self._cluster.kill(self._actor)


def _node_info(node: Mapping[str, Any]) -> NodeInfo:
    has = node["Resources"]
    name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    return NodeInfo(node["NodeID"], name, int(has.get("CPU", 0)), int(has.get("GPU", 0)), int(has.get("memory", 0)))


def _lost(error: Exception) -> WorkerLost:
    cause = getattr(error, "cause", None)
    if isinstance(cause, UserError):
        return WorkerLost(str(cause), unfit=True)
    if "ModuleNotFoundError" in str(error):
        return WorkerLost(f"this program is not installed there: {INSTALL}", unfit=True)
    return WorkerLost(_first_line(cause) if cause else "killed, or its machine lost")


def _first_line(error: object) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:4] if "ersion mismatch" in str(error) else lines[:1])
    return f"{text or type(error).__name__}".rstrip(".:")[:400]
