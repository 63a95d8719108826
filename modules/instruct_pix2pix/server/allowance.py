"""How much each visitor may send within a time, so that one of them cannot take all the room."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

MOST_VISITORS = 4096
"""Those that are remembered, the newest: whoever is forgotten begins anew."""


class Allowance:
    """Amounts by visitor; each has `most` for `seconds` from the first on, then anew. For any thread."""

    def __init__(self, most: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self.most, self.seconds, self._clock = most, seconds, clock
        self._lock = threading.Lock()
        self._taken: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def take(self, visitor: str, amount: int) -> bool:
        """Take an amount; False, and nothing is taken, where there is not so much left."""
        with self._lock:
            now = self._clock()
            since, taken = self._taken.get(visitor, (now, 0))
            if now - since >= self.seconds:
                since, taken = now, 0
            if taken + amount > self.most:
                return False
            self._taken[visitor] = since, taken + amount
            self._taken.move_to_end(visitor)
            while len(self._taken) > MOST_VISITORS:
                self._taken.popitem(last=False)
            return True
