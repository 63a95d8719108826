"""One model batch: the same kind of edit for several pictures of one size, computed together."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from einops import reduce
from PIL import Image, ImageChops, ImageFilter
from torch import Tensor

from ..conditioning import Fit, to_images, to_tensor
from ..guidance.apg import Projection
from ..guidance.dual import DualGuidance
from ..guidance.inputs import GuidanceInputs, completed, join_prompts
from ..guidance.relevance import Keeper, Region, Watcher
from ..guidance.rows import Scales
from ..images import encode_small
from ..infotext import build
from ..pixels import grey_mask
from ..settings import EditSettings
from ..text import number_text, printable
from .beside.add_ons import AddOnFacts
from .interactive.before_after import before_after_html
from .model import EditModel
from .sampling.noise import ImageNoise
from .sampling.samplers import SAMPLERS, Denoiser
from .sampling.schedules import get_sigmas

PROBE_SHARE = 0.8
"""The noise, as a share of the timesteps, at which a region is looked for beforehand."""

MOST_TEXTS = 64
"""Embedded texts to remember, a few hundred kilobytes each."""


@dataclass(frozen=True)
class Progress:
    """What is known after each step."""

    step: int
    """Steps done in this batch, from 1."""
    steps: int
    seeds: tuple[int, ...]
    """The pictures of the batch, without those that were given up."""
    denoised: Tensor
    """What the model now expects the pictures to become: scaled latents [B, 4, h, w]."""
    plan: Fit
    """How the pictures of the batch were fitted to the model."""
    enlarged: float = 0.0
    """After the last step: the share, 0..1, of a result that has been made at its own size."""
    within: float = 0.0
    """Between two steps of many pictures: the share, 0..1, of the next step that is done."""


@dataclass(frozen=True)
class MadePicture:
    """A picture as the model saw it and as it made it, in the framing of the result."""

    before: Image.Image
    """RGB."""
    after: Image.Image
    """RGB, changed everywhere."""
    inside: Image.Image | None
    """L: 255 where the result is `after`, 0 where it is the input; None: `after` everywhere."""

    def composed(self) -> Image.Image:
        """Return the result: the edit inside, the input outside."""
        return self.after if self.inside is None else Image.composite(self.after, self.before, self.inside)


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
    precision: str
    """The number format it was computed in, such as 'fp32': in another one the same seed gives other pixels."""
    made: MadePicture
    """What the model made, for a result at another size."""
    deep: np.ndarray | None = None
    """`image` with 16 bits a channel, [H, W, 3] uint16, where it has the size of an input that has them."""
    relevance: Image.Image | None = None
    """Where the instruction means to change the picture (L, the size of `image`), where the rest was to be kept."""
    beside: AddOnFacts = field(default_factory=AddOnFacts)
    """What is to be told of LoRAs and the like."""

    @property
    def kept(self) -> float:
        """The share of the picture, 0..1, that is the input's own."""
        return 0.0 if self.made.inside is None else 1 - float(np.asarray(self.made.inside).mean()) / 255

    def infotext(
        self, model_name: str | None = None, model_hash: str | None = None, extra: Mapping[str, str] | None = None
    ) -> str:
        """Return the text that every door gives to this picture, with `extra` fields at its end.

        It names the model where `model_name` and `model_hash` (of `models.registry.model_hash`) are given.
        """
        return build(
            self.settings,
            seed=self.settings.seed,
            size=self.made.after.size,  # what a web GUI would compute it at; a larger picture is made of that
            model_name=model_name,
            model_hash=model_hash,
            # RNG: or the web UI would draw other noise for this seed
            extra={"Precision": self.precision, "RNG": "CPU", **self.beside.fields, **(extra or {})},
        )

    @property
    def summary(self) -> str:
        """What it is, in a line: the instruction, seed, scales, size and time."""
        own = self.settings
        return (
            f"{printable(own.instruction)} (seed {own.seed}, Text CFG {number_text(own.text_cfg)}, "
            f"Image CFG {number_text(own.image_cfg)}, {self.image.width} x {self.image.height}, {self.seconds:.1f} s)"
        )

    def __repr__(self) -> str:
        return f"<Edited: {self.summary}>"

    def _repr_png_(self) -> bytes:
        """Return what a notebook shows where it shows no HTML: the result."""
        return encode_small(self.image)

    def _repr_html_(self) -> str:
        """Return what a notebook shows: the picture as the model saw it, and the result."""
        return before_after_html(self.made.before, self.image, self.summary)


