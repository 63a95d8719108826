"""Pictures that were dropped onto the page: each drop is a folder among the files of visitors."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from pathlib import Path, PurePosixPath

from ..batch.planning import PICTURES, UNREADABLE
from ..errors import UserError
from ..files import part_beside
from .pictures import check_size
from .upload_space import UploadSpace

ID = re.compile(r"[0-9a-f]{16}")
ENDINGS = (*PICTURES, *UNREADABLE, ".txt")
"""A text file with the name of a picture holds its instruction."""
MOST_FILES = 20_000
MOST_DEEP = 8


class Uploads:
    """The folders of dropped pictures, by ids that the page makes up."""

    def __init__(self, space: UploadSpace) -> None:
        """`space` has the folder that they lie in."""
        self.space, self.folder = space, space.folder
        self._lock = threading.Lock()
        self._counts: dict[str, int] = {}

    def find(self, drop_id: str) -> Path:
        """Return the folder of a drop. Raises UserError for one that is not here, or no longer."""
        folder = self._of(drop_id)
        if not folder.is_dir():
            raise UserError("The dropped pictures are no longer here: drop them again.")
        return folder

    def count(self, drop_id: str) -> int:
        """Return how many pictures a drop has."""
        with self._lock:
            return self._counts.get(drop_id, 0)

    def begin(self, drop_id: str, name: str) -> PartialUpload:
        """Begin a file of a drop; its `name` may have folders in it, with '/'. Raises UserError."""
        folder, place = self._of(drop_id), _place(name)
        with self._lock:
            self._counts = {known: count for known, count in self._counts.items() if self._of(known).is_dir()}
            if self._counts.get(drop_id, 0) >= MOST_FILES:
                raise UserError(f"More than {MOST_FILES} files cannot be dropped: give the name of a folder instead.")
        self.space.admit(0, files=1)
        try:
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            return PartialUpload(self, drop_id, folder / place)
        except OSError as error:
            raise UserError(f"{place.name} cannot be kept ({error.strerror}): give it another name.") from error

    def keep(self, drop_id: str, part: Path, path: Path) -> str:
        """Give a complete file its name, or another where that is taken; return the name inside the drop."""
        with self._lock:
            number, wanted = 1, path
            while path.exists():
                number += 1
                path = wanted.with_name(f"{wanted.stem}~{number}{wanted.suffix}")
            part.rename(path)
            if path.suffix.lower() != ".txt":
                self._counts[drop_id] = self._counts.get(drop_id, 0) + 1
        return path.relative_to(self._of(drop_id)).as_posix()

    def _of(self, drop_id: str) -> Path:
        if not ID.fullmatch(drop_id):
            raise UserError("There is no such drop: load the page again.")
        return self.folder / drop_id


class PartialUpload:
    """A file that is being sent."""

    def __init__(self, uploads: Uploads, drop_id: str, path: Path) -> None:
        self._uploads, self._id, self._path = uploads, drop_id, path
        self._part = part_beside(path)
        self._file = self._part.open("xb")

    def write(self, chunk: bytes) -> None:
        """Write the next bytes. Raises UserError when there is no room for them."""
        self._uploads.space.admit(len(chunk))
        try:
            self._file.write(chunk)
        except OSError as error:
            raise UserError(f"{self._path.name} cannot be kept ({error.strerror}): drop it again.") from error

    def finish(self) -> str:
        """The file is complete: return the name that it got. Raises UserError for a picture that is too large."""
        self._file.close()
        try:
            check_size(self._part, self._path.name)
            return self._uploads.keep(self._id, self._part, self._path)
        except BaseException:
            self.give_up()
            raise

    def give_up(self) -> None:
        """The file will not be completed: remove what there is of it."""
        self._file.close()
        with contextlib.suppress(OSError):
            self._part.unlink()


def _place(name: str) -> PurePosixPath:
    """Return the path of a file of this name inside its folder, which it cannot leave. Raises UserError."""
    parts = []
    for part in name.replace("\\", "/").split("/"):
        clean = "".join(c if c.isprintable() and c not in ':*?"<>|' else "_" for c in part).strip().lstrip(".")
        clean = clean.rstrip(".")
        while len(os.fsencode(clean)) > 200:
            stem, dot, ending = clean.rpartition(".")
            clean = f"{stem[: len(stem) - 8]}{dot}{ending}" if len(stem) > 8 else clean[:40]
        if clean:
            parts.append(clean)
    if not parts or len(parts) > MOST_DEEP:
        raise UserError("This file has no name that can be kept: rename it, then drop it again.")
    if not parts[-1].lower().endswith(ENDINGS):
        raise UserError(f"{parts[-1][:60]} is not a picture: drop pictures, and text files with their names.")
    return PurePosixPath(*parts)
