"""Hosts with AUTOMATIC1111's own CFGDenoiser.

Its plain two-row way is used also for edit models (their own way breaks on AND and on prompts of unequal length).
Before each step the callback of the denoiser gets the rows that the dual guidance needs, in an order that the rest
of the denoiser copes with: sub-prompts, image only, null. Afterwards the rows are weighed by `combine`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from ..guidance.cached import SamplingStep
from ..guidance.rows import Scales, rescale_noise, rows, same_length
from .job import HostJob, fitting

Weights = Sequence[Sequence[tuple[int, float]]]
"""For each picture of a batch, (row, weight) of its sub-prompts."""


class A1111Host:
    """AUTOMATIC1111."""

    name = "AUTOMATIC1111"

    def input_channels(self, p: Any) -> int | None:
        """See `Host`."""
        network = getattr(getattr(p.sd_model, "model", None), "diffusion_model", None)
        blocks = getattr(network, "input_blocks", None)
        return None if blocks is None else int(blocks[0][0].weight.shape[1])

    def encode(self, p: Any, picture: Tensor) -> Tensor:
        """See `Host`."""
        picture = import_module("modules.devices").cond_cast_float(picture)
        return p.sd_model.encode_first_stage(picture).mode()

    def guide(self, p: Any, job: HostJob, negative: Any) -> None:
        """See `Host`."""
        denoiser = p.sampler.model_wrap_cfg
        denoiser.instruct_pix2pix = guide = _Guide(job, denoiser)
        denoiser.combine_denoised = guide.combine


def on_denoiser(params: Any) -> None:
    """The callback of every step of every job; does nothing where no job of ours put its guide."""
    guide = getattr(params.denoiser, "instruct_pix2pix", None)
    if guide is not None:
        guide.prepare(params)


class _Guide:
    """The dual guidance of one sampling."""

    def __init__(self, job: HostJob, denoiser: Any) -> None:
        self.job, self.denoiser = job, denoiser
        self.host_combine = denoiser.combine_denoised
        self.error: Exception | None = None
        self.skipped = False
        self.x = torch.empty(0)
        self.present = (True, True)
        self.pull = job.pull()
        self.now: SamplingStep | None = None
        self.serves = False

    def prepare(self, params: Any) -> None:
        """Give the step its rows. The host swallows what a callback raises, so `combine` raises it again."""
        try:
            params.image_cond = fitting(params.image_cond, params.x)  # some samplers sample at other sizes in between
            self.skipped = self._host_skips(params.sigma)
            if self.skipped:  # the host will drop the negative rows of x and sigma, and forget those of the picture
                params.image_cond = params.image_cond[: -len(self.denoiser.init_latent)]
            else:
                self._arrange(params)
        except Exception as error:
            self.error = error

    def _arrange(self, params: Any) -> None:
        batch = len(self.denoiser.init_latent)
        count = len(params.x) - batch  # rows of sub-prompts
        self.x = params.x[-batch:]
        scales = Scales(self._text_cfg(), self.job.image_cfg)
        conds = self.denoiser.sampler.sampler_extra_args["cond"].batch
        weights = [[part.weight for part in parts] for parts in conds]
        needed = [row for one in weights for row in rows(scales, one) if row.prompt is None]
        image_only, null = any(row.image for row in needed), any(not row.image for row in needed)
        self.serves = False
        if self.pull is not None and needed:
            self.now = self._moment(params, scales)
            self.serves = self.pull.serves(self.now, self.x.shape)
        if self.serves:
            image_only = null = False
        self.present = (image_only, null)
        picture = params.image_cond[-batch:]
        pictures = [picture] * image_only + [torch.zeros_like(picture)] * null
        params.x = torch.cat([params.x[:count], *[self.x] * len(pictures)])
        params.sigma = torch.cat([params.sigma[:count], *[params.sigma[-batch:]] * len(pictures)])
        params.image_cond = torch.cat([params.image_cond[:count], *pictures])
        full, negative = _same_length(params.text_cond, params.text_uncond)
        # The denoiser takes its 'last' rows by the length of text_uncond.
        params.text_cond = _cat([full, negative]) if image_only and null else full
        params.text_uncond = negative if image_only or null else _rows(negative, 0)

    def combine(self, x_out: Tensor, conds_list: Weights, uncond: Any, cond_scale: float) -> Tensor:
        """Return the guided [B, 4, h, w] of the rows x_out; they are denoised latents, or noise with some samplers."""
        if self.error is not None:
            raise self.error
        if self.skipped:
            return self.host_combine(x_out, conds_list, uncond, cond_scale)
        batch = len(conds_list)
        count = sum(len(one) for one in conds_list)
        image_only, null = self.present
        last = x_out[count:]
        seen = last[:batch] if image_only else None
        unseen = last[-batch:] if null else None
        own = torch.stack([x_out[[k for k, _ in prompts]].mean(dim=0) for prompts in conds_list])
        noise = self.denoiser.mask_before_denoising  # the samplers that work in timesteps predict noise
        sigma = 1.0 if noise or self.now is None else self.now.level
        if self.pull is not None and self.serves:
            return self._rescaled(self.pull.guided(own, sigma), own)
        guided = []
        for i, prompts in enumerate(conds_list):
            full = [weight * cond_scale for _, weight in prompts]
            one = sum((x_out[k] * w for (k, _), w in zip(prompts, full, strict=True)), torch.zeros_like(x_out[0]))
            if seen is not None:
                one = one + seen[i] * (self.job.image_cfg - sum(full))
            if unseen is not None:
                one = one + unseen[i] * (1 - self.job.image_cfg)
            guided.append(one)
        denoised = torch.stack(guided)
        if self.pull is not None and self.now is not None and (image_only or null):
            self.pull.keep(self.now, denoised, own, sigma)
        return self._rescaled(denoised, own)

    def _rescaled(self, guided: Tensor, own: Tensor) -> Tensor:
        amount = self.job.controls.rescale
        if not amount:
            return guided
        if self.denoiser.mask_before_denoising:
            return rescale_noise(guided, own, amount)
        return self.x - rescale_noise(self.x - guided, self.x - own, amount)

    def _moment(self, params: Any, scales: Scales) -> SamplingStep:
        """The place of this call among those of the sampling, as the host counts them."""
        texts = (*_tensors(params.text_cond), *_tensors(params.text_uncond))
        level, step = float(params.sigma.flatten()[0]), self.denoiser.step
        return SamplingStep(step, self.denoiser.total_steps, level, (scales.text, scales.image), texts)

    def _text_cfg(self) -> float:
        return self.denoiser.p.cfg_scale * self.denoiser.cond_scale_miltiplier

    def _host_skips(self, sigma: Tensor) -> bool:
        """Whether the host leaves CFG out of this step: its 'early' option, or 'negative guidance minimum sigma'."""
        options, denoiser = import_module("modules.shared").opts, self.denoiser
        early = options.skip_early_cond
        if early != 0 and denoiser.step / denoiser.total_steps <= early:
            return True
        least = denoiser.sampler.sampler_extra_args["s_min_uncond"]
        return bool((denoiser.step % 2 or options.s_min_uncond_all) and least > 0 and sigma[0] < least)


def _same_length(full: Any, negative: Any) -> tuple[Any, Any]:
    """Repeat the shorter of two conditionings, tensors [N, T, C] or SDXL's mappings, to one length."""
    if isinstance(full, Mapping):
        a, b = same_length([full["crossattn"], negative["crossattn"]])
        return _mapping(full, {**full, "crossattn": a}), _mapping(negative, {**negative, "crossattn": b})
    a, b = same_length([full, negative])
    return a, b


def _tensors(conditioning: Any) -> tuple[Tensor, ...]:
    return tuple(conditioning.values()) if isinstance(conditioning, Mapping) else (conditioning,)


def _cat(parts: Sequence[Any]) -> Any:
    if isinstance(parts[0], Mapping):
        return _mapping(parts[0], {key: torch.cat([part[key] for part in parts]) for key in parts[0]})
    return torch.cat(list(parts))


def _rows(conditioning: Any, count: int) -> Any:
    if isinstance(conditioning, Mapping):
        return _mapping(conditioning, {key: value[:count] for key, value in conditioning.items()})
    return conditioning[:count]


def _mapping(like: Any, values: Mapping[str, Tensor]) -> Any:
    """Return the values in the host's own kind of mapping, which has a shape."""
    return type(like)(values)
