"""The way of one edit: picture and instruction in, edited pictures out, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import groupby

import numpy as np
from PIL import Image
from torch import Tensor

from ..conditioning import Fit, fit
from ..errors import UserError
from ..images import Picture
from ..infotext import settings_from
from ..pixels import is_clear, on_white, split_alpha, to_rgb
from ..prompts import lora_tags, split_and
from ..settings import KNOBS, EditSettings
from ..variations import literal, variations
from .edit_batch import Edited, FittedPicture, OnStep, Progress, PromptCache, edit_batch, encode_pictures, find_region
from .interactive.held_interrupt import HeldInterrupt, each_whole
from .interactive.notebook import notebook_bar
from .model import EditModel
from .region import edit_region
from .result_size import sized
from .sampling.names import find_schedule, read_sampler
from .shared_cores import SharedCores

__all__ = [
    "Edited",
    "OnStep",
    "Progress",
    "edit",
    "edit_each",
    "fitted",
    "map_of",
    "plan_for",
    "resolved",
    "settings_here",
]


def edit(
    model: EditModel,
    image: Picture | Image.Image,
    settings: EditSettings | str,
    *,
    mask: Picture | Image.Image | None = None,
    on_step: OnStep | None = None,
) -> Iterator[Edited]:
    """Edit a picture, once for each variation and seed; every result has the picture's framing.

    `image` is what `open_picture` returns, or any picture of Pillow's: what is transparent is laid on white.
    `settings` may be the instruction alone. `mask` (any size, white is edited, black is kept; with transparency: see
    `pixels.grey_mask`) confines the change. `on_step` is told of each step; without it a notebook shows a bar.

    Results are made as they are asked for. What `on_step` raises, such as `Interrupted`, ends the edit between two
    steps; so does Ctrl+C in the main thread: the KeyboardInterrupt comes after the step. The model is as it was then.
    Raises UserError for an empty instruction and for names of samplers and schedules that do not exist.
    """
    asked = EditSettings(settings) if isinstance(settings, str) else settings
    asked = resolved(asked.require_instruction())
    deep = image.deep if isinstance(image, Picture) else None
    shape = mask.mask if isinstance(mask, Picture) else mask
    picture = fitted(model, _rgb(image), asked, shape, deep)
    shown = notebook_bar(asked.steps, asked.results) if on_step is None else nullcontext(on_step)
    with shown as tell:
        interrupt = HeldInterrupt(tell)
        yield from each_whole(edit_each(model, picture, asked.pictures(), interrupt.after_step), interrupt)


def _rgb(image: Picture | Image.Image) -> Image.Image:
    if isinstance(image, Picture):
        return image.image
    if image.mode == "RGB":
        return image
    base, alpha, _ = split_alpha(image)
    rgb, _ = to_rgb(base, image.info.get("icc_profile"))
    return rgb if alpha is None or is_clear(alpha) else on_white(rgb, alpha)


def edit_each(
    model: EditModel, picture: FittedPicture, settings: Sequence[EditSettings], on_step: OnStep | None = None
) -> Iterator[Edited]:
    """Edit a picture once with each of the settings, which are resolved and of one picture, as `edit` does.

    They may differ in seed, texts and scales. While the caller has a result the model is as it was.
    """
    prompts = PromptCache(model)
    last: list[Progress] = []

    def tell(progress: Progress) -> None:
        last[:] = [progress]
        if on_step is not None:
            on_step(progress)

    def advance(share: float) -> None:
        if on_step is not None:
            on_step(replace(last[0], enlarged=share))

    with SharedCores():
        if picture.whole is not None and settings[0].zoom:
            for one in settings:
                with taking_off(model):
                    edited = edit_region(model, picture, one, prompts, on_step)
                yield edited
            return
        latent: Tensor | None = None
        for batch in _batches(settings, settings[0].batch_size):
            with taking_off(model):
                latent = encode_pictures(model, [picture], settings[0]) if latent is None else latent
                together = edit_batch(model, [picture] * len(batch), latent, batch, prompts, tell)
            for edited in together:
                yield sized(edited, picture, advance)


@contextmanager
def at_work(model: EditModel) -> Iterator[None]:
    """Share the cores with other programs while edits are made, and take off the model what they put on it."""
    with SharedCores(), taking_off(model):
        yield


@contextmanager
def taking_off(model: EditModel) -> Iterator[None]:
    """Take off the model, when the block ends, what edits in it put on."""
    try:
        yield
    finally:
        model.add_ons.take_off()


def map_of(model: EditModel, picture: FittedPicture, settings: EditSettings) -> Image.Image:
    """Return where an edit would change a picture (L, the framing of the results), from two rows, without editing it.

    White is where the instruction means to change it: what `Edited.relevance` says afterwards, from other noise. The
    settings are resolved and of one picture.
    """
    with at_work(model):
        latent = encode_pictures(model, [picture], settings)
        return picture.framed(find_region(model, [picture], latent, [settings], PromptCache(model)).map[0])


def resolved(settings: EditSettings) -> EditSettings:
    """Return settings with the sampler's and the schedule's own names, as everything behind a door takes them.

    A schedule in the sampler's name ('DPM++ 2M Karras') goes first. Raises UserError for unknown names, and for an
    instruction with weights or LoRAs that cannot be used.
    """
    for text in variations(settings.instruction):
        split_and(text)
        lora_tags(text)
    sampler, named = read_sampler(settings.sampler)
    return replace(settings, sampler=sampler, schedule=find_schedule(named or settings.schedule))


def settings_here(infotext: str) -> tuple[EditSettings, tuple[str, ...]]:
    """Return the settings in an infotext of any program, resolved, and one sentence for each that was left out.

    An infotext is of one picture, so its braces are plain text.
    """
    settings, left_out = settings_from(infotext)
    settings = replace(settings, instruction=literal(settings.instruction))
    for name in ("sampler", "schedule"):
        try:
            resolved(replace(EditSettings(), **{name: getattr(settings, name)}))
        except UserError as error:
            settings = replace(settings, **{name: KNOBS[name].default})
            left_out = (*left_out, str(error))
    try:
        return resolved(settings), left_out
    except UserError as error:
        return settings, (*left_out, str(error))


def fitted(
    model: EditModel,
    image: Image.Image,
    settings: EditSettings,
    mask: Image.Image | None = None,
    deep: np.ndarray | None = None,
) -> FittedPicture:
    """Fit an RGB picture and its mask (any size) to the model, as `edit` does; `deep` as in `FittedPicture`."""
    return FittedPicture.by(plan_for(model, image, settings), image, mask, model.config.vae.factor, deep)


def plan_for(model: EditModel, image: Image.Image, settings: EditSettings) -> Fit:
    """Return how `edit` fits this picture to the model."""
    return fit(*image.size, settings.target_size or model.config.size, model.config.vae.factor)


def _batches(items: Sequence[EditSettings], size: int) -> Iterator[Sequence[EditSettings]]:
    """Divide edits into batches: of one text, whose parts and weights are the same."""
    for _, some in groupby(items, lambda one: (one.instruction, one.negative)):
        alike = [*some]
        for i in range(0, len(alike), size):
            yield alike[i : i + size]
