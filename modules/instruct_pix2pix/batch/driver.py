"""Carries out what is asked of a folder: hands out its units, writes results and journal, and tells of it all."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..engine.edit import resolved
from ..engine.loader import find_config
from ..errors import Remedy, UserError
from ..files import is_part, write_whole
from ..models.checkpoints import inspect
from ..models.registry import model_hash
from .contact_sheet import write_sheets
from .journal import Journal, JournalEntry, PictureState
from .planning import BatchPlan, BatchRequest, check_folders, make_plan
from .units import Control, Executor, Item, Made, Unit, make_units

ENDS_A_RUN = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""Errors of writing that the next picture would meet as well."""


@dataclass(frozen=True)
class ModelFacts:
    """What planning has to know of the model, before it is loaded."""

    size: int
    """The side in pixels that it edits best."""
    factor: int
    """Pixels of a latent's cell."""
    hash: str | None


@dataclass(frozen=True)
class Planned:
    """Told once, first."""

    plan: BatchPlan
    results: int
    """Files to make now."""


@dataclass(frozen=True)
class Begun:
    """Told when a unit is handed out."""

    unit: Unit


@dataclass(frozen=True)
class Wrote:
    """Told for each file written."""

    item: Item
    path: Path
    made: Made


@dataclass(frozen=True)
class Ended:
    """Told for each picture when nothing more will happen to it."""

    entry: JournalEntry
    item: Item | None
    """None for a picture that was never to be edited."""
    fresh: bool
    """False for what an earlier run did."""


Event = Planned | Begun | Wrote | Ended