Text = TypeVar("Text")

OnStep = Callable[[Progress], None]
"""Called after each step; what it raises, such as `errors.Interrupted`, ends the edit between two steps."""


@dataclass(frozen=True)
class FittedPicture:
    """A picture at the size at which it is edited; made without the model."""

    plan: Fit
    source: Image.Image
    """RGB, as the model sees it."""
    mask: Image.Image | None
    """At the size and framing of the result (L: white is edited, black is kept)."""
    keep: Tensor | None
    """What the mask keeps, [1, 1, h, w] in 0..1, at the latent's resolution."""
    factor: int
    """Pixels a latent cell."""
    whole: Image.Image | None = field(default=None, repr=False)
    """The picture as it came (RGB), for a result at its own size; None: results have the model's size."""
    whole_mask: Image.Image | None = field(default=None, repr=False)
    """The mask as it came (L, any size)."""
    deep: np.ndarray | None = field(default=None, repr=False)
    """`whole` with 16 bits a channel, [H, W, 3] uint16, where it has them."""

    @classmethod
    def by(
        cls, plan: Fit, image: Image.Image, mask: Image.Image | None, factor: int, deep: np.ndarray | None = None
    ) -> FittedPicture:
        """Fit an RGB picture and its mask (any size and mode); `factor` is the VAE's: pixels a latent cell.

        `deep` is the picture with 16 bits a channel, where it has them.
        """
        if mask is None:
            return cls(plan, plan.apply(image), None, None, factor, image, None, deep)
        mask = grey_mask(mask)
        padded = plan.apply(mask.resize(plan.whole, Image.Resampling.BILINEAR))
        cells = reduce(np.asarray(padded.convert("L")), "(h a) (w b) -> h w", "max", a=factor, b=factor)
        keep = 1 - cells.astype(np.float32) / 255  # a cell that is edited in part is edited
        kept = torch.from_numpy(keep)[None, None]
        return cls(plan, plan.apply(image), plan.undo(padded), kept, factor, image, mask, deep)

    def made(self, after: Image.Image, inside: Tensor | None = None) -> MadePicture:
        """Return what the model made, in the framing of the input, with the part that the result takes of it.

        `inside` [1, h, w] in 0..1 is what relevance leaves of it, at the latent's resolution.
        """
        parts = [] if inside is None else [self.framed(inside)]
        if self.mask is not None:
            soft = self.mask.filter(ImageFilter.GaussianBlur(max(self.plan.size) / 128))  # a soft edge inside the mask
            parts.append(Image.composite(soft, Image.new("L", soft.size), self.mask.point(lambda v: 255 if v else 0)))
        share = ImageChops.multiply(*parts) if len(parts) == 2 else next(iter(parts), None)
        everywhere = share is None or share.getextrema() == (255, 255)
        return MadePicture(self.plan.undo(self.source), self.plan.undo(after), None if everywhere else share)

    def framed(self, cells: Tensor) -> Image.Image:
        """Cells [1, h, w] in 0..1 at the latent's resolution -> a picture (L) in the framing of the result."""
        small = Image.fromarray((cells[0].float() * 255).round().byte().cpu().numpy())
        return self.plan.undo(small.resize(self.plan.padded, Image.Resampling.BILINEAR))


