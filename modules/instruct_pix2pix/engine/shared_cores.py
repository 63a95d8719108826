"""Sharing the cores with other programs: torch's threads wait asleep while somebody else needs a core."""

from __future__ import annotations

import ctypes
import os
import sys
from contextlib import ContextDecorator, suppress
from pathlib import Path
from threading import Event, Thread

OWN_TASKS = Path("/proc/self/task")
LOADED_FILES = Path("/proc/self/maps")

INTERVAL = 0.1
"""Seconds between two looks."""
FIRST_LOOK = 0.05
BUSY, QUIET = 0.3, 0.1
"""Seconds in a second that the threads of this process, added up, wait for a core: measured on two cores, 0.01 to 0.1
with nothing beside an edit and 0.5 to 1.1 beside one endless loop."""
CALM_LOOKS = 5
"""Looks in a row that find the machine quiet before the threads spin again."""


class SharedCores(ContextDecorator):
    """While the block runs, choose how OpenMP's threads wait for each other: spinning, or asleep on a busy machine.

    libgomp's threads spin for some milliseconds before they sleep. That is fastest as long as each has a core. Beside
    another program it burns the time in which the thread that is waited for could run: an edit takes 4 to 40 times as
    long. libgomp decides anew at each wait, and hardly spins while the program has more OpenMP threads than there are
    cores (`gomp_throttled_spin_count_var`, in its config/linux/wait.h). So while a core is contested, one thread keeps
    a team that has nothing to do. No result changes: the same threads do the same work.

    Does nothing where torch does not run on libgomp, or the system does not tell how long threads wait: outside Linux.
    """

    def __enter__(self) -> SharedCores:
        self._ended = Event()
        self._watch = Thread(target=_watch, args=(self._ended,), name="shared-cores", daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watch.join()

    def _recreate_cm(self) -> SharedCores:
        return SharedCores()  # a decorated function may run in several threads at once


def _watch(ended: Event) -> None:
    library = loaded_libgomp()
    before = seconds_waited()
    if library is None or before is None:
        return
    spare: SpareTeam | None = None
    calm, interval = 0, FIRST_LOOK
    while not ended.wait(interval):
        now = seconds_waited()
        if now is None:
            break
        waiting = (now - before) / interval
        before, interval = now, INTERVAL
        calm = calm + 1 if waiting < QUIET else 0
        if spare is None and waiting > BUSY:
            spare = SpareTeam(library)
        elif spare is not None and calm >= CALM_LOOKS:
            spare.end()
            spare = None
    if spare is not None:
        spare.end()


class SpareTeam:
    """One OpenMP thread more than there are cores, asleep in a team that does nothing, until `end`."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._ended = Event()
        self._owner = Thread(target=self._hold, args=(library,), name="spare-team", daemon=True)
        self._owner.start()

    def _hold(self, library: ctypes.CDLL) -> None:
        threads = len(os.sched_getaffinity(0)) + 1 if sys.platform == "linux" else 1
        # A team is made by running something in it; it is kept until the thread that made it ends.
        library.GOMP_parallel(library.omp_get_thread_num, None, ctypes.c_uint(threads), ctypes.c_uint(0))
        self._ended.wait()

    def end(self) -> None:
        """Give the threads back."""
        self._ended.set()
        self._owner.join()


def seconds_waited() -> float | None:
    """Return the seconds that this process's living threads were ready to run but had no core; None if not known.

    The second number of /proc/<pid>/task/<tid>/schedstat, in nanoseconds (Linux, Documentation/scheduler/sched-stats).
    """
    waited = 0
    try:
        for task in OWN_TASKS.iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
                waited += int((task / "schedstat").read_bytes().split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return waited / 1e9


def loaded_libgomp() -> ctypes.CDLL | None:
    """Return the libgomp that torch has loaded, if it has."""
    with suppress(OSError, AttributeError):
        names = {line.split(maxsplit=5)[-1].strip() for line in LOADED_FILES.read_text("utf-8").splitlines()}
        for name in sorted(names, key=lambda name: "torch" not in name):
            if Path(name).name.startswith("libgomp"):
                library = ctypes.CDLL(name)
                return library if hasattr(library, "GOMP_parallel") else None
    return None
