"""The journal of a batch: one line of JSON for each thing that happened, flushed to the disk before the next one does.

The first line describes the run: it holds the seed from which pictures without one get theirs. A line `started` names
results that are computed together, before they are; a line with `state` tells how one picture ended. A line cut short,
by a kill or a full disk, is passed over, and so is one that this program cannot have written; `Journal.notes` says so.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from enum import Enum
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, TypeVar

from ..errors import Remedy, UserError
from ..settings import SEEDS
from .units import Item, StartedResult, Unit

NAME = "batch.jsonl"
LONGEST_RUN_LINE = 1 << 20
"""Bytes of a journal's first line."""


class PictureState(str, Enum):
    """The state of a picture in the journal."""

    STARTED = "started"  # in memory only, for a picture that a killed run left unfinished
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"


@dataclass(frozen=True)
class JournalEntry:
    """How one picture ended."""

    name: str
    state: PictureState
    fingerprint: str = ""
    """That of the request: see `units.Item`."""
    reason: str = ""
    """Why it was skipped or failed: the text of a UserError."""
    outputs: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    scales: tuple[tuple[float, float], ...] = ()
    """Text CFG and Image CFG of each result, where they were found among several."""
    cost: float = 0.0
    """What all such results together have cost, in edits like them."""
    size: tuple[int, int] = (0, 0)
    """(width, height) of the results."""
    rows: int = 0
    seconds: float = 0.0
    """In the model, for all its results."""
    overwrite: bool = False
    """Whether it was started in order to replace files of another request."""
    notes: tuple[str, ...] = ()
    """What a person should know about how the picture was read, a sentence each."""


class Journal:
    """The journal of an output folder, locked by one run at a time; ends with `close` or its `with` block."""

    def __init__(self, folder: Path, about: Mapping[str, Any]) -> None:
        """Read the journal that exists, or begin one with a line about the run.

        Raises UserError where it cannot be written and where another run has it.
        """
        self.path = folder / NAME
        self.latest: dict[str, JournalEntry] = {}
        """The last entry of each picture, except those that say 'skipped'."""
        self.units: list[tuple[StartedResult, ...]] = []
        """Results that were started together, in order."""
        self.run_seed = secrets.randbelow(SEEDS)
        self.precision = recorded_precision(folder)
        """The number format in which the run began; None in a journal of an older version."""
        self._passed_over = 0
        self._skipped: dict[str, JournalEntry] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab", buffering=0)  # what could not be written must not be tried again
        except OSError as error:
            raise UserError(self.path, f" cannot be written ({error.strerror}): choose another folder.") from error
        try:
            if not _locked(self._file):
                raise UserError(f"Another run works in {folder.name}: wait for its end, or choose another folder.")
            self.fresh = not self._read()
            """Whether there was no journal before."""
            if self.fresh:
                self._write([{"run": {"seed": self.run_seed, **about}}])
                self.precision = about.get("precision")
        except BaseException:
            self._file.close()
            raise

    def start(self, unit: Unit, overwrite: Mapping[str, bool]) -> None:
        """Write down that a unit is started; `overwrite` tells by name whether files of other requests are replaced.

        Raises UserError.
        """
        results = [StartedResult(r.item.name, r.index, r.item.fingerprint, r.wanted) for r in unit.requests]
        replacing = sorted({r.name for r in results if r.wanted and overwrite.get(r.name, False)})
        self._write([{"started": [list(astuple(r)) for r in results], "replacing": replacing}])
        self._remember_started(results, replacing)

    def add(self, *entries: JournalEntry) -> None:
        """Write down how pictures ended; an entry that the journal has already is not repeated. Raises UserError."""
        new = [entry for entry in entries if entry not in (self.latest.get(entry.name), self._skipped.get(entry.name))]
        if new:
            self._write([_line(entry) for entry in new])
        for entry in new:
            self._remember(entry)

    def known(self, item: Item) -> JournalEntry | None:
        """Return the last entry of this picture if it was asked for in the same way."""
        entry = self.latest.get(item.name)
        return entry if entry and entry.fingerprint == item.fingerprint else None

    def close(self) -> None:
        """Close the file, which unlocks it."""
        self._file.close()

    def discard(self) -> None:
        """Remove a journal that holds nothing but its first line, and its folder if that is empty."""
        self.close()
        with contextlib.suppress(OSError):
            self.path.unlink()
            self.path.parent.rmdir()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    # --- lines ---

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know about how the journal was read, a sentence each."""
        count = self._passed_over
        if not count:
            return ()
        lines = "A line" if count == 1 else f"{count} lines"
        return (f"{lines} of {NAME} could not be read and {'was' if count == 1 else 'were'} passed over.",)

    def _read(self) -> bool:
        """Read the lines of the file; tell whether there was one about the run."""
        found, end = False, b"\n"
        with self.path.open("rb") as lines:
            for raw in lines:
                end = raw[-1:]
                try:
                    found = self._read_line(_parsed(raw), found) or found
                except UNREADABLE:
                    self._passed_over += bool(raw.strip())
        if end != b"\n":
            self._file.write(b"\n")  # so that the next line does not join one that was cut short
        return found

    def _read_line(self, line: Mapping[str, Any], found: bool) -> bool:
        """Remember a line; tell whether it is about the run. Raises one of UNREADABLE."""
        if "run" in line:
            seed = _typed(_typed(line["run"], dict)["seed"], int) % SEEDS
            self.run_seed = self.run_seed if found else seed
            return True
        if "started" in line:
            results = tuple(
                StartedResult(_typed(name, str), _count(index), _typed(fingerprint, str), _typed(wanted, bool))
                for name, index, fingerprint, wanted in _typed(line["started"], list)
            )
            replacing = [_typed(name, str) for name in _typed(line["replacing"], list)]
            self.units.append(results)
            self._remember_started(results, replacing)
        else:
            self._remember(_entry(line))
        return False

    def _remember_started(self, results: Sequence[StartedResult], replacing: Sequence[str]) -> None:
        for result in results:
            before = self.latest.get(result.name)
            same = before is not None and before.fingerprint == result.fingerprint
            if not result.wanted or (before and same and before.state is PictureState.DONE):
                continue  # it was done, and is computed again because one of its files is gone
            replaces = result.name in replacing or (before is not None and same and before.overwrite)
            self._remember(JournalEntry(result.name, PictureState.STARTED, result.fingerprint, overwrite=replaces))

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


def recorded_precision(folder: Path) -> str | None:
    """Return the number format in which a folder's run began; None where no journal tells one."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
        with (folder / NAME).open("rb") as file:
            found = json.loads(file.readline(LONGEST_RUN_LINE))["run"]["precision"]
        return str(found) or None
    return None


