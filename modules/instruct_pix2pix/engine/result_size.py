"""A result at the size that was asked for: the picture's own, the model's, or another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from ..conditioning import Fit, fit
from ..full_size import Advance, enlarge
from ..settings import EditSettings
from .edit_batch import Edited, MadePicture


def size_of(plan: Fit, settings: EditSettings) -> tuple[int, int]:
    """Return the (width, height) in pixels of the results of a picture that is fitted by this plan."""
    own = (plan.crop[2] - plan.crop[0], plan.crop[3] - plan.crop[1])
    asked = settings.result_size
    if asked == "auto":
        asked = "own" if max(own) > max(plan.size) else "model"
    if asked == "own":
        return own
    return plan.size if asked == "model" else fit(*own, int(asked), 1).size


def framed(image: Image.Image, plan: Fit, settings: EditSettings) -> Image.Image:
    """Return a picture of any mode, of the input's framing and size, in that of the results."""
    return image.resize(size_of(plan, settings), Image.Resampling.LANCZOS, box=plan.crop)


def at_size(edited: Edited, picture: Image.Image, plan: Fit, advance: Advance | None = None) -> Edited:
    """Return an edit at the size that its settings ask for; `picture` (RGB) is the whole input.

    Where nothing was edited the result has the input's own pixels, at its own size bit for bit. `advance` is told how
    far it is, and may end it by what it raises.
    """
    size = size_of(plan, edited.settings)
    if size == plan.size:
        return edited
    own = picture.crop(plan.crop)
    if size != own.size:
        own = own.resize(size, Image.Resampling.LANCZOS)
    return replace(edited, image=put_back(own, edited.made, advance))


def put_back(own: Image.Image, made: MadePicture, advance: Advance | None = None) -> Image.Image:
    """Return an edit of a picture (RGB, any size) at the picture's size."""
    if own.width > made.after.width or own.height > made.after.height:
        return Image.fromarray(enlarge(np.asarray(own), made.before, made.after, made.inside, advance))
    after = made.after.resize(own.size, Image.Resampling.LANCZOS)
    return after if made.inside is None else Image.composite(after, own, made.inside.resize(own.size))
