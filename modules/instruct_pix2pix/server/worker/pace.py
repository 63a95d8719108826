"""How fast the work of a task goes, and from that how long the rest of it takes."""

from __future__ import annotations

LEAST_LEFT = 1.0
"""Seconds left, at least, of work that has not ended: where none are left by the estimate, it was too short."""


class Pace:
    """When how much of some work was done; times are of `time.monotonic()`, work is in any unit.

    The first piece takes longer than those like it, for weights are packed and kernels compiled in it: as soon as there
    is a second one it no longer counts.
    """

    def __init__(self) -> None:
        self._marks: list[tuple[float, float]] = []  # (when, how much) of the beginning, the first piece and the last

    def reach(self, done: float, now: float) -> None:
        """So much of the work is done now; the first call says when it begins."""
        self._marks[2:] = [(now, done)]

    def pause(self, seconds: float) -> None:
        """Nothing was done for so long, and that does not count."""
        self._marks = [(when + seconds, done) for when, done in self._marks]

    def left(self, rest: float, now: float) -> float | None:
        """Return the seconds that so much more work takes, never less than LEAST_LEFT; None before the first piece."""
        if len(self._marks) < 2:
            return None
        (began, before), (reached, done) = self._marks[-2:]
        if done <= before:
            return None
        each = (reached - began) / (done - before)
        return max(LEAST_LEFT, each * rest - (now - reached))
