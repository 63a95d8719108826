"""What this process holds of the machine's memory, and giving back what it no longer needs."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import torch

from .bench import peak_memory


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
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # other C libraries have none
        if trim is not None:
            trim(0)
