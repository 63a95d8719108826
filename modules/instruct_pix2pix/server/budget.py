"""A budget of something scarce, such as memory: who asks for more than is left waits for a turn, but not for ever."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager

from ..errors import UserError

PATIENCE = 15.0
"""Seconds that a request waits for its turn."""
MOST_WAITING = 16
"""Requests that wait, each of them in a thread: there are 40 for all requests."""


class ServerBusy(UserError):  # noqa: N818 - what it says
    """There is no room for this request now: try again later."""


class Budget:
    """Amounts that are in use at once, `most` together; who asks first gets first. For any thread, and for asyncio.

    An amount larger than `most` is granted when nothing else is in use.
    """

    def __init__(self, most: int, *, patience: float = PATIENCE, most_waiting: int = MOST_WAITING) -> None:
        self.most, self.patience, self.most_waiting = most, patience, most_waiting
        self._lock = threading.Lock()
        self._used = 0
        self._line: deque[Share] = deque()

    @property
    def used(self) -> int:
        """What is in use now."""
        with self._lock:
            return self._used

    def ask(self, amount: int, *, patient: bool = False) -> Share:
        """Return a share that is granted now or later; `give_back` it in any case.

        Raises ServerBusy if too many wait already, unless the caller is `patient`.
        """
        with self._lock:
            if len(self._line) >= self.most_waiting and not patient:
                raise _busy()
            share = Share(self, amount)
            self._line.append(share)
            self._grant()
            return share

    @contextmanager
    def within(self, amount: int, *, patient: bool = False) -> Iterator[None]:
        """Wait for a share and hold it for the block. Raises ServerBusy, unless the caller is `patient`."""
        share = self.ask(amount, patient=patient)
        try:
            if not wait([share.granted], None if patient else self.patience).done:
                raise _busy()
            yield
        finally:
            share.give_back()

    async def asked(self, amount: int) -> Share:
        """Return a share once it is granted, in asyncio. Raises ServerBusy."""
        share = self.ask(amount)
        try:
            if not share.granted.done():
                await asyncio.wait([asyncio.wrap_future(share.granted)], timeout=self.patience)
            if not share.granted.done():
                raise _busy()
        except BaseException:
            share.give_back()
            raise
        return share

    def take_back(self, share: Share) -> None:
        """Count a share no longer, or no longer let it wait."""
        with self._lock:
            if share in self._line:
                self._line.remove(share)
            else:
                self._used -= share.amount
            share.amount = 0
            self._grant()

    def _grant(self) -> None:
        while self._line and (not self._used or self._used + self._line[0].amount <= self.most):
            share = self._line.popleft()
            self._used += share.amount
            share.granted.set_result(None)


class Share:
    """A part of a budget, in use from when it is `granted` until it is given back."""

    def __init__(self, budget: Budget, amount: int) -> None:
        """`Budget.ask` makes it."""
        self.granted: Future[None] = Future()
        self.granted.set_running_or_notify_cancel()  # nobody who waits can cancel it
        self.amount = amount
        self._budget = budget

    def give_back(self) -> None:
        """It is no longer used, or no longer wanted; a second time does nothing."""
        self._budget.take_back(self)


def _busy() -> ServerBusy:
    return ServerBusy("The server has its hands full with what others sent: try again in a moment.")
