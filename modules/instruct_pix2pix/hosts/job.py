"""One job of a host on an instruct-pix2pix checkpoint, from the host's first hook to its last.

Everything hangs on the host's own processing object `p` and on what the host makes anew for each sampling, so
that nothing is left behind when a job ends, however it ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import UserError
from ..guidance.cached import CachedGuidance
from ..settings import KNOBS, random_scales

EDIT_CHANNELS = 8
"""Input channels of a UNet that edits: 4 of the noisy latent, 4 of the picture's."""


@dataclass(frozen=True)
class Controls:
    """The panel's own controls, in the order in which a host passes them. The two scales are the tab's."""

    from_noise: bool = True
    randomize: bool = False
    rescale: float = KNOBS["rescale"].default
    speed: str = KNOBS["speed"].default


class HostJob:
    """What the hooks of one job know."""

    def __init__(self, controls: Controls, image_cfg: float) -> None:
        self.controls = controls
        self.asked_image_cfg = image_cfg
        self.image_cfg = image_cfg

    def pull(self) -> CachedGuidance | None:
        """Return what makes a sampling cheaper, made anew for it; None where every row is wanted."""
        return None if self.controls.speed == "exact" else CachedGuidance(self.controls.speed)


class Host(Protocol):
    """A family of web GUIs."""

    name: str

    def input_channels(self, p: Any) -> int | None:
        """Return the channels that the UNet's first convolution takes; None for another kind of network."""
        ...

    def encode(self, p: Any, picture: Tensor) -> Tensor:
        """Picture [B, 3, H, W] in -1..1 -> the VAE's mode, unscaled, [B, 4, H/8, W/8]."""
        ...

    def guide(self, p: Any, job: HostJob, negative: Any) -> None:
        """Give the sampling that is about to begin the dual guidance. `negative` is what the host has encoded."""
        ...


def begin(host: Host, p: Any, controls: Controls, is_img2img: bool) -> None:
    """Prepare a job before the host encodes its picture; does nothing on any other kind of checkpoint.

    Raises UserError for txt2img, which has no picture, and for scales out of range.
    """
    last = job_of(p)
    _forget(p)
    if host.input_channels(p) != EDIT_CHANNELS:
        return
    if not is_img2img:
        raise UserError("This checkpoint edits pictures: open the img2img tab and drop a picture there.")
    asked = p.image_cfg_scale
    if asked is None:  # not said through the API, or set aside by us when this p was used for another picture
        asked = last.asked_image_cfg if last else KNOBS["image_cfg"].default
    KNOBS["text_cfg"].check(p.cfg_scale)
    chosen = {name: _chosen(p, controls, name) for name in ("rescale", "speed")}
    job = HostJob(replace(controls, **chosen), KNOBS["image_cfg"].check(asked))
    p.instruct_pix2pix = job
    # With a value here a host takes its own way through an edit model, which ends where prompts differ in length.
    p.image_cfg_scale = None

    def condition(source: Tensor, latent: Tensor, *_: object) -> Tensor:
        return fitting(host.encode(p, source), latent)

    _override(p, "img2img_image_conditioning", condition)
    if controls.from_noise:
        p.denoising_strength = 1.0
        p.extra_generation_params["Edit start"] = "noise"
    if getattr(p, "image_mask", None) is not None and p.inpainting_fill != 1:
        p.inpainting_fill = 1
        p.comment("Masked content 'original' was used: an edit needs to see what it changes.")
    if getattr(p, "refiner_checkpoint", None) not in (None, "", "None", "none"):
        p.refiner_checkpoint = p.refiner_checkpoint_info = p.refiner_switch_at = None
        p.comment("The refiner was left out: it cannot take over from an instruct-pix2pix checkpoint.")
    for name, value in chosen.items():
        p.extra_generation_params.pop(KNOBS[name].infotext, None)  # of another cell of the plot
        if value != KNOBS[name].default:
            p.extra_generation_params[KNOBS[name].infotext] = value
    _note_scale(p, job)


def _chosen(p: Any, controls: Controls, name: str) -> Any:
    """Return what an X/Y/Z plot sets for this control, or else the panel."""
    plotted = vars(p).get(f"instruct_pix2pix_{name}")
    return KNOBS[name].check(getattr(controls, name) if plotted is None else plotted)


def begin_batch(p: Any) -> None:
    """Draw this batch's scales from its first seed when they are to be random."""
    job = job_of(p)
    if job and job.controls.randomize:
        p.cfg_scale, job.image_cfg = random_scales(int(p.seeds[0]) % 2**32)
        _note_scale(p, job)


def begin_sampling(host: Host, p: Any, x: Tensor, noise: Tensor, negative: Any) -> None:
    """Hand the dual guidance to the sampling that starts now, and start it from noise alone where that is wished."""
    job = job_of(p)
    if job is None:
        return
    host.guide(p, job, negative)
    if job.controls.from_noise:
        # The sampler will begin with x + sigma * noise.
        noise -= x.to(noise) / first_sigma(p)


def first_sigma(p: Any) -> float:
    """Return the noise level at which the sampler of `p` will begin an img2img job."""
    common = import_module("modules.sd_samplers_common")
    steps, taken = common.setup_img2img_steps(p, None)
    if hasattr(p.sampler, "get_timesteps"):
        alpha = float(p.sd_model.alphas_cumprod[p.sampler.get_timesteps(p, steps)[taken]])
        return ((1 - alpha) / alpha) ** 0.5
    return float(p.sampler.get_sigmas(p, steps)[steps - taken - 1])


def job_of(p: Any) -> HostJob | None:
    """Return the job that `p` carries."""
    return vars(p).get("instruct_pix2pix")


def stop(p: Any, error: Exception) -> None:
    """Make the host's job end with this error: it would print what a hook raises and go on without an edit."""
    said = error if isinstance(error, UserError) else UserError(f"Instruct Pix2Pix failed: {error!r}.")

    def refuse(*_: object, **__: object) -> None:
        raise said

    for name in ("init", "sample"):
        _override(p, name, refuse)
    for name in ("sample", "sample_img2img"):
        if getattr(p, "sampler", None) is not None:
            setattr(p.sampler, name, refuse)


class _Override:
    """A function that stands before a method of one `p`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: object, **kwargs: object) -> Any:
        return self.function(*args, **kwargs)


def _override(p: Any, name: str, function: Callable[..., Any]) -> None:
    setattr(p, name, _Override(function))


def _forget(p: Any) -> None:
    """Take off what the last job left on a `p` that the host uses again, as for the files of a folder."""
    for name, value in list(vars(p).items()):
        if isinstance(value, (_Override, HostJob)):
            delattr(p, name)


def _note_scale(p: Any, job: HostJob) -> None:
    p.extra_generation_params["Image CFG scale"] = job.image_cfg


def fitting(condition: Tensor, latent: Tensor) -> Tensor:
    """Return the picture's latent at the height, width and batch of what is sampled."""
    if condition.shape[-2:] != latent.shape[-2:]:
        condition = torch.nn.functional.interpolate(condition.float(), size=latent.shape[-2:], mode="bilinear")
    if len(condition) != len(latent):
        condition = condition[:1].expand(len(latent), -1, -1, -1)
    return condition.to(latent)
