"""Tells a photograph from the drawn landscapes that are all the demo model knows, and finds a model for photographs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import numpy as np
from PIL import Image, ImageFilter

from .known import KNOWN, PHOTO_MODEL
from .registry import DEMO, ModelEntry

Thing = TypeVar("Thing")

SIDE = 96
"""Of the drawn world, in pixels: a picture is looked at in this size."""

REACH, STEP = 3, 3
"""How far apart two pixels are compared, and by how many of 255 grey levels they have to differ."""

MOST_TEXTURE = 0.3
"""The share of pixels with texture in a drawing."""

PAPER, COLOURLESS = 155, 8
"""Half of a pencil drawing, which is hatched, is lighter than this, of 255; its channels lie no further apart."""


def is_photograph(image: Image.Image) -> bool:
    """Whether a picture (RGB, of any size) has the texture of a photograph, as no drawing of the demo's world has.

    Measured: of 360 drawn scenes, as they are, as JPEG of quality 75 and 95, and two and four times as large, 0 are
    taken for photographs, and 0 of 189 that went through the demo's autoencoder. Of 43 photographs 2 are missed (the
    moon, a field of stars), 3 where they are blurred, 6 in grey (light ones pass for sketches), 7 where very pale.
    """
    scale = min(1.0, SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    pixels = np.asarray(small.filter(ImageFilter.MedianFilter(3)), dtype=np.float32)  # noise and JPEG's rings go
    grey = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return _texture(grey) > MOST_TEXTURE and not _is_sketch(pixels, grey)


def _texture(grey: np.ndarray) -> float:
    """Return the share of pixels that differ both from one to the left and from one aslant.

    In a drawing colours change from left to right at outlines alone.
    """
    beside = np.abs(grey[REACH:, REACH:] - grey[REACH:, :-REACH])
    aslant = np.abs(grey[REACH:, :-REACH] - grey[:-REACH, REACH:])
    differing = np.minimum(beside, aslant) > STEP
    return float(differing.mean()) if differing.size else 0.0


def _is_sketch(pixels: np.ndarray, grey: np.ndarray) -> bool:
    colour = pixels.max(axis=2) - pixels.min(axis=2)
    return float(np.median(grey)) > PAPER and float(colour.mean()) <= COLOURLESS


def a_few(pictures: Sequence[Thing]) -> Sequence[Thing]:
    """Return at most three of many pictures, spread evenly: enough to see what kind they are."""
    return pictures[:: max(1, -(-len(pictures) // 3))]


def model_for_photographs(entries: Iterable[ModelEntry]) -> ModelEntry | None:
    """Return the model among these to edit a photograph with: `PHOTO_MODEL`, else the first that can, else None."""
    able = [entry for entry in entries if entry.checkpoint and entry.checkpoint.editable and entry.path != DEMO]
    return next((entry for entry in able if KNOWN[PHOTO_MODEL].is_called(entry.path.name)), next(iter(able), None))
