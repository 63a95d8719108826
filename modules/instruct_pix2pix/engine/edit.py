"""The way of one edit: picture and instruction in, edited pictures out, one at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import torch
from PIL import Image, ImageFilter
from torch import Tensor

from ..conditioning import Fit, fit, to_images, to_tensor
from ..guidance import Conditions, DualGuidance, Scales
from ..settings import EditSettings
from .model import EditModel
from .noise import ImageNoise
from .samplers import find_sampler
from .schedules import find_schedule, get_sigmas


@dataclass(frozen=True)
class Progress:
    """What is known after each step."""

    step: int
    """Steps done in this batch, from 1."""
    steps: int
    seeds: tuple[int, ...]
    """The pictures of the batch."""
    denoised: Tensor
    """What the model now expects the pictures to become: scaled latents [B, 4, h, w]."""


@dataclass(frozen=True)
class Edited:
    """One edited picture and how it came about."""

    image: Image.Image
    settings: EditSettings
    """The settings of this one picture: its own seed, and its own scales where they were drawn."""
    rows: int
    """Model rows evaluated for it."""
    seconds: float
    """Its share of the batch's time."""


OnStep = Callable[[Progress], None]
"""Called after each step; what it raises, such as `errors.Interrupted`, ends the edit between two steps."""


def edit(
    model: EditModel,
    image: Image.Image,
    settings: EditSettings,
    *,
    mask: Image.Image | None = None,
    on_step: OnStep | None = None,
) -> Iterator[Edited]:
    """Edit an RGB picture, once for each seed; every result has the picture's framing.

    `mask` (any size, grey: white is edited, black is kept) confines the change. Raises UserError for an empty
    instruction and for names of samplers and schedules that do not exist.
    """
    settings = canonical(settings.require_instruction())
    sampler, _ = find_sampler(settings.sampler)
    sigmas = get_sigmas(settings.schedule, settings.steps, model.levels, settings.sampler)
    plan = plan_for(model, image, settings)
    source = plan.apply(image)
    keep = None if mask is None else _keep(plan, mask, model.config.vae.factor).to(model.machine.device)
    latent = model.encode_image(to_tensor(source))
    prompts, negative = model.encode_text(settings.instruction, settings.negative, settings.steps)
    conditions = Conditions(prompts, negative, latent)
    start = latent * model.config.scale_factor
    sigmas = sigmas[_first_step(settings) :]

    chosen = [settings.for_image(seed) for seed in settings.seeds()]
    for (text_cfg, image_cfg), same in groupby(chosen, key=lambda s: (s.text_cfg, s.image_cfg)):
        for batch in _batches(list(same), settings.batch_size):
            began = time.perf_counter()
            seeds = tuple(one.seed for one in batch)
            noise = ImageNoise(seeds, latent.shape[1:], model.machine.device)
            guidance = DualGuidance(
                model, conditions, Scales(text_cfg, image_cfg), sigmas, rescale=settings.rescale
            )
            denoiser = guidance if keep is None else _Masked(guidance, start, keep)

            def report(step: int, x: Tensor, denoised: Tensor, seeds: tuple[int, ...] = seeds) -> None:
                if on_step is not None:
                    on_step(Progress(step + 1, len(sigmas) - 1, seeds, denoised))

            x = noise.draw() * float(sigmas[0])
            if settings.denoise < 1:
                x = x + start
            x = sampler(denoiser, x, sigmas, noise, report)
            pictures = [plan.undo(picture) for picture in to_images(model.decode(x))]
            if mask is not None:
                pictures = [_paste(plan, source, picture, mask) for picture in pictures]
            seconds = (time.perf_counter() - began) / len(batch)
            for one, picture in zip(batch, pictures, strict=True):
                yield Edited(picture, one, guidance.rows_evaluated, seconds)


def canonical(settings: EditSettings) -> EditSettings:
    """Return the settings with the sampler's and the schedule's own names. Raises UserError for unknown ones."""
    sampler, named = find_sampler(settings.sampler)
    return replace(settings, sampler=sampler.name, schedule=find_schedule(named or settings.schedule))


def plan_for(model: EditModel, image: Image.Image, settings: EditSettings) -> Fit:
    """Return how `edit` fits this picture to the model."""
    return fit(*image.size, settings.target_size or model.config.size, model.config.vae.factor)


def _first_step(settings: EditSettings) -> int:
    """Return the step to begin with: the first from pure noise, a later one at lower denoising strength.

    AUTOMATIC1111's rule, `t_enc = int(strength * steps)`; at least one step is taken.
    """
    if settings.denoise >= 1:
        return 0
    return settings.steps - 1 - min(int(settings.denoise * settings.steps), settings.steps - 1)


def _batches(items: Sequence[EditSettings], size: int) -> Iterator[Sequence[EditSettings]]:
    for i in range(0, len(items), size):
        yield items[i : i + size]


class _Masked:
    """A denoiser that holds the kept part of the picture at its own latent."""

    def __init__(self, denoiser: DualGuidance, start: Tensor, keep: Tensor) -> None:
        self.denoiser, self.start, self.keep = denoiser, start, keep

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return torch.lerp(self.denoiser(x, sigma), self.start, self.keep)


def _keep(plan: Fit, mask: Image.Image, factor: int) -> Tensor:
    """Return what to keep, [1, 1, h, w] in 0..1, at the latent's resolution."""
    edited = to_tensor(plan.apply(_whole(plan, mask)).convert("RGB"))[:, :1] / 2 + 0.5
    return 1 - torch.nn.functional.max_pool2d(edited, factor)  # a cell that is edited in part is edited


def _paste(plan: Fit, source: Image.Image, edited: Image.Image, mask: Image.Image) -> Image.Image:
    """Put the edited part, with a soft edge inside the mask, over the picture as it was."""
    shown = plan.undo(plan.apply(_whole(plan, mask)))
    soft = shown.filter(ImageFilter.GaussianBlur(max(plan.size) / 128))
    inside = Image.composite(soft, Image.new("L", shown.size), shown.point(lambda v: 255 if v else 0))
    return Image.composite(edited, plan.undo(source), inside)


def _whole(plan: Fit, mask: Image.Image) -> Image.Image:
    """Return the mask in grey at the size of the picture that `plan` was made for."""
    return mask.convert("L").resize(plan.whole, Image.Resampling.BILINEAR)
