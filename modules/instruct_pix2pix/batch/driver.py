"""Carries out a batch: hands out its units, writes results and journal, and reports every event."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..engine.edit import resolved
from ..engine.loading.loader import find_config
from ..engine.precision import FORMATS
from ..errors import Remedy, UserError
from ..files import is_part, write_whole
from ..models.checkpoints import inspect
from ..models.registry import model_hash
from .contact_sheet import write_sheets
from .journal import Journal, JournalEntry, PictureState, recorded_precision
from .planning import BatchPlan, BatchRequest, check_folders, make_plan
from .units import Control, Executor, Item, Result, Unit, make_units

ENDS_A_RUN = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
"""Errors of writing that the next picture would meet as well."""


@dataclass(frozen=True)
class ModelFacts:
    """What planning has to know of the model before it is loaded."""

    size: int
    """The side in pixels at which it edits best."""
    factor: int
    """Pixels along the side of a latent's cell."""
    hash: str | None
    precision: str
    """The number format it computes in, such as 'fp32'."""


@dataclass(frozen=True)
class Planned:
    """The first event: what there is to do."""

    plan: BatchPlan
    results: int
    """Files to make now."""


@dataclass(frozen=True)
class Begun:
    """A unit was handed out."""

    unit: Unit


@dataclass(frozen=True)
class Wrote:
    """A file was written."""

    item: Item
    path: Path
    result: Result


