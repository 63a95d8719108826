"""What became of every picture of a folder: one line of JSON each, on the disk before anything follows from it.

The first line is the run: the seed from which pictures without one get theirs. A line `started` names the results
that are computed together, before they are; a line with `state` tells how one picture ended. A line cut short, by a
kill or a full disk, is passed over.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any

from ..errors import Remedy, UserError
from ..settings import SEEDS
from .units import Item, Member, Unit

NAME = "batch.jsonl"


class PictureState(str, Enum):
    """How far a picture came."""

    STARTED = "started"  # never the last word: what a run leaves that was killed
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True)
class JournalEntry:
    """How one picture ended."""

    name: str
    state: PictureState
    fingerprint: str = ""
    """That of the request: see `batch.Item`."""
    reason: str = ""
    """Why it was skipped or failed, a sentence for a person."""
    outputs: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    size: tuple[int, int] = (0, 0)
    """(width, height) of the results."""
    rows: int = 0
    seconds: float = 0.0
    """In the model, for all results."""
    overwrite: bool = False
    """Whether it was begun in order to replace files that are not its own."""
    notes: tuple[str, ...] = ()
    """What a person should know about how the picture was read, a sentence each."""


class Journal:
    """The journal of an output folder, held by one run at a time; ends with `close` or its `with` block."""

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Read what is there, or begin with a line about the run. Raises UserError."""
        self.path = folder / NAME
        self.latest: dict[str, JournalEntry] = {}
        """The last word on each picture, where that is not 'skipped'."""
        self.units: list[tuple[Member, ...]] = []
        """What was begun together, in order."""
        self.run_seed = secrets.randbelow(SEEDS)
        self._skipped: dict[str, JournalEntry] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)  # what could not be written must not be tried again
        except OSError as error:
            raise UserError(f"{self.path} cannot be written ({error.strerror}): choose another folder.") from error
        try:
            if not _locked(self._file):
                raise UserError(f"Another run works in {folder.name}: wait for its end, or choose another folder.")
            self.fresh = not self._read()
            """Whether it begins here."""
            if self.fresh:
                self._write([{"run": {"seed": self.run_seed, **about}}])
        except BaseException:
            self._file.close()
            raise

    def start(self, unit: Unit, overwrite: Mapping[str, bool]) -> None:
        """Write down that a unit is begun; `overwrite` tells of a picture whether files of others are replaced."""
        members = [Member(s.item.name, s.index, s.item.fingerprint, s.wanted) for s in unit.shots]
        replacing = sorted({m.name for m in members if m.wanted and overwrite.get(m.name, False)})
        self._write([{"started": [list(astuple(m)) for m in members], "replacing": replacing}])
        self._begin(members, replacing)

    def add(self, *entries: JournalEntry) -> None:
        """Write down how pictures ended; what the journal says already is not said again."""
        new = [entry for entry in entries if entry not in (self.latest.get(entry.name), self._skipped.get(entry.name))]
        if new:
            self._write([_line(entry) for entry in new])
        for entry in new:
            self._remember(entry)

    def known(self, item: Item) -> JournalEntry | None:
        """Return the last word on this picture if it was asked for in the same way."""
        entry = self.latest.get(item.name)
        return entry if entry and entry.fingerprint == item.fingerprint else None

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def discard(self) -> None:
        """Take back a journal that nothing was written in, and its folder where that is empty."""
        self.close()
        with contextlib.suppress(OSError):
            self.path.unlink()
            self.path.parent.rmdir()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    # --- lines ---

    def _read(self) -> bool:
        """Take in the lines that are there; tell whether there was a first one."""
        found, end = False, b"\n"
        with self.path.open("rb") as lines:
            for raw in lines:
                end = raw[-1:]
                with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
                    line = json.loads(raw)
                    if "run" in line:
                        seed = int(line["run"]["seed"]) % SEEDS
                        self.run_seed, found = (self.run_seed if found else seed), True
                    elif "started" in line:
                        members = [Member(str(n), int(i), str(f), w is True) for n, i, f, w in line["started"]]
                        self.units.append(tuple(members))
                        self._begin(members, line["replacing"])
                    else:
                        self._remember(_entry(line))
        if end != b"\n":
            self._file.write(b"\n")  # what was cut short stays a line of its own
        return found

    def _begin(self, members: Sequence[Member], replacing: Sequence[str]) -> None:
        for member in members:
            before = self.latest.get(member.name)
            same = before is not None and before.fingerprint == member.fingerprint
            if not member.wanted or (before and same and before.state is PictureState.DONE):
                continue  # done before, and computed again because a file of it has gone
            replaces = member.name in replacing or (before is not None and same and before.overwrite)
            self._remember(JournalEntry(member.name, PictureState.STARTED, member.fingerprint, overwrite=replaces))

    def _remember(self, entry: JournalEntry) -> None:
        if entry.state is PictureState.SKIPPED:
            self._skipped[entry.name] = entry
        else:
            self._skipped.pop(entry.name, None)
            self.latest[entry.name] = entry

    def _write(self, lines: Sequence[Mapping[str, Any]]) -> None:
        try:
            data = memoryview(b"".join(_encoded(line) for line in lines))
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise UserError(
                f"The journal {self.path.name} cannot be written ({error.strerror}): free some space",
                remedy=Remedy.RUN_AGAIN,
            ) from error


def entries_of(folder: Path) -> Iterator[JournalEntry]:
    """Return the last word on every picture of a folder's journal, for those who only look."""
    latest: dict[str, JournalEntry] = {}
    with contextlib.suppress(OSError), (folder / NAME).open("rb") as file:
        for raw in file:
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError, RecursionError):
                entry = _entry(json.loads(raw))
                latest[entry.name] = entry
    yield from latest.values()


def _line(entry: JournalEntry) -> dict[str, Any]:
    values = asdict(replace(entry, seconds=round(entry.seconds, 3)))
    return {key: value for key, value in values.items() if value not in ("", (), (0, 0), 0, False)}


def _entry(line: Mapping[str, Any]) -> JournalEntry:
    """Raises KeyError, TypeError or ValueError for what is no such line."""
    return JournalEntry(
        str(line["name"]),
        PictureState(line["state"]),
        str(line.get("fingerprint", "")),
        str(line.get("reason", "")),
        tuple(map(str, line.get("outputs", ()))),
        tuple(map(int, line.get("seeds", ()))),
        (int(line["size"][0]), int(line["size"][1])) if "size" in line else (0, 0),
        int(line.get("rows", 0)),
        float(line.get("seconds", 0)),
        bool(line.get("overwrite", False)),
        tuple(map(str, line.get("notes", ()))),
    )


def _encoded(line: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(line, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # a file name may hold bytes that are not text
        return json.dumps(line).encode() + b"\n"


def _locked(file: io.FileIO) -> bool:
    """Lock the journal until it is closed; False where another run has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(1 << 40)  # where no line will be: Windows forbids others to read what is locked
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return sys.platform != "win32"  # elsewhere it means a file system without locks: go on without one
    return True
