"""An extension for the tests alone: compares every step of a host's denoiser with separate model calls.

Its one argument is JSON: {} does nothing; {"text": 7.5, "image": 1.5} are the scales that a job was asked for, by
which the reference is made, and {"whole": [0, 6, 11]} the steps at which all rows shall be evaluated, where between
them the noise is that of the full row and what the guidance added to it at the last of them, and {"cosxl": true} says
that the checkpoint is one of CosXL, {"no_text": "zeros"} and {"guidance": "instruct-diffusion"} what our extension
was told; {"fail": "encode"} lets our code fail there, for one job; {"time": true} adds up
the seconds spent in our hooks; {"look": true} notes what our extension has put into the host; {"reload": true} reloads
the host's UI after the job. Records go to the file that IP2P_PROBE_FILE names, one line of JSON each.
"""
# Runs in a host, whose modules and gradio are not here.
# pyright: reportAttributeAccessIssue=false, reportMissingImports=false

from __future__ import annotations

import inspect
import json
import os
import sys
import threading
import time
from pathlib import Path

import gradio as gr
import torch
from modules import prompt_parser, script_callbacks, scripts, shared

RECORDS = Path(os.environ.get("IP2P_PROBE_FILE", os.devnull))


def write(**values):
    with RECORDS.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


class Probe(scripts.Script):
    sorting_priority = 2

    def title(self):
        return "Probe"

    def show(self, is_img2img):
        return scripts.AlwaysVisible

    def ui(self, is_img2img):
        return [gr.Textbox("{}", visible=False, elem_id=f"probe_{is_img2img}")]

    def before_process(self, p, asked="{}"):
        undo_failure()
        asked = json.loads(asked or "{}")
        if asked.get("fail"):
            fail(asked["fail"])
        if asked.get("time"):
            time_hooks(p)

    def process_before_every_sampling(self, p, asked="{}", **kwargs):
        asked = json.loads(asked or "{}")
        if "image" in asked:
            watch(p, asked)

    def postprocess(self, p, processed, asked="{}"):
        if hasattr(p, "probe_seconds"):
            write(hooks_seconds=p.probe_seconds)
        asked = json.loads(asked or "{}")
        if asked.get("look"):
            write(**ours_in_the_host(), on_model=ours_on_the_model(p))
        if asked.get("reload"):
            threading.Timer(1, shared.state.request_restart).start()  # when the answer is out


def ours_in_the_host():
    """Return what is ours of: callbacks, axes of the plot, modules, and what host modules and their classes hold."""
    callbacks = [one for several in script_callbacks.callback_map.values() for one in several]
    plots = [data.module for data in scripts.scripts_data if hasattr(data.module, "axis_options")]
    held = []
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in ("modules", "modules_forge", "backend", "ldm_patched"):
            for key, value in list(vars(module).items()):
                inside = list(vars(value).items()) if isinstance(value, type) else []
                held += [f"{name}.{key}.{attribute}" for attribute, one in [("", value), *inside] if is_ours(one)]
    return {
        "callbacks": [one.callback.__name__ for one in callbacks if "instruct_pix2pix" in one.script],
        "axes": [one.label for plot in plots for one in plot.axis_options if is_ours(one.apply)],
        "modules": [name for name in sys.modules if name.startswith("instruct_pix2pix")],
        "path": [one for one in sys.path if one.endswith("instruct-pix2pix/modules")],
        "held": held,
    }


def ours_on_the_model(p):
    """Return what of the loaded model is ours, or was set by us: attributes, hooks of the UNet, noise levels."""
    model = patched(p)
    objects = [p.sd_model, *([model, *model.children()] if model else [p.sd_model.model])]
    held = [f"{type(one).__name__}.{key}" for one in objects for key, value in vars(one).items() if is_ours(value)]
    hooks = [one.__qualname__ for one in network(p)._forward_pre_hooks.values()]
    levels = getattr(p.sd_model, "alphas_cumprod", None)
    usual = levels is None or abs(float(levels[-1]) - 0.00466) < 1e-4
    return [*held, *hooks, *([] if usual else ["alphas_cumprod"])]


