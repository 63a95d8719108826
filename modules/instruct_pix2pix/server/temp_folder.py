"""The folder for what visitors send: this user's alone, gone when the server ends, and swept up if it was killed."""

from __future__ import annotations

import os
import re
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "instruct-pix2pix-"
LOCK = ".in-use"
"""A file that the server holds locked for as long as it lives: the system lets go of it however the server ends."""
YOUNG_SECONDS = 60.0
"""A folder whose lock is younger may belong to a server that is just about to take it."""

_NAME = re.compile(re.escape(PREFIX) + r"[a-z0-9_]{8}")  # of `tempfile.mkdtemp`


@contextmanager
def temporary_folder(parent: Path | None = None) -> Iterator[Path]:
    """Make a folder that nobody else may read, by default where the system keeps such; it is removed after the block.

    First removes those of servers of this user that no longer run.
    """
    parent = Path(tempfile.gettempdir()) if parent is None else parent
    parent.mkdir(parents=True, exist_ok=True)
    sweep(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            _lock(lock)
            yield folder
        finally:
            os.close(lock)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def sweep(parent: Path) -> None:
    """Remove the folders of servers that were killed; those of other users, programs and running servers stay."""
    with suppress(OSError):
        for folder in [entry for entry in parent.iterdir() if _NAME.fullmatch(entry.name)]:
            with suppress(OSError):
                if _is_ours(folder) and _is_dead(folder):
                    shutil.rmtree(folder, ignore_errors=True)


def _is_ours(folder: Path) -> bool:
    """Whether it is a folder of this user, which no other user can write to; a link to one is none."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        return False
    return sys.platform == "win32" or (found.st_uid == os.geteuid() and not found.st_mode & 0o077)


def _is_dead(folder: Path) -> bool:
    """Whether it has a lock that nobody holds. Raises OSError where there is none, or where it is held."""
    lock = os.open(folder / LOCK, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    try:
        found = os.fstat(lock)
        if not stat.S_ISREG(found.st_mode) or found.st_mtime > time.time() - YOUNG_SECONDS:
            return False
        _lock(lock)
        return True
    finally:
        os.close(lock)


if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        """Lock a file until it is closed. Raises OSError if another process has."""
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: int) -> None:
        """Lock a file until it is closed. Raises OSError if another process has."""
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
