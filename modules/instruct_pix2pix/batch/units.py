"""What a batch works on: its pictures (items) and the units in which their results go through the model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..conditioning import fit
from ..errors import UserError
from ..prompts import lora_tags, split_and
from ..settings import EditSettings

MOST_TOGETHER = 16
PIXELS_TOGETHER = 4 * 512 * 512
"""How many results share a model batch unless a number is asked for: by their pixels as the model sees them."""


@dataclass(frozen=True)
class Item:
    """One picture of the folder and all that is asked for it. Picklable."""

    name: str
    """Its path below the input folder, with '/': what the journal calls it."""
    source: Path
    settings: EditSettings
    """Canonical, with its own instruction, count and first seed (never -1); `batch_size` means nothing here."""
    outputs: tuple[str, ...]
    """One for each result of the settings: the path below the output folder, with '/'."""
    fmt: str
    """'PNG', 'JPEG', … as `images.encode_picture` takes it; 'GIF' or 'WEBP' for an animation."""
    quality: int
    """1 to 100."""
    size: tuple[int, int]
    """(width, height) in pixels as it is shown, turned upright."""
    frames: int
    """1 for a still picture; more for an animation, which is edited frame by frame."""
    fingerprint: str
    """A hash of what was asked and of the input's state (size, time, mask, model): another one is another request."""
    mask: Path | None = None


@dataclass(frozen=True)
class ResultRequest:
    """One result to compute: the item's output of this index. Picklable."""

    item: Item
    index: int
    wanted: bool = True
    """False for a file that exists: it is computed again only because the other results of its unit depend on it."""

    @property
    def settings(self) -> EditSettings:
        """The settings of this one result: its own instruction, seed and scales."""
        return self.item.settings.picture(self.index)


@dataclass(frozen=True)
class Unit:
    """Results that are computed together: still pictures of one size and one kind, or one animation. Picklable.

    The last digits of a result depend on what else is in its model batch, so a unit that is computed again is computed
    again whole.
    """

    requests: tuple[ResultRequest, ...]
    batch_size: int
    """Frames of an animation to compute at once; at least `len(requests)` for still pictures."""

    @property
    def items(self) -> list[Item]:
        """The pictures of the unit, each once."""
        return list({request.item.name: request.item for request in self.requests}.values())

    @property
    def wanted(self) -> list[ResultRequest]:
        """The requests whose files are to be written."""
        return [request for request in self.requests if request.wanted]


@dataclass(frozen=True)
class StartedResult:
    """One result of a unit that was started, as the journal remembers it."""

    name: str
    index: int
    fingerprint: str
    wanted: bool
    """False where the file existed already."""


@dataclass(frozen=True)
class Result:
    """What became of one wanted request: the bytes of a file, or the problem that prevented it. Picklable."""

    name: str
    index: int
    data: bytes | None
    problem: UserError | None = None
    seed: int = 0
    size: tuple[int, int] = (0, 0)
    """(width, height) in pixels."""
    rows: int = 0
    """Model rows evaluated for it."""
    seconds: float = 0.0
    """Its share of the unit's time in the model."""
    notes: tuple[str, ...] = ()
    """What a person should know about how the picture was read, a sentence each."""


Executor = Callable[[Iterator["Unit | None"]], Generator[Result, None, None]]
"""Carries out units: takes them one by one, no more than it can keep busy with, and yields results in any order.

None among the units is a pause: the executor yields all results of the units it has taken before it asks for the
next. Every wanted request of every unit taken gets exactly one result, except for units that a stopped `Control` made
it drop. What is wrong with one picture is the `problem` of a result; what the executor raises ends the run. Closing
the generator gives up the rest.
"""


class Control:
    """How a person steers a run: pause, resume, stop, abort. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._going = threading.Event()
        self._going.set()
        self._stopping = threading.Event()
        self._aborting = threading.Event()

    def pause(self) -> None:
        """Start no further unit until `resume`; units that were started are finished."""
        self._going.clear()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._going.set()

    def stop(self) -> None:
        """Finish what is in the model now, then end."""
        self._stopping.set()
        self._going.set()

    def abort(self) -> None:
        """Give up what is in the model between two steps, then end."""
        self._aborting.set()
        self.stop()

    @property
    def paused(self) -> bool:
        """Whether the run waits for `resume`."""
        return not self._going.is_set()

    @property
    def stopping(self) -> bool:
        """Whether no unit may be started any more."""
        return self._stopping.is_set()

    @property
    def aborting(self) -> bool:
        """Whether the unit in the model is to be given up."""
        return self._aborting.is_set()

    def wait(self) -> None:
        """Block until the run is not paused."""
        self._going.wait()


def make_units(
    items: Sequence[Item],
    pending: Collection[tuple[str, int]],
    started: Sequence[Sequence[StartedResult]],
    *,
    size: int,
    factor: int,
    batch_size: int | None = None,
) -> list[Unit]:
    """Return the units for the pending (name, index) of the items, for a model of this size (pixels) and VAE factor.

    Results that an earlier run `started` together are computed together again, as long as none of them has changed;
    the others are grouped in order. So a run that was cut off and goes on computes what it would have computed, and
    no more.
    """
    by_name = {item.name: item for item in items}
    left = set(pending)
    units = []
    for results in started:
        if not any((result.name, result.index) in left for result in results):
            continue
        requests = [
            ResultRequest(item, result.index, (item.name, result.index) in left)
            for result in results
            if (item := by_name.get(result.name))
            and item.fingerprint == result.fingerprint
            and result.index < len(item.outputs)
        ]
        if len(requests) == len(results):
            units.append(Unit(tuple(requests), _batch_size(requests[0].item, size, factor, batch_size)))
            left.difference_update((result.name, result.index) for result in results)
    return units + list(_grouped(items, left, size, factor, batch_size))


def _grouped(
    items: Sequence[Item], left: Collection[tuple[str, int]], size: int, factor: int, batch_size: int | None
) -> Iterator[Unit]:
    groups: dict[Hashable, list[ResultRequest]] = {}  # those that are not full yet
    for item in items:
        most = _batch_size(item, size, factor, batch_size)
        for index in range(len(item.outputs)):
            if (item.name, index) not in left:
                continue
            request = ResultRequest(item, index)
            if item.frames > 1:
                yield Unit((request,), most)
                continue
            kind = _kind(request, size, factor)
            group = groups.setdefault(kind, [])
            group.append(request)
            if len(group) >= most:
                yield Unit(tuple(groups.pop(kind)), most)
    for group in groups.values():
        yield Unit(tuple(group), _batch_size(group[0].item, size, factor, batch_size))


def _kind(request: ResultRequest, size: int, factor: int) -> Hashable:
    """What results must have in common to be computed together."""
    settings = request.settings
    weights = tuple(weight for _, weight in split_and(settings.instruction))
    loras = lora_tags(settings.instruction)  # which change the model
    same = replace(settings, instruction="", negative="", seed=0, count=1, batch_size=1, size="auto")
    return _padded(request.item, size, factor), same, weights, loras, request.item.mask is None


def _padded(item: Item, size: int, factor: int) -> tuple[int, int]:
    """The (width, height) at which the model sees an item."""
    return fit(*item.size, item.settings.target_size or size, factor).padded


def _batch_size(item: Item, size: int, factor: int, asked: int | None) -> int:
    if item.settings.zoom and item.frames == 1:
        return 1  # its second edit has a shape of its own
    if asked is not None:
        return asked
    width, height = _padded(item, size, factor)
    return max(1, min(MOST_TOGETHER, PIXELS_TOGETHER // (width * height)))
