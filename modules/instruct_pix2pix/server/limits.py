"""What a server that is open to strangers gives to each of them: a bound on all that costs time, memory or room."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace

from ..engine.candidates import Search
from ..errors import UserError
from ..settings import EditSettings
from ..text import number_text


def _bound(default: int, about: str) -> int:
    return field(default=default, metadata={"about": about})


@dataclass(frozen=True)
class Limits:
    """The most that a stranger may ask for, and have waiting.

    Where a server has limits, it has no folders, saves no results, and leaves the API of the web UI out: that shows
    everybody's work to everybody.
    """

    steps: int = _bound(50, "steps of an edit")
    side: int = _bound(768, "pixels of the longest side at which an edit is computed")
    result: int = _bound(2048, "pixels of the longest side of a result")
    edits: int = _bound(4, "edits of one task: results, candidates, or cells of a matrix")
    letters: int = _bound(500, "letters of the instruction, and of the negative prompt")
    seconds: int = _bound(60, "seconds that a task may run")
    waiting: int = _bound(20, "tasks that wait, of all visitors")
    each: int = _bound(2, "tasks of one visitor that wait or run")
    upload: int = _bound(20, "megabytes of a picture")
    uploads: int = _bound(200, "megabytes that one visitor may send within `minutes`")
    minutes: int = _bound(60, "minutes for which pictures and results are kept")

    def __post_init__(self) -> None:
        """Raises UserError for a bound below 1."""
        for one in fields(self):
            if getattr(self, one.name) < 1:
                raise UserError(f"The limit '{one.name}' is below 1: raise it.")

    def changed(self, changes: Iterable[tuple[str, int]]) -> Limits:
        """Return these limits with others by name. Raises UserError."""
        wanted, known = dict(changes), [one.name for one in fields(self)]
        for name in wanted:
            if name not in known:
                raise UserError(f"There is no limit '{name[:40]}': the limits are {', '.join(known)}.")
        return replace(self, **wanted)

    @property
    def kept_seconds(self) -> float:
        """For how long pictures and results are kept."""
        return 60.0 * self.minutes

    def admit(self, settings: EditSettings, search: Search, size: tuple[int, int]) -> EditSettings:
        """Return what of a request is done: the settings of an edit of a picture of (width, height) in pixels.

        A result that would be larger than the limit only because the picture is becomes as large as the limit; all else
        that is beyond one is refused. Raises UserError.
        """
        self.check_edits(settings.results * search.candidates)
        for label, asked, most in (
            ("Steps", settings.steps, self.steps),
            ("Size", settings.target_longest or 0, self.side),
            ("Result size", int(settings.result_size) if settings.result_size.isdecimal() else 0, self.result),
        ):
            if asked > most:
                raise UserError(f"{label} is {asked}, but this server gives {most} at most: choose less.")
        for label, text in (("instruction", settings.instruction), ("negative prompt", settings.negative)):
            if len(text) > self.letters:
                raise UserError(f"The {label} has {len(text)} letters, but {self.letters} are read here: shorten it.")
        if settings.result_size in ("auto", "own") and max(size) > self.result:
            return replace(settings, result_size=str(self.result))
        return settings

    def check_edits(self, count: int) -> None:
        """Raise UserError for more edits than a task may make."""
        if count > self.edits:
            raise UserError(
                f"{count} edits are too many at once: this server makes {self.edits} at most, candidates and the cells "
                "of a matrix included."
            )

    @property
    def out_of_time(self) -> str:
        """What is told of a task that took too long."""
        return f"It was stopped: this server gives an edit {number_text(self.seconds)} s. Take fewer steps."


def described() -> str:
    """Return the limits, their defaults and what each bounds, in one line."""
    return "; ".join(f"{one.name}={one.default}: {one.metadata['about']}" for one in fields(Limits))