@dataclass
class Summary:
    """How a run came out, counted in pictures."""

    done: int = 0
    before: int = 0
    """Done by an earlier run."""
    unasked: int = 0
    """Skipped because nothing said what to change in them."""
    skipped: int = 0
    """Skipped because files were in the way."""
    failed: int = 0
    left: int = 0
    """Not begun or not finished when the run was stopped."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why pictures failed or were skipped, by name."""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every picture that was asked for is there."""
        return not (self.skipped or self.failed or self.left)


def facts_of(path: Path) -> ModelFacts:
    """Return what planning has to know of a model file or folder. Raises UserError for what cannot edit."""
    config = find_config(inspect(path))
    return ModelFacts(config.size, config.vae.factor, model_hash(path))


def run_batch(
    request: BatchRequest,
    model: ModelFacts,
    execute: Executor,
    *,
    report: Callable[[Event], None] = lambda _: None,
    control: Control | None = None,
) -> Summary:
    """Make what the request asks for and is not there yet; the one writer of results and journal.

    Blocks until all is made or `control` stopped it; `report` is called in this thread. The same request again goes
    on where this one was cut off. Raises UserError for a request that cannot be meant and where nothing more can be
    written.
    """
    control = control or Control()
    began = time.monotonic()
    request = replace(request, settings=resolved(request.settings))
    check_folders(request)
    with Journal(request.output, {"input": str(request.input), "model": model.hash}) as journal:
        try:
            plan = make_plan(request, journal.run_seed, model.hash, resolved)
        except UserError:
            if journal.fresh:
                journal.discard()
            raise
        run = _Run(request, model, journal, report, control)
        summary = run.carry_out(plan, execute)
    if request.contact_sheet and not control.aborting:
        done = [item for item in plan.items if run.states.get(item.name) is PictureState.DONE]
        write_sheets(done, request.output)
    summary.seconds = time.monotonic() - began
    return summary


class _Run:
    """One run of a plan against its journal."""

    def __init__(
        self,
        request: BatchRequest,
        model: ModelFacts,
        journal: Journal,
        report: Callable[[Event], None],
        control: Control,
    ) -> None:
        self.request, self.model, self.journal = request, model, journal
        self.report, self.control = report, control
        self.summary = Summary()
        self.states: dict[str, PictureState] = {}
        self.left: dict[str, set[int]] = {}  # indexes that are still to be made
        self.made: dict[str, list[Made]] = {}
        self.replacing: dict[str, bool] = {}

    def carry_out(self, plan: BatchPlan, execute: Executor) -> Summary:
        _sweep(self.request.output, plan)
        items = {item.name: item for item in plan.items}
        ended = [self._decide(item) for item in plan.items]
        refused = [(JournalEntry(r.name, r.state, r.fingerprint, r.reason), None, True) for r in plan.refused]
        before = [one for one in ended if one is not None]
        self.journal.add(*(entry for entry, _, fresh in (*refused, *before) if fresh))
        pending = {(name, index) for name, indexes in self.left.items() for index in indexes}
        self.report(Planned(plan, len(pending)))
        for entry, item, fresh in (*refused, *before):
            self._end(entry, item, fresh)
        units = make_units(
            plan.items,
            pending,
            self.journal.units,
            size=self.model.size,
            factor=self.model.factor,
            batch_size=self.request.batch_size,
        )
        self.summary.left = len(self.left)
        with contextlib.closing(execute(self._handed_out(units))) as results:
            for made in results:
                self._take(items[made.name], made)
        return self.summary

    def _decide(self, item: Item) -> tuple[JournalEntry, Item, bool] | None:
        """Say what is to be made of an item, or how it ended without that."""
        there = {i for i, name in enumerate(item.outputs) if os.path.lexists(self.request.output / name)}
        every = set(range(len(item.outputs)))
        known = self.journal.known(item)
        if known is None:
            if there and not self.request.overwrite:
                other = item.name in self.journal.latest
                why = "comes from another request or picture" if other else "is there already"
                reason = f"{item.outputs[min(there)]} {why}: --overwrite replaces it."
                return JournalEntry(item.name, PictureState.SKIPPED, item.fingerprint, reason), item, True
            self.left[item.name], self.replacing[item.name] = every, bool(there)
            return None
        if known.state is PictureState.FAILED and not self.request.retry_failed:
            return known, item, False
        missing = every if known.overwrite and known.state is not PictureState.DONE else every - there
        if known.state is PictureState.DONE and not missing:
            return known, item, False
        if not missing:  # killed between the last file and its line
            return JournalEntry(item.name, PictureState.DONE, item.fingerprint, outputs=item.outputs), item, True
        self.left[item.name], self.replacing[item.name] = missing, known.overwrite
        return None

    def _handed_out(self, units: list[Unit]) -> Iterator[Unit | None]:
        for unit in units:
            if self.control.paused:
                yield None
                self.control.wait()
            if self.control.stopping:
                return
            self.journal.start(unit, self.replacing)
            self.report(Begun(unit))
            yield unit

    def _take(self, item: Item, made: Made) -> None:
        path = self.request.output / item.outputs[made.index]
        if made.data is not None:
            try:
                write_whole(path, made.data)
            except UserError as error:
                if getattr(error.__cause__, "errno", None) in ENDS_A_RUN:
                    raise UserError(str(error), remedy=Remedy.GO_ON) from error
                made = replace(made, data=None, reason=str(error))
        made_all = self.made.setdefault(item.name, [])
        if made.data is not None:
            self.report(Wrote(item, path, made))
            made = replace(made, data=b"")  # written: no reason to keep it
        made_all.append(made)
        self.left[item.name].discard(made.index)
        if not self.left[item.name]:
            del self.left[item.name]
            entry = self._entry(item, self.made.pop(item.name))
            self.journal.add(entry)
            self.summary.left -= 1
            self._end(entry, item, True)

    def _entry(self, item: Item, made: list[Made]) -> JournalEntry:
        made = sorted(made, key=lambda one: one.index)
        reason = next((one.reason for one in made if one.data is None), "")
        state = PictureState.FAILED if reason else PictureState.DONE
        good = [one for one in made if one.data is not None]
        return JournalEntry(
            item.name,
            state,
            item.fingerprint,
            reason,
            outputs=tuple(item.outputs[one.index] for one in good) if reason else item.outputs,
            seeds=tuple(one.seed for one in good),
            size=good[0].size if good else (0, 0),
            rows=sum(one.rows for one in good),
            seconds=sum(one.seconds for one in good),
            overwrite=bool(reason) and self.replacing.get(item.name, False),
            notes=made[0].notes,
        )

    def _end(self, entry: JournalEntry, item: Item | None, fresh: bool) -> None:
        summary = self.summary
        if entry.state is PictureState.DONE:
            summary.done += fresh
            summary.before += not fresh
        elif entry.state is PictureState.FAILED:
            summary.failed += 1
        elif item is None:
            summary.unasked += 1
        else:
            summary.skipped += 1
        if entry.reason and not (entry.state is PictureState.SKIPPED and item is None):
            summary.reasons[entry.name] = entry.reason
        self.states[entry.name] = entry.state
        self.report(Ended(entry, item, fresh))


def _sweep(output: Path, plan: BatchPlan) -> None:
    """Remove what a killed run left half-written, in the folders of the results."""
    now = time.time()
    for folder in {output, *((output / name).parent for item in plan.items for name in item.outputs)}:
        with contextlib.suppress(OSError):
            for path in folder.iterdir():
                if is_part(path) and path.stat().st_mtime < now - 1:
                    path.unlink()
