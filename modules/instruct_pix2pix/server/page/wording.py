"""Sentences of the batch command as the page says them: its own names for options, and no path of the server."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from ...batch.planning import BatchRequest
from ...text import printable
from ..folder_access import FolderAccess
from ..worker.folder_task import FolderTask
from . import html

OPTIONS = (
    (" (--recursive looks into its folders too)", " (“Subfolders too” looks there)"),
    ("--overwrite replaces it.", "“Overwrite” replaces it."),
    ("give the same command again", "press Generate again"),
    ("--size or --batch-size", "size or batch size"),
    ("--format", "format"),
    ("--masks", "masks folder"),
    ("--instructions", "instructions file"),
)
"""What the command says, and what the page does."""


@dataclass(frozen=True)
class FolderNames:
    """The folders of a request by the names under which a visitor knows them."""

    paths: tuple[tuple[str, str], ...]

    def said(self, sentence: str) -> str:
        """Return a sentence of the command as it is said on the page."""
        for path, name in self.paths:
            sentence = sentence.replace(path, name)
        for theirs, ours in OPTIONS:
            sentence = sentence.replace(theirs, ours)
        return printable(sentence)


def folder_progress(job: FolderTask, places: FolderAccess, *, here: bool) -> str:
    """How a folder stands, as HTML."""
    status, (version, _, _, counts) = job.status(), job.table(1 << 62)
    where = printable(places.name_of(job.request.output, here=here))
    said = names_for(job.request, places, here=here).said
    return html.folder_progress(status, counts, version, time.time() - job.submitted_at, where, said)


def names_for(request: BatchRequest, places: FolderAccess, *, here: bool) -> FolderNames:
    """Return what the folders of a request are called."""
    folders = [path for path in (request.input, request.output, request.masks) if path is not None]
    known = {str(path): places.name_of(path, here=here) for path in folders}
    if request.instructions is not None:
        known[str(request.instructions)] = request.instructions.name
    if not here:
        known[f"{places.home}/"] = ""
        known[str(Path.home())] = "~"
    return FolderNames(tuple(sorted(known.items(), key=lambda pair: -len(pair[0]))))
