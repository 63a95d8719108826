"""Stand-ins for host web GUIs: what the extension meets in a host, around the demo model.

Each takes from its host only what the hooks touch: the order of events of one img2img job, and how CFG is computed.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.hosts import a1111, job
from instruct_pix2pix.hosts.a1111 import A1111Host
from instruct_pix2pix.hosts.forge import ForgeHost
from instruct_pix2pix.hosts.job import Host

STEPS = 4


@contextmanager
def modules(**parts: dict[str, Any]) -> Iterator[dict[str, ModuleType]]:
    """Let `import modules.x` find modules with these members, as in a host, for as long as the context lasts."""
    made = {}
    for name, members in parts.items():
        made[f"modules.{name}"] = one = ModuleType(f"modules.{name}")
        vars(one).update(members)
    before = {name: sys.modules.get(name) for name in made}
    sys.modules.update(made)
    try:
        yield made
    finally:
        for name, old in before.items():
            if old is None:
                del sys.modules[name]
            else:
                sys.modules[name] = old


def steps_of(p: P, steps: int | None) -> tuple[int, int]:
    """The hosts' rule: how many steps there are, and how many of them an img2img job takes, less one."""
    return p.steps, int(min(p.denoising_strength, 0.999) * p.steps)


@dataclass
class P:
    """A host's processing object, `hosts.processing.Processing`."""

    sd_model: Any
    parts: list[list[tuple[Tensor, float]]]
    """For each picture of the batch, the embedding [1, T, C] and the weight of each part of its AND."""
    negative: Tensor
    cfg_scale: float = 7.5
    image_cfg_scale: float | None = None
    denoising_strength: float = 0.75
    steps: int = STEPS
    s_min_uncond: float = 0.0
    init_images: list[Any] = field(default_factory=list)
    image_mask: Any = None
    nmask: Tensor | None = None
    inpainting_fill: int = 0
    refiner_checkpoint: str | None = None
    refiner_checkpoint_info: Any = None
    refiner_switch_at: float | None = None
    seeds: list[int] = field(default_factory=lambda: [1])
    prompts: list[str] = field(default_factory=lambda: ["make it winter"])
    negative_prompts: list[str] = field(default_factory=lambda: [""])
    uc: Any = None
    extra_generation_params: dict[str, Any] = field(default_factory=dict)
    comments: list[str] = field(default_factory=list)
    script_args: Sequence[Any] = ()
    sampler: Any = None

    def comment(self, text: str) -> None:
        self.comments.append(text)

    def setup_conds(self) -> None:
        """Only Forge's is called."""

    def init(self, *args: Any, **kwargs: Any) -> None:
        """Where a job that was stopped raises its error."""

    def sample(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError

    def img2img_image_conditioning(self, source: Tensor, latent: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Three of four hosts condition an 8-channel model wrongly by themselves."""
        return torch.full_like(latent, float("nan"))


def evaluate(model: EditModel, x: Tensor, sigma: Tensor, text: Tensor, picture: Tensor) -> Tensor:
    """Evaluate rows, each with its own latent, text and picture."""
    return model(x, sigma, model.condition(text), picture)


class Shape:
    """A host with one model, and the options that matter here."""

    adapter: Host

    def __init__(self, model: EditModel) -> None:
        self.model = model
        self.opts = SimpleNamespace(skip_early_cond=0.0, s_min_uncond_all=False)
        self.rows: list[int] = []
        """Rows that the UNet evaluated, one number for each call."""
        self.sigmas = torch.tensor([14.6, 5.0, 1.5, 0.4, 0.0])

    def evaluate(self, x: Tensor, sigma: Tensor, text: Tensor, picture: Tensor) -> Tensor:
        self.rows.append(len(x))
        return evaluate(self.model, x, sigma, text, picture)

    def common(self) -> dict[str, dict[str, Any]]:
        return {"shared": {"opts": self.opts}, "sd_samplers_common": {"setup_img2img_steps": steps_of}}

    def p(self, prompts: list[list[tuple[Tensor, float]]], negative: Tensor, **settings: Any) -> P:
        return P(self.sd_model(), prompts, negative, **settings)

    def sd_model(self) -> Any:
        raise NotImplementedError

    def make_sampler(self, p: P) -> Any:
        raise NotImplementedError

    def begin(self, p: P, picture: Tensor, noise: Tensor, controls: job.Controls, seen: float = 1.0) -> Any:
        """Run the hooks of a job up to the first step -> the denoiser (x, sigma, step) -> denoised."""
        job.begin(self.adapter, p, controls, is_img2img=True)
        p.init()
        batch = len(p.parts)
        latent = self.model.encode_image(picture).expand(batch, -1, -1, -1) * self.model.config.scale_factor
        image_cond = p.img2img_image_conditioning(picture.expand(batch, -1, -1, -1), latent)
        p.sampler = self.make_sampler(p)
        job.begin_batch(p)
        negative = None if p.cfg_scale == 1 and self.no_negative_at_1 else p.negative
        job.begin_sampling(self.adapter, p, latent, noise, negative)
        return p.sampler.begin(latent, image_cond, negative)

    no_negative_at_1 = False


# ------------------------------------------------------------------------------------------------ AUTOMATIC1111


class A1111(Shape):
    """Has a CFGDenoiser: rows joined, callback, one call or several, then combined."""

    adapter = A1111Host()

    def sd_model(self) -> Any:
        def encode_first_stage(picture: Tensor) -> Any:
            return SimpleNamespace(mode=lambda: self.model.encode_image(picture))

        network = SimpleNamespace(diffusion_model=self.model.unet)
        return SimpleNamespace(model=network, encode_first_stage=encode_first_stage)

    def modules(self) -> Any:
        return modules(**self.common(), devices={"cond_cast_float": lambda tensor: tensor.float()})

    def make_sampler(self, p: P) -> Any:
        return _CFGSampler(self, p)


class _CFGSampler:
    def __init__(self, host: A1111, p: P) -> None:
        self.host, self.p = host, p
        self.model_wrap_cfg = _CFGDenoiser(self)

    def get_sigmas(self, p: P, steps: int) -> Tensor:
        return self.host.sigmas

    def begin(self, latent: Tensor, image_cond: Tensor, negative: Tensor | None) -> Callable[..., Tensor]:
        parts = [[SimpleNamespace(weight=weight) for _, weight in one] for one in self.p.parts]
        self.sampler_extra_args = {"cond": SimpleNamespace(batch=parts), "s_min_uncond": self.p.s_min_uncond}
        self.model_wrap_cfg.init_latent = latent

        def denoise(x: Tensor, sigma: Tensor, step: int) -> Tensor:
            return self.model_wrap_cfg(x, sigma, step, image_cond)

        return denoise


class _CFGDenoiser(nn.Module):
    cond_scale_miltiplier = 1.0  # sic
    mask_before_denoising = False

    def __init__(self, sampler: _CFGSampler) -> None:
        super().__init__()
        self.sampler, self.p, self.host = sampler, sampler.p, sampler.host
        self.step, self.total_steps = 0, sampler.p.steps

    def combine_denoised(self, x_out: Tensor, conds_list: Any, uncond: Tensor, cond_scale: float) -> Tensor:
        last = x_out[-len(uncond) :]
        denoised = last.clone()
        for i, parts in enumerate(conds_list):
            for row, weight in parts:
                denoised[i] += (x_out[row] - last[i]) * weight * cond_scale
        return denoised

    def forward(self, x: Tensor, sigma: Tensor, step: int, image_cond: Tensor) -> Tensor:
        self.step, p, batch = step, self.p, len(x)
        conds_list, texts = [], []
        for parts in p.parts:
            conds_list.append([(len(texts) + k, weight) for k, (_, weight) in enumerate(parts)])
            texts += [text for text, _ in parts]
        of = [i for i, parts in enumerate(p.parts) for _ in parts] + list(range(batch))
        params = SimpleNamespace(
            x=x[of],
            sigma=sigma[of],
            image_cond=image_cond[of],
            text_cond=torch.cat(texts),
            text_uncond=p.negative.expand(batch, -1, -1),
            denoiser=self,
        )
        a1111.on_denoiser(params)
        text, uncond = params.text_cond, params.text_uncond
        opts = self.host.opts
        skip = opts.skip_early_cond != 0 and step / self.total_steps <= opts.skip_early_cond
        if skip or ((step % 2 or opts.s_min_uncond_all) and p.s_min_uncond > 0 and sigma[0] < p.s_min_uncond):
            skip = True
            params.x, params.sigma = params.x[:-batch], params.sigma[:-batch]
        if skip or text.shape[1] == uncond.shape[1]:
            joined = text if skip else torch.cat([text, uncond])
            x_out = self.host.evaluate(params.x, params.sigma, joined, params.image_cond[: len(params.x)])
        else:
            a = len(text)
            first = self.host.evaluate(params.x[:a], params.sigma[:a], text, params.image_cond[:a])
            second = self.host.evaluate(params.x[a:], params.sigma[a:], uncond, params.image_cond[a:])
            x_out = torch.cat([first, second])
        if skip:
            x_out = torch.cat([x_out, x_out[[parts[0][0] for parts in conds_list]]])
        scale = 1.0 if skip else p.cfg_scale * self.cond_scale_miltiplier
        return self.combine_denoised(x_out, conds_list, uncond, scale)


# ------------------------------------------------------------------------------------------------ Forge


class Concat:
    """One entry of a condition."""

    def __init__(self, cond: Tensor) -> None:
        self.cond = cond


class Unet:
    """A patcher: a clone has a deep copy of what was patched."""

    def __init__(self, model: EditModel) -> None:
        self.model = SimpleNamespace(diffusion_model=model.unet)
        self.model_options: dict[str, list[Callable[..., Any]]] = {"conditioning_modifiers": [], "post_cfg": []}

    def clone(self) -> Unet:
        made = copy.copy(self)
        made.model_options = copy.deepcopy(self.model_options)
        return made

    def add_conditioning_modifier(self, modifier: Callable[..., Any]) -> None:
        self.model_options["conditioning_modifiers"].append(modifier)

    def set_model_sampler_post_cfg_function(self, function: Callable[..., Any]) -> None:
        self.model_options["post_cfg"].append(function)


class Autoencoder(torch.nn.Module):
    """The moments that the hosts' autoencoders give, the last by `quant_conv`, and a sample of their posterior."""

    def __init__(self, model: EditModel) -> None:
        super().__init__()
        self.encoder, self.quant_conv = model.vae.encoder, model.vae.quant_conv

    def encode(self, x: Tensor) -> Tensor:
        mean, logvar = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean + torch.exp(0.5 * logvar.clamp(-30, 20)) * torch.randn_like(mean)


class Vae:
    """An autoencoder that takes and gives what those of Forge and its kin do, and samples from its posterior."""

    def __init__(self, model: EditModel) -> None:
        self.first_stage_model = Autoencoder(model)

    @torch.inference_mode()
    def encode(self, pixels: Tensor) -> Tensor:
        return self.first_stage_model.encode(pixels.movedim(-1, 1) * 2 - 1)


class Forge(Shape):
    """Takes weighted means of lists of conditions."""

    adapter = ForgeHost()
    no_negative_at_1 = True

    def sd_model(self) -> Any:
        return SimpleNamespace(forge_objects=SimpleNamespace(unet=Unet(self.model), vae=Vae(self.model)))

    def p(self, prompts: list[list[tuple[Tensor, float]]], negative: Tensor, **settings: Any) -> P:
        return _ForgeP(self.sd_model(), prompts, negative, **settings)

    def modules(self) -> Any:
        def reconstruct(negative: Tensor, step: int) -> Tensor:
            return negative

        return modules(**self.common(), prompt_parser={"reconstruct_cond_batch": reconstruct})

    def make_sampler(self, p: P) -> Any:
        return _ForgeSampler(self, p)


class Classic(Forge):
    """Forge Classic: no CFG in the first step, asked or not."""

    no_negative_at_1 = False


class ReForge(Forge):
    """reForge: the negative prompt is encoded at every scale."""

    no_negative_at_1 = False


class _ForgeP(P):
    def setup_conds(self) -> None:
        self.uc = None if self.cfg_scale == 1 else self.negative


def compile_conditions(text: Tensor) -> list[dict[str, Any]]:
    """Return a text as a condition."""
    return [{"cross_attn": text, "model_conds": {"c_crossattn": Concat(text)}}]


class _ForgeSampler:
    def __init__(self, host: Forge, p: P) -> None:
        self.host, self.p = host, p
        self.s_min_uncond = p.s_min_uncond
        self.model_wrap_cfg = SimpleNamespace(step=0, total_steps=p.steps)
        self.model_wrap = SimpleNamespace(inner_model=p.sd_model)

    def get_sigmas(self, p: P, steps: int) -> Tensor:
        return self.host.sigmas

    def begin(self, latent: Tensor, image_cond: Tensor, negative: Tensor | None) -> Callable[..., Tensor]:
        def denoise(x: Tensor, sigma: Tensor, step: int) -> Tensor:
            self.model_wrap_cfg.step = step
            unet, p, opts = self.model_wrap.inner_model.forge_objects.unet, self.p, self.host.opts
            scale = p.cfg_scale
            asked = opts.skip_early_cond > 0 or isinstance(self.host, Classic)
            if asked and step / p.steps <= opts.skip_early_cond:
                scale = 1.0
            cond = []
            for k in range(len(p.parts[0])):
                one = compile_conditions(torch.cat([parts[k][0] for parts in p.parts]))
                cond.append({**one[0], "strength": p.parts[0][k][1]})
            uncond = None if negative is None else compile_conditions(negative)
            params = SimpleNamespace(x=x, image_cond=image_cond, denoiser=self.model_wrap_cfg)
            a1111.on_denoiser(params)
            if params.image_cond.shape[2:] == x.shape[2:]:  # else a host takes the step without the picture
                for one in [*cond, *(uncond or [])]:
                    one["model_conds"]["c_concat"] = Concat(params.image_cond)
            given: tuple[Any, ...] = (None, x, sigma, uncond, cond, scale, unet.model_options, 0)
            for modifier in unet.model_options["conditioning_modifiers"]:
                given = modifier(*given)
            return self._cfg(unet, *given[1:6])

        return denoise

    def _cfg(self, unet: Unet, x: Tensor, sigma: Tensor, uncond: Any, cond: Any, scale: float) -> Tensor:
        if abs(scale - 1) < 1e-9:
            uncond = None
        both = [*cond, *(uncond or [])]
        texts = [c["model_conds"]["c_crossattn"].cond.expand(len(x), -1, -1) for c in both]
        if len({text.shape[1] for text in texts}) == 1:
            pictures = torch.cat([c["model_conds"]["c_concat"].cond for c in both])
            n = len(both)
            rows = self.host.evaluate(x.repeat(n, 1, 1, 1), sigma.repeat(n), torch.cat(texts), pictures).chunk(n)
        else:
            pairs = zip(both, texts, strict=True)
            rows = [self.host.evaluate(x, sigma, t, c["model_conds"]["c_concat"].cond) for c, t in pairs]

        def mean(some: Any, conds: Any) -> Tensor:
            strengths = [c.get("strength", 1.0) for c in conds]
            return sum((r * s for r, s in zip(some, strengths, strict=True)), torch.zeros_like(x)) / sum(strengths)

        full = mean(rows[: len(cond)], cond)
        rest = mean(rows[len(cond) :], uncond) if uncond else torch.zeros_like(x)
        strength = sum(c.get("strength", 1.0) for c in cond)
        denoised = rest + (full - rest) * scale * strength
        for function in unet.model_options["post_cfg"]:
            given = {"input": x, "denoised": denoised, "cond_denoised": full, "uncond_denoised": rest}
            denoised = function(given)
        return denoised
