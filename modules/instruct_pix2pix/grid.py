"""The matrix of one edit over two scales: reading its values, its cells, and drawing its picture."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from PIL import Image, ImageDraw, ImageFont, ImageOps

from .errors import UserError
from .settings import KNOBS, EditSettings
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


def around(text_cfg: float, image_cfg: float) -> tuple[str, str]:
    """Return values of both scales, as `values` reads them: five of each around those that suit a model."""
    texts, images = (max(1.0, 0.4 * text_cfg), 1.6 * text_cfg), (2 / 3 * image_cfg, 4 / 3 * image_cfg)
    return f"{texts[0]:.4g}:{texts[1]:.4g}:5", f"{images[0]:.4g}:{images[1]:.4g}:5"


def check(settings: EditSettings) -> None:
    """Raise UserError for an instruction that stands for several edits."""
    if settings.results > settings.count:
        raise UserError("A matrix shows one edit: choose one of the variations of the instruction.")


def cells(settings: EditSettings, text_cfg: Sequence[float], image_cfg: Sequence[float]) -> list[EditSettings]:
    """Return the settings of each cell: a row for each Image CFG, in it one for each Text CFG."""
    return [replace(settings, text_cfg=text, image_cfg=image) for image in image_cfg for text in text_cfg]


def plot_fields(text_cfg: Sequence[float], image_cfg: Sequence[float]) -> dict[str, str]:
    """Return what the infotext of a matrix says of it, in the words of AUTOMATIC1111's X/Y/Z plot."""
    return {
        "Script": "X/Y/Z plot",
        "X Type": "CFG Scale",
        "X Values": ", ".join(map(number_text, text_cfg)),
        "Y Type": "Image CFG Scale",
        "Y Values": ", ".join(map(number_text, image_cfg)),
    }


def draw(
    pictures: Sequence[Image.Image], text_cfg: Sequence[float], image_cfg: Sequence[float], source: Image.Image
) -> Image.Image:
    """Return the matrix: a row for each Image CFG, a column for each Text CFG, the input in the corner.

    `pictures` are RGB, of one size, in the order of `cells`; `source` is the input in their framing.
    """
    first = pictures[0]
    size = ImageOps.contain(first, (CELL, CELL)).size if max(first.size) > CELL else first.size
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
        for column, cell in enumerate(pictures[row * len(text_cfg) : (row + 1) * len(text_cfg)]):
            sheet.paste(cell.resize(size, Image.Resampling.LANCZOS), (left + column * (width + GAP), y))
    return sheet
