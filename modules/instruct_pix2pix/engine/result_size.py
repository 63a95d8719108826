"""A result at the size that was asked for: the picture's own, the model's, or another."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image, ImageChops

from ..conditioning import Fit, fit
from ..deep_pixels import with_alpha
from ..errors import UserError
from ..images import MOST_PIXELS
from ..settings import EditSettings
from .edit_batch import Edited, FittedPicture, MadePicture
from .full_size import Advance, enlarge

DEEP_FORMATS = ("PNG", "TIFF")


def size_of(plan: Fit, settings: EditSettings) -> tuple[int, int]:
    """Return the (width, height) in pixels of the results of a picture that is fitted by this plan.

    Raises UserError for more pixels than a picture may have.
    """
    own, asked = plan.own, settings.result_size
    if asked == "auto":
        asked = "own" if max(own) > max(plan.size) else "model"
    if asked == "own":
        return own
    size = plan.size if asked == "model" else fit(own[0], own[1], int(asked), 1).size
    if size[0] * size[1] > MOST_PIXELS:
        raise UserError(
            f"A result of {size[0]} x {size[1]} pixels is too large, {MOST_PIXELS // 10**6} megapixels are the most: "
            "choose a smaller result size."
        )
    return size


def framed(image: Image.Image, plan: Fit, settings: EditSettings) -> Image.Image:
    """Return a picture of any mode, of the input's framing and size, in that of the results."""
    return image.resize(size_of(plan, settings), Image.Resampling.LANCZOS, box=plan.crop)


def at_size(
    edited: Edited,
    picture: Image.Image,
    plan: Fit,
    *,
    mask: Image.Image | None = None,
    deep: np.ndarray | None = None,
    advance: Advance | None = None,
) -> Edited:
    """Return an edit at the size that its settings ask for; `picture` (RGB) is the whole input.

    Where nothing was edited the result has the input's own pixels, at its own size bit for bit, in 16 bits too where
    `deep` [H, W, 3] uint16 has them. `mask` (L, any size) is that of the edit, at its best. `advance` is told how far
    it is, and may end it by what it raises.
    """
    size = size_of(plan, edited.settings)
    if size == plan.size:
        return edited
    own, made = picture.crop(plan.crop), edited.made
    if mask is not None and made.inside is not None:
        within = mask.resize(picture.size, Image.Resampling.BILINEAR).crop(plan.crop).point([0] + [255] * 255)
        inside = made.inside.resize(own.size, Image.Resampling.BILINEAR)
        made = replace(made, inside=ImageChops.multiply(inside, within))
    if size != own.size:
        return replace(edited, image=_put_back(own.resize(size, Image.Resampling.LANCZOS), made, advance))
    if deep is None or not _is_larger(own, made):
        return replace(edited, image=_put_back(own, made, advance))
    left, top, right, bottom = plan.crop
    values = enlarge(deep[top:bottom, left:right], made.before, made.after, made.inside, advance)
    return replace(edited, image=Image.fromarray((values >> 8).astype(np.uint8)), deep=values)


def sized(edited: Edited, picture: FittedPicture, advance: Advance | None = None) -> Edited:
    """Return an edit of this picture at the size that its settings ask for, where it has its `whole`: see `at_size`."""
    if picture.whole is None:
        return edited
    return at_size(edited, picture.whole, picture.plan, mask=picture.whole_mask, deep=picture.deep, advance=advance)


def to_write(edited: Edited, alpha: Image.Image | None, fmt: str) -> Image.Image | np.ndarray:
    """Return the pixels of an edit for a file of this format: 'PNG', 'JPEG', …

    With 16 bits a channel where both have them, with `alpha` (L, the result's size) where the format has it.
    """
    alpha = None if fmt == "JPEG" else alpha
    if edited.deep is not None and fmt in DEEP_FORMATS:
        return edited.deep if alpha is None else with_alpha(edited.deep, alpha)
    return with_transparency(edited.image, alpha)


def with_transparency(image: Image.Image, alpha: Image.Image | None) -> Image.Image:
    """Return an RGB picture with this alpha (L, the same size), or as it is where there is none."""
    if alpha is None:
        return image
    image = image.copy()
    image.putalpha(alpha)
    return image


def _put_back(own: Image.Image, made: MadePicture, advance: Advance | None = None) -> Image.Image:
    """Return an edit of a picture (RGB, any size) at the picture's size."""
    if _is_larger(own, made):
        return Image.fromarray(enlarge(np.asarray(own), made.before, made.after, made.inside, advance))
    after = made.after.resize(own.size, Image.Resampling.LANCZOS)
    return after if made.inside is None else Image.composite(after, own, made.inside.resize(own.size))


def _is_larger(own: Image.Image, made: MadePicture) -> bool:
    return own.width > made.after.width or own.height > made.after.height
