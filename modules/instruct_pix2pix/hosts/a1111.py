"""Hosts with AUTOMATIC1111's own CFGDenoiser.

Its plain two-row way is used for edit models too: its own way for them fails on AND and on prompts of unequal length.
Before each step a callback gives the denoiser the rows that the dual guidance needs, in an order that the rest of the
denoiser can work with: sub-prompts, image only, those without the picture. After it `combine` sums up what they gave.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..guidance.cached import SamplingStep
from ..guidance.rows import Row, Scales, rescale_noise, rows
from .job import EDIT_CHANNELS, HostJob, fitting
from .other_extensions import marked_same_length, show_latents
from .posterior import taking_the_mode
from .processing import CFGDenoiser, CFGDenoiserParams, Combine, Processing, SubPrompts
from .sdxl import SDXL, has_table, remake_levels, swapped

SDXL_CONFIG = Path(__file__).parent.parent / "data" / "configs" / "a1111-sdxl.yaml"
FIRST = "model.diffusion_model.input_blocks.0.0.weight"
"""The name of the UNet's first convolution in a checkpoint."""


class A1111Host:
    """AUTOMATIC1111."""

    name = "AUTOMATIC1111"

    def input_channels(self, p: Processing) -> int | None:
        """See `Host`."""
        network = getattr(getattr(p.sd_model, "model", None), "diffusion_model", None)
        blocks = getattr(network, "input_blocks", None)
        return None if blocks is None else int(blocks[0][0].weight.shape[1])

    def encode(self, p: Processing, picture: Tensor) -> Tensor:
        """See `Host`."""
        devices = import_module("modules.devices")
        if getattr(p.sd_model, "is_sdxl", False):  # its way samples and scales
            with taking_the_mode(p.sd_model.first_stage_model):
                return p.sd_model.encode_first_stage(picture.to(devices.dtype_vae)) / p.sd_model.scale_factor
        return p.sd_model.encode_first_stage(devices.cond_cast_float(picture)).mode()

    def guide(self, p: Processing, job: HostJob, negative: object) -> None:
        """See `Host`."""
        denoiser = p.sampler.model_wrap_cfg
        if denoiser.mask_before_denoising and job.finisher.works_on_denoised:
            raise UserError("Keep the rest and APG do not work with this sampler here: choose Euler a, for example.")
        show_latents(p, job.on_model)
        if job.sdxl is not None:
            _show_picture(p, job, job.sdxl)
        before = vars(denoiser).get("instruct_pix2pix")  # of the last batch, which had the same sampler
        denoiser.instruct_pix2pix = _Guide(job, denoiser, before.host_combine if before else denoiser.combine_denoised)
        if before is None:
            denoiser.__class__ = _guided(type(denoiser))


def know_sdxl(configs: Any) -> Callable[[], None]:
    """Let an SDXL file of 8 channels be loaded as such, until what is returned is called.

    `configs` is the host's module `sd_models_config`, which gives every SDXL file but those of 9 channels the config
    for 4. A yaml beside a file goes before, as ever.
    """
    guess = configs.guess_model_config_from_state_dict

    def guess_model_config_from_state_dict(state: Mapping[str, Any], filename: str) -> str:
        config = guess(state, filename)
        if config == configs.config_sdxl and state[FIRST].shape[1] == EDIT_CHANNELS:
            return str(SDXL_CONFIG)
        return config

    def take_off() -> None:
        if configs.guess_model_config_from_state_dict is guess_model_config_from_state_dict:
            configs.guess_model_config_from_state_dict = guess

    configs.guess_model_config_from_state_dict = guess_model_config_from_state_dict
    return take_off


