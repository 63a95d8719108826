"""A folder of pictures as a list of work: the items, and the units in which they go through the model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Generator, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..conditioning import fit
from ..prompts import split_and
from ..settings import SEEDS, EditSettings

MOST_TOGETHER = 16
PIXELS_TOGETHER = 4 * 512 * 512
"""How many results share a model batch where nobody says: by the pixels that the model sees."""


@dataclass(frozen=True)
class Item:
    """One picture of the folder and all that is asked for it. Picklable."""

    name: str
    """Its path below the input folder, with '/': what the journal calls it."""
    source: Path
    settings: EditSettings
    """Canonical, with its own instruction, count and first seed (never -1); `batch_size` means nothing here."""
    outputs: tuple[str, ...]
    """One for each of `count`: the path below the output folder, with '/'."""
    fmt: str
    """'PNG', 'JPEG', … as `images.encode_picture` takes it; 'GIF' or 'WEBP' for an animation."""
    quality: int
    size: tuple[int, int]
    """(width, height) as it is shown, turned upright."""
    frames: int
    """1 for a still picture; more for an animation, which is edited frame by frame."""
    fingerprint: str
    """A hash of what was asked and of the input's state (size, time, mask, model): another one is another request."""
    mask: Path | None = None


@dataclass(frozen=True)
class Shot:
    """One result: the item's output of this index."""

    item: Item
    index: int
    wanted: bool = True
    """False for a result that is there already, computed again only because its unit's others need its company."""

    @property
    def settings(self) -> EditSettings:
        """The settings of this one result: its own seed and scales."""
        return self.item.settings.for_image((self.item.settings.seed + self.index) % SEEDS)


@dataclass(frozen=True)
class Unit:
    """Results that are computed together: still pictures of one size and one kind, or one animation. Picklable.

    Floats depend on the company in which they are computed, so a unit that is made again is made again whole.
    """

    shots: tuple[Shot, ...]
    batch_size: int
    """Frames of an animation to compute at once; at least `len(shots)` for still pictures."""


@dataclass(frozen=True)
class Member:
    """One result of a unit that was begun, as the journal remembers it."""

    name: str
    index: int
    fingerprint: str
    wanted: bool
    """False where it was there already."""


@dataclass(frozen=True)
class Made:
    """What became of one wanted shot: the bytes of a file, or a sentence why there is none. Picklable."""

    name: str
    index: int
    data: bytes | None
    reason: str = ""
    seed: int = 0
    size: tuple[int, int] = (0, 0)
    rows: int = 0
    """Model rows evaluated for it."""
    seconds: float = 0.0
    """Its share of the unit's time in the model."""
    notes: tuple[str, ...] = ()
    """What a person should know about how the picture was read, a sentence each."""


Executor = Callable[[Iterator["Unit | None"]], Generator[Made, None, None]]
"""Makes units: takes them one by one, no more than it can keep busy with, and yields what is made, in any order.

None among the units means: hand over all that is on its way before asking for the next (the run pauses there). Every
wanted shot of every unit taken is yielded exactly once, except for units that a stopped `Control` made it drop. What a
picture does wrong is a Made with a reason; what it raises itself ends the run. Closing the generator gives up the rest.
"""


class Control:
    """How a person steers a run, from any thread."""

    def __init__(self) -> None:
        self._going = threading.Event()
        self._going.set()
        self._stopping = threading.Event()
        self._aborting = threading.Event()

    def pause(self) -> None:
        """Hand out no further unit until `resume`; what is on its way is finished."""
        self._going.clear()

    def resume(self) -> None:
        """Go on after `pause`."""
        self._going.set()

    def stop(self) -> None:
        """Finish what is in the model now, and no more."""
        self._stopping.set()
        self._going.set()

    def abort(self) -> None:
        """Give up what is in the model, between two steps."""
        self._aborting.set()
        self.stop()

    @property
    def paused(self) -> bool:
        """Whether it waits for `resume`."""
        return not self._going.is_set()

    @property
    def stopping(self) -> bool:
        """Whether no unit may be begun any more."""
        return self._stopping.is_set()

    @property
    def aborting(self) -> bool:
        """Whether the unit in the model is to be given up."""
        return self._aborting.is_set()

    def wait(self) -> None:
        """Return when the run is not paused."""
        self._going.wait()


def make_units(
    items: Sequence[Item],
    pending: Collection[tuple[str, int]],
    begun: Sequence[Sequence[Member]],
    *,
    size: int,
    factor: int,
    batch_size: int | None = None,
) -> list[Unit]:
    """Return the units that make the pending (name, index) of the items, for a model of this size and VAE factor.

    What was `begun` together before is made together again, as long as nothing about it has changed; the others are
    grouped in order. So a run that was cut off and goes on computes what it would have computed, and no more.
    """
    by_name = {item.name: item for item in items}
    left = set(pending)
    units = []
    for members in begun:
        if not any((member.name, member.index) in left for member in members):
            continue
        company = [by_name.get(member.name) for member in members]
        shots = [
            Shot(item, member.index, (item.name, member.index) in left)
            for item, member in zip(company, members, strict=True)
            if item and item.fingerprint == member.fingerprint and member.index < len(item.outputs)
        ]
        if len(shots) == len(members):
            units.append(Unit(tuple(shots), _batch_size(shots[0].item, size, factor, batch_size)))
            left.difference_update((member.name, member.index) for member in members)
    return units + list(_grouped(items, left, size, factor, batch_size))


def _grouped(
    items: Sequence[Item], left: Collection[tuple[str, int]], size: int, factor: int, batch_size: int | None
) -> Iterator[Unit]:
    open_: dict[Hashable, list[Shot]] = {}
    for item in items:
        most = _batch_size(item, size, factor, batch_size)
        for index in range(len(item.outputs)):
            if (item.name, index) not in left:
                continue
            shot = Shot(item, index)
            if item.frames > 1:
                yield Unit((shot,), most)
                continue
            kind = _kind(shot, size, factor)
            group = open_.setdefault(kind, [])
            group.append(shot)
            if len(group) >= most:
                yield Unit(tuple(open_.pop(kind)), most)
    for group in open_.values():
        yield Unit(tuple(group), _batch_size(group[0].item, size, factor, batch_size))


def _kind(shot: Shot, size: int, factor: int) -> Hashable:
    """What results must have in common to be computed together."""
    settings = shot.settings
    weights = tuple(weight for _, weight in split_and(settings.instruction))
    same = replace(settings, instruction="", negative="", seed=0, count=1, batch_size=1, size="auto")
    return _padded(shot.item, size, factor), same, weights, shot.item.mask is None


def _padded(item: Item, size: int, factor: int) -> tuple[int, int]:
    return fit(*item.size, item.settings.target_size or size, factor).padded


def _batch_size(item: Item, size: int, factor: int, asked: int | None) -> int:
    if asked is not None:
        return asked
    width, height = _padded(item, size, factor)
    return max(1, min(MOST_TOGETHER, PIXELS_TOGETHER // (width * height)))
