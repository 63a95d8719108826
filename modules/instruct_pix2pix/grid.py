"""The matrix of one edit over two scales: reading its values, and drawing its picture."""

from __future__ import annotations

import re
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from .errors import UserError
from .settings import KNOBS
from .sheet import INK, PAPER
from .text import number_text

MOST_VALUES = 20
CELL = 512
"""Pixels of a cell's longest side, at most."""
GAP = 8


def values(text: str, name: str) -> tuple[float, ...]:
    """Read values of a setting: '3:12:4' is four from 3 to 12, '3,7.5,12' is those three, '7.5' is one.

    Raises UserError.
    """
    knob = KNOBS[name]
    spread = re.fullmatch(r"\s*([^:,]+):([^:,]+):\s*([0-9]{1,3})\s*", text)
    if spread:
        first, last, count = knob.parse(spread[1]), knob.parse(spread[2]), int(spread[3])
        if count < 2:
            raise UserError(f"{knob.label} '{text}' asks for {count} values between two: ask for 2 or more.")
        found = [knob.check(round(first + (last - first) * i / (count - 1), 4)) for i in range(count)]
    elif ":" in text:
        raise UserError(f"{knob.label} '{text}' is not a range: write first:last:count, for example 3:12:4.")
    else:
        found = [knob.parse(part) for part in text.split(",")]
    if len(found) > MOST_VALUES:
        raise UserError(f"{len(found)} values of {knob.label} are too many for one picture: take {MOST_VALUES}.")
    return tuple(dict.fromkeys(found))


def draw(
    cells: Sequence[Sequence[Image.Image]], text_cfg: Sequence[float], image_cfg: Sequence[float], source: Image.Image
) -> Image.Image:
    """Return the matrix: a row for each Image CFG, a column for each Text CFG, the input in the corner.

    `cells` are RGB pictures of one size, by row and column; `source` is the input in their framing.
    """
    size = ImageOps.contain(cells[0][0], (CELL, CELL)).size if max(cells[0][0].size) > CELL else cells[0][0].size
    width, height = size
    letters = max(14, min(28, width // 14))
    font = ImageFont.load_default(letters)
    labels = [f"Image CFG {number_text(value)}" for value in image_cfg]
    left = max(round(max(font.getlength(label) for label in labels)) + 2 * GAP, min(width, 160) + GAP)
    thumb = ImageOps.contain(source, (left - GAP, max(left - GAP, letters)))
    top = thumb.height + GAP
    sheet = Image.new("RGB", (left + len(text_cfg) * (width + GAP), top + len(image_cfg) * (height + GAP)), PAPER)
    pen = ImageDraw.Draw(sheet)
    sheet.paste(thumb, ((left - GAP - thumb.width) // 2, 0))
    for column, value in enumerate(text_cfg):
        middle = left + column * (width + GAP) + width / 2
        pen.text((middle, top - GAP), f"Text CFG {number_text(value)}", INK, font, anchor="md")
    for row, label in enumerate(labels):
        y = top + row * (height + GAP)
        pen.text((left - GAP, y + height / 2), label, INK, font, anchor="rm")
        for column, cell in enumerate(cells[row]):
            sheet.paste(cell.resize(size, Image.Resampling.LANCZOS), (left + column * (width + GAP), y))
    return sheet
