"""The page's own words in sentences: remedies by the names of its controls, folders by the names a visitor knows."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ...batch.planning import BatchRequest
from ...errors import Remedy, UserError
from ...text import printable
from ..folder_access import FolderAccess
from ..worker.folder_task import FolderTask
from . import html

WORDS: Mapping[Remedy, str] = {
    Remedy.LOOK_INTO_FOLDERS: " (“Subfolders too” looks there).",
    Remedy.OVERWRITE: ": “Overwrite” replaces it.",
    Remedy.RUN_AGAIN: ", then press Generate again.",
    Remedy.GO_ON: " Then press Generate again: it goes on where it was.",
    Remedy.DOWNLOAD_AGAIN: "press Download again",
    Remedy.MODELS_FOLDER: " (--models-dir, when the program is started)",
}
"""How the page ends a sentence with each remedy."""


@dataclass(frozen=True)
class FolderNames:
    """What the paths of a request are called in front of one visitor."""

    places: FolderAccess
    here: bool
    """Whether the visitor sits at this machine."""
    known: Mapping[Path, str]
    """The folders of the request and its instructions file, by path."""

    def said(self, problem: UserError) -> str:
        """Return a sentence in the words of the page."""
        text = problem.told(WORDS, self.name_of)
        return printable(text if self.here else self._without_server_paths(text))

    def name_of(self, path: Path) -> str:
        """Return what a path is called: from the nearest folder of the request, if it lies in one."""
        for folder in (path, *path.parents):
            if folder in self.known:
                name = self.known[folder]
                return name if folder == path else f"{name}/{path.relative_to(folder).as_posix()}"
        return self.places.name_of(path, here=self.here)

    def _without_server_paths(self, text: str) -> str:
        """Remove what tells a visitor from elsewhere where folders of the server lie.

        The last line of defence: sentences name paths as parts, which `name_of` words, but the text of an unexpected
        error may hold any path.
        """
        known = {str(path): name for path, name in self.known.items()}
        known |= {f"{self.places.home}/": "", str(self.places.home): ".", str(Path.home()): "~"}
        for path in sorted(known, key=len, reverse=True):
            text = text.replace(path, known[path])
        return text


def folder_progress(task: FolderTask, places: FolderAccess, *, here: bool) -> str:
    """Return the progress of a folder, as HTML."""
    status, (version, _, _, counts) = task.status(), task.table(1 << 62)
    where = printable(places.name_of(task.request.output, here=here))
    said = names_for(task.request, places, here=here).said
    return html.folder_progress(status, counts, version, time.time() - task.submitted_at, where, said)


def names_for(request: BatchRequest, places: FolderAccess, *, here: bool) -> FolderNames:
    """Return what the paths of a request are called in front of a visitor."""
    folders = [path for path in (request.input, request.output, request.masks) if path is not None]
    known = {path: places.name_of(path, here=here) for path in folders}
    if request.instructions is not None:
        known[request.instructions] = request.instructions.name
    return FolderNames(places, here, known)
