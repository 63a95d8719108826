"""The folder where results are saved: the names of their files, by which those of a task are found again."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

MARK = 16
"""Letters of a name that tell the task to who knows its id and owner: as hard to guess as these, which they hide."""

_NAME = re.compile(rf"\d{{6}}-([0-9a-f]{{{MARK}}})-(\d{{4,}})-\d+\.png")


def path_of(outputs: Path, owner: str, task_id: str, submitted_at: float, number: int, seed: int) -> Path:
    """Return where the result of this number, from 1, is saved: in the folder of the day on which it was asked for."""
    day, moment = time.strftime("%Y-%m-%d %H%M%S", time.localtime(submitted_at)).split()
    return outputs / day / f"{moment}-{_mark(owner, task_id)}-{number:04}-{seed}.png"


def saved_by(outputs: Path, owner: str, task_ids: Collection[str]) -> dict[str, dict[int, Path]]:
    """Return what these tasks of one owner have saved, by task and number. Every name in the folder is looked at."""
    wanted = {_mark(owner, task_id): task_id for task_id in task_ids}
    found: dict[str, dict[int, Path]] = {}
    with suppress(OSError):  # a folder that was just removed
        for path in outputs.glob("????-??-??/*.png"):
            known = _NAME.fullmatch(path.name)
            if known and known[1] in wanted:
                found.setdefault(wanted[known[1]], {})[int(known[2])] = path
    return found


def _mark(owner: str, task_id: str) -> str:
    """Return a mark of its own even for ids that begin alike, which a client may give."""
    return hashlib.sha256(f"{owner} {task_id}".encode()).hexdigest()[:MARK]
