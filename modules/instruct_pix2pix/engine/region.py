"""Only the region: the part that an edit means, cut out, edited at the model's full size, and put back.

A face in a photograph of a group has 60 pixels of the model's 512 when the whole is edited, and all of them like this.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from PIL import Image

from ..conditioning import Fit, fit
from ..settings import EditSettings
from .edit_batch import Edited, FittedPicture, MadePicture, OnStep, Progress, PromptCache, edit_batch, encode_pictures
from .model import EditModel
from .result_size import size_of, sized

MARGIN = 0.25
"""What is cut out beside the region on each side, as a share of the region's: the model needs to see what it is in."""
LEAST_MARGIN = 1 / 32
"""The same as a share of the picture, for small regions."""
LEAST_GAIN = 1.25
"""Below this many times as many pixels a side, the region is not worth an edit of its own."""


def edit_region(
    model: EditModel, picture: FittedPicture, settings: EditSettings, prompts: PromptCache, on_step: OnStep | None
) -> Edited:
    """Edit the region of a picture that its mask covers, or else that a first edit of the whole shows.

    The second edit keeps to the map of the first. Where there is no region, or it is most of the picture, the first
    edit of the whole is the result. `picture` has its `whole`; settings are resolved and of one picture.
    """
    assert picture.whole is not None
    halves = [*_halves(on_step)]
    first: Edited | None = None
    inside = picture.mask
    if inside is None:
        first = _edit(model, picture, _with_map(settings), prompts, halves[0])
        inside = first.made.inside
    box = None if inside is None else region_of(inside, picture.plan)
    if inside is None or box is None or _gain(box, picture.plan) < LEAST_GAIN:
        found = first or _edit(model, picture, settings, prompts, on_step)
        return sized(replace(found, settings=settings), picture)
    mask = picture.whole_mask or _in_the_whole(inside, picture.plan)
    part = fit(*_size(box), settings.target_longest or model.config.size, model.config.vae.factor)
    plan = replace(part, whole=picture.plan.whole, crop=box)
    close = FittedPicture.by(plan, picture.whole, mask, picture.factor, picture.deep)
    chosen = settings if first is None else replace(settings, keep_rest="off")
    second = _edit(model, close, chosen, prompts, halves[1] if first else on_step)
    second = sized(replace(second, settings=replace(chosen, result_size="own")), close)
    return _joined(picture, box, settings, second, first)


def region_of(inside: Image.Image, plan: Fit) -> tuple[int, int, int, int] | None:
    """Return the box, in the whole picture's pixels, of what is edited by more than a half and its surroundings.

    `inside` (L) has the framing of the results. None where nothing is.
    """
    box = inside.point([0] * 128 + [255] * 128).getbbox()
    if box is None:
        return None
    left, top, right, bottom = plan.crop
    across, down = (right - left) / inside.width, (bottom - top) / inside.height
    sides = [(box[0] * across, box[2] * across, right - left), (box[1] * down, box[3] * down, bottom - top)]
    spans = []
    for start, end, length in sides:
        margin = max(MARGIN * (end - start), LEAST_MARGIN * max(right - left, bottom - top))
        spans.append((int(max(0, start - margin)), int(min(length, np.ceil(end + margin)))))
    (x0, x1), (y0, y1) = spans
    return left + x0, top + y0, left + x1, top + y1


def _edit(
    model: EditModel, picture: FittedPicture, settings: EditSettings, prompts: PromptCache, on_step: OnStep | None
) -> Edited:
    [edited] = edit_batch(model, [picture], encode_pictures(model, [picture], settings), [settings], prompts, on_step)
    return edited


def _with_map(settings: EditSettings) -> EditSettings:
    return replace(settings, keep_rest="automatic") if settings.keep_rest == "off" else settings


def _joined(
    picture: FittedPicture,
    box: tuple[int, int, int, int],
    settings: EditSettings,
    second: Edited,
    first: Edited | None,
) -> Edited:
    """Return the edit of the box put back into the whole, at the size that the settings ask for."""
    assert picture.whole is not None
    left, top, right, bottom = picture.plan.crop
    image = picture.whole.crop(picture.plan.crop)
    image.paste(second.image, (box[0] - left, box[1] - top))
    size = size_of(picture.plan, settings)
    deep = None
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    elif picture.deep is not None:
        deep = picture.deep[top:bottom, left:right].copy()
        part = np.asarray(second.image).astype(np.uint16) * 257 if second.deep is None else second.deep
        deep[box[1] - top : box[3] - top, box[0] - left : box[2] - left] = part
    if first is None:
        inside = _beside_nothing(second.made.inside or Image.new("L", (1, 1), 255), box, picture.plan)
        after = image.resize(picture.plan.size, Image.Resampling.LANCZOS)
        made = MadePicture(picture.plan.undo(picture.source), after, inside)
        relevance = second.relevance and _beside_nothing(second.relevance, box, picture.plan)
        return replace(second, image=image, deep=deep, settings=settings, made=made, relevance=relevance)
    rows, seconds = first.rows + second.rows, first.seconds + second.seconds
    return replace(first, image=image, deep=deep, settings=settings, rows=rows, seconds=seconds)


def _beside_nothing(part: Image.Image, box: tuple[int, int, int, int], plan: Fit) -> Image.Image:
    """Return a picture (L) of the box in the framing and size of the model's results, black beside it."""
    left, top, right, bottom = plan.crop
    across, down = plan.size[0] / (right - left), plan.size[1] / (bottom - top)
    x0, x1 = round((box[0] - left) * across), round((box[2] - left) * across)
    y0, y1 = round((box[1] - top) * down), round((box[3] - top) * down)
    whole = Image.new("L", plan.size)
    whole.paste(part.resize((max(1, x1 - x0), max(1, y1 - y0)), Image.Resampling.BILINEAR), (x0, y0))
    return whole


def _in_the_whole(inside: Image.Image, plan: Fit) -> Image.Image:
    """Return a picture (L) in the framing of the results in that of the whole input."""
    whole = Image.new("L", plan.whole)
    whole.paste(inside.resize(plan.own, Image.Resampling.BILINEAR), plan.crop[:2])
    return whole


def _size(box: tuple[int, int, int, int]) -> tuple[int, int]:
    return box[2] - box[0], box[3] - box[1]


def _gain(box: tuple[int, int, int, int], plan: Fit) -> float:
    return max(plan.own) / max(_size(box))


def _halves(on_step: OnStep | None) -> tuple[OnStep | None, OnStep | None]:
    """Return what to call in the first and in the second of two edits of as many steps, as if they were one."""
    if on_step is None:
        return None, None

    def told(offset: int) -> Callable[[Progress], None]:
        def tell(progress: Progress) -> None:
            steps = progress.steps
            on_step(replace(progress, step=offset * steps + progress.step, steps=2 * steps))

        return tell

    return told(0), told(1)
