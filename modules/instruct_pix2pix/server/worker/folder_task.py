"""A folder of pictures as a task of the worker: it can be paused and stopped, and knows the stage of each picture."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path

from ...batch.driver import Begun, Ended, Event, ModelFacts, Planned, Summary, Wrote, run_batch
from ...batch.journal import PictureState, recorded_precision
from ...batch.local_executor import Admit, UnitRunner, local_executor
from ...batch.planning import BatchRequest
from ...batch.units import Control, Item
from ...errors import Interrupted, UserError
from .pace import Pace
from .task import LoadedModel, OwnQueue, Task, TaskState, TaskStatus

MOST_ROWS = 200
"""Pictures that have a row in the table; the others are only counted."""
PAUSE_SECONDS = 600.0
"""A pause that keeps other tasks waiting stops the folder after this time; the same request goes on where it was."""


class Stage(str, Enum):
    """The stage of a picture of the folder."""

    WAITING = "waiting"
    WORKING = "working"
    DONE = "done"
    BEFORE = "done before"
    SKIPPED = "skipped"
    FAILED = "failed"
    LEFT = "left"  # not finished when the task ended


@dataclass(frozen=True)
class TableRow:
    """One picture in the table."""

    place: int
    """Its place among all pictures of the folder, by name."""
    name: str
    stage: Stage
    version: int
    """The version of the table at which this row last changed."""
    seconds: float = 0.0
    problem: UserError | None = None
    """Why it was skipped or failed."""
    notes: tuple[str, ...] = ()
    """What a person should know about how the picture was read, a sentence each."""
    source: Path | None = None
    result: Path | None = None
    """The first of its results, once all are written."""


@dataclass(frozen=True)
class FolderStatus(TaskStatus):
    """The status of a folder. A step is one result."""

    pictures: int = 0
    planned: bool = False
    """Whether the pictures have been counted."""
    paused: bool = False
    stopping: bool = False
    """Whether it ends after the unit in the model."""
    origins: tuple[tuple[str, int], ...] = ()
    """How many pictures have their instruction from each source: see `BatchPlan`."""
    summary: Summary | None = None


@dataclass
class FolderTable:
    """The rows, at most MOST_ROWS, and the count of all pictures by stage. Not locked."""

    version: int = 0
    counts: Counter[Stage] = field(default_factory=Counter)
    rows: dict[int, TableRow] = field(default_factory=dict)
    _ended: dict[int, None] = field(default_factory=dict)
    """Places of the rows that may be dropped for others, the oldest first."""

    def put(self, row: TableRow, before: Stage | None) -> None:
        """Add or replace a row; `before` is its picture's stage until now, None if it was not counted."""
        if before is not None:
            self.counts[before] -= 1
        self.counts[row.stage] += 1
        self.version += 1
        self.rows[row.place] = replace(row, version=self.version)
        self._ended.pop(row.place, None)
        if row.stage not in (Stage.WAITING, Stage.WORKING):
            self._ended[row.place] = None
        while len(self.rows) > MOST_ROWS and self._ended:
            place = self._place_to_drop()
            del self._ended[place], self.rows[place]

    def _place_to_drop(self) -> int:
        """Return the oldest row that has ended; failures stay longer, in up to half of the rows."""
        failed = [place for place in self._ended if self.rows[place].stage is Stage.FAILED]
        others = (place for place in self._ended if self.rows[place].stage is not Stage.FAILED)
        return failed[0] if len(failed) > MOST_ROWS // 2 else next(others, failed[0] if failed else -1)

    def end(self) -> None:
        """Mark every picture that has not ended as left."""
        for row in [row for row in self.rows.values() if row.stage in (Stage.WAITING, Stage.WORKING)]:
            self.put(replace(row, stage=Stage.LEFT), row.stage)
        self.counts[Stage.LEFT] += self.counts.pop(Stage.WAITING, 0)