def is_ours(thing):
    return str(getattr(thing, "__module__", "")).startswith("instruct_pix2pix")


def watch(p, asked):
    denoiser = p.sampler.model_wrap_cfg
    if hasattr(denoiser, "probe_original"):
        denoiser.forward = denoiser.probe_original
    denoiser.probe_original = original = denoiser.forward
    counted, cached = [0], []

    def count(module, args, kwargs):
        counted[0] += len(args[0] if args else kwargs["x"])

    def forward(x, sigma, *args, **kwargs):
        step, before = denoiser.step, x.clone()
        counted[0] = 0
        hook = network(p).register_forward_pre_hook(count, with_kwargs=True)
        try:
            guided = original(x, sigma, *args, **kwargs)
        finally:
            hook.remove()
        rows = counted[0]
        with torch.no_grad():
            expected, full = reference(p, asked, step, before, sigma, kwargs["cond"], kwargs["image_cond"])
        level = 1.0 if denoiser.mask_before_denoising else sigma.view(-1, 1, 1, 1)  # noise, not latents
        if step in asked.get("whole", [step]):
            cached[:] = [(expected - full) / level]
        expected = full + level * cached[0]
        error = (guided - expected).abs().max() / expected.abs().max()
        write(
            step=step,
            sigma=float(sigma[0]),
            rows=rows,
            error=float(error),
            batch=len(x),
            image_cond=kwargs["image_cond"][:1].flatten().tolist() if step == 0 else None,
            x=before[:1].flatten().tolist() if step == 0 else None,
            image_cond_shape=list(kwargs["image_cond"].shape),
        )
        return guided

    denoiser.forward = forward


def reference(p, asked, step, x, sigma, cond, image_cond):
    """s_T * w_k * c_k, summed over k, + (s_I - s_T * sum of w_k) * i + (1 - s_I) * u, each row a call of its own.

    Or InstructDiffusion's: (s_T * w_k + s_I / n) * c_k + (0.5 - s_I) / n * t_k, summed, + (0.5 - s_T * sum of w_k) * i.
    """
    typed = [one or " " for one in p.negative_prompts]  # hosts make zeros of a blank one with SDXL
    said = prompt_parser.SdConditioning(typed, width=p.width, height=p.height)
    negative = prompt_parser.get_learned_conditioning(p.sd_model, said, p.steps)
    negative = prompt_parser.reconstruct_cond_batch(negative, step)
    parts, texts = prompt_parser.reconstruct_multicond_batch(cond, step)
    pictures, fulls = [], []
    for n, conds in enumerate(parts):
        one, level, image = x[n : n + 1], sigma[n : n + 1], image_cond[n : n + 1]
        full = [(weight, call(p, asked, one, level, row(texts, k), image)) for k, weight in conds]
        other = row(negative, n)
        if asked.get("no_text") == "zeros" and not p.negative_prompts[n]:
            sizes = other["vector"][:, 1280:]
            pooled = torch.zeros_like(other["vector"][:, :1280])
            other = {"crossattn": torch.zeros_like(other["crossattn"]), "vector": torch.cat([pooled, sizes], dim=1)}
        elif isinstance(other, dict) and not asked.get("cosxl") and not p.negative_prompts[n]:
            pooled = row(texts, conds[0][0])["vector"][:, :1280]
            other["vector"] = torch.cat([pooled, other["vector"][:, 1280:]], dim=1)
        image_only = call(p, asked, one, level, other, image)
        total = sum(weight for weight, _ in full)
        picture = sum(asked["text"] * weight * c for weight, c in full)
        if asked.get("guidance") == "instruct-diffusion":
            blind = [call(p, asked, one, level, row(texts, k), torch.zeros_like(image)) for k, _ in conds]
            pulls = [asked["image"] * c + (0.5 - asked["image"]) * t for (_, c), t in zip(full, blind, strict=True)]
            picture = picture + sum(pulls) / len(pulls) + (0.5 - asked["text"] * total) * image_only
        else:
            null = call(p, asked, one, level, other, torch.zeros_like(image))
            picture = picture + (asked["image"] - asked["text"] * total) * image_only + (1 - asked["image"]) * null
        if asked.get("rescale"):
            noise, own = one - picture, one - sum(c for _, c in full) / len(full)
            picture = one - noise * (asked["rescale"] * own.std() / noise.std() + 1 - asked["rescale"])
        pictures.append(picture)
        fulls.append(sum(c for _, c in full) / len(full))
    return torch.cat(pictures), torch.cat(fulls)


