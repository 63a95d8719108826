"""One job of a host on an instruct-pix2pix checkpoint, from the host's first hook to its last.

All state is kept on the host's own processing object `p`, and on objects that the host makes anew for each sampling:
nothing is left behind when a job ends, however it ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import make_dataclass, replace
from difflib import get_close_matches
from functools import wraps
from importlib import import_module
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import UserError
from ..guidance.apg import Projection
from ..guidance.cached import CachedGuidance
from ..prompts import for_host, negative_for_host
from ..settings import FROM_NOISE, KNOBS, SEEDS, Knob, random_scales
from .finish import StepFinisher
from .other_extensions import require_able
from .processing import Processing
from .sdxl import SDXL, sdxl_of

EDIT_CHANNELS = 8
"""Input channels of a UNet that edits: 4 of the noisy latent, 4 of the picture's."""


JOB = "instruct_pix2pix"
"""The attribute of `p` that holds its job."""

SETTINGS = (
    "rescale",
    "speed",
    "keep_rest",
    "keep_amount",
    "apg_eta",
    "apg_threshold",
    "apg_momentum",
    "no_text",
    "guidance",
)
"""Settings of an edit with a control of their own in the panel. A new one goes to the end, and all else follows: its
control, its place and name among a script's arguments, its field of an infotext, its axis of a plot, its check."""

CONTROLS: Mapping[str, Knob] = MappingProxyType(
    {"from_noise": FROM_NOISE, "randomize": KNOBS["randomize_cfg"], **{name: KNOBS[name] for name in SETTINGS}}
)
"""The knob of each of the panel's own controls, in the order in which a host passes them. The scales are the tab's."""

IMAGE_CFG, START, DENOISE = "Image CFG scale", "Edit start", "Denoising strength"
"""Fields of an infotext: the one that tells an edit's, and the one that says 'noise' for an edit from noise."""

_Values: Any = make_dataclass("_Values", [(name, Any, knob.default) for name, knob in CONTROLS.items()], frozen=True)


class Controls(_Values):
    """A value for each of CONTROLS, by attribute."""

    @classmethod
    def from_args(cls, *args: Any) -> Controls:
        """Make controls from a script's arguments: values in order, or first a mapping of names to values.

        A host puts the arguments of an API call over the defaults, so a mapping stands before defaults: what it does
        not name, or names with None, has the value of its place; None in order means the default. Raises UserError
        for an unknown name, and for a named value of the wrong kind or out of range; values in order are checked by
        `begin`.
        """
        if not (args and isinstance(args[0], Mapping)):
            given = zip(CONTROLS, args, strict=False)
            return cls(**{name: value for name, value in given if value is not None})
        named, others = args[0], args[1:]
        for name in named:
            if name not in CONTROLS:
                close = get_close_matches(str(name), CONTROLS, n=1)
                advice = f"did you mean '{close[0]}'?" if close else f"the controls are {', '.join(CONTROLS)}."
                raise UserError(f"There is no control '{str(name)[:60]}': {advice}")
        said = {name: CONTROLS[name].check(value) for name, value in named.items() if value is not None}
        return replace(cls(cls.from_noise, *others), **said)


def pasted(name: str, fields: Mapping[str, str]) -> Any:
    """Return the value of a control, or of a scale, in the fields of an infotext, which say only what is not default.

    None, which leaves a control as it is, where it is no infotext of an edit, or the value cannot be used.
    """
    if IMAGE_CFG not in fields:
        return None
    if name == "from_noise":  # a host always writes its strength; a program that does not starts from noise
        return fields.get(START) == "noise" or DENOISE not in fields
    knob = CONTROLS.get(name) or KNOBS[name]
    word = fields.get(knob.infotext or name)
    try:
        return knob.default if word is None else knob.parse(word)
    except UserError:
        return None


