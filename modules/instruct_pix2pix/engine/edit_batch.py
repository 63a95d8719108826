"""One model batch: the same kind of edit for several pictures of one size, computed together."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from einops import reduce
from PIL import Image, ImageFilter
from torch import Tensor

from ..conditioning import Fit, fit, to_images, to_tensor
from ..guidance.dual import Conditions, DualGuidance, Prompt, together
from ..guidance.rows import Scales
from ..infotext import build
from ..settings import EditSettings
from .model import EditModel
from .sampling.noise import ImageNoise
from .sampling.samplers import find_sampler
from .sampling.schedules import get_sigmas

MOST_TEXTS = 64
"""Embedded texts to remember, a few hundred kilobytes each."""


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

    def infotext(self, model_name: str, model_hash: str | None, extra: Mapping[str, str] | None = None) -> str:
        """Return the text that every door gives to this picture, with `extra` fields at its end."""
        return build(
            self.settings,
            seed=self.settings.seed,
            size=self.image.size,
            model_name=model_name,
            model_hash=model_hash,
            extra={"RNG": "CPU", **(extra or {})},  # or the web UI would draw other noise for this seed
        )


OnStep = Callable[[Progress], None]
"""Called after each step; what it raises, such as `errors.Interrupted`, ends the edit between two steps."""


@dataclass(frozen=True)
class Fitted:
    """A picture at the size at which it is edited; made without the model."""

    plan: Fit
    source: Image.Image
    """RGB, as the model sees it."""
    mask: Image.Image | None
    """At the size and framing of the result (L: white is edited, black is kept)."""
    keep: Tensor | None
    """What the mask keeps, [1, 1, h, w] in 0..1, at the latent's resolution."""

    @classmethod
    def from_picture(
        cls,
        image: Image.Image,
        settings: EditSettings,
        mask: Image.Image | None = None,
        *,
        size: int,
        factor: int,
    ) -> Fitted:
        """Fit an RGB picture and its mask (any size and mode) to a model of this `size` and VAE `factor`."""
        plan = fit(*image.size, settings.target_size or size, factor)
        if mask is None:
            return cls(plan, plan.apply(image), None, None)
        padded = plan.apply(mask.convert("L").resize(plan.whole, Image.Resampling.BILINEAR))
        cells = reduce(np.asarray(padded.convert("L")), "(h a) (w b) -> h w", "max", a=factor, b=factor)
        keep = 1 - cells.astype(np.float32) / 255  # a cell that is edited in part is edited
        return cls(plan, plan.apply(image), plan.undo(padded), torch.from_numpy(keep)[None, None])

    def finish(self, edited: Image.Image) -> Image.Image:
        """Return what the model made in the framing of the input, with the masked-off part as it was."""
        shown = self.plan.undo(edited)
        if self.mask is None:
            return shown
        soft = self.mask.filter(ImageFilter.GaussianBlur(max(self.plan.size) / 128))  # a soft edge inside the mask
        inside = Image.composite(soft, Image.new("L", soft.size), self.mask.point(lambda v: 255 if v else 0))
        return Image.composite(shown, self.plan.undo(self.source), inside)


class Texts:
    """The texts of a model's edits, each encoded once as long as it is remembered."""

    def __init__(self, model: EditModel) -> None:
        self.prompts = lru_cache(MOST_TEXTS)(model.encode_instruction)
        """(instruction, steps) -> its sub-prompts."""
        self.negative = lru_cache(MOST_TEXTS)(model.encode_negative)
        """(negative prompt, steps) -> the Prompt."""

    def conditions(self, settings: Sequence[EditSettings], latents: Tensor) -> Conditions:
        """Return what a batch is conditioned on; its instructions have the same number of parts and weights."""
        each = [self.prompts(one.instruction, one.steps) for one in settings]
        prompts: tuple[Prompt, ...] = tuple(together(parts) for parts in zip(*each, strict=True))
        return Conditions(prompts, together([self.negative(one.negative, one.steps) for one in settings]), latents)


def encode_pictures(model: EditModel, pictures: Sequence[Fitted]) -> Tensor:
    """Return the latents [B, 4, h, w], unscaled, of pictures of one padded size."""
    return model.encode_image(torch.cat([to_tensor(picture.source) for picture in pictures]))


def edit_batch(
    model: EditModel,
    pictures: Sequence[Fitted],
    latents: Tensor,
    settings: Sequence[EditSettings],
    texts: Texts,
    on_step: OnStep | None = None,
) -> list[Edited]:
    """Edit pictures of one padded size, all with a mask or all without, and `latents` [B or 1, 4, h, w].

    There is one of `settings` for each, canonical and of one picture; they differ in seed and texts alone. A picture's
    result is that of an edit by itself, up to the rounding of sums in another order.
    """
    began = time.perf_counter()
    one = settings[0]
    sampler, _ = find_sampler(one.sampler)
    sigmas = get_sigmas(one.schedule, one.steps, model.levels, one.sampler)[_first_step(one) :]
    seeds = tuple(each.seed for each in settings)
    noise = ImageNoise(seeds, latents.shape[1:], model.machine.device)
    scales = Scales(one.text_cfg, one.image_cfg)
    conditions = texts.conditions(settings, latents)
    guidance = DualGuidance(model, conditions, scales, sigmas, rescale=one.rescale, speed=one.speed)
    start = latents * model.config.scale_factor
    keep = [picture.keep for picture in pictures if picture.keep is not None]
    denoiser = _Masked(guidance, start, torch.cat(keep).to(model.machine.device)) if keep else guidance

    def report(step: int, x: Tensor, denoised: Tensor) -> None:
        if on_step is not None:
            on_step(Progress(step + 1, len(sigmas) - 1, seeds, denoised))

    x = noise.draw() * float(sigmas[0])
    if one.denoise < 1:
        x = x + start
    x = sampler(denoiser, x, sigmas, noise, report)
    images = [picture.finish(image) for picture, image in zip(pictures, to_images(model.decode(x)), strict=True)]
    seconds = (time.perf_counter() - began) / len(images)
    return [Edited(i, s, guidance.rows_evaluated, seconds) for i, s in zip(images, settings, strict=True)]


def _first_step(settings: EditSettings) -> int:
    """Return the step to begin with: the first from pure noise, a later one at lower denoising strength.

    AUTOMATIC1111's rule, `t_enc = int(strength * steps)`; at least one step is taken.
    """
    if settings.denoise >= 1:
        return 0
    return settings.steps - 1 - min(int(settings.denoise * settings.steps), settings.steps - 1)


class _Masked:
    """A denoiser that holds the kept part of the picture at its own latent."""

    def __init__(self, denoiser: DualGuidance, start: Tensor, keep: Tensor) -> None:
        self.denoiser, self.start, self.keep = denoiser, start, keep

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return torch.lerp(self.denoiser(x, sigma), self.start, self.keep)
