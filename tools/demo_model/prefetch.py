"""Draws what training needs in processes of its own, ahead of the steps that need it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from threading import Thread
from types import TracebackType
from typing import Generic, TypeVar

Drawn = TypeVar("Drawn")


class Ahead(Generic[Drawn]):
    """`draw(number)` for numbers that go up by one, each made before it is asked for, in as many processes as cores.

    `draw` must be known to another process by its name (a function of a module, or a partial of one). Used with
    `with`, at whose end what nobody asked for is dropped.
    """

    def __init__(self, draw: Callable[[int], Drawn]) -> None:
        self._draw = draw
        workers = max(1, (os.cpu_count() or 2) - 1)
        self._pool = ProcessPoolExecutor(workers, get_context("spawn"), _end_with_parent)
        self._depth = 2 * workers
        self._waiting: dict[int, Future[Drawn]] = {}

    def __enter__(self) -> Ahead[Drawn]:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    def __call__(self, number: int) -> Drawn:
        """Return what is drawn for this number, and have those that follow begun."""
        for one in range(number, number + self._depth):
            if one not in self._waiting:
                self._waiting[one] = self._pool.submit(self._draw, one)
        return self._waiting.pop(number).result()

    def each(self, numbers: Iterable[int]) -> Iterator[Drawn]:
        """Return what is drawn for all of these numbers, in their order."""
        return self._pool.map(self._draw, numbers, chunksize=8)


def _end_with_parent() -> None:
    """Let this process end when the one that began it does, even if that was killed."""
    parent = parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    Thread(target=wait, daemon=True).start()