class HostJob:
    """What the hooks of one job share."""

    def __init__(self, controls: Controls, text_cfg: float, image_cfg: float, sdxl: SDXL | None = None) -> None:
        self.controls = controls
        self.sdxl = sdxl
        """None: the checkpoint is not SDXL."""
        self.on_model = ExitStack()
        """What is put on the host's model for a sampling, and taken off when that ends, however it ends."""
        self.asked_text_cfg = self.text_cfg = text_cfg
        self.asked_image_cfg = self.image_cfg = image_cfg
        """What the job asks for, and what its present batch has, which may be drawn."""
        self.guided = False
        """Whether the guidance was handed to a sampling."""
        self.source: Tensor | None = None
        """The picture as the host encodes it, [1 or B, 3, H, W] in -1..1."""
        self.finisher = self.new_finisher(None)
        """Of the sampling at hand."""
        self.finished = 0
        """Pictures of the batch at hand that are finished."""

    def new_finisher(self, start: Tensor | None, free: Tensor | None = None) -> StepFinisher:
        """Return what ends each step of a sampling that starts from the scaled latent [B, 4, h, w].

        `free` [1, 1, h, w] in 0..1 is what a painted mask lets change.
        """
        asked = self.controls
        projection = Projection(asked.apg_eta, asked.apg_threshold, asked.apg_momentum)
        keep, amount = asked.keep_rest, asked.keep_amount
        return StepFinisher(start, projection=projection, rescale=asked.rescale, keep=keep, amount=amount, free=free)

    def cached_guidance(self) -> CachedGuidance | None:
        """Return an empty cache for one sampling; None when every step evaluates all its rows."""
        return None if self.controls.speed == "exact" else CachedGuidance(self.controls.speed)


class Host(Protocol):
    """A family of web GUIs: the parts of a job in which one differs from another."""

    name: str

    def input_channels(self, p: Processing) -> int | None:
        """Return the channels that the UNet's first convolution takes; None for another kind of network."""
        ...

    def encode(self, p: Processing, picture: Tensor) -> Tensor:
        """Picture [B, 3, H, W] in -1..1 -> the VAE's mode, unscaled, [B, 4, H/8, W/8]."""
        ...

    def guide(self, p: Processing, job: HostJob, negative: object) -> None:
        """Give the dual guidance to the sampling that is about to begin. `negative` is the host's encoded prompt."""
        ...


def begin(host: Host, p: Processing, controls: Controls, is_img2img: bool) -> None:
    """Prepare a job before the host encodes its picture; does nothing on any other kind of checkpoint.

    Raises UserError for txt2img and where no picture was dropped, for scales out of range, and for controls of the
    wrong kind.
    """
    last = job_of(p)
    _forget(p)
    if host.input_channels(p) != EDIT_CHANNELS:
        return
    if not is_img2img:
        raise UserError("This checkpoint edits pictures: open the img2img tab and drop a picture there.")
    if any(image is None for image in getattr(p, "init_images", None) or ()):
        raise UserError("There is no picture to edit: drop one in the img2img tab.")
    asked = p.image_cfg_scale
    if asked is None:  # left out of an API call, or set aside by us when this p was used for another picture
        asked = last.asked_image_cfg if last else KNOBS["image_cfg"].default
    text_cfg = p.cfg_scale
    if last and text_cfg == last.text_cfg:  # drawn by us when this p was used for another picture
        text_cfg = p.cfg_scale = last.asked_text_cfg
    KNOBS["text_cfg"].check(text_cfg)
    controls = Controls(**{name: _chosen(p, controls, name) for name in CONTROLS})
    job = HostJob(controls, text_cfg, KNOBS["image_cfg"].check(asked), sdxl_of(p, controls.no_text))
    setattr(p, JOB, job)
    # With a value here a host guides an edit model in its own way, which fails when prompts differ in length.
    p.image_cfg_scale = None

    def condition(source: Tensor, latent: Tensor, *_: object) -> Tensor:
        job.source = source
        picture = host.encode(p, source)
        return fitting(picture if job.sdxl is None else picture * job.sdxl.picture_scale, latent)

    _override(p, "img2img_image_conditioning", condition)
    set_up = p.setup_conds

    def encode_prompts() -> None:
        """Encode the prompts as this program reads them; the infotext keeps them as they were typed."""
        typed = p.prompts, p.negative_prompts
        p.prompts, p.negative_prompts = [*map(for_host, typed[0])], [*map(negative_for_host, typed[1])]
        if job.sdxl is not None:
            p.negative_prompts = [*map(job.sdxl.negative, p.negative_prompts)]
        try:
            set_up()
        finally:
            p.prompts, p.negative_prompts = typed

    _override(p, "setup_conds", encode_prompts)
    _watch_sampling(p, job)
    if controls.from_noise:
        p.denoising_strength = 1.0
        p.extra_generation_params[START] = "noise"
    if getattr(p, "image_mask", None) is not None and p.inpainting_fill != 1:
        p.inpainting_fill = 1
        p.comment("Masked content 'original' was used: an edit needs to see what it changes.")
    if getattr(p, "refiner_checkpoint", None) not in (None, "", "None", "none"):
        p.refiner_checkpoint = p.refiner_checkpoint_info = p.refiner_switch_at = None
        p.comment("The refiner was left out: it cannot take over from an instruct-pix2pix checkpoint.")
    for name in SETTINGS:
        value, label = getattr(controls, name), KNOBS[name].infotext or name
        p.extra_generation_params.pop(label, None)  # of another cell of the plot
        if value != KNOBS[name].default:
            p.extra_generation_params[label] = value
    _note_scale(p, job)


