"""A pack of nodes for the tests in a real ComfyUI: another pack's patches, what reaches the UNet, and exact tensors."""

# ruff: noqa: N802 - ComfyUI's names

import json
import os
from pathlib import Path

import comfy.patcher_extension  # pyright: ignore[reportMissingImports]
import torch

FOLDER = Path(os.environ["IP2P_PROBE_FOLDER"])


def note(**what: object) -> None:
    with (FOLDER / "calls.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(what) + "\n")


class Always:
    """A node that runs in every job: ComfyUI takes what did not change from the job before."""

    @classmethod
    def IS_CHANGED(cls, **inputs: object) -> float:
        return float("nan")


class Count(Always):
    """Writes down each call of the UNet: its rows, and what ComfyUI tells patches of them."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",)}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "run"
    CATEGORY = "probe"

    def run(self, model):
        def counted(executor, x, timesteps, context, y, control, transformer_options, **kwargs):
            parts = x.shape[0] // max(1, len(transformer_options["cond_or_uncond"]))
            pictures = [float(part[:, 4:].abs().mean()) for part in x.split(parts)]
            told = transformer_options["cond_or_uncond"]
            note(rows=x.shape[0], told=told, pictures=pictures, y=None if y is None else y.shape[-1])
            return executor(x, timesteps, context, y, control, transformer_options, **kwargs)

        patched = model.clone()
        kind = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL
        patched.add_wrapper_with_key(kind, "probe", counted)
        return (patched,)


class Patch(Always):
    """Changes cross-attention as IP-Adapter does: another addition for prompt and negative prompt, by their places."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "amount": ("FLOAT", {"default": 0.1, "min": -10.0, "max": 10.0})}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "run"
    CATEGORY = "probe"

    def run(self, model, amount):
        def patch(n, options):
            additions = [(amount, 0.0)[place] for place in options["cond_or_uncond"]]
            each = torch.tensor(additions).repeat_interleave(len(n) // len(additions)).view(-1, 1, 1)
            note(patched=additions)
            return n + each.to(n)

        patched = model.clone()
        patched.set_model_attn2_output_patch(patch)
        return (patched,)


class AroundCFG(Always):
    """Adds to what CFG gives, as perturbed-attention guidance and the like do."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "amount": ("FLOAT", {"default": 0.1, "min": -10.0, "max": 10.0})}}

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "run"
    CATEGORY = "probe"

    def run(self, model, amount):
        def after(args):
            scale, full, rest = args["cond_scale"], args["cond_denoised"], args["uncond_denoised"]
            error = float((rest + scale * (full - rest) - args["denoised"]).abs().max())
            note(cfg=scale, error=error)
            return args["denoised"] + amount

        patched = model.clone()
        patched.set_model_sampler_post_cfg_function(after)
        return (patched,)


class Keep(Always):
    """Writes a picture, a mask or a latent to a file, with all its bits."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"anything": ("*",), "name": ("STRING", {"default": "kept"})}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types):
        return True

    RETURN_TYPES = ()
    FUNCTION = "run"
    CATEGORY = "probe"
    OUTPUT_NODE = True

    def run(self, anything, name):
        tensor = anything["samples"] if isinstance(anything, dict) else anything
        torch.save(tensor.float().cpu().contiguous(), FOLDER / f"{name}.pt")
        return {}


NODE_CLASS_MAPPINGS = {"ProbeCount": Count, "ProbePatch": Patch, "ProbeAroundCFG": AroundCFG, "ProbeKeep": Keep}