def _show_picture(p: Processing, job: HostJob, sdxl: SDXL) -> None:
    """Let the host's SDXL model see the picture, which it leaves out, and know CosXL's levels."""
    model, levels = p.sd_model, sdxl.levels
    apply = model.apply_model

    def see(x: Tensor, t: Tensor, cond: Mapping[str, Any]) -> Tensor:
        """x [N, 4, h, w] of variance 1 -> what the network predicts."""
        return apply(torch.cat([x, *cond["c_concat"]], dim=1), t, cond)

    if levels is None:
        job.on_model.enter_context(swapped(model, "apply_model", see))
        return

    def noise(x: Tensor, t: Tensor, cond: Mapping[str, Any]) -> Tensor:
        """x [N, 4, h, w] of variance 1 -> the noise in it, for the samplers that take steps in time."""
        sigma = levels.sigma(t).view(-1, 1, 1, 1)
        return (see(x, levels.time(t), cond) + sigma * x) / (sigma**2 + 1).sqrt()

    def denoise(x: Tensor, sigma: Tensor, cond: Mapping[str, Any]) -> Tensor:
        """x [N, 4, h, w] at sigma [N] -> denoised; the same as from `noise`, of which float32 loses digits."""
        level = sigma.view(-1, 1, 1, 1)
        seen = see(x / (level**2 + 1).sqrt(), levels.time(levels.place(sigma)), cond)
        return x / (level**2 + 1) - seen * (level / (level**2 + 1).sqrt())

    sigmas = levels.sigmas().to(model.alphas_cumprod)
    job.on_model.enter_context(swapped(model, "apply_model", noise))
    job.on_model.enter_context(swapped(model, "alphas_cumprod", 1 / (sigmas**2 + 1)))
    wrap = remake_levels(p, levels)
    if has_table(wrap):
        wrap.forward = denoise


def on_denoiser(params: Any) -> None:
    """The callback of every step of every job; does nothing in a job that is not ours."""
    guide = getattr(params.denoiser, "instruct_pix2pix", None)
    if guide is not None:
        guide.prepare(params)


def _guided(kind: type) -> type:
    """Return a class of denoisers whose `combine_denoised` is our guide's, even when an extension puts its own there.

    Some do so at every step, after our callback. What they put is called by ours, for the text's guidance.
    """

    def get(denoiser: CFGDenoiser) -> Combine:
        return denoiser.instruct_pix2pix.combine

    def put(denoiser: CFGDenoiser, function: Combine) -> None:
        ours = isinstance(getattr(function, "__self__", None), _Guide)  # which it found there, and puts back
        denoiser.instruct_pix2pix.others_combine = None if ours else function

    return type(kind.__name__, (kind,), {"combine_denoised": property(get, put)})


@dataclass(frozen=True)
class _GuidedStep:
    """A step whose rows are ours: what the denoiser evaluates, and what each row weighs."""

    x: Tensor
    """[B, 4, h, w]"""
    rows: Sequence[Sequence[Row]]
    """Of each picture, with the paper's weights."""
    has_image_only: bool
    """Whether the row 'image only' is evaluated, be its weight zero or not."""
    now: SamplingStep | None
    """None where no guidance is cached, or the full row is the only one."""
    cached: bool
    """Whether an earlier step's guidance is used: only the rows of the sub-prompts are evaluated."""


