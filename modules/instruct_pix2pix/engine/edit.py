"""The way of one edit: picture and instruction in, edited pictures out, one at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby

import numpy as np
from PIL import Image

from ..conditioning import Fit, fit
from ..errors import UserError
from ..infotext import settings_from
from ..prompts import lora_tags, split_and
from ..settings import KNOBS, EditSettings
from ..variations import variations
from .edit_batch import Edited, FittedPicture, OnStep, Progress, PromptCache, edit_batch, encode_pictures, find_region
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
    image: Image.Image,
    settings: EditSettings,
    *,
    mask: Image.Image | None = None,
    on_step: OnStep | None = None,
) -> Iterator[Edited]:
    """Edit an RGB picture, once for each variation and seed; every result has the picture's framing.

    `mask` (any size, white is edited, black is kept; with transparency: see `pixels.grey_mask`) confines the change.
    Raises UserError for an empty instruction and for names of samplers and schedules that do not exist.
    """
    settings = resolved(settings.require_instruction())
    yield from edit_each(model, fitted(model, image, settings, mask), settings.pictures(), on_step)


def edit_each(
    model: EditModel, picture: FittedPicture, settings: Sequence[EditSettings], on_step: OnStep | None = None
) -> Iterator[Edited]:
    """Edit a picture once with each of the settings, which are resolved and of one picture, as `edit` does.

    They may differ in seed, texts and scales.
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

    with at_work(model):
        if picture.whole is not None and settings[0].zoom:
            for one in settings:
                yield edit_region(model, picture, one, prompts, on_step)
            return
        latent = encode_pictures(model, [picture], settings[0])
        for batch in _batches(settings, settings[0].batch_size):
            for edited in edit_batch(model, [picture] * len(batch), latent, batch, prompts, tell):
                yield sized(edited, picture, advance)


@contextmanager
def at_work(model: EditModel) -> Iterator[None]:
    """Share the cores with other programs while edits are made, and take off the model what they put on it."""
    with SharedCores():
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
    """Return the settings in an infotext of any program, resolved, and one sentence for each that was left out."""
    settings, left_out = settings_from(infotext)
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
