"""Draws training pictures in other processes, before the steps that need them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from threading import Thread
from types import TracebackType
from typing import Generic, TypeVar

Drawn = TypeVar("Drawn")


class Prefetcher(Generic[Drawn]):
    """Calls `draw(number)` for numbers that go up by one before they are asked for, in a process for each core but one.

    `draw` must be picklable: a function of a module, or a partial of one. A context manager; at its end what was not
    asked for is dropped.
    """

    def __init__(self, draw: Callable[[int], Drawn]) -> None:
        self._draw = draw
        workers = max(1, (os.cpu_count() or 2) - 1)
        self._pool = ProcessPoolExecutor(workers, get_context("spawn"), _end_with_parent)
        self._depth = 2 * workers
        self._waiting: dict[int, Future[Drawn]] = {}

    def __enter__(self) -> Prefetcher[Drawn]:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __call__(self, number: int) -> Drawn:
        """Return what is drawn for this number, and begin to draw the numbers that follow."""
        for one in range(number, number + self._depth):
            if one not in self._waiting:
                self._waiting[one] = self._pool.submit(self._draw, one)
        return self._waiting.pop(number).result()

    def each(self, numbers: Iterable[int]) -> Iterator[Drawn]:
        """Return what is drawn for all of these numbers, in their order."""
        return self._pool.map(self._draw, numbers, chunksize=8)


def _end_with_parent() -> None:
    """Let this process end when its parent does, even if that was killed."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()