class PromptCache:
    """The texts of a model's edits, each encoded once as long as it is kept."""

    def __init__(self, model: EditModel) -> None:
        self._model = model
        # the last argument only tells apart what a text becomes with other LoRAs
        self._instruction = lru_cache(MOST_TEXTS)(lambda text, steps, _: model.encode_instruction(text, steps))
        self._negative = lru_cache(MOST_TEXTS)(
            lambda text, steps, no_text, _: model.encode_negative(text, steps, no_text=no_text)
        )

    def inputs(self, settings: Sequence[EditSettings], latents: Tensor) -> GuidanceInputs:
        """Return what a batch is conditioned on; its instructions have the same number of parts and weights."""
        key = self._model.add_ons.texts_key
        told, avoided = (_distinct(settings, name) for name in ("instruction", "negative"))
        instructions = [self._instruction(one.instruction, one.steps, key) for one in told]
        negatives = [self._negative(one.negative, one.steps, one.no_text, key) for one in avoided]
        prompts = tuple(join_prompts(parts) for parts in zip(*instructions, strict=True))
        if any(None in negative.pooled for negative in negatives):  # each takes that of its own instruction
            count = max(len(instructions), len(negatives))
            both = zip(_as_many(negatives, count), _as_many(instructions, count), strict=True)
            negatives = [completed(negative, instruction[0]) for negative, instruction in both]
        return GuidanceInputs(prompts, join_prompts(negatives), latents)


def _distinct(settings: Sequence[EditSettings], name: str) -> Sequence[EditSettings]:
    """Return the first alone where all have the same text: one embedding then stands for the whole batch."""
    return settings if len({getattr(one, name) for one in settings}) > 1 else settings[:1]


def _as_many(items: Sequence[Text], count: int) -> Sequence[Text]:
    """Repeat the only one of a batch for each of its pictures."""
    return items if len(items) == count else [*items] * count


def encode_pictures(model: EditModel, pictures: Sequence[FittedPicture], settings: EditSettings) -> Tensor:
    """Return the latents [B, 4, h, w], unscaled, of pictures of one padded size; the VAE is that of the settings."""
    model.add_ons.put_on(settings)
    return model.encode_image(torch.cat([to_tensor(picture.source) for picture in pictures]))


