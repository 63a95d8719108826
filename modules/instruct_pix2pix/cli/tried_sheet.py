"""The contact sheet of the command `edit`: the input, its results, and what each of them was found among."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from ..engine.search import Search, Winner
from ..errors import UserError
from ..images import save_picture
from ..settings import EditSettings
from ..sheet import caption_of, check_sheet, draw_sheet, marked, small
from .output import output_names

MOST_COLUMNS = 18


class TriedSheet:
    """Small pictures of what was tried, collected as it comes, and written at the end."""

    def __init__(
        self, path: Path, picture: Path, outputs: Sequence[Path], settings: EditSettings, search: Search
    ) -> None:
        """`path` is a file or a folder, `picture` the input, `outputs` are where the results go.

        Raises UserError for a file that is one of these, and for more pictures than a sheet shows.
        """
        [self.path] = output_names(picture, path, 1, "sheet")
        if self.path.resolve() in {output.resolve() for output in outputs}:
            raise UserError(f"The contact sheet would overwrite the result {self.path.name}: choose another name.")
        self.columns = 2 + search.candidates if search.candidates > 1 else None
        check_sheet(settings.results * (self.columns or 1) + 1)
        self._cells: list[tuple[Image.Image, str]] = []

    def add(self, found: Winner, source: Image.Image) -> None:
        """Add a result, and what it was found among; `source` is the input in its framing."""
        chosen = found.edited.settings
        if found.looks or not self._cells:
            self._cells.append((small(source), "input"))
        self._cells.append((small(found.edited.image), caption_of(chosen)))
        for look in found.looks:
            picture = marked(look.picture) if look.settings == chosen else look.picture
            self._cells.append((picture, caption_of(look.settings, with_instruction=False)))

    def write(self) -> Path:
        """Write the sheet and return its path; a result that was found has a row of its own. Raises UserError."""
        columns = self.columns if self.columns and self.columns <= MOST_COLUMNS else None
        return save_picture(draw_sheet(self._cells, columns), self.path)
