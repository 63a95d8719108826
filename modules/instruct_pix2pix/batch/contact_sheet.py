"""The contact sheet of a batch: small versions of every picture beside its result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from ..errors import UserError
from ..images import open_picture, save_picture
from ..sheet import PAPER, draw_sheet
from .units import Item, ResultRequest

NAME = "contact-sheet"
THUMB = 160
COLUMNS = 4
ROWS = 12


def write_sheets(done: Sequence[Item], folder: Path) -> list[Path]:
    """Write `contact-sheet.jpg`, or -1, -2 … for many pictures, into the folder of the results; return the paths.

    A picture that can no longer be read is left white. Raises UserError.
    """
    results = [ResultRequest(item, index) for item in done for index in range(len(item.outputs))]
    stem = NAME
    while any(name.startswith(stem) for item in done for name in item.outputs):
        stem += "~"  # a result has that name
    pages = [results[start : start + COLUMNS * ROWS] for start in range(0, len(results), COLUMNS * ROWS)]
    paths = []
    for number, page in enumerate(pages, 1):
        path = folder / (f"{stem}.jpg" if len(pages) == 1 else f"{stem}-{number}.jpg")
        sheet = draw_sheet([_cell(result, folder) for result in page], COLUMNS)
        paths.append(save_picture(sheet, path, quality=88))
    return paths


def _cell(result: ResultRequest, folder: Path) -> tuple[Image.Image, str]:
    path = folder / result.item.outputs[result.index]
    both = Image.new("RGB", (2 * THUMB, THUMB), PAPER)
    for side, each in enumerate((result.item.source, path)):
        thumb = _thumb(each)
        both.paste(thumb, (side * THUMB + (THUMB - thumb.width) // 2, (THUMB - thumb.height) // 2))
    return both, f"{path.name}\n{' '.join(result.settings.instruction.split())}"


def _thumb(path: Path) -> Image.Image:
    try:
        return ImageOps.contain(open_picture(path).image, (THUMB - 2, THUMB - 2))
    except UserError:
        return Image.new("RGB", (1, 1), PAPER)
