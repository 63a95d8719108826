"""Hosts whose UNet is patched for each job: Forge, reForge and Forge Classic.

Their CFG is `U + s (C - U)`, where C and U are weighted means of any number of conditions. So the rows of the dual
guidance need no code of their own in a step: 'image only' and 'null' become two unconditional conditions whose
weighted mean is U, and the host evaluates all rows in one batch, with every patch of other extensions in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import wraps
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import UserError
from ..guidance.cached import CachedGuidance, SamplingStep
from ..guidance.rows import Scales, rows
from .finish import StepFinisher
from .job import HostJob, fitting
from .posterior import taking_the_mode
from .processing import CFGDenoiserParams, Processing
from .sdxl import SDXL, Levels, remake_levels, swapped

Condition = dict[str, Any]
"""A row in the host's terms: its `strength`, and `model_conds` with a text, c_crossattn, and a picture, c_concat."""


class UnetPatcher(Protocol):
    """The host's UNet with what was added to it for one sampling."""

    def clone(self) -> UnetPatcher:
        """Return one that can be added to by itself."""
        ...

    def add_conditioning_modifier(self, modifier: Callable[..., tuple[Any, ...]]) -> None:
        """Let `modifier` replace the arguments of CFG in each step."""
        ...

    def set_model_sampler_post_cfg_function(self, function: Callable[[dict[str, Any]], Tensor]) -> None:
        """Let `function` replace the result of CFG in each step."""
        ...


class ForgeHost:
    """Forge and its relatives."""

    name = "Forge"

    def input_channels(self, p: Processing) -> int | None:
        """See `Host`."""
        unet = getattr(getattr(p.sd_model, "forge_objects", None), "unet", None)
        blocks = getattr(getattr(getattr(unet, "model", None), "diffusion_model", None), "input_blocks", None)
        return None if blocks is None else int(blocks[0][0].weight.shape[1])

    def encode(self, p: Processing, picture: Tensor) -> Tensor:
        """See `Host`. The host's own way samples from the posterior, or scales, or both."""
        vae = p.sd_model.forge_objects.vae
        with taking_the_mode(vae.first_stage_model):
            return vae.encode(picture.movedim(1, -1) * 0.5 + 0.5)

    def guide(self, p: Processing, job: HostJob, negative: object) -> None:
        """See `Host`."""
        if negative is None:  # Forge encodes no negative prompt at CFG 1
            negative = _encode_negative(p)
        if job.sdxl is not None and job.sdxl.levels is not None:
            _set_levels(p, job, job.sdxl.levels)
        # the model that is sampled: p.sd_model is another where a checkpoint was chosen on the page since the job began
        parts = p.sampler.model_wrap.inner_model.forge_objects
        unet: UnetPatcher = parts.unet.clone()
        cached = _CachedStep(p, cache) if (cache := job.cached_guidance()) else None
        unet.add_conditioning_modifier(_modifier(p, job, negative, cached))
        if cached is not None:
            unet.set_model_sampler_post_cfg_function(cached.finisher())
        if job.finisher.has_work:
            unet.set_model_sampler_post_cfg_function(_finisher(p, job.finisher, cached))
        job.on_model.enter_context(swapped(parts, "unet", unet))
        p.sampler.model_wrap_cfg.instruct_pix2pix = _Sizes()