class _Guide:
    """The dual guidance of one sampling."""

    def __init__(self, job: HostJob, denoiser: CFGDenoiser, host_combine: Combine) -> None:
        self.job, self.denoiser, self.host_combine = job, denoiser, host_combine
        self.others_combine: Combine | None = None
        """What another extension has put in place of `combine` since."""
        self.others_run = False
        self.cache = job.cached_guidance()
        self.prepared: int | None = None
        """The number of the step that `prepare` was called for."""
        self.step: _GuidedStep | None = None
        self.error: Exception | None = None

    def prepare(self, params: CFGDenoiserParams) -> None:
        """Give the step its rows. The host swallows what a callback raises, so `combine` raises it again."""
        self.prepared = self.denoiser.step
        try:
            params.image_cond = fitting(params.image_cond, params.x)  # some samplers sample at other sizes in between
            if self._host_skips(params.sigma):
                # The host will drop the negative rows of x and sigma, and forget those of the picture.
                self.step = None
                params.image_cond = params.image_cond[: -len(self.denoiser.init_latent)]
            else:
                self.step = self._arrange(params)
        except Exception as error:
            self.error = error

    def _arrange(self, params: CFGDenoiserParams) -> _GuidedStep:
        """Ask `rows` for each picture, and leave in `params` what a picture of the batch needs."""
        batch = len(self.denoiser.init_latent)
        count = len(params.x) - batch  # rows of sub-prompts
        x = params.x[-batch:]
        scales = Scales(self.denoiser.p.cfg_scale * self.denoiser.cond_scale_miltiplier, self.job.image_cfg)
        prompts = self.denoiser.sampler.sampler_extra_args["cond"].batch
        formula = self.job.controls.guidance
        needed = [rows(scales, [part.weight for part in parts], formula=formula) for parts in prompts]
        others = [row for one in needed for row in one if row.prompt is None or not row.image]
        now = self._now(params, scales) if self.cache and others else None
        cached = bool(self.cache and now and self.cache.serves(now, x.shape))
        looked_at = self.job.finisher.looks_at_image_only(self.denoiser.step, self.denoiser.total_steps)
        image_only = not cached and (looked_at or self._is_replaced() or any(row.image for row in others))
        without = not cached and any(not row.image for row in others)
        full, negative = _same_length(params.text_cond, params.text_uncond)
        if self.job.sdxl is not None:
            firsts = [0, *accumulate(map(len, prompts))][:-1]  # the first sub-prompt of each picture
            texts = self.denoiser.p.negative_prompts
            row = self.job.sdxl.negative_row(negative, full["vector"][firsts], texts)
            negative = _mapping(negative, row)
        said = (full, params.x[:count], params.sigma[:count], params.image_cond[:count])
        unsaid = (negative, x, params.sigma[-batch:], params.image_cond[-batch:])
        *blind, seen = said if formula == "instruct-diffusion" else unsaid
        kinds = [said, *[unsaid] * image_only, *[(*blind, torch.zeros_like(seen))] * without]
        conds, *tensors = zip(*kinds, strict=True)
        params.x, params.sigma, params.image_cond = map(torch.cat, tensors)
        # The denoiser takes its 'last' rows, one for each picture, by the length of text_uncond.
        text, end = _cat(conds), count if len(kinds) == 1 else -batch
        params.text_cond, params.text_uncond = _part(text, slice(end)), _part(text, slice(end, None))
        return _GuidedStep(x, needed, image_only, now, cached)

    def combine(self, x_out: Tensor, prompts: SubPrompts, uncond: object, cond_scale: float) -> Tensor:
        """Return the guided [B, 4, h, w] of the rows x_out: denoised latents, or noise with some samplers.

        In place of the host's `U + s (C - U)`: for each picture the paper's sum, `row.weight * x_out[index]`.
        """
        if self.others_run:  # and call what they found in place of the host's
            return self.host_combine(x_out, prompts, uncond, cond_scale)
        if self.error is not None:
            raise self.error
        if self.prepared != self.denoiser.step:  # the host forgets its callbacks while it reloads its UI
            raise UserError("The web GUI was reloaded during this edit: start it again.")
        step = self.step
        if step is None:
            return self.host_combine(x_out, prompts, uncond, cond_scale)
        own = torch.stack([x_out[[index for index, _ in parts]].mean(dim=0) for parts in prompts])
        sigma = 1.0 if self.denoiser.mask_before_denoising or step.now is None else step.now.level
        if self.cache and step.cached:
            return self._finished(step.x, self.cache.guided(own, sigma), own, None)
        if step.has_image_only and self._is_replaced():
            guided = self._combine_by_host(x_out, prompts, step.rows, uncond, cond_scale)
        else:
            guided = _combine(x_out, prompts, step.rows)
        if self.cache and step.now:
            self.cache.keep(step.now, guided, own, sigma)
        count = sum(len(parts) for parts in prompts)
        return self._finished(
            step.x, guided, own, x_out[count : count + len(prompts)] if step.has_image_only else None
        )

    def _is_replaced(self) -> bool:
        """Whether the host's way of adding up the rows is another extension's now; it is kept for the text."""
        combine = self.others_combine or self.host_combine
        return combine.__module__ != type(self.denoiser).forward.__module__

    def _combine_by_host(
        self, x_out: Tensor, prompts: SubPrompts, needed: Sequence[Sequence[Row]], uncond: object, cond_scale: float
    ) -> Tensor:
        """Return the same sum in two parts: text guidance by the function that is there, then the picture's.

        The first is the host's plain CFG, `i + s_T sum of w_k (c_k - i)`: what it lacks is the second.
        """
        plain = [rows(Scales(cond_scale, 1.0), [weight for _, weight in parts]) for parts in prompts]
        end = sum(len(parts) for parts in prompts) + len(prompts)
        self.others_run = True
        try:
            text = (self.others_combine or self.host_combine)(x_out[:end], prompts, uncond, cond_scale)
        finally:
            self.others_run = False
        return text + (_combine(x_out, prompts, needed) - _combine(x_out[:end], prompts, plain))

    def _finished(self, x: Tensor, guided: Tensor, own: Tensor, image_only: Tensor | None) -> Tensor:
        finisher, denoiser = self.job.finisher, self.denoiser
        if denoiser.mask_before_denoising:  # the rows are noise
            amount = self.job.controls.rescale
            return rescale_noise(guided, own, amount) if amount else guided
        scale = denoiser.p.cfg_scale * denoiser.cond_scale_miltiplier
        return finisher(x, guided, own, image_only, text_cfg=scale, step=denoiser.step, steps=denoiser.total_steps)

    def _now(self, params: CFGDenoiserParams, scales: Scales) -> SamplingStep:
        """Return the place of this step in the sampling, as the host counts."""
        texts = (*_tensors(params.text_cond), *_tensors(params.text_uncond))
        level, step = float(params.sigma.flatten()[0]), self.denoiser.step
        return SamplingStep(step, self.denoiser.total_steps, level, (scales.text, scales.image), texts)

    def _host_skips(self, sigma: Tensor) -> bool:
        """Whether the host leaves CFG out of this step: its 'early' option, or 'negative guidance minimum sigma'."""
        options, denoiser = import_module("modules.shared").opts, self.denoiser
        early = options.skip_early_cond
        if early != 0 and denoiser.step / denoiser.total_steps <= early:
            return True
        least = denoiser.sampler.sampler_extra_args["s_min_uncond"]
        return bool((denoiser.step % 2 or options.s_min_uncond_all) and least > 0 and sigma[0] < least)


