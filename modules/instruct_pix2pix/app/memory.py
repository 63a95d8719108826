"""What this process holds of the machine's memory, and giving back what it no longer needs."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from .bench import peak_memory

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""Options of glibc's mallopt, from its malloc.h."""


def ram() -> dict[str, Any]:
    """Bytes of main memory, in the web UI's words; where the system does not tell what is used now, the most so far."""
    try:
        page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
        used = peak_memory()
        if sys.platform == "linux":
            used = int(Path("/proc/self/statm").read_text().split()[1]) * page
    except (AttributeError, OSError, ValueError):
        return {"error": "unavailable"}
    return {"free": page * pages - used, "used": used, "total": page * pages}


def cuda() -> dict[str, Any]:
    """Bytes of CUDA's memory, in the web UI's words."""
    if not torch.cuda.is_available():
        return {"error": "unavailable"}
    free, total = torch.cuda.mem_get_info()
    return {
        "system": {"free": free, "used": total - free, "total": total},
        "allocated": {"current": torch.cuda.memory_allocated(), "peak": torch.cuda.max_memory_allocated()},
        "reserved": {"current": torch.cuda.memory_reserved(), "peak": torch.cuda.max_memory_reserved()},
    }


def give_back() -> None:
    """Let the system have the memory that was freed.

    glibc, once it has freed a block of some megabytes, keeps later ones of that size for itself: after a photograph
    of 50 megapixels, hundreds of megabytes.
    """
    if trim := _glibc("malloc_trim"):
        trim(0)


def stay_small() -> None:
    """Let this process hold little more than it uses, however many shapes of tensors it meets.

    For hours of pictures of all sizes, to be called before threads begin and before anything is multiplied. glibc, left
    to itself, keeps what was freed in a heap for each thread: now there is one, and blocks of 4 MB and more go back to
    the system. oneDNN keeps what it made for the last 1024 shapes of a layer, some 100 KB each: now for 512.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "512")
    if set_option := _glibc("mallopt"):
        for option, value in ((ARENA_MAX, 1), (MMAP_THRESHOLD, 4 << 20), (TRIM_THRESHOLD, 64 << 20)):
            set_option(option, value)


def _glibc(name: str) -> Callable[..., int] | None:
    """Return a function of the C library; other systems and libraries have none of these."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
