"""A folder of pictures as a list of work: the items, and the units in which they go through the model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .settings import EditSettings


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
        return self.item.settings.for_image(self.item.settings.seeds()[self.index])


@dataclass(frozen=True)
class Unit:
    """Results that are computed together: still pictures of one size and one kind, or one animation. Picklable.

    Floats depend on the company in which they are computed, so a unit that is made again is made again whole.
    """

    shots: tuple[Shot, ...]
    batch_size: int
    """Frames of an animation to compute at once; at least `len(shots)` for still pictures."""


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


Executor = Callable[[Iterator["Unit | None"]], Iterator[Made]]
"""Makes units: takes them one by one, no more than it can keep busy with, and yields what is made, in any order.

None among the units means: hand over all that is on its way before asking for the next (the run pauses there). Every
wanted shot of every unit taken is yielded exactly once, except for units that a stopped `Control` made it drop. What a
picture does wrong is a Made with a reason; what it raises itself ends the run.
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