def _chosen(p: Processing, controls: Controls, name: str) -> Any:
    """Return what an X/Y/Z plot sets for this control, or else the panel's value; raises UserError."""
    plotted = vars(p).get(f"{JOB}_{name}")
    return CONTROLS[name].check(getattr(controls, name) if plotted is None else plotted)


def _watch_sampling(p: Processing, job: HostJob) -> None:
    """Take what a sampling puts on the host's model off after it, and refuse one that no hook of ours runs in.

    So it is where a script samples in a way of its own.
    """
    sample, by_script = p.sample, "sample" in vars(p)

    def watched(*args: object, **kwargs: object) -> object:
        with job.on_model:
            made = sample(*args, **kwargs)
        if by_script and not job.guided:
            raise UserError(
                "The chosen script samples in a way of its own, so that Image CFG would have no effect: "
                "choose no script."
            )
        return made

    _override(p, "sample", watched)


def begin_batch(p: Processing) -> None:
    """Draw the scales of this batch from its first seed, where 'Randomize CFG' asks for that."""
    job = job_of(p)
    if job:
        job.finished = 0
    if job and job.controls.randomize != "off":
        seed = int(p.seeds[0]) % SEEDS
        drawn = random_scales(seed, job.asked_text_cfg, job.asked_image_cfg, job.controls.randomize)
        p.cfg_scale, job.image_cfg = drawn
        job.text_cfg = p.cfg_scale
        _note_scale(p, job)


def begin_sampling(
    host: Host, p: Processing, x: Tensor | None = None, noise: Tensor | None = None, uc: object = None, **_: object
) -> None:
    """Hand the dual guidance to the sampling that starts now; with 'Start from noise', let it start from noise alone.

    The arguments are what a host hands to `process_before_every_sampling`, or leaves out. x, noise [B, 4, h, w]: the
    picture's scaled latent, and the noise, which is changed in place. uc: the encoded negative prompt. Does nothing
    where `p` carries no job of ours. Raises UserError where the host does not say how it starts.
    """
    job = job_of(p)
    if job is None:
        return
    job.finisher = job.new_finisher(None if x is None else x.clone(), _painted(p))
    require_able(p)
    host.guide(p, job, uc)
    job.guided = True
    if job.controls.from_noise:
        if x is None or noise is None:
            raise UserError("This web GUI does not hand over its noise: switch off 'Start from noise'.")
        # The sampler will begin with x + sigma * noise.
        sigma = first_sigma(p)
        if job.sdxl is not None and job.sdxl.levels is not None:
            noise *= math.sqrt(1 + sigma**-2)  # CosXL's noise alone has the deviation of noise and picture
        noise -= x.to(noise) / sigma


def _painted(p: Processing) -> Tensor | None:
    """Return the mask that a person painted, [1, 1, h, w] in 0..1, 1 where the picture may change."""
    mask = getattr(p, "nmask", None)  # [h, w], or the same for each channel
    return mask.reshape(-1, *mask.shape[-2:])[None, :1] if isinstance(mask, Tensor) else None


