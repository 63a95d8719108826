"""The command `batch`: a folder of pictures, one instruction or one for each, and a journal of what became of them."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from tqdm import tqdm

from ..batch.driver import Ended, Event, ModelFacts, Planned, Summary, Wrote, facts_of, run_batch
from ..batch.journal import NAME, PictureState
from ..batch.local_executor import UnitRunner, local_executor
from ..batch.planning import BatchRequest, check_folders
from ..batch.units import Control, Executor, Result, Unit
from ..engine.edit import resolved
from ..engine.model import EditModel
from ..engine.precision import Machine, choose_machine
from ..engine.process_memory import tune_memory
from ..models.registry import model_dirs, resolve
from ..text import printable, say
from .arguments import settings_of

SHOWN = 10
"""Failures to name at the end; the journal has them all."""

LINE_SECONDS = 30.0
"""How often progress is told where no bar can be shown."""


def run(args: argparse.Namespace) -> int:
    """Edit a folder as asked; return 0 only when every picture that was asked for is there. Raises UserError."""
    tune_memory()
    request = request_of(args)
    check_folders(request)
    resolved(request.settings)
    path = resolve(args.model, model_dirs(args.models_dir))
    facts = facts_of(path)
    control = Control()
    if args.cluster:
        from ..batch.ray.executor import cluster_executor  # Ray need not be there

        execute = cluster_executor(args.cluster, path, facts.hash, args.device, args.precision, control, say=say)
    else:
        execute = _here(path, facts, choose_machine(args.device, args.precision), control)
    shown = _Report(request, as_json=args.json)
    try:
        with shown:
            summary = run_batch(request, facts, execute, report=shown, control=control)
    except KeyboardInterrupt:
        say(f"Stopped: {shown.done} of {shown.pictures} pictures are done. The same command goes on where it was.")
        return 130
    for line in _told(summary, request):
        say(line)
    return 0 if summary.ok else 1


def _here(path: Path, facts: ModelFacts, machine: Machine, control: Control) -> Executor:
    """Return the executor of this machine, which loads its model when there is something to make."""

    def execute(units: Iterator[Unit | None]) -> Generator[Result, None, None]:
        first = next((unit for unit in units if unit is not None), None)
        if first is None:
            return  # nothing to make: no reason to load a model
        say(f"Loading {path.stem} …")
        maker = UnitRunner(EditModel.load(path, machine), facts.hash)

        def all_units() -> Iterator[Unit | None]:
            yield first
            yield from units

        yield from local_executor(maker, control)(all_units())

    return execute


def request_of(args: argparse.Namespace) -> BatchRequest:
    """Read a request from the command line's words. Raises UserError."""
    args.instruction = args.instruction or ""
    return BatchRequest(
        args.input,
        args.output,
        replace(settings_of(args), batch_size=1),
        batch_size=args.batch_size,
        instructions=args.instructions,
        recursive=args.recursive,
        overwrite=args.overwrite,
        retry_failed=args.retry_failed,
        fmt=args.format,
        quality=args.quality,
        masks=args.masks,
        contact_sheet=args.contact_sheet,
        use_infotext=not args.ignore_infotext,
    )


class _Report:
    """Tells of a run: a bar or lines on stderr, files or JSON on stdout."""

    def __init__(self, request: BatchRequest, *, as_json: bool) -> None:
        self.request, self.as_json = request, as_json
        self.done = self.pictures = 0
        self._bar: tqdm | None = None
        self._told = time.monotonic()
        self._began = self._told

    def __enter__(self) -> _Report:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Planned):
            self.pictures = len(event.plan.items) + len(event.plan.refused)
            for line in _origins(event.plan.origins, self.request):
                say(line)
            self._began = time.monotonic()
            # disable=None: no bar where stderr is not a terminal
            self._bar = tqdm(total=event.results, unit="picture", leave=False, disable=None)
        elif isinstance(event, Wrote):
            self._wrote(event)
        elif isinstance(event, Ended):
            self.done += event.entry.state is PictureState.DONE
            if event.fresh and event.entry.state is not PictureState.DONE:
                self._print({"name": event.entry.name, "state": event.entry.state.value, "reason": event.entry.reason})

    def _wrote(self, event: Wrote) -> None:
        made = event.result
        facts = {"name": event.item.name, "state": "done", "path": str(event.path), "seed": made.seed}
        self._print({**facts, "size": list(made.size), "rows": made.rows, "seconds": round(made.seconds, 3)})
        bar = self._bar
        if bar is None:
            return
        bar.update()
        now = time.monotonic()
        if bar.disable:
            bar.n += 1  # a bar that is not shown does not count
            if now - self._told > LINE_SECONDS:
                self._told = now
                left = (now - self._began) / bar.n * (bar.total - bar.n)
                say(f"{bar.n} of {bar.total} pictures, about {_duration(left)} left.")

    def _print(self, facts: Mapping[str, object]) -> None:
        with tqdm.external_write_mode(sys.stdout):
            if self.as_json:
                print(json.dumps(facts), flush=True)
            elif "path" in facts:
                print(f"{printable(str(facts['path']))}  (seed {facts['seed']}, {facts['seconds']} s)", flush=True)
            else:
                say(f"{printable(str(facts['name']))}: {facts['state']}. {facts['reason']}")


def _origins(told: Mapping[str, int], request: BatchRequest) -> list[str]:
    """Say where instructions came from, where that was not the command alone."""
    places = {
        "table": request.instructions.name if request.instructions else "",
        "sidecar": "text files beside the pictures",
        "infotext": "earlier edits of the pictures (--ignore-infotext prevents that)",
        "command": "the command",
    }
    found = [f"{told[origin]} from {place}" for origin, place in places.items() if told.get(origin)]
    return [] if set(told) <= {"command"} else [f"Instructions: {', '.join(found)}."]


def _told(summary: Summary, request: BatchRequest) -> list[str]:
    counts = [
        (summary.done, "done"),
        (summary.before, "done before"),
        (summary.unasked, "without an instruction"),
        (summary.skipped, "skipped"),
        (summary.failed, "failed"),
        (summary.left, "left"),
    ]
    said = ", ".join(f"{count} {what}" for count, what in counts if count) or "nothing to do"
    lines = [f"{said} in {_duration(summary.seconds)}."]
    if summary.reasons:
        shown = list(summary.reasons.items())[:SHOWN]
        lines += [f"  {printable(name)}: {reason}" for name, reason in shown]
        if len(summary.reasons) > SHOWN:
            lines.append(f"  and {len(summary.reasons) - SHOWN} more: {request.output / NAME} has them all.")
    if summary.failed:
        lines.append("--retry-failed tries again what failed.")
    return lines


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