def _set_levels(p: Processing, job: HostJob, levels: Levels) -> None:
    """Let the host's model predict v at CosXL's levels, and its samplers take steps between them."""
    model = p.sd_model.forge_objects.unet.model
    sigmas = levels.sigmas()
    if hasattr(model, "predictor"):
        predictor = deepcopy(model.predictor)
        predictor.prediction_type = "v_prediction"
        predictor.set_sigmas(sigmas.to(predictor.sigmas.device))
        predictor.timestep = levels.place  # not a whole number

        def tell(_: torch.nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            x, place, *others = args
            return x, levels.time(place), *others

        job.on_model.enter_context(swapped(model, "predictor", predictor))
        job.on_model.callback(model.diffusion_model.register_forward_pre_hook(tell).remove)
    elif not math.isclose(float(model.model_sampling.sigma_max), levels.high, rel_tol=1e-3):
        raise UserError("This web GUI does not know the noise levels of CosXL: edit with another checkpoint here.")
    # reForge's model knows them, its samplers do not
    job.on_model.enter_context(swapped(p.sd_model, "alphas_cumprod", 1 / (sigmas**2 + 1)))
    remake_levels(p, levels)


class _Sizes:
    """Fits the picture to the latent before a step: some samplers take steps at another size in between."""

    def prepare(self, params: CFGDenoiserParams) -> None:
        """See `a1111.on_denoiser`."""
        params.image_cond = fitting(params.image_cond, params.x)


def pass_errors_on(main_thread: Any) -> Callable[[], None]:
    """Let the error that ends a job reach the page that asked for it, until what is returned is called.

    `main_thread` is the host's module, or None.

    reForge and Forge Classic run jobs in a thread of their own, which prints an exception and returns None: the page
    then shows a TypeError. Forge passes the exception on by itself.
    """
    wait = getattr(main_thread, "run_and_wait_result", None)
    if wait is None or hasattr(main_thread, "last_exception") or hasattr(wait, "instruct_pix2pix"):
        return lambda: None

    def run_and_wait_result(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        raised: list[Exception] = []

        @wraps(function)
        def task(*args: Any, **kwargs: Any) -> Any:
            try:
                return function(*args, **kwargs)
            except Exception as error:
                raised.append(error)
                raise

        result = wait(task, *args, **kwargs)
        if raised:
            raise raised[0]
        return result

    def take_off() -> None:
        if main_thread.run_and_wait_result is run_and_wait_result:  # or another extension has put its own before it
            main_thread.run_and_wait_result = wait

    vars(run_and_wait_result)["instruct_pix2pix"] = True
    main_thread.run_and_wait_result = run_and_wait_result
    return take_off


def combine(
    cond: list[Condition], image_only: list[Condition], scales: Scales, formula: str = "instruct-pix2pix"
) -> tuple[list[Condition], list[Condition] | None, float]:
    """Return the dual guidance of a step in the host's terms: conditions, unconditional conditions, CFG scale.

    `cond` has one condition for each sub-prompt, `image_only` those of the negative prompt; all see the picture.

    The host computes `s e C + (1 - s e) U`: s the CFG scale, e the sum of the strengths of the conditions, C and U the
    means of their rows by strength. With s = s_T a full row gets the strength weight / s_T, so that `s e C` is the sum
    of the full rows by their weights. All weights add up to 1, so those of the other rows add up to 1 - s e, and U has
    to be the mean of these rows: each gets the strength weight / (1 - s e).
    """
    said: list[Condition] = []
    rest: list[Condition] = []
    total = math.fsum(map(_strength, image_only))
    unsaid = [{**one, "strength": _strength(one) / total} for one in image_only]
    for row in rows(scales, list(map(_strength, cond)), formula=formula):
        texts = unsaid if row.prompt is None else [{**cond[row.prompt], "strength": 1.0}]
        seen = texts if row.image else [_without_picture(one) for one in texts]
        to = rest if row.prompt is None or not row.image else said
        to += [{**one, "strength": row.weight * one["strength"]} for one in seen]
    full = math.fsum(one["strength"] for one in said)
    if scales.text == 0.0 or full == 0.0 or math.isclose(scales.text, 1.0) or math.isclose(full, 1.0):
        # Here the host drops U, or U's weight is zero: all rows as one weighted mean instead, C at scale 1.
        return [*said, *rest], None, 1.0
    shares = [{**one, "strength": one["strength"] / scales.text} for one in said]
    return shares, [{**one, "strength": one["strength"] / (1.0 - full)} for one in rest], scales.text


def _strength(condition: Condition) -> float:
    return condition.get("strength", 1.0)


def _without_picture(condition: Condition) -> Condition:
    picture = condition["model_conds"]["c_concat"]
    nothing = type(picture)(torch.zeros_like(picture.cond))
    return {**condition, "model_conds": {**condition["model_conds"], "c_concat": nothing}}


class _CachedStep:
    """The cached guidance in a host's step: rows are left out before it, and what they gave is added after it."""

    def __init__(self, p: Processing, cache: CachedGuidance) -> None:
        self._p, self._cache = p, cache
        self._now: SamplingStep | None = None
        self._serves = False

    def shorten(
        self, x: Tensor, sigma: Tensor, cond: list[Condition], uncond: list[Condition] | None, scales: Scales
    ) -> list[Condition] | None:
        """Return the only conditions of a step that uses the cache, or None for a step that evaluates all of them.

        `uncond` is None where all rows are in one mean, or there is only one: then there is nothing to keep.
        """
        self._now, self._serves = None, False
        if uncond is None:
            return None
        denoiser = self._p.sampler.model_wrap_cfg
        texts = tuple(one["model_conds"]["c_crossattn"].cond for one in (*cond, *uncond))
        level = float(sigma.flatten()[0])
        strengths = tuple(_strength(one) for one in (*cond, *uncond))
        asked = (scales.text, scales.image, *strengths)
        self._now = SamplingStep(denoiser.step, denoiser.total_steps, level, asked, texts)
        self._serves = self._cache.serves(self._now, x.shape)
        if not self._serves:
            return None
        total = math.fsum(map(_strength, cond))
        return [{**one, "strength": _strength(one) / total} for one in cond]

    @property
    def serves_now(self) -> bool:
        """Whether the step at hand uses the cache."""
        return self._serves

    def finisher(self) -> Callable[[dict[str, Any]], Tensor]:
        """Return what the host calls with the step's result."""

        def finish(args: dict[str, Any]) -> Tensor:
            if self._now is None:
                return args["denoised"]
            if self._serves:
                return self._cache.guided(args["cond_denoised"], self._now.level)
            self._cache.keep(self._now, args["denoised"], args["cond_denoised"], self._now.level)
            return args["denoised"]

        return finish


def _modifier(p: Processing, job: HostJob, negative: Any, cached: _CachedStep | None) -> Callable[..., tuple[Any, ...]]:
    # A function, not a method: patchers copy what they carry, and would copy an object whole.
    def modifier(
        model: object,
        x: Tensor,
        timestep: Tensor,
        uncond: list[Condition] | None,
        cond: list[Condition],
        cond_scale: float,
        model_options: object,
        seed: object,
    ) -> tuple[Any, ...]:
        if "c_concat" not in cond[0]["model_conds"]:
            raise UserError("The picture and the latent have different sizes: choose 'Just resize' and try again.")
        scales = Scales(cond_scale, job.image_cfg)
        if cond_scale == 1.0 != p.cfg_scale:  # the host leaves CFG out of this step
            scales = Scales(p.cfg_scale, job.image_cfg) if _is_unasked(p, timestep) else Scales(1.0, 1.0)
        if uncond is None:
            uncond = [_like(cond[0], negative, p.sampler.model_wrap_cfg.step)]
        if job.sdxl is not None:
            uncond = [_without_text(one, cond[0], job.sdxl, p.negative_prompts) for one in uncond]
        cond, uncond, cond_scale = combine(cond, uncond, scales, job.controls.guidance)
        if cached is not None and (shorter := cached.shorten(x, timestep, cond, uncond, scales)) is not None:
            cond, uncond, cond_scale = shorter, None, 1.0
        return model, x, timestep, uncond, cond, cond_scale, model_options, seed

    return modifier


def _without_text(condition: Condition, full: Condition, sdxl: SDXL, texts: Sequence[str]) -> Condition:
    """Return an SDXL model's condition of the negative prompts as `SDXL.negative_row` has it."""
    model_conds = condition["model_conds"]
    said, label = model_conds["c_crossattn"], model_conds["y"]
    own = {"crossattn": said.cond, "vector": label.cond}
    row = sdxl.negative_row(own, full["model_conds"]["y"].cond, texts)
    made = {"c_crossattn": type(said)(row["crossattn"]), "y": type(label)(row["vector"])}
    return {**condition, "model_conds": {**model_conds, **made}}


def _is_unasked(p: Processing, sigma: Tensor) -> bool:
    """Whether a step without CFG is Forge Classic's first, which it leaves out even when nobody asked for that."""
    options = import_module("modules.shared").opts
    return options.skip_early_cond == 0 and not float(sigma[0]) < p.sampler.s_min_uncond


def _finisher(
    p: Processing, finisher: StepFinisher, cached: _CachedStep | None
) -> Callable[[dict[str, Any]], Tensor]:
    def finish(args: dict[str, Any]) -> Tensor:
        """The weighted mean of the other rows stands for the image-only row, most of which it is."""
        denoiser, rest = p.sampler.model_wrap_cfg, args.get("uncond_denoised")
        full, guided = args["cond_denoised"], args["denoised"]
        if not isinstance(rest, Tensor) or rest.shape != full.shape or (cached is not None and cached.serves_now):
            rest = None  # the step evaluated the full row alone
        return finisher(
            args["input"], guided, full, rest, text_cfg=p.cfg_scale, step=denoiser.step, steps=denoiser.total_steps
        )

    return finish


def _encode_negative(p: Processing) -> Any:
    asked, p.cfg_scale = p.cfg_scale, 7.0  # any scale but 1
    try:
        p.setup_conds()
        return p.uc
    finally:
        p.cfg_scale = asked


def _like(condition: Condition, negative: Any, step: int) -> Condition:
    """Return the negative prompt of a step as a condition with the picture and the controls of another."""
    text = import_module("modules.prompt_parser").reconstruct_cond_batch(negative, step)
    compiled = import_module("backend.sampling.condition").compile_conditions(text)[0]
    kept = {"c_concat": condition["model_conds"]["c_concat"]}
    return {**condition, **compiled, "strength": 1.0, "model_conds": {**compiled["model_conds"], **kept}}