class FolderTask(Task[FolderStatus]):
    """A folder in the queue, under way or ended. Every method may be called from any thread."""

    kind = "batch"

    def __init__(
        self,
        queue: OwnQueue,
        checkpoint: Path,
        request: BatchRequest,
        id_: str | None = None,
        *,
        admit: Admit | None = None,
    ) -> None:
        """To be given to `TaskQueue.enqueue` of this queue. `admit` is the UnitRunner's."""
        super().__init__(queue, checkpoint, FolderStatus(), id_)
        self.request = request
        self._admit = admit
        self._control = Control()
        self._table = FolderTable()
        self._places: dict[str, int] = {}  # of the pictures that have not ended, by name
        self._wrote: Counter[str] = Counter()  # results of pictures that have not ended
        self._pace = Pace()
        self._paused_at = 0.0  # time.monotonic()
        self._timer: threading.Timer | None = None

    @property
    def pixels(self) -> int:
        """0: pictures are read as they are needed, and results are files."""
        return 0

    @property
    def files(self) -> Collection[Path]:
        """The folders of its pictures and masks, and its table of instructions."""
        request = self.request
        return [path for path in (request.input, request.masks, request.instructions) if path is not None]

    @property
    def parts(self) -> tuple[int, int]:
        """Results made, and all that are to be made."""
        return self._status.step, self._status.steps

    @property
    def precision(self) -> str | None:
        """The number format in which the folder was begun."""
        return recorded_precision(self.request.output)

    # --- steering ---

    def pause(self) -> None:
        """Start no further picture until `resume`."""
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
        """Finish the unit in the model, then end."""
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
            self._pace.pause(time.monotonic() - self._paused_at)
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
        return None if status.paused else self._pace.left(status.steps - status.step, time.monotonic())

    # --- the table ---

    def table(self, after: int = -1) -> tuple[int, list[int], list[TableRow], dict[Stage, int]]:
        """Return the version, the places of all rows in order, the rows newer than `after`, and the counts of all."""
        with self._changed:
            table = self._table
            places = sorted(table.rows)
            new = [table.rows[place] for place in places if table.rows[place].version > after]
            return table.version, places, new, {stage: count for stage, count in table.counts.items() if count}

    def row(self, place: int) -> TableRow | None:
        """Return the row at a place, if the table has it."""
        with self._changed:
            return self._table.rows.get(place)

    # --- the worker's thread ---

    def carry_out(self, loaded: LoadedModel) -> None:
        """Run the batch. Raises UserError, and Interrupted if pictures are left."""
        config = loaded.model.config
        facts = ModelFacts(config.size, config.vae.factor, loaded.hash, loaded.model.machine.precision)
        self._begin(loaded)
        execute = local_executor(UnitRunner(loaded.model, loaded.hash, self._admit), self._control)
        summary = run_batch(self.request, facts, execute, report=self._on_event, control=self._control)
        summary.reasons = {}  # the rows and the journal have them
        self._change(summary=summary)
        if summary.left:
            raise Interrupted

    def _on_event(self, event: Event) -> None:
        with self._changed:
            if isinstance(event, Planned):
                self._on_planned(event)
            elif isinstance(event, Begun):
                for item in {request.item.name: request.item for request in event.unit.wanted}.values():
                    self._set_row(item.name, Stage.WORKING, item)
            elif isinstance(event, Wrote):
                self._wrote[event.item.name] += 1
                self._step(1)
            else:
                self._on_ended(event)

    def _on_planned(self, event: Planned) -> None:
        plan = event.plan
        names = sorted({*(item.name for item in plan.items), *(refused.name for refused in plan.refused)})
        self._places = {name: place for place, name in enumerate(names)}
        if len(names) <= MOST_ROWS:
            sources = {item.name: item.source for item in plan.items}
            for name, place in self._places.items():
                self._table.put(TableRow(place, name, Stage.WAITING, 0, source=sources.get(name)), None)
        else:
            self._table.counts[Stage.WAITING] += len(names)
        self._paused_at = time.monotonic()
        self._pace.reach(0, self._paused_at)
        origins = tuple(sorted(plan.origins.items()))
        notes = (*self._status.notes, *plan.notes)
        self._change(planned=True, pictures=len(names), steps=event.results, origins=origins, notes=notes)

    def _on_ended(self, event: Ended) -> None:
        entry, item = event.entry, event.item
        stage, result = _stage_of(event), None
        if item is not None and stage in (Stage.DONE, Stage.BEFORE):
            result = self.request.output / item.outputs[0]
        problem, notes = event.problem, entry.notes
        self._set_row(entry.name, stage, item, seconds=entry.seconds, problem=problem, notes=notes, result=result)
        self._places.pop(entry.name, None)
        wrote, missing = self._wrote.pop(entry.name, 0), 0
        if item is not None and event.fresh and stage is Stage.FAILED:
            missing = max(0, len(item.outputs) - wrote)  # these results will never be written
        self._step(min(missing, self._status.steps - self._status.step))

    def _set_row(
        self,
        name: str,
        stage: Stage,
        item: Item | None,
        *,
        seconds: float = 0.0,
        problem: UserError | None = None,
        notes: tuple[str, ...] = (),
        result: Path | None = None,
    ) -> None:
        place = self._places.get(name)
        if place is None:  # it has ended: a line of the instructions file that has no picture may share its name
            return
        known = self._table.rows.get(place)
        # Rows are dropped only after they have ended, so a picture without a row has been waiting.
        before = known.stage if known else Stage.WAITING
        source = item.source if item else None
        self._table.put(TableRow(place, name, stage, 0, seconds, problem, notes, source, result), before)

    def _step(self, by: int) -> None:
        if by:
            self._pace.reach(self._status.step + by, time.monotonic())
        self._change(step=self._status.step + by)


def _stage_of(event: Ended) -> Stage:
    if event.entry.state is PictureState.FAILED:
        return Stage.FAILED
    if event.entry.state is PictureState.SKIPPED:
        return Stage.SKIPPED
    return Stage.DONE if event.fresh else Stage.BEFORE