def finish_picture(p: Processing, made: Any) -> None:
    """Put the rest of the input back into a finished picture, `made.image` (RGB), where the rest is kept."""
    job = job_of(p)
    if job is not None and job.source is not None:
        made.image = job.finisher.kept(made.image, job.source, job.finished)
        job.finished += 1


def loud(hook: Callable[..., None]) -> Callable[..., None]:
    """Let an error in a script's hook end the job with a sentence: a host would print it and go on without an edit."""

    @wraps(hook)
    def heard(script: Any, p: Processing, *args: Any, **kwargs: Any) -> None:
        try:
            hook(script, p, *args, **kwargs)
        except Exception as error:
            stop(p, error)
            raise

    return heard


def first_sigma(p: Processing) -> float:
    """Return the noise level at which the sampler of `p` will begin an img2img job.

    Raises UserError where that is no level to begin at, as with a schedule of no steps: the picture would be black.
    """
    common = import_module("modules.sd_samplers_common")
    steps, taken = common.setup_img2img_steps(p, None)
    taken = min(taken, steps - 1)  # ersatzForge counts the first step too
    get_timesteps = getattr(p.sampler, "get_timesteps", None)
    if get_timesteps is not None:
        alpha = float(p.sd_model.alphas_cumprod[get_timesteps(p, steps)[taken]])
        sigma = ((1 - alpha) / alpha) ** 0.5
    else:
        sigma = float(p.sampler.get_sigmas(p, steps)[steps - taken - 1])
    if not (math.isfinite(sigma) and sigma > 0):
        raise UserError(
            f"The sampler would begin at noise level {sigma}: choose another schedule or number of steps, or switch "
            "off 'Start from noise'."
        )
    return sigma


def job_of(p: Processing) -> HostJob | None:
    """Return the job that `p` carries."""
    return vars(p).get(JOB)


def stop(p: Processing, error: Exception) -> None:
    """Make the host's job end with this error: a host prints what a hook raises, and goes on without an edit."""
    said = error if isinstance(error, UserError) else UserError(f"Instruct Pix2Pix failed: {error!r}.")
    p.comment(str(said))  # an X/Y/Z plot draws a cell that failed in black, and only comments reach the page

    def refuse(*_: object, **__: object) -> None:
        raise said

    for name in ("init", "sample"):
        _override(p, name, refuse)
    for name in ("sample", "sample_img2img"):
        if getattr(p, "sampler", None) is not None:
            setattr(p.sampler, name, refuse)


class _Override:
    """A function of ours in place of a method of one `p`, and what a script had put there before it."""

    def __init__(self, function: Callable[..., Any], before: Callable[..., Any] | None) -> None:
        self.function, self.before = function, before

    def __call__(self, *args: object, **kwargs: object) -> Any:
        return self.function(*args, **kwargs)


def _override(p: Processing, name: str, function: Callable[..., Any]) -> None:
    before = vars(p).get(name)
    setattr(p, name, _Override(function, before.before if isinstance(before, _Override) else before))


def _forget(p: Processing) -> None:
    """Remove what the last job left on a `p` that the host uses again, as for the files of a folder."""
    for name, value in list(vars(p).items()):
        if isinstance(value, _Override) and value.before is not None:
            setattr(p, name, value.before)
        elif isinstance(value, (_Override, HostJob)):
            delattr(p, name)


def _note_scale(p: Processing, job: HostJob) -> None:
    p.extra_generation_params[IMAGE_CFG] = job.image_cfg


def fitting(condition: Tensor, latent: Tensor) -> Tensor:
    """Return the picture's latent [1 or B, 4, any, any] in the shape, dtype and device of the one that is sampled."""
    if condition.shape[-2:] != latent.shape[-2:]:
        condition = torch.nn.functional.interpolate(condition.float(), size=latent.shape[-2:], mode="bilinear")
    if len(condition) != len(latent):
        condition = condition[:1].expand(len(latent), -1, -1, -1)
    return condition.to(latent)
