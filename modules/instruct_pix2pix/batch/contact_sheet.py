"""The contact sheet of a batch: small versions of every picture beside its result."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from ..errors import UserError
from ..images import open_picture, save_picture
from .units import Item

NAME = "contact-sheet"
THUMB = 160
COLUMNS = 4
ROWS = 12
MARGIN, LINE = 8, 14
INK, PAPER = (32, 32, 32), (255, 255, 255)


def write_sheets(done: Sequence[Item], folder: Path) -> list[Path]:
    """Write `contact-sheet.jpg`, or -1, -2 … for many pictures, into the folder of the results; return the paths.

    A picture that can no longer be read is left white. Raises UserError.
    """
    pairs = [(item, folder / name) for item in done for name in item.outputs]
    stem = NAME
    while any(name.startswith(stem) for item in done for name in item.outputs):
        stem += "~"  # a result has that name
    pages = [pairs[start : start + COLUMNS * ROWS] for start in range(0, len(pairs), COLUMNS * ROWS)]
    paths = []
    for number, page in enumerate(pages, 1):
        path = folder / (f"{stem}.jpg" if len(pages) == 1 else f"{stem}-{number}.jpg")
        paths.append(save_picture(_sheet(page), path, quality=88))
    return paths


def _sheet(page: Sequence[tuple[Item, Path]]) -> Image.Image:
    columns = min(COLUMNS, len(page))
    rows = -(-len(page) // columns)
    width, height = 2 * THUMB + 2 * MARGIN, THUMB + 2 * LINE + 2 * MARGIN
    sheet = Image.new("RGB", (columns * width, rows * height), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for place, (item, result) in enumerate(page):
        left, top = place % columns * width + MARGIN, place // columns * height + MARGIN
        for side, thumb in enumerate(_thumbs(item.source, result)):
            x, y = left + side * THUMB, top
            sheet.paste(thumb, (x + (THUMB - thumb.width) // 2, y + (THUMB - thumb.height) // 2))
        for line, text in enumerate((result.name, item.settings.instruction)):
            draw.text((left, top + THUMB + 2 + line * LINE), _cut(text, font), fill=INK, font=font)
    return sheet


def _thumbs(*paths: Path) -> Iterator[Image.Image]:
    for path in paths:
        try:
            yield ImageOps.contain(open_picture(path).image, (THUMB - 2, THUMB - 2))
        except UserError:
            yield Image.new("RGB", (1, 1), PAPER)


def _cut(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return as much of a line as fits."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    if font.getlength(text) <= 2 * THUMB:
        return text
    while text and font.getlength(text + "…") > 2 * THUMB:
        text = text[:-1]
    return text + "…"
