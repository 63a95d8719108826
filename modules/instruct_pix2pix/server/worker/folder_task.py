"""A folder of pictures as a turn of the worker: it is steered, and tells how far each picture is."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from ...batch.driver import Begun, Ended, Event, ModelFacts, Planned, Summary, Wrote, run_batch
from ...batch.journal import PictureState as Came
from ...batch.local_executor import UnitRunner, local_executor
from ...batch.planning import BatchRequest
from ...batch.units import Control, Item
from ...errors import Interrupted
from .task import LoadedModel, OwnQueue, Task, TaskState, TaskStatus

MOST_ROWS = 200
"""Pictures that are told of one by one; of the rest there are counts."""
PAUSE_SECONDS = 600.0
"""A pause that keeps others waiting ends the folder after this time; it can be begun again where it was."""


class Stage(str, Enum):
    """How far a picture of the folder is."""

    WAITING = "waiting"
    WORKING = "working"
    DONE = "done"
    BEFORE = "done before"
    SKIPPED = "skipped"
    FAILED = "failed"
    LEFT = "left"  # when all is over


@dataclass(frozen=True)
class TableRow:
    """One picture, for a table."""

    place: int
    """Its place among all pictures of the folder, by name."""
    name: str
    stage: Stage
    version: int
    """That of the table when this last changed."""
    seconds: float = 0.0
    reason: str = ""
    source: Path | None = None
    result: Path | None = None
    """The first of its results, once all are there."""


@dataclass(frozen=True)
class FolderStatus(TaskStatus):
    """How a folder stands. A step is one result."""

    pictures: int = 0
    planned: bool = False
    """Whether the pictures have been counted."""
    paused: bool = False
    stopping: bool = False
    """Whether it ends after what is in the model."""
    told: tuple[tuple[str, int], ...] = ()
    """How many pictures got their instruction from where, see `folder.Plan`."""
    summary: Summary | None = None


@dataclass
class FolderTable:
    """The rows that are shown, at most MOST_ROWS, and the count of all pictures by stage. Not locked."""

    version: int = 0
    counts: Counter[Stage] = field(default_factory=Counter)
    rows: dict[int, TableRow] = field(default_factory=dict)
    _ended: dict[int, None] = field(default_factory=dict)
    """Rows that may give way to others, the oldest first."""

    def put(self, row: TableRow, before: Stage | None) -> None:
        """Show a row anew, which was at the stage `before`."""
        if before is not None:
            self.counts[before] -= 1
        self.counts[row.stage] += 1
        self.version += 1
        self.rows[row.place] = replace(row, version=self.version)
        self._ended.pop(row.place, None)
        if row.stage not in (Stage.WAITING, Stage.WORKING):
            self._ended[row.place] = None
        while len(self.rows) > MOST_ROWS and self._ended:
            # failures stay longest: half of the rows may be theirs
            failed = [place for place in self._ended if self.rows[place].stage is Stage.FAILED]
            others = (place for place in self._ended if self.rows[place].stage is not Stage.FAILED)
            place = failed[0] if len(failed) > MOST_ROWS // 2 else next(others, failed[0] if failed else -1)
            del self._ended[place], self.rows[place]


    def end(self) -> None:
        """Nothing more will happen: what has not ended is left."""
        for row in [row for row in self.rows.values() if row.stage in (Stage.WAITING, Stage.WORKING)]:
            self.put(replace(row, stage=Stage.LEFT), row.stage)
        self.counts[Stage.LEFT] += self.counts.pop(Stage.WAITING, 0)


class FolderTask(Task[FolderStatus]):
    """A folder on its way, for those who wait for it."""

    kind = "batch"

    def __init__(self, queue: OwnQueue, checkpoint: Path, request: BatchRequest, id_: str | None = None) -> None:
        """To be given to `TaskQueue.enqueue` of this queue."""
        super().__init__(queue, checkpoint, FolderStatus(), id_)
        self.request = request
        self._control = Control()
        self._table = FolderTable()
        self._places: dict[str, int] = {}  # of the pictures that have not ended, by name
        self._wrote: Counter[str] = Counter()  # results of pictures that have not ended
        self._worked = 0.0  # time.monotonic() when work on pictures began, moved on by pauses
        self._stepped = 0.0
        self._paused_at = 0.0
        self._timer: threading.Timer | None = None

    @property
    def pixels(self) -> int:
        """None: pictures are read as they are needed, and results are files."""
        return 0

    @property
    def parts(self) -> tuple[int, int]:
        """Results made, and all that are to be made."""
        return self._status.step, self._status.steps

    # --- steering ---

    def pause(self) -> None:
        """Begin no further picture until `resume`."""
        with self._changed:
            if self._status.state is not TaskState.RUNNING or self._status.paused or self._control.stopping:
                return
            self._control.pause()
            self._paused_at = time.monotonic()
            self._timer = threading.Timer(PAUSE_SECONDS, self._paused_long)
            self._timer.daemon = True
            self._timer.start()
            self._change(paused=True)

    def resume(self) -> None:
        """Go on after a pause."""
        with self._changed:
            if not self._status.paused:
                return
            self._unpause()
            self._control.resume()

    def stop(self) -> None:
        """Finish what is in the model, and end."""
        with self._changed:
            if self._status.state is TaskState.QUEUED:
                self.interrupt()
            elif not self._status.state.ended:
                self._unpause()
                self._control.stop()
                self._change(stopping=True)

    def _paused_long(self) -> None:
        with self._changed:
            if self._status.paused and not self._status.state.ended and len(self._queue) > 1:
                self.stop()

    def _unpause(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._status.paused:
            now = time.monotonic()
            self._worked += now - self._paused_at
            self._stepped += now - self._paused_at
            self._change(paused=False)

    def _stop(self) -> None:
        self._unpause()
        self._control.abort()

    def _forget(self) -> None:
        self._unpause()
        self._table.end()
        self._places.clear()
        self._wrote.clear()

    def _left(self) -> float | None:
        status = self._status
        if not status.step or status.paused:
            return None
        each = (self._stepped - self._worked) / status.step
        return max(0.0, each * (status.steps - status.step) - (time.monotonic() - self._stepped))

    # --- what is told ---

    def table(self, after: int = -1) -> tuple[int, list[int], list[TableRow], dict[Stage, int]]:
        """Return the version, the places of all rows in order, the rows newer than `after`, and the counts of all."""
        with self._changed:
            table = self._table
            places = sorted(table.rows)
            new = [table.rows[place] for place in places if table.rows[place].version > after]
            return table.version, places, new, {stage: count for stage, count in table.counts.items() if count}

    def row(self, place: int) -> TableRow | None:
        """Return one of the rows that are shown."""
        with self._changed:
            return self._table.rows.get(place)

    # --- the worker's thread ---

    def carry_out(self, loaded: LoadedModel) -> None:
        """Make what is to be made. Raises UserError, and Interrupted where something is left."""
        config = loaded.model.config
        facts = ModelFacts(config.size, config.vae.factor, loaded.hash)
        self._begin(loaded)
        self._worked = self._stepped = time.monotonic()
        execute = local_executor(UnitRunner(loaded.model, loaded.hash), self._control)
        summary = run_batch(self.request, facts, execute, report=self._take, control=self._control)
        summary.reasons = {}  # they are in the rows and in the journal
        self._change(summary=summary)
        if summary.left:
            raise Interrupted

    def _take(self, event: Event) -> None:
        with self._changed:
            if isinstance(event, Planned):
                self._plan(event)
            elif isinstance(event, Begun):
                for item in {shot.item.name: shot.item for shot in event.unit.shots if shot.wanted}.values():
                    self._put(item.name, Stage.WORKING, item)
            elif isinstance(event, Wrote):
                self._wrote[event.item.name] += 1
                self._step(1)
            else:
                self._ended(event)

    def _plan(self, event: Planned) -> None:
        plan = event.plan
        names = sorted({*(item.name for item in plan.items), *(refused.name for refused in plan.refused)})
        self._places = {name: place for place, name in enumerate(names)}
        sources = {item.name: item.source for item in plan.items}
        for name, place in self._places.items():
            if len(names) <= MOST_ROWS:
                self._table.put(TableRow(place, name, Stage.WAITING, 0, source=sources.get(name)), None)
            else:
                self._table.counts[Stage.WAITING] += 1
        self._worked = self._stepped = self._paused_at = time.monotonic()
        told = tuple(sorted(plan.told.items()))
        self._change(planned=True, pictures=len(names), steps=event.results, told=told)

    def _ended(self, event: Ended) -> None:
        entry, item = event.entry, event.item
        stages = {Came.FAILED: Stage.FAILED, Came.SKIPPED: Stage.SKIPPED}
        stage = stages.get(entry.state) or (Stage.DONE if event.fresh else Stage.BEFORE)
        result = self.request.output / item.outputs[0] if item and entry.state is Came.DONE else None
        missing = 0
        if item is not None and event.fresh and stage is Stage.FAILED:
            missing = max(0, len(item.outputs) - self._wrote[item.name])
        self._wrote.pop(entry.name, None)
        self._put(entry.name, stage, item, seconds=entry.seconds, reason=entry.reason, result=result)
        self._places.pop(entry.name, None)
        self._step(min(missing, self._status.steps - self._status.step))

    def _put(
        self,
        name: str,
        stage: Stage,
        item: Item | None,
        *,
        seconds: float = 0.0,
        reason: str = "",
        result: Path | None = None,
    ) -> None:
        place = self._places.get(name)
        if place is None:  # a row of --instructions and a picture may share a name
            return
        known = self._table.rows.get(place)
        # Only rows that wait are not shown, since others give way when they have ended.
        row = TableRow(place, name, stage, 0, seconds, reason, item.source if item else None, result)
        self._table.put(row, known.stage if known else Stage.WAITING)

    def _step(self, by: int) -> None:
        if by:
            self._stepped = time.monotonic()
        self._change(step=self._status.step + by)