def row(texts, n):
    return {key: one[n : n + 1] for key, one in texts.items()} if isinstance(texts, dict) else texts[n : n + 1]


def patched(p):
    objects = getattr(p.sd_model, "forge_objects", None)
    return objects.unet.model if objects else None


def network(p):
    model = patched(p)
    return model.diffusion_model if model else p.sd_model.model.diffusion_model


def call(p, asked, x, sigma, text, image):
    model = patched(p)
    if isinstance(text, dict):
        return call_sdxl(p, asked, x, sigma, text, image)
    if model:
        conditions = {"c_concat": image, "c_crossattn": text}
        controls = controlled(p, x, sigma, conditions)
        return model.apply_model(x, sigma, **conditions, **controls, transformer_options={})
    condition = {"c_crossattn": [text], "c_concat": [image]}
    return p.sampler.model_wrap_cfg.inner_model(x, sigma, cond=condition)


def controlled(p, x, sigma, conditions):
    """Return what the ControlNets of a job add to one row, as an argument of the model."""
    controlnet = p.sd_model.forge_objects.unet.controlnet_linked_list
    if controlnet is None:
        return {}
    asks_more = "transformer_options" in inspect.signature(controlnet.get_control).parameters
    return {"control": controlnet.get_control(x, sigma, dict(conditions), 1, *([{}] if asks_more else []))}


def call_sdxl(p, asked, x, sigma, text, image):
    """Call the network itself, with no part of the host's that our extension exchanges."""
    model, level = patched(p), sigma.view(-1, 1, 1, 1)
    if asked.get("cosxl"):
        time = sigma.log() / 4
    elif model:
        levels = model.predictor if hasattr(model, "predictor") else model.model_sampling
        time = levels.timestep(sigma).float()
    else:
        time = p.sampler.model_wrap_cfg.inner_model.sigma_to_t(sigma)
    seen = torch.cat([x / (level**2 + 1).sqrt(), image], dim=1)
    text = {key: one.to(seen) for key, one in text.items()}
    predicted = network(p).forward(seen, time, context=text["crossattn"], y=text["vector"]).float()
    if asked.get("cosxl"):
        return x / (level**2 + 1) - predicted * level / (level**2 + 1).sqrt()
    return x - level * predicted


BROKEN = []


def fail(where):
    """Let one part of our code raise: the encoding, the start of a sampling, or a step of it."""
    hosts = "instruct_pix2pix.hosts."
    a1111, forge = sys.modules[hosts + "a1111"], sys.modules[hosts + "forge"]

    def broken(*args, **kwargs):
        raise ValueError("the probe broke this")

    if where == "step":
        targets = [(a1111, "rows"), (forge, "combine")]
    else:
        targets = [(a1111.A1111Host, where), (forge.ForgeHost, where)]
    for owner, name in targets:
        BROKEN.append((owner, name, getattr(owner, name)))
        setattr(owner, name, broken)


def undo_failure():
    while BROKEN:
        setattr(*BROKEN.pop())


def time_hooks(p):
    p.probe_seconds = 0.0
    ours = next(one for one in p.scripts.alwayson_scripts if one.title() == "Instruct Pix2Pix")
    for name in ("process", "process_batch", "process_before_every_sampling"):
        setattr(ours, name, timed(p, getattr(type(ours), name).__get__(ours)))


def timed(p, hook):
    def run(*args, **kwargs):
        began = time.perf_counter()
        try:
            return hook(*args, **kwargs)
        finally:
            p.probe_seconds = getattr(p, "probe_seconds", 0.0) + time.perf_counter() - began

    return run