def _combine(x_out: Tensor, prompts: SubPrompts, needed: Sequence[Sequence[Row]]) -> Tensor:
    """Return for each picture the sum of its rows by their weights; x_out is in the order of `_Guide._arrange`."""
    count, batch = sum(len(parts) for parts in prompts), len(prompts)

    def index(picture: int, row: Row) -> int:
        if row.prompt is not None:
            return prompts[picture][row.prompt][0] + (0 if row.image else len(x_out) - count)
        return picture + (count if row.image else len(x_out) - batch)

    return torch.stack(
        [
            sum((row.weight * x_out[index(i, row)] for row in one), torch.zeros_like(x_out[0]))
            for i, one in enumerate(needed)
        ]
    )


def _same_length(full: Any, negative: Any) -> tuple[Any, Any]:
    """Repeat the shorter of two conditionings, tensors [N, T, C] or SDXL's mappings, to one length."""
    if isinstance(full, Mapping):
        a, b = marked_same_length([full["crossattn"], negative["crossattn"]])
        return _mapping(full, {**full, "crossattn": a}), _mapping(negative, {**negative, "crossattn": b})
    a, b = marked_same_length([full, negative])
    return a, b


def _tensors(conditioning: Any) -> tuple[Tensor, ...]:
    return tuple(conditioning.values()) if isinstance(conditioning, Mapping) else (conditioning,)


def _cat(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], Mapping):
        return _mapping(parts[0], {key: torch.cat([part[key] for part in parts]) for key in parts[0]})
    return torch.cat(list(parts))


def _part(whole: Any, rows: slice) -> Any:
    """Return some rows of a conditioning."""
    if isinstance(whole, Mapping):
        return _mapping(whole, {key: value[rows] for key, value in whole.items()})
    return whole[rows]


def _mapping(like: Any, values: Mapping[str, Tensor]) -> Any:
    """Return the values in the host's own kind of mapping, which has a shape."""
    return type(like)(values)
