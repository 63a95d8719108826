"""Threads that run our own kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def parallel_map(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return the results of `work`, in order, computed by as many threads as torch uses.

    `work` may call no torch operation that runs on several threads itself.
    """
    count = torch.get_num_threads()
    return list(_pool(count).map(work, items) if count > 1 else map(work, items))


@lru_cache(maxsize=1)
def _pool(count: int) -> ThreadPoolExecutor:
    # not torch's own threads: oneDNN remembers how it left the AMX tiles of those
    return ThreadPoolExecutor(count, thread_name_prefix="kernels")
