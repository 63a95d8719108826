"""How much memory this process uses, and how it returns memory to the system."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import torch

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""Options of glibc's mallopt, from its malloc.h."""


def ram() -> dict[str, Any]:
    """Return bytes of main memory under the web UI's names; `used` is the peak where only that is known."""
    try:
        page, pages = os.sysconf("SC_PAGE_SIZE"), os.sysconf("SC_PHYS_PAGES")
        used = peak_memory()
        if sys.platform == "linux":
            used = int(Path("/proc/self/statm").read_text().split()[1]) * page
    except (AttributeError, OSError, ValueError):
        return {"error": "unavailable"}
    return {"free": page * pages - used, "used": used, "total": page * pages}


def peak_memory() -> int:
    """Return the peak memory of this process in bytes: the GPU's where one is used, else the resident set's."""
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    if sys.platform == "win32":
        return 0  # the standard library has no way to ask
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def cuda() -> dict[str, Any]:
    """Return bytes of GPU memory under the web UI's names."""
    if not torch.cuda.is_available():
        return {"error": "unavailable"}
    free, total = torch.cuda.mem_get_info()
    return {
        "system": {"free": free, "used": total - free, "total": total},
        "allocated": {"current": torch.cuda.memory_allocated(), "peak": torch.cuda.max_memory_allocated()},
        "reserved": {"current": torch.cuda.memory_reserved(), "peak": torch.cuda.max_memory_reserved()},
    }


def give_back(beyond: int = 0) -> None:
    """Return freed memory to the system if it is more than `beyond` bytes; `tune_memory` keeps it for the next step."""
    if (trim := _glibc("malloc_trim")) and (not beyond or _freed() > beyond):
        trim(0)


def _freed() -> int:
    """Return the bytes that were freed but not returned to the system, as far as the C library tells."""
    if not (tell := _glibc("mallinfo2")):  # it came with glibc 2.33
        return 0
    tell.restype = _Mallinfo2
    return tell().fordblks


class _Mallinfo2(ctypes.Structure):
    """glibc's `struct mallinfo2`, from its malloc.h."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    )


def tune_memory(kept: int = 256 << 20, trimmed: int = 1 << 30) -> None:
    """Keep memory that one step freed for the next one, and yet hold little more than is used.

    To be called before threads begin and before anything is multiplied. By default glibc asks the system for every
    block of some megabytes, whose pages are then cleared and mapped one by one: a seventh of a step at 512 pixels. Now
    blocks of up to `kept` bytes stay until `give_back`, or until `trimmed` bytes are free at the end of the heap, and
    all threads share one heap. oneDNN caches its code for the last 1024 shapes of layers, some 100 KB each; now for
    512.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "512")
    if set_option := _glibc("mallopt"):
        for option, value in ((ARENA_MAX, 1), (MMAP_THRESHOLD, kept), (TRIM_THRESHOLD, trimmed)):
            set_option(option, value)


def _glibc(name: str) -> Any:  # noqa: ANN401 - a function of ctypes, or None
    """Return a function of glibc; None on other systems and C libraries."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
