"""Errors whose text is meant for a person, and what that person can do about them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path


class Remedy(Enum):
    """What helps against an error, where each door has its own name for it: a flag, a control, a field.

    The value stands in the sentence where no door words it: in a journal and in a log.
    """

    LOOK_INTO_FOLDERS = " (--recursive looks into its folders too)."
    OVERWRITE = ": --overwrite replaces it."
    RUN_AGAIN = ", then give the same command again."
    GO_ON = " Then give the same command again: it goes on where it was."
    SMALLER = ": choose a smaller size or batch size."
    OTHER_PORT = ": choose another port."
    DOWNLOAD_AGAIN = "run the same command again"
    MODELS_FOLDER = ""  # how to name the folder that models are put into


Words = Mapping[Remedy, str]
"""How a door words each remedy; one that is not in it is worded by its value."""


class UserError(Exception):
    """One sentence: what was wrong and what to do. Every door shows it without a traceback.

    The sentence comes in parts: text as it is, paths, which a door may call by another name, and remedies, which a door
    words. `remedy` ends the sentence: the parts stop where the advice begins.
    """

    def __init__(self, *parts: str | Path | Remedy, remedy: Remedy | None = None) -> None:
        super().__init__(*parts)
        self.parts = parts
        self.remedy = remedy

    def told(self, words: Words | None = None, name_of: Callable[[Path], str] = str) -> str:
        """Return the sentence in the words of a door, which calls paths by `name_of`."""
        worded = words or {}

        def said(part: str | Path | Remedy) -> str:
            if isinstance(part, Remedy):
                return worded.get(part, part.value)
            return name_of(part) if isinstance(part, Path) else str(part)

        return "".join(map(said, self.parts if self.remedy is None else (*self.parts, self.remedy)))

    def bare(self) -> UserError:
        """Return the same sentence to be kept: without the traceback, which would keep what its frames hold."""
        return UserError(*self.parts, remedy=self.remedy)

    def __str__(self) -> str:
        return self.told()


class Interrupted(Exception):  # noqa: N818 - an outcome, not an error
    """The person stopped the edit between two steps."""


def out_of_memory(error: BaseException) -> UserError | None:
    """Return what to tell a person of an error that means that memory is short; None for any other."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if kinds & {"MemoryError", "OutOfMemoryError"} or "allocate memory" in str(error):  # torch's is not Python's
        return UserError("There is not enough memory", remedy=Remedy.SMALLER)
    return None
