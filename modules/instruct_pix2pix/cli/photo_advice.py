"""What a command says where the demo is to edit photographs, which it does not know."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image

from ..models.known import KNOWN, PHOTO_MODEL
from ..models.photographs import is_photograph, model_for_photographs
from ..models.registry import DEMO, find_models
from ..text import printable, say


def advise(model: Path, folders: Sequence[Path], pictures: Iterable[tuple[str, Image.Image]]) -> None:
    """Say which model edits photographs, if `model` is the demo and one of these pictures is one; once.

    `folders` are those that models are looked for in; of `pictures`, names and pixels (RGB), none is looked at for
    another model.
    """
    name = next((name for name, image in pictures if is_photograph(image)), None) if model == DEMO else None
    if name is None:
        return
    other = model_for_photographs(find_models(folders))
    if other is None:
        advice = (
            f"'download {PHOTO_MODEL}' brings a model for photographs ({KNOWN[PHOTO_MODEL].size / 1e9:.1f} GB), and "
            "'--model instruct-pix2pix' edits with it"
        )
    else:
        advice = f"'--model {printable(other.name)}' edits with a model that was made for photographs"
    say(f"{printable(name)} looks like a photograph, and the demo knows only drawn landscapes: {advice}.")
