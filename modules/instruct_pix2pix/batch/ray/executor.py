"""The executor of a batch on a Ray cluster: one loaded model in each worker."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path

from ...engine.precision import choose_machine
from ..units import Control, Executor, Item, Result, Unit
from .connection import RayCluster, check_address, is_own, joined
from .scheduler import Scheduler
from .worker import WorkerSetup


def cluster_precision(address: str, device: str, precision: str, *, say: Callable[[str], None] = lambda _: None) -> str:
    """Return the number format that 'auto' or 'measure' means on a cluster: what one of its machines chooses.

    That of one with a GPU where there are some. All machines of a run compute in one format. Raises UserError if the
    cluster cannot be joined or the machine has no such device.
    """
    check_address(address)
    if is_own(address):
        return choose_machine(device, precision).precision
    with joined(address, say) as ray:
        return RayCluster(ray).precision(device, precision)


def cluster_executor(
    address: str,
    path: Path,
    hash: str | None,
    device: str,
    precision: str,
    control: Control,
    memory: float | None = None,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> Executor:
    """Return an executor whose models are on the machines of a Ray cluster, as many as it has GPUs.

    `address` is HOST:PORT of the cluster's head, or 'auto': the cluster that RAY_ADDRESS names, or else one that
    starts and ends with the run, on this machine alone. `path` and `hash` are those of the model; it is sent to a
    machine that does not have it. `memory` limits each card, as in `choose_machine`. A cluster without GPUs gets a
    worker for every OMP_NUM_THREADS cores, or else for every CPUS_EACH. Raises UserError if Ray is not installed or
    nothing answers at the address; the executor raises it when no machine can work.
    """
    check_address(address)
    setup = WorkerSetup.of(path, hash, device, precision, memory)

    def execute(units: Iterator[Unit | None]) -> Generator[Result, None, None]:
        first = next((unit for unit in units if unit is not None), None)
        if first is None:
            return  # nothing to make: no cluster is needed
        with joined(address, say) as ray, contextlib.closing(Scheduler(RayCluster(ray), setup, say)) as scheduler:
            yield from scheduler.results(map(_absolute, chain([first], units)), control)

    return execute


def _absolute(unit: Unit | None) -> Unit | None:
    """Return the unit with absolute paths: a worker has another current folder."""
    if unit is None:
        return None

    def absolute(item: Item) -> Item:
        return replace(item, source=item.source.absolute(), mask=item.mask and item.mask.absolute())

    requests = tuple(replace(request, item=absolute(request.item)) for request in unit.requests)
    return replace(unit, requests=requests)
