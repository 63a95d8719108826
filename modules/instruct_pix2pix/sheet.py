"""A sheet of pictures with captions: what was tried, or what became of a folder, at one look."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from .errors import UserError
from .settings import EditSettings
from .text import number_text

MOST_CELLS = 400
CELL = 320
"""Pixels of a picture's longest side, at most."""
NARROWEST = 164
"""Pixels of a column, at least: 'Text CFG 11.25, Image CFG 1.35' fits."""
MOST_LINES = 4
"""Of a caption."""
MARGIN = 8
INK, PAPER, MARK = (32, 32, 32), (255, 255, 255), (32, 140, 70)


def check_sheet(cells: int) -> None:
    """Raise UserError for more cells than a sheet can show."""
    if cells > MOST_CELLS:
        raise UserError(f"{cells} pictures are too many for a contact sheet: it shows {MOST_CELLS} at most.")


def small(picture: Image.Image) -> Image.Image:
    """Return a picture as large as a sheet shows it at most."""
    return _within(picture, (CELL, CELL)) if max(picture.size) > CELL else picture


def draw_sheet(cells: Sequence[tuple[Image.Image, str]], columns: int | None = None) -> Image.Image:
    """Return RGB pictures in reading order, each with its caption below; there is one at least.

    All are scaled to one size, that of the largest, or CELL where that is smaller. A caption is wrapped, and cut where
    it is too long. Without `columns` there are about as many as rows. Raises UserError for more than MOST_CELLS.
    """
    check_sheet(len(cells))
    pictures = [small(picture) for picture, _ in cells]
    width, height = (max(picture.size[side] for picture in pictures) for side in (0, 1))
    column = max(width, NARROWEST)
    letters = max(11, min(16, column // 20))
    font, line = ImageFont.load_default(letters), round(1.3 * letters)
    captions = [_wrapped(caption, font, column) for _, caption in cells]
    below = MARGIN // 2 + line * max(map(len, captions))
    columns = min(len(cells), columns or max(4, math.isqrt(len(cells) - 1) + 1))
    rows = -(-len(cells) // columns)
    across, down = column + 2 * MARGIN, height + below + 2 * MARGIN
    sheet = Image.new("RGB", (columns * across, rows * down), PAPER)
    pen = ImageDraw.Draw(sheet)
    for place, (picture, lines) in enumerate(zip(pictures, captions, strict=True)):
        left, top = MARGIN + place % columns * across, MARGIN + place // columns * down
        picture = _within(picture, (width, height))
        sheet.paste(picture, (left, top + (height - picture.height) // 2))
        for number, text in enumerate(lines):
            pen.text((left, top + height + MARGIN // 2 + number * line), text, INK, font)
    return sheet


def caption_of(settings: EditSettings, *, with_instruction: bool = True) -> str:
    """Return the caption of one result: what tells it from others, a line each."""
    scales = f"Text CFG {number_text(settings.text_cfg)}, Image CFG {number_text(settings.image_cfg)}"
    told = f"\n{' '.join(settings.instruction.split())}" if with_instruction else ""
    return f"seed {settings.seed}\n{scales}{told}"


def marked(picture: Image.Image) -> Image.Image:
    """Return a picture with a frame, inside its edges, that tells it from its neighbours."""
    border = max(1, min(picture.size) // 40)
    return ImageOps.expand(ImageOps.crop(picture, border), border, MARK)


def _within(picture: Image.Image, box: tuple[int, int]) -> Image.Image:
    return picture if picture.size == box else ImageOps.contain(picture, box)


def _wrapped(caption: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Return the lines of a caption, none wider than `width` pixels."""
    lines: list[str] = []
    for text in caption[: MOST_LINES * width].split("\n"):  # no letter is narrower than a pixel
        line = ""
        for word in "".join(letter if letter.isprintable() else " " for letter in text).split():
            longer = f"{line} {word}" if line else word
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    if len(lines) > MOST_LINES:
        lines[MOST_LINES - 1 :] = [" ".join(lines[MOST_LINES - 1 :])]
    return [_cut(line, font, width) for line in lines]


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Return as much of a line as fits."""
    if font.getlength(text) <= width:
        return text
    text = text[:width]
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