def entries_of(folder: Path) -> Iterator[JournalEntry]:
    """Return the last entry of every picture in a folder's journal, without locking it."""
    latest: dict[str, JournalEntry] = {}
    with contextlib.suppress(OSError), (folder / NAME).open("rb") as file:
        for raw in file:
            with contextlib.suppress(*UNREADABLE):
                entry = _entry(_parsed(raw))
                latest[entry.name] = entry
    yield from latest.values()


def _line(entry: JournalEntry) -> dict[str, Any]:
    values = asdict(replace(entry, seconds=round(entry.seconds, 3), cost=round(entry.cost, 2)))
    return {key: value for key, value in values.items() if value not in ("", (), (0, 0), 0, False)}


UNREADABLE = (ValueError, KeyError, TypeError, RecursionError)
"""What reading a line raises that is not one of ours."""


def _parsed(raw: bytes) -> dict[str, Any]:
    return _typed(json.loads(raw), dict)


def _entry(line: Mapping[str, Any]) -> JournalEntry:
    """Raises one of UNREADABLE for a line that is not an entry."""
    width, height = _typed(line.get("size", [0, 0]), list)
    seconds = line.get("seconds", 0.0)
    return JournalEntry(
        _typed(line["name"], str),
        PictureState(line["state"]),
        _typed(line.get("fingerprint", ""), str),
        _typed(line.get("reason", ""), str),
        tuple(_inside(name) for name in _typed(line.get("outputs", []), list)),
        tuple(_count(seed) for seed in _typed(line.get("seeds", []), list)),
        tuple(_scales(pair) for pair in _typed(line.get("scales", []), list)),
        _typed(line.get("cost", 0.0), float),
        (_count(width), _count(height)),
        _count(line.get("rows", 0)),
        _typed(seconds, float) if isinstance(seconds, float) else float(_count(seconds)),
        _typed(line.get("overwrite", False), bool),
        tuple(_typed(note, str) for note in _typed(line.get("notes", []), list)),
    )


Kind = TypeVar("Kind")


def _typed(value: object, kind: type[Kind]) -> Kind:
    """Return a value of this type and no other, and no NaN or infinity. Raises ValueError."""
    if type(value) is not kind or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"not of the type {kind.__name__}")
    return value


def _count(value: object) -> int:
    number = _typed(value, int)
    if not 0 <= number < 1 << 53:
        raise ValueError("out of range")
    return number


def _scales(pair: object) -> tuple[float, float]:
    text_cfg, image_cfg = _typed(pair, list)
    return _typed(text_cfg, float), _typed(image_cfg, float)


def _inside(name: object) -> str:
    """Return the name of a result, which lies in the folder of the journal. Raises ValueError."""
    path = PurePosixPath(_typed(name, str))
    if path.is_absolute() or ".." in path.parts or "\0" in str(path):
        raise ValueError("outside the folder")
    return str(name)


def _encoded(line: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(line, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:  # a file name may hold bytes that are not text
        return json.dumps(line).encode() + b"\n"


def _locked(file: io.FileIO) -> bool:
    """Lock the journal until it is closed; return False if another run has it."""
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
        return sys.platform != "win32"  # elsewhere the file system has no locks: go on without one
    return True
