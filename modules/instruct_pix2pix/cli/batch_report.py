"""What the command `batch` tells of a run: progress and failures on stderr, results on stdout, a summary at the end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace

from tqdm import tqdm

from ..batch.driver import Ended, Event, Planned, Summary, Wrote
from ..batch.journal import NAME, PictureState
from ..batch.planning import BatchRequest
from ..text import printable, say
from .output import above_bar, print_result, progress_bar, result_text

SHOWN = 10
"""Failures to name at the end; the journal has them all."""

LINE_SECONDS = 30.0
"""How often progress is told where no bar can be shown."""


class BatchReport:
    """Tells of the events of a run, as they come."""

    def __init__(self, request: BatchRequest, *, as_json: bool) -> None:
        self.request, self.as_json = request, as_json
        self.done = self.pictures = 0
        self._bar: tqdm | None = None
        self._told = self._began = time.monotonic()

    def __enter__(self) -> BatchReport:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, event: Event) -> None:
        """Tell of one event."""
        if isinstance(event, Planned):
            self._planned(event)
        elif isinstance(event, Wrote):
            self._wrote(event)
        elif isinstance(event, Ended):
            self._ended(event)

    def _planned(self, event: Planned) -> None:
        self.pictures = len(event.plan.items) + len(event.plan.refused)
        for line in (*event.plan.notes, *_origins(event.plan.origins, self.request)):
            say(line)
        self._began = time.monotonic()
        self._bar = progress_bar(event.results, "picture")

    def _wrote(self, event: Wrote) -> None:
        result, item, path = event.result, event.item, str(event.path)
        scales = {"text_cfg": result.text_cfg, "image_cfg": result.image_cfg}
        own = replace(item.settings.picture(result.index), seed=result.seed, **scales)
        facts = {"name": item.name, "state": "done", "path": path, "seed": result.seed, "size": list(result.size)}
        facts |= {"rows": result.rows, "seconds": round(result.seconds, 3)}
        if own.instruction != item.settings.instruction:
            facts["instruction"] = own.instruction
        if result.cost:
            facts |= {**scales, "cost": round(result.cost, 2)}
        told = result_text(item.settings, own, item.search, result.seconds, result.cost)
        print_result(facts, f"{printable(path)}  ({told})", as_json=self.as_json)
        if self._bar is not None:
            self._advance(self._bar)

    def _advance(self, bar: tqdm) -> None:
        bar.update()
        if not bar.disable:
            return
        bar.n += 1  # a bar that is not shown does not count
        now = time.monotonic()
        if now - self._told > LINE_SECONDS:
            self._told = now
            left = (now - self._began) / bar.n * (bar.total - bar.n)
            say(f"{bar.n} of {bar.total} pictures{f', about {_duration(max(left, 1))} left' if left else ''}.")

    def _ended(self, event: Ended) -> None:
        entry = event.entry
        self.done += entry.state is PictureState.DONE
        if event.fresh:
            with above_bar():
                for note in entry.notes:
                    say(note)
        if not event.fresh or entry.state is PictureState.DONE:
            return
        if self.as_json:
            print_result({"name": entry.name, "state": entry.state.value, "reason": entry.reason}, "", as_json=True)
        else:
            with above_bar():
                say(f"{printable(entry.name)}: {entry.state.value}. {entry.reason}")


def summary_lines(summary: Summary, request: BatchRequest) -> list[str]:
    """Return the end of the report: what became of the pictures, and of those that failed why."""
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


def _origins(told: Mapping[str, int], request: BatchRequest) -> list[str]:
    """Say where instructions came from, unless all are the command's own."""
    places = {
        "table": request.instructions.name if request.instructions else "",
        "sidecar": "text files beside the pictures",
        "infotext": "earlier edits of the pictures (--ignore-infotext prevents that)",
        "command": "the command",
    }
    found = [f"{told[origin]} from {place}" for origin, place in places.items() if told.get(origin)]
    return [] if set(told) <= {"command"} else [f"Instructions: {', '.join(found)}."]


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
