"""A stand-in for ComfyUI: what the nodes meet there, around the demo model, in its own terms and order of events."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.sampling.samplers import SAMPLERS
from instruct_pix2pix.engine.sampling.schedules import get_sigmas

PICTURE = "concat_latent_image"


class Guider:
    """ComfyUI's CFGGuider, as far as a guider of ours needs it."""

    def __init__(self, model_patcher: Any) -> None:
        self.model_patcher, self.model_options = model_patcher, model_patcher.model_options
        self.original_conds: dict[str, list[dict[str, Any]]] = {}
        self.conds: dict[str, list[dict[str, Any]]] = {}
        self.cfg = 1.0

    def set_cfg(self, cfg: float) -> None:
        self.cfg = cfg

    def inner_set_conds(self, conds: dict[str, Any]) -> None:
        for name, several in conds.items():
            self.original_conds[name] = [{**options, "cross_attn": states} for states, options in several]

    def __call__(self, x: Tensor, timestep: Tensor, model_options: dict[str, Any], seed: int | None = None) -> Tensor:
        return self.predict_noise(x, timestep, model_options, seed)

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Tensor:
        raise NotImplementedError

    def inner_sample(self, noise: Tensor, latent_image: Tensor, device: Any, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: E501 # fmt: skip
        callback = args[1]
        x = noise * (1 + float(sigmas[0]) ** 2) ** 0.5 + latent_image

        def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
            return self(x, sigma.reshape(-1).expand(len(x)), copy.copy(self.model_options))

        made = sampler(denoiser, x, sigmas, None, lambda step, x, denoised: callback(step, denoised, x, len(sigmas)))
        return made / self.model_patcher.model.scale

    def sample(self, noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Tensor, denoise_mask: Any = None, callback: Any = None, disable_pbar: bool = False, seed: int | None = None) -> Tensor:  # noqa: E501 # fmt: skip
        self.inner_model = self.model_patcher.model
        self.conds = {name: [dict(one) for one in several] for name, several in self.original_conds.items()}
        return self.inner_sample(
            noise, latent_image, "cpu", sampler, sigmas, denoise_mask, callback, disable_pbar, seed, latent_shapes=None
        )


def calc_cond_batch(
    model: Model, conds: list[list[dict[str, Any]]], x: Tensor, timestep: Tensor, options: dict[str, Any]
) -> list[Tensor]:
    """All conditions in one call of the model, which the patches of other nodes are told of."""
    told = [number for number, several in enumerate(conds) for _ in several]
    each = [one for several in conds for one in several]

    def apply(x: Tensor, t: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        transformer_options = args[3] if len(args) > 3 else kwargs["transformer_options"]
        model.calls.append((len(each), transformer_options["cond_or_uncond"]))
        return torch.cat([model.row(x, t[0], one) for one in each])

    wrappers = options["transformer_options"].get("wrappers", {}).get("apply_model", {})
    for one in [wrapper for several in wrappers.values() for wrapper in several]:
        apply = _wrapped(one, apply)
    made = apply(x, timestep, None, None, None, {**options["transformer_options"], "cond_or_uncond": told})
    found = made.split(len(x))
    return [
        torch.stack([row for number, row in zip(told, found, strict=True) if number == place]).mean(dim=0)
        for place in range(len(conds))
    ]


def _wrapped(wrapper: Callable[..., Tensor], inner: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *args, **kwargs: wrapper(inner, *args, **kwargs)


def cfg_function(
    model: object,
    cond_pred: Tensor,
    uncond_pred: Tensor,
    cond_scale: float,
    x: Tensor,
    timestep: Tensor,
    model_options: dict[str, Any],
    cond: object,
    uncond: object,
) -> Tensor:
    """ComfyUI's CFG, with what other nodes put after it."""
    made = uncond_pred + (cond_pred - uncond_pred) * cond_scale
    for function in model_options.get("sampler_post_cfg_function", []):
        args = {"cond_denoised": cond_pred, "uncond_denoised": uncond_pred, "cond_scale": cond_scale, "input": x}
        made = function({**args, "denoised": made})
    return made


class Model:
    """A model that edits, as ComfyUI has it in memory."""

    def __init__(self, model: EditModel, *, edits: bool = True, sdxl: bool = False, cosxl: bool = False) -> None:
        self.model, self.scale = model, model.config.scale_factor
        self.calls: list[tuple[int, list[int]]] = []
        """Of each call of the model: its rows, and what patches are told of them."""
        self.model_config = SimpleNamespace(
            unet_config={"in_channels": 8 if edits else 4, "adm_in_channels": 2816 if sdxl else None}
        )
        self.model_type = SimpleNamespace(name="V_PREDICTION_EDM" if cosxl else "EPS")
        if edits:
            self.process_ip2p_image_in = lambda image: image

    def process_latent_in(self, latent: Tensor) -> Tensor:
        return latent * self.scale

    def row(self, x: Tensor, sigma: Tensor, cond: dict[str, Any]) -> Tensor:
        """One row of one condition, for each picture of the batch."""
        picture = cond.get(PICTURE)
        image = torch.zeros_like(x) if picture is None else picture.expand(len(x), -1, -1, -1)
        texts = self.model.condition(cond["cross_attn"].expand(len(x), -1, -1))
        return self.model(x, sigma.expand(len(x)), texts, image)


class Patcher(SimpleNamespace):
    """ComfyUI's MODEL."""

    def __init__(self, model: Model, **options: Any) -> None:
        super().__init__(model=model, model_options={"transformer_options": {}, **options}, load_device="cpu")


class Clip:
    """ComfyUI's CLIP."""

    def __init__(self, model: EditModel) -> None:
        self.model = model

    def tokenize(self, text: str) -> str:
        return text

    def encode_from_tokens_scheduled(self, tokens: str) -> list[list[Any]]:
        prompt = self.model.encode_text(tokens, "", 1)[0][0] if tokens else self.model.encode_text("a", "", 1)[1]
        return [[prompt.schedule[-1][1], {"pooled_output": torch.zeros(1, 4)}]]


class Vae:
    """ComfyUI's VAE."""

    def __init__(self, model: EditModel) -> None:
        self.model = model

    def encode(self, pixels: Tensor) -> Tensor:
        return self.model.encode_image(pixels.movedim(-1, 1) * 2 - 1)

    def decode(self, latent: Tensor) -> Tensor:
        return (self.model.decode(latent * self.model.config.scale_factor).movedim(1, -1) / 2 + 0.5).clamp(0, 1)


@contextmanager
def comfyui(model: EditModel) -> Iterator[list[int]]:
    """Let `import comfy` find the stand-in for as long as the context lasts; yield the steps that are reported."""
    steps: list[int] = []

    class KSampler:
        SAMPLERS, SCHEDULERS = ("euler", "euler_ancestral"), ("normal", "karras")

        def __init__(
            self, patcher: object, count: int, device: object, name: str, scheduler: str, denoise: float
        ) -> None:
            schedule = {"normal": "Uniform", "karras": "Karras"}[scheduler]
            self.sigmas = get_sigmas(schedule, count, model.levels, SAMPLERS["Euler"])

    def nested(options: dict[str, Any]) -> dict[str, Any]:
        return {name: nested(one) if isinstance(one, dict) else copy.copy(one) for name, one in options.items()}

    def add_wrapper_with_key(
        kind: str, key: str, wrapper: object, options: dict[str, Any], is_model_options: bool
    ) -> None:
        assert is_model_options
        wrappers = options["transformer_options"].setdefault("wrappers", {})
        wrappers.setdefault(kind, {}).setdefault(key, []).append(wrapper)

    def prepare_callback(patcher: object, count: int) -> Callable[..., None]:
        return lambda step, denoised, x, total: steps.append(step)

    parts: dict[str, dict[str, object]] = {
        "comfy": {},
        "comfy.samplers": {
            "CFGGuider": Guider,
            "calc_cond_batch": calc_cond_batch,
            "cfg_function": cfg_function,
            "KSampler": KSampler,
            "sampler_object": lambda name: SAMPLERS[{"euler": "Euler", "euler_ancestral": "Euler a"}[name]],
        },
        "comfy.patcher_extension": {
            "copy_nested_dicts": nested,
            "add_wrapper_with_key": add_wrapper_with_key,
            "WrappersMP": SimpleNamespace(APPLY_MODEL="apply_model"),
        },
        "comfy.model_management": {"intermediate_device": lambda: "cpu"},
        "comfy.utils": {
            "PROGRESS_BAR_ENABLED": False,
            "common_upscale": lambda samples, width, height, method, crop: torch.nn.functional.interpolate(
                samples, (height, width), mode=method
            ),
        },
        "latent_preview": {"prepare_callback": prepare_callback},
    }
    guider = "instruct_pix2pix.hosts.comfy.guider"  # its class is one of this stand-in's
    before = {name: sys.modules.pop(name, None) for name in (*parts, guider)}
    for name, members in parts.items():
        made = ModuleType(name)
        vars(made).update(members)
        sys.modules[name] = made
    try:
        yield steps
    finally:
        for name, old in before.items():
            sys.modules.pop(name, None)
            if old is not None:
                sys.modules[name] = old