@dataclass(frozen=True)
class Ended:
    """Nothing more will happen to a picture."""

    entry: JournalEntry
    item: Item | None
    """None for a picture that was refused when the batch was planned."""
    fresh: bool
    """False for what an earlier run did."""
    problem: UserError | None = None
    """Why the picture was skipped or failed; its text is `entry.reason`."""


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
    """Skipped because other files have the names of their results."""
    failed: int = 0
    left: int = 0
    """Not begun or not finished when the run was stopped."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why pictures failed or were skipped, by name."""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every picture that was asked for has its results."""
        return not (self.skipped or self.failed or self.left)


def facts_of(path: Path, precision: str) -> ModelFacts:
    """Return what planning has to know of a model file or folder. Raises UserError for one that cannot edit."""
    config = find_config(inspect(path))
    return ModelFacts(config.size, config.vae.factor, model_hash(path), precision)


def precision_of(output: Path, asked: str, choose: Callable[[str], str]) -> str:
    """Return the number format of a run: the one asked for, else the one in which the folder was begun, else a choice.

    `asked` and the argument of `choose` are one of `engine.precision.CHOICES`.
    """
    if asked in FORMATS:
        return asked
    recorded = recorded_precision(output)
    return recorded if recorded in FORMATS else choose(asked)


def run_batch(
    request: BatchRequest,
    model: ModelFacts,
    execute: Executor,
    *,
    report: Callable[[Event], None] = lambda _: None,
    control: Control | None = None,
) -> Summary:
    """Make the results of a request that do not exist yet; the only writer of results and journal.

    Blocks until all are made or `control` stopped it; `report` is called in this thread. The same request again goes
    on where this one was cut off. Raises UserError for a request that cannot be carried out, and when nothing more can
    be written.
    """
    control = control or Control()
    began = time.monotonic()
    request = replace(request, settings=resolved(request.settings))
    check_folders(request)
    about = {"input": str(request.input), "model": model.hash, "precision": model.precision}
    with Journal(request.output, about) as journal:
        facts = (model.hash, model.precision) if journal.precision else (model.hash,)
        try:
            plan = make_plan(request, journal.run_seed, facts, resolved)
        except UserError:
            if journal.fresh:
                journal.discard()
            raise
        run = _Run(request, model, journal, report, control)
        plan = replace(plan, notes=(*journal.notes, *plan.notes))
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
        self.results: dict[str, list[Result]] = {}  # of pictures that have not ended
        self.replacing: dict[str, bool] = {}

    def carry_out(self, plan: BatchPlan, execute: Executor) -> Summary:
        _remove_parts(self.request.output, plan)
        ended = [
            Ended(JournalEntry(r.name, r.state, r.fingerprint, str(r.problem)), None, True, r.problem)
            for r in plan.refused
        ]
        ended += [end for item in plan.items if (end := self._decide(item))]
        self.journal.add(*(end.entry for end in ended if end.fresh))
        pending = {(name, index) for name, indexes in self.left.items() for index in indexes}
        self.report(Planned(plan, len(pending)))
        for end in ended:
            self._end(end)
        self.summary.left = len(self.left)
        model, batch_size = self.model, self.request.batch_size
        started = self.journal.units
        units = make_units(plan.items, pending, started, size=model.size, factor=model.factor, batch_size=batch_size)
        items = {item.name: item for item in plan.items}
        with contextlib.closing(execute(self._handed_out(units))) as results:
            for result in results:
                self._take(items[result.name], result)
        return self.summary

    def _decide(self, item: Item) -> Ended | None:
        """Note which results of an item are to be made; return how it ended if none are."""
        existing = {i for i, name in enumerate(item.outputs) if os.path.lexists(self.request.output / name)}
        every = set(range(len(item.outputs)))
        known = self.journal.known(item)
        if known is None:
            if existing and not self.request.overwrite:
                other = item.name in self.journal.latest
                why = "comes from another request or picture" if other else "is there already"
                problem = UserError(f"{item.outputs[min(existing)]} {why}", remedy=Remedy.OVERWRITE)
                entry = JournalEntry(item.name, PictureState.SKIPPED, item.fingerprint, str(problem))
                return Ended(entry, item, True, problem)
            self.left[item.name], self.replacing[item.name] = every, bool(existing)
            return None
        if known.state is PictureState.FAILED and not self.request.retry_failed:
            return Ended(known, item, False, UserError(known.reason))
        missing = every if known.overwrite and known.state is not PictureState.DONE else every - existing
        if known.state is PictureState.DONE and not missing:
            return Ended(known, item, False)
        if not missing:  # killed between the last file and its line
            return Ended(JournalEntry(item.name, PictureState.DONE, item.fingerprint, outputs=item.outputs), item, True)
        self.left[item.name], self.replacing[item.name] = missing, known.overwrite
        return None

    def _handed_out(self, units: Sequence[Unit]) -> Iterator[Unit | None]:
        for unit in units:
            if self.control.paused:
                yield None
                self.control.wait()
            if self.control.stopping:
                return
            self.journal.start(unit, self.replacing)
            self.report(Begun(unit))
            yield unit

    def _take(self, item: Item, result: Result) -> None:
        """Write a result; when it was the last of its picture, the picture has ended."""
        result = self._written(item, result)
        results = self.results.setdefault(item.name, [])
        results.append(result)
        self.left[item.name].discard(result.index)
        if not self.left[item.name]:
            del self.left[item.name], self.results[item.name]
            end = self._ended(item, results)
            self.journal.add(end.entry)
            self.summary.left -= 1
            self._end(end)

    def _written(self, item: Item, result: Result) -> Result:
        """Write the file of a result; return it without its bytes, or with the problem that prevented it."""
        if result.data is None:
            return result
        path = self.request.output / item.outputs[result.index]
        try:
            write_whole(path, result.data)
        except UserError as error:
            if getattr(error.__cause__, "errno", None) in ENDS_A_RUN:
                raise UserError(*error.parts, remedy=Remedy.GO_ON) from error
            return replace(result, data=None, problem=error.bare())
        self.report(Wrote(item, path, result))
        return replace(result, data=b"")  # they are on the disk

    def _ended(self, item: Item, results: Sequence[Result]) -> Ended:
        results = sorted(results, key=lambda result: result.index)
        problem = next((result.problem for result in results if result.problem), None)
        good = [result for result in results if result.data is not None]
        entry = JournalEntry(
            item.name,
            PictureState.FAILED if problem else PictureState.DONE,
            item.fingerprint,
            str(problem) if problem else "",
            outputs=tuple(item.outputs[result.index] for result in good) if problem else item.outputs,
            seeds=tuple(result.seed for result in good),
            scales=tuple((result.text_cfg, result.image_cfg) for result in good if result.cost),
            cost=sum(result.cost for result in good),
            size=good[0].size if good else (0, 0),
            rows=sum(result.rows for result in good),
            seconds=sum(result.seconds for result in good),
            overwrite=problem is not None and self.replacing.get(item.name, False),
            notes=results[0].notes,
        )
        return Ended(entry, item, True, problem)

    def _end(self, end: Ended) -> None:
        summary, entry = self.summary, end.entry
        refused = end.item is None
        if entry.state is PictureState.DONE:
            summary.done += end.fresh
            summary.before += not end.fresh
        elif entry.state is PictureState.FAILED:
            summary.failed += 1
        elif refused:
            summary.unasked += 1
        else:
            summary.skipped += 1
        if entry.reason and not (entry.state is PictureState.SKIPPED and refused):
            summary.reasons[entry.name] = entry.reason
        self.states[entry.name] = entry.state
        self.report(end)


def _remove_parts(output: Path, plan: BatchPlan) -> None:
    """Remove files that a killed run left half-written, in the folders of the results."""
    now = time.time()
    for folder in {output, *((output / name).parent for item in plan.items for name in item.outputs)}:
        with contextlib.suppress(OSError):
            for path in folder.iterdir():
                if is_part(path) and path.stat().st_mtime < now - 1:
                    path.unlink()
