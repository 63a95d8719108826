"""A batch of a million pictures without a model: what planning, grouping, journal and hand-out cost the driver.

    python benchmarks/million.py [--pictures 1000000] [--workers 10] [--seconds 0] [--output DIR] [--ray UNITS]

The pictures are a million names for a few files, in a hundred folders; headers are read as in a real run. The workers
are simulated: each takes `--seconds` for a picture on a clock that jumps where the driver would wait, so that a run of
days is over in minutes. No result is written: what that costs is measured apart, for a few. With `--ray`, so many
model batches go through real Ray workers that return a picture's bytes at once. Prints JSON.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "modules"))

from instruct_pix2pix.batch import driver
from instruct_pix2pix.batch import journal as journal_module
from instruct_pix2pix.batch.journal import Journal
from instruct_pix2pix.batch.planning import BatchRequest
from instruct_pix2pix.batch.ray import connection
from instruct_pix2pix.batch.ray.executor import cluster_executor
from instruct_pix2pix.batch.ray.scheduler import IN_FLIGHT
from instruct_pix2pix.batch.ray.worker import RayWorker, WorkerReady
from instruct_pix2pix.batch.units import Control, Executor, Result, Unit
from instruct_pix2pix.files import write_whole
from instruct_pix2pix.models.registry import DEMO
from instruct_pix2pix.settings import EditSettings

SIZES = ((512, 512), (768, 512), (512, 768))
FOLDERS = 100
MOST_LINKS = 30_000
RESULT = os.urandom(400_000)
"""A picture of 512 pixels as PNG has about this many bytes."""
FACTS = driver.ModelFacts(512, 8, "0" * 10, "fp32")


class Clock:
    """Real time, plus what the driver would have waited."""

    def __init__(self) -> None:
        self.skipped = 0.0

    def now(self) -> float:
        """Seconds."""
        return time.perf_counter() + self.skipped

    def wait_until(self, moment: float) -> None:
        """Let the time in between be over."""
        self.skipped += max(0.0, moment - self.now())


class Stopwatch:
    """Adds up the seconds spent in functions, by name: of the processor, which is what a busy machine leaves alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.waited: dict[str, float] = {}
        """Seconds of the clock on the wall."""
        self.calls: dict[str, int] = {}

    def of(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, watched."""

        def watched(*args: object, **more: object) -> object:
            began, at = time.process_time(), time.perf_counter()
            try:
                return function(*args, **more)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - began
                self.waited[name] = self.waited.get(name, 0.0) + time.perf_counter() - at
                self.calls[name] = self.calls.get(name, 0) + 1

        return watched


def simulated(clock: Clock, workers: int, seconds: float, used: list[float]) -> Executor:
    """Return an executor with workers that make nothing, `seconds` for each picture; `used` gets their busy time."""

    def execute(units: Iterator[Unit | None]) -> Generator[Result, None, None]:
        free = [(0.0, worker) for worker in range(workers)]
        begun: list[tuple[float, int, Unit]] = []
        number, more = 0, True
        while more or begun:
            while more and len(begun) < workers * IN_FLIGHT:
                unit = next(units, None)
                if unit is None:
                    more = False
                    break
                ready, worker = heapq.heappop(free)
                end = max(ready, clock.now()) + seconds * len(unit.requests)
                used.append(seconds * len(unit.requests))
                heapq.heappush(free, (end, worker))
                heapq.heappush(begun, (end, number, unit))
                number += 1
            if begun:
                end, _, unit = heapq.heappop(begun)
                clock.wait_until(end)
                for request in unit.requests:
                    yield Result(
                        request.item.name, request.index, b"", seed=1, size=request.item.size, rows=60, seconds=seconds
                    )

    return execute


class Idle(RayWorker):
    """A Ray worker without a model."""

    def load(self, setup: object, threads: int | None, parts: object = None) -> WorkerReady:
        """Be ready."""
        return WorkerReady(os.getpid(), "no model")

    def make(self, unit: Unit, states: object, files: object) -> list[Result]:
        """Return bytes at once."""
        return [Result(request.item.name, request.index, RESULT) for request in unit.requests]


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0.0, help="of a simulated worker for a picture")
    parser.add_argument("--output", type=Path, help="where the journal lies (default: beside the pictures)")
    parser.add_argument("--ray", type=int, default=0, metavar="UNITS", help="batches to put through real Ray workers")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory(dir=args.output) as second:
        began = time.perf_counter()
        request = BatchRequest(
            pictures(Path(first) / "in", args.pictures),
            Path(second) / "out",
            EditSettings("make it winter"),
            recursive=True,
        )
        report = {"pictures": args.pictures, "making the folder, s": time.perf_counter() - began}
        report |= run(request, args.workers, args.seconds)
        report |= resumed(request)
        report |= written(Path(second), 200)
        if args.ray:
            report |= through_ray(Path(first) / "in", Path(second) / "ray", args.ray)
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in report.items()}, indent=1))


def pictures(folder: Path, count: int) -> Path:
    """Make a folder of so many names."""
    folder.mkdir()
    store = folder.with_name("store")
    store.mkdir()
    for place in range(FOLDERS):
        (folder / f"{place:02}").mkdir()
    for number in range(count):
        kind = number % len(SIZES)
        file = store / f"{kind}-{number // MOST_LINKS}.jpg"
        if not file.exists():
            Image.effect_noise(SIZES[kind], 30).convert("RGB").save(file)
        os.link(file, f"{folder}/{number % FOLDERS:02}/{number:07}.jpg")
    return folder


def run(request: BatchRequest, workers: int, seconds: float) -> dict[str, Any]:
    """Carry the request out with simulated workers."""
    watch, clock, used, marks = Stopwatch(), Clock(), [], {}
    started, ended, synced, wrote = Journal.start, Journal.add, os.fsync, driver.write_whole
    plan, group = driver.make_plan, driver.make_units
    Journal.start = watch.of("journal, begun", started)
    Journal.add = watch.of("journal, ended", ended)
    journal_module.os.fsync = watch.of("fsync", synced)
    driver.make_plan = watch.of("planning", plan)
    driver.make_units = watch.of("grouping", group)
    driver.write_whole = lambda path, data: None
    before, began, at = memory(), time.process_time(), time.perf_counter()

    def report(event: driver.Event) -> None:
        if isinstance(event, driver.Begun) and not marks:
            marks.update(at=clock.now(), memory=memory())

    try:
        summary = driver.run_batch(request, FACTS, simulated(clock, workers, seconds, used), report=report)
    finally:
        Journal.start, Journal.add, os.fsync = started, ended, synced
        driver.make_plan, driver.make_units, driver.write_whole = plan, group, wrote
    whole, spent = time.process_time() - began, watch.seconds
    assert summary.ok and summary.done == sum(1 for _ in journal_module.entries_of(request.output))
    handed = spent["journal, begun"] + spent["journal, ended"]
    makespan = clock.now() - marks["at"]
    return {
        "planning, s": spent["planning"],
        "grouping, s": spent["grouping"],
        "journal, s": handed,
        "hand-out, states, events, s": whole - spent["planning"] - spent["grouping"] - handed,
        "whole, s of the processor": whole,
        "whole, s on the wall": time.perf_counter() - at,
        "fsyncs": watch.calls["fsync"],
        "an fsync, ms on the wall": watch.waited["fsync"] / watch.calls["fsync"] * 1000,
        "model batches": watch.calls["journal, begun"],
        "journal, MB": (request.output / journal_module.NAME).stat().st_size / 1e6,
        "memory before, MB": before,
        "memory when planned, MB": marks["memory"],
        "memory at the end, MB": memory(),
        "simulated time of the run, h": makespan / 3600,
        "share that workers were busy": sum(used) / workers / makespan,
    }


def resumed(request: BatchRequest) -> dict[str, Any]:
    """Measure how long reading the journal again takes."""
    began = time.process_time()
    with Journal(request.output, {}) as journal:
        assert journal.latest
    return {"reading the journal again, s": time.process_time() - began}


def written(folder: Path, count: int) -> dict[str, Any]:
    """Measure what it costs to write results, one after the other."""
    began = time.perf_counter()
    for number in range(count):
        write_whole(folder / f"{number}.png", RESULT)
    return {"writing a result, ms on the wall": (time.perf_counter() - began) / count * 1000}


def through_ray(folder: Path, output: Path, units: int) -> dict[str, Any]:
    """Measure the hand-out through Ray: batches of four pictures, bytes back, nothing written."""
    connection.RayWorker = Idle
    request = BatchRequest(folder, output, EditSettings("make it winter"), batch_size=4, recursive=True)
    marks: list[float] = []
    kept = driver.write_whole
    driver.write_whole = lambda path, data: None
    control = Control()

    def report(event: driver.Event) -> None:
        if isinstance(event, driver.Begun):
            marks.append(time.perf_counter())
            if len(marks) > units:
                control.stop()

    os.environ.setdefault("OMP_NUM_THREADS", "1")
    execute = cluster_executor("auto", DEMO, None, "cpu", "fp32", control)
    driver.run_batch(request, FACTS, execute, report=report, control=control)
    driver.write_whole = kept
    return {"a batch of 4 through Ray, ms": (marks[-1] - marks[10]) / (len(marks) - 11) * 1000}


def memory() -> float:
    """The process's memory in megabytes, the most that it had so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