class BatchSampling:
    """One sampling of pictures of one padded size, all with a mask or all without, from noise to finished results.

    `latents` are [B or 1, 4, h, w]. There is one of `settings` for each picture, resolved and of one picture; they
    differ in seed, texts and the two scales alone, and name the same LoRAs. Where the rest is to be kept, a `region`
    says what of all of them is edited; without one each has its own, found in its first steps. `together` is how many
    pictures share a call of the model, None: all. `watch` has a watcher even where nothing is to be kept.
    """

    def __init__(
        self,
        model: EditModel,
        pictures: Sequence[FittedPicture],
        latents: Tensor,
        settings: Sequence[EditSettings],
        prompts: PromptCache,
        on_step: OnStep | None = None,
        region: Region | None = None,
        *,
        together: int | None = None,
        watch: bool = False,
    ) -> None:
        self.began = time.perf_counter()
        self.model = model
        self.pictures = pictures
        self.settings = settings
        one = settings[0]
        model.add_ons.put_on(one)
        self._sampler = SAMPLERS[one.sampler]
        self._sigmas = get_sigmas(one.schedule, one.steps, model.levels, self._sampler)[_first_step(one) :]
        self.steps = len(self._sigmas) - 1
        self._seeds = tuple(each.seed for each in settings)
        self._noise = ImageNoise(self._seeds, latents.shape[1:], model.machine.device)
        self.start = latents * model.config.scale_factor
        """The pictures' scaled latents [B or 1, 4, h, w]."""
        kept = [picture.keep for picture in pictures if picture.keep is not None]
        self._keep = torch.cat(kept).to(model.machine.device) if kept else None
        self.free = None if self._keep is None else 1 - self._keep
        """What a mask leaves free, [B, 1, h, w] in 0..1."""
        self.watcher: Watcher | None = Watcher(self.steps) if watch else None
        if one.keep_rest != "off":
            automatic = one.keep_rest == "automatic"
            self.watcher = Keeper(
                self.start, self.steps, one.keep_amount, automatic=automatic, free=self.free, region=region
            )
        self._going = [*range(len(settings))]
        still = self.start.expand(len(settings), -1, -1, -1)
        self._reporter = _Reporter(Progress(0, self.steps, self._seeds, still, pictures[0].plan), on_step)
        self.guidance = DualGuidance(
            model,
            prompts.inputs(settings, latents),
            [Scales(each.text_cfg, each.image_cfg) for each in settings],
            self._sigmas,
            rescale=one.rescale,
            speed=one.speed,
            formula=one.guidance,
            projection=Projection(one.apg_eta, one.apg_threshold, one.apg_momentum),
            watcher=self.watcher,
            together=together,
            between=self._reporter.between,
            leaders=_leaders(settings) if len(latents) == 1 else None,
        )

    def run(self, after_step: Callable[[int, Tensor], None] | None = None) -> Tensor:
        """Return the results' scaled latents [B, 4, h, w]; `after_step` is called with (steps done, denoised)."""

        def report(step: int, x: Tensor, denoised: Tensor) -> None:
            self._reporter.stepped(step + 1, denoised[self._going])
            if after_step is not None:
                after_step(step + 1, denoised)

        level, from_noise = float(self._sigmas[0]), self.settings[0].denoise >= 1
        x = self._noise.draw() * (self.model.levels.start(level) if from_noise else level)
        x = x if from_noise else x + self.start
        denoiser = self.guidance if self._keep is None else _Masked(self.guidance, self.start, self._keep)
        return self._sampler(denoiser, x, self._sigmas, self._noise, report)

    def go_on_with(self, places: Collection[int]) -> None:
        """Give up all pictures but those in these places; called after a step."""
        self.guidance.give_up(i for i in range(len(self.settings)) if i not in places)
        self._going = sorted(places)
        seeds = tuple(self._seeds[i] for i in self._going)
        self._reporter.go_on_with(seeds, self._going)

    def advance(self, share: float) -> None:
        """Tell that this share, 0..1, of a result has been made at its own size."""
        self._reporter.enlarged(share)

    def results(self, latents: Tensor, places: Sequence[int]) -> list[Edited]:
        """Return the results of the pictures in these places, decoded from the latents [B, 4, h, w] of all."""
        pictures, chosen = [self.pictures[i] for i in places], [self.settings[i] for i in places]
        # each by itself: what rounding makes of one in bf16 depends on how many are decoded beside it
        images = [image for place in places for image in to_images(self.model.decode(latents[place : place + 1]))]
        found = self.watcher.region if isinstance(self.watcher, Keeper) else None
        if found is None:
            made = [picture.made(image) for picture, image in zip(pictures, images, strict=True)]
            relevance = [None] * len(places)
        else:
            maps, insides = ([*each.expand(len(latents), -1, -1, -1)] for each in (found.map, found.inside))
            made = [self.pictures[i].made(image, insides[i]) for i, image in zip(places, images, strict=True)]
            relevance = [self.pictures[i].framed(maps[i]) for i in places]
        seconds = (time.perf_counter() - self.began) / len(self.pictures)
        rows, precision = [self.guidance.rows_of(i) for i in places], self.model.machine.precision
        facts = [self.model.add_ons.facts(each) for each in chosen]
        return [
            Edited(each.composed(), own, count, seconds, precision, each, relevance=relevant, beside=told)
            for own, count, each, relevant, told in zip(chosen, rows, made, relevance, facts, strict=True)
        ]


