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

FLAT = 4
"""Of 255: what an edit's noise and JPEG leave of a flat colour differ by less."""

MOST_TEXTURE, MOST_COLOURS = 0.5, 100


def is_photograph(image: Image.Image) -> bool:
    """Whether a picture (RGB) is no landscape of the demo's world, but has the texture and colours of a photograph."""
    pixels = _small(image)
    return _texture(pixels) / MOST_TEXTURE + _colours(pixels) / MOST_COLOURS > 1


def _small(image: Image.Image) -> np.ndarray:
    scale = min(1.0, SIDE / max(image.size))
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.convert("RGB").resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    return np.asarray(small.filter(ImageFilter.MedianFilter(3)), dtype=np.int16)


def _texture(pixels: np.ndarray) -> float:
    """Return the share of pixels that differ both from one to the right and from one above it."""
    beside = np.abs(pixels[1:-1, 2:] - pixels[1:-1, :-2]).max(axis=2)
    across = np.abs(pixels[2:, :-2] - pixels[:-2, 2:]).max(axis=2)
    return float(np.mean(np.minimum(beside, across) > FLAT))


def _colours(pixels: np.ndarray) -> int:
    """Return how many colours, of 32 shades a channel, nine tenths of the pixels have."""
    shades = (pixels >> 3).reshape(-1, 3)
    counts = np.sort(np.unique(shades @ np.array([1024, 32, 1]), return_counts=True)[1])[::-1]
    return int(np.searchsorted(np.cumsum(counts), 0.9 * len(shades))) + 1


def a_few(pictures: Sequence[Thing]) -> Sequence[Thing]:
    """Return at most three of many pictures, spread evenly: enough to see what kind they are."""
    return pictures[:: max(1, -(-len(pictures) // 3))]


def model_for_photographs(entries: Iterable[ModelEntry]) -> ModelEntry | None:
    """Return the model among these to edit a photograph with: `PHOTO_MODEL`, else the first that can, else None."""
    able = [entry for entry in entries if entry.checkpoint and entry.checkpoint.editable and entry.path != DEMO]
    return next((entry for entry in able if KNOWN[PHOTO_MODEL].is_called(entry.path.name)), next(iter(able), None))
