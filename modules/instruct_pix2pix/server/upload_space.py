"""How much of the disk the files of visitors may take, and for how long they are kept."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from .temp_folder import LOCK

ROOM = 256 << 20
"""Bytes to leave free on the disk."""
MOST_BYTES = 32 << 30
"""Bytes of all files together, or half of the disk if that is less."""
MOST_FILES = 200_000
KEPT_SECONDS = 24 * 3600.0
SHORT_SECONDS = 3600.0
"""Files are kept for so long where room is short, and what an upload left unfinished always."""
LOOK_SECONDS, LOOK_AGAIN = 60.0, 5.0
"""Between two looks at the folder while files come; and while it is full."""


class DiskFull(UserError):  # noqa: N818 - what it says
    """There is no room on the disk for what a visitor sends."""


@dataclass(frozen=True)
class _Held:
    """What one entry of the folder holds: a file, or a folder with all that is in it."""

    size: int = 0
    files: int = 0
    newest: float = 0.0
    """Seconds since 1970 of the last change to anything in it."""


class UploadSpace:
    """The folder of visitors' files: an upload, a drop or a result is one entry of it. For any thread."""

    def __init__(
        self,
        folder: Path,
        *,
        most_bytes: int = MOST_BYTES,
        most_files: int = MOST_FILES,
        kept_seconds: float = KEPT_SECONDS,
        in_use: Callable[[], Collection[Path]] = tuple,
    ) -> None:
        """`in_use` tells which files, or folders with all that is in them, must stay however old they are."""
        self.kept_seconds = kept_seconds
        self.folder, self.most_bytes, self.most_files, self._in_use = folder, most_bytes, most_files, in_use
        self._lock = threading.Lock()
        self._looked = float("-inf")  # time.monotonic()
        self._bytes = self._files = 0  # at the last look, and what came since

    def admit(self, count: int, files: int = 0) -> None:
        """Count bytes and files that are about to be written. Raises DiskFull."""
        with self._lock:
            now = time.monotonic()
            if now > self._looked + LOOK_SECONDS:
                self._look(self.kept_seconds)
            if self._is_full(count, files) and now > self._looked + LOOK_AGAIN:
                self._look(min(SHORT_SECONDS, self.kept_seconds))
            if self._is_full(count, files):
                raise DiskFull("The server has no room left for what is sent: try again later, or ask who runs it.")
            self._bytes += count
            self._files += files

    def sweep(self) -> None:
        """Remove what has been kept for its time."""
        with self._lock:
            self._look(self.kept_seconds)

    def _is_full(self, count: int, files: int) -> bool:
        disk = shutil.disk_usage(self.folder)
        most = min(self.most_bytes, disk.total // 2)
        return disk.free < count + ROOM or self._bytes + count > most or self._files + files > self.most_files

    def _look(self, kept_seconds: float) -> None:
        """Remove old entries, and count what the others hold."""
        used = [path.resolve() for path in self._in_use()]
        now, entries = time.time(), list(self.folder.iterdir())
        self._bytes = self._files = 0
        for entry in [entry for entry in entries if entry.name != LOCK]:
            with suppress(OSError):  # it may be gone by now
                held = _held_by(entry)
                unfinished = not entry.is_dir()  # gradio moves a file into a folder once it is complete
                oldest = now - (min(SHORT_SECONDS, kept_seconds) if unfinished else kept_seconds)
                if held.newest < oldest and not any(path.is_relative_to(entry.resolve()) for path in used):
                    _remove(entry)
                else:
                    self._bytes += held.size
                    self._files += held.files
        self._looked = time.monotonic()


def _held_by(entry: Path) -> _Held:
    found = entry.lstat()
    size, files, newest = found.st_size, 1, found.st_ctime
    for folder, _, names in os.walk(entry):
        newest = max(newest, Path(folder).lstat().st_ctime)
        for name in names:
            with suppress(OSError):
                found = Path(folder, name).lstat()
                size, files, newest = size + found.st_size, files + 1, max(newest, found.st_ctime)
    return _Held(size, files, newest)


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        entry.unlink()
