"""Which results each session keeps: a tab of a browser, told by an id that nobody can guess."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from ....errors import UserError
from ..results import MOST_EDITS, Results, ShownEdit, result_id

MOST_SESSIONS = 256
MOST_UNPINNED, MOST_PINNED = 100, 100
MOST_TASKS = MOST_EDITS
"""Tasks of a session that are told apart from new ones: as many as can be known."""

MOST_UNSEEN = 10
"""Of the newest tasks of a session, which may have saved results that it had not seen when the server was stopped."""


class Keeping(str, Enum):
    """What a visitor wants of a result."""

    KEPT = "kept"
    PINNED = "pinned"
    """It stays when older results go."""
    THROWN = "thrown"
    """It is out of sight, but can come back."""


@dataclass
class Session:
    """The results of one tab, the oldest first."""

    entries: dict[str, Keeping] = field(default_factory=dict)
    """By the ids of results."""
    tasks: dict[str, int] = field(default_factory=dict)
    """The last number of each task's results that was taken in."""


class Sessions:
    """All sessions, the newest of them. Every method may be called from any thread."""

    def __init__(self, results: Results) -> None:
        self._results = results
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._lock = threading.Lock()

    def has(self, session_id: str, id_: str) -> bool:
        """Whether a session has a result, thrown away or not."""
        with self._lock:
            session = self._sessions.get(session_id)
            return session is not None and id_ in session.entries

    def keep(self, session_id: str, id_: str, how: Keeping) -> bool:
        """Pin a result of a session, throw it away, or neither; return whether it has that result.

        Raises UserError where as many are pinned as can be.
        """
        with self._lock:
            session = self._sessions.get(session_id)
            if session is None or id_ not in session.entries:
                return False
            pinned = [one for one, known in session.entries.items() if known is Keeping.PINNED and one != id_]
            if how is Keeping.PINNED and len(pinned) >= MOST_PINNED:
                raise UserError(f"{MOST_PINNED} results are pinned, which is the most: unpin one first.")
            session.entries[id_] = how
            return True

    def update(self, session_id: str, stored: Session) -> tuple[Session, int]:
        """Take in the results that a session has by now.

        `stored` is what a session began with that is not known, as after a restart of the server. Returns the session,
        and how many results it has just lost: those that are no longer kept and were not saved either.
        """
        with self._lock:
            is_new = session_id not in self._sessions
            session = self._sessions.setdefault(session_id, stored)
            self._sessions.move_to_end(session_id)
            while len(self._sessions) > MOST_SESSIONS:
                self._sessions.popitem(last=False)
            unknown = {id_.rpartition("-")[0] for id_ in self._missing(session_id, session)}
            unknown |= {*list(session.tasks)[-MOST_UNSEEN:]} if is_new else set()
            if unknown:
                self._results.restore(session_id, unknown)
            lost = sum(session.entries.pop(id_) is not Keeping.THROWN for id_ in self._missing(session_id, session))
            for shown in self._results.of(session_id):
                _take_in(session, shown)
            _trim(session)
            return Session(dict(session.entries), dict(session.tasks)), lost

    def _missing(self, session_id: str, session: Session) -> list[str]:
        known = {result_id(edit.task_id, number) for edit in self._results.of(session_id) for number in [*edit.ones]}
        return [id_ for id_ in session.entries if id_ not in known]


def _take_in(session: Session, shown: ShownEdit) -> None:
    last = session.tasks.setdefault(shown.task_id, 0)
    for number in [number for number in [*shown.ones] if number > last]:
        session.entries[result_id(shown.task_id, number)] = Keeping.KEPT
        session.tasks[shown.task_id] = number


def _trim(session: Session) -> None:
    """Let the oldest go that are beyond the limits."""
    unpinned = [id_ for id_, how in session.entries.items() if how is not Keeping.PINNED]
    for id_ in _oldest(unpinned, MOST_UNPINNED):
        del session.entries[id_]
    for task_id in _oldest(list(session.tasks), MOST_TASKS):
        del session.tasks[task_id]


def _oldest(ids: list[str], most: int) -> Iterable[str]:
    return ids[: max(0, len(ids) - most)]
