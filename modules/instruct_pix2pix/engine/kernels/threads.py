"""Threads for kernels of our own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

Place = TypeVar("Place")
Result = TypeVar("Result")


def each(work: Callable[[Place], Result], places: Iterable[Place]) -> list[Result]:
    """Return the work's results, made by as many threads as torch uses. It may not use these itself: no operations."""
    workers = torch.get_num_threads()
    return list(_pool(workers).map(work, places) if workers > 1 else map(work, places))


@lru_cache(maxsize=1)
def _pool(workers: int) -> ThreadPoolExecutor:
    # threads of their own: oneDNN remembers how it left the tiles of those it works in
    return ThreadPoolExecutor(workers, thread_name_prefix="kernels")
