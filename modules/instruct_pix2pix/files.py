"""Writing files whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .errors import UserError
from .text import printable, reason_of

LONGEST_NAME = 255
"""Bytes of a name, on nearly every file system."""

_PART = re.compile(r"\.[0-9a-f]{16}\.part")


def status_of(path: Path) -> os.stat_result | None:
    """Return what the system knows of a path that a person gave, links followed; None where there is nothing.

    Raises UserError where that cannot be found out: in a folder of somebody else's, or for what is no name of a file.
    """
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError as error:
        raise UserError(path, " may not be read: change its permissions or those of its folder.") from error
    except (OSError, ValueError) as error:
        if isinstance(error, ValueError) or error.errno in (errno.ENAMETOOLONG, errno.EINVAL):
            name = printable(path.name)
            shown = f"{name[:40]}…" if len(name) > 40 else name
            raise UserError(f"'{shown}' is no name that a file can have: check it.") from error
        raise UserError(path, f" cannot be read ({reason_of(error)}): check the name.") from error


def is_folder(path: Path) -> bool:
    """Whether there is a folder of this name. Raises UserError as `status_of` does."""
    status = status_of(path)
    return status is not None and stat.S_ISDIR(status.st_mode)


def check_picture_file(path: Path) -> None:
    """Raise UserError for what is no file that a picture can be read from: nothing, a folder, a pipe."""
    status = status_of(path)
    if status is None:
        raise UserError(Path(printable(str(path))), " does not exist: check the name.")
    if not stat.S_ISREG(status.st_mode):  # a pipe would wait for ever
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "not a file"
        raise UserError(f"{printable(path.name or str(path))} is {kind}: give the name of a picture.")


def short_name(stem: str, end: str) -> str:
    """Return `stem + end`, with as much of the stem as the longest name has room for."""
    room = max(1, LONGEST_NAME - len(os.fsencode(end)))
    while len(os.fsencode(stem)) > room:
        stem = stem[:-1]
    return stem + end


def part_beside(path: Path) -> Path:
    """Return a new, hidden name beside `path`, for a file that will take its place."""
    return path.with_name(f".{secrets.token_hex(8)}.part")


def is_part(path: Path) -> bool:
    """Whether a file has a name of `part_beside`; an old one was left by a run that was killed."""
    return _PART.fullmatch(path.name) is not None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file that takes the place of `path` when the block ends, and is removed when it raises.

    The content is on the disk before the name changes. Raises OSError.
    """
    part = part_beside(path)
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)  # noqa: PTH105 - Path.replace is the same call
    finally:
        part.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, as `writing_whole` does."""
    with writing_whole(path) as file:
        file.write(data)


@contextlib.contextmanager
def writing_whole(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that is written whole or not at all; missing folders are made.

    An existing file keeps its content until the block ends. Raises UserError, for an OSError of the block too.
    """
    name = printable(path.name)
    try:
        if path.is_dir():
            raise UserError(f"{name} is a folder: give the name of a file in it.")
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            yield file
    except (OSError, ValueError) as error:
        code = getattr(error, "errno", None)
        if code in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"There is no room left on the disk for {name}: free some space.") from error
        if code in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise UserError(f"{name} may not be written there: choose another folder.") from error
        raise UserError(f"{name} could not be written ({reason_of(error)}): choose another name.") from error