class _Reporter:
    """Tells `on_step` how far a sampling is.

    Apart from the sampling, which the guidance would hold by it in a circle: pictures would stay until the next
    collection of garbage.
    """

    def __init__(self, progress: Progress, on_step: OnStep | None) -> None:
        self._progress = progress
        self._on_step = on_step

    def stepped(self, step: int, denoised: Tensor) -> None:
        """Tell of a step that was done, and the pictures' denoised latents after it."""
        self._progress = replace(self._progress, step=step, denoised=denoised)
        self._tell(self._progress)

    def between(self, share: float) -> None:
        """Tell which share of a step is done, 0..1."""
        self._tell(replace(self._progress, within=share))

    def enlarged(self, share: float) -> None:
        """Tell which share of a result has been made at its own size, 0..1."""
        self._tell(replace(self._progress, enlarged=share))

    def go_on_with(self, seeds: tuple[int, ...], places: Sequence[int]) -> None:
        """Leave out all pictures but those in these places, with their seeds."""
        self._progress = replace(self._progress, seeds=seeds, denoised=self._progress.denoised[places])

    def _tell(self, progress: Progress) -> None:
        if self._on_step is not None:
            self._on_step(progress)


def edit_batch(
    model: EditModel,
    pictures: Sequence[FittedPicture],
    latents: Tensor,
    settings: Sequence[EditSettings],
    prompts: PromptCache,
    on_step: OnStep | None = None,
    region: Region | None = None,
) -> list[Edited]:
    """Edit pictures together: see `BatchSampling`.

    A picture's result is that of an edit by itself, up to the rounding of sums in another order.
    """
    sampling = BatchSampling(model, pictures, latents, settings, prompts, on_step, region)
    return sampling.results(sampling.run(), range(len(pictures)))


def _leaders(settings: Sequence[EditSettings]) -> list[int] | None:
    """Return for each edit of one picture the first that begins with the same noise and texts; None: there are none."""
    first: dict[object, int] = {}
    found = [first.setdefault((one.seed, one.instruction, one.negative), i) for i, one in enumerate(settings)]
    return found if len(first) < len(found) else None


def find_region(
    model: EditModel,
    pictures: Sequence[FittedPicture],
    latents: Tensor,
    settings: Sequence[EditSettings],
    prompts: PromptCache,
) -> Region:
    """Return where pictures would be edited, from two rows of each, before any step; given as to `edit_batch`.

    As in Watch Your Steps the difference of the rows is looked at where the input is noised up to t = 0.8.
    """
    one, start = settings[0], latents * model.config.scale_factor
    model.add_ons.put_on(one)
    level = model.levels.at_share(PROBE_SHARE)
    keeper = Keeper(start, 1, one.keep_amount, automatic=one.keep_rest != "always")
    # at Image CFG 1 the row without the picture has no weight
    scales, sigmas = Scales(max(one.text_cfg, 2.0), 1.0), torch.stack([level, torch.zeros_like(level)])
    guidance = DualGuidance(model, prompts.inputs(settings, latents), scales, sigmas, watcher=keeper)
    noise = ImageNoise(tuple(each.seed for each in settings), latents.shape[1:], model.machine.device)
    guidance(start + noise.draw() * float(level), level)
    assert keeper.region is not None  # it is decided in the last step, which is the only one
    return keeper.region


def _first_step(settings: EditSettings) -> int:
    """Return the step to begin with: the first from pure noise, a later one at lower denoising strength.

    AUTOMATIC1111's rule, `t_enc = int(strength * steps)`; at least one step is taken.
    """
    if settings.denoise >= 1:
        return 0
    return settings.steps - 1 - min(int(settings.denoise * settings.steps), settings.steps - 1)


class _Masked:
    """A denoiser that holds the part outside the mask at the picture's own latent."""

    def __init__(self, denoiser: Denoiser, start: Tensor, keep: Tensor) -> None:
        self.denoiser, self.start, self.keep = denoiser, start, keep

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return torch.lerp(self.denoiser(x, sigma), self.start, self.keep)
