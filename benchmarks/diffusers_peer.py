"""diffusers' pipeline as a peer: a checkpoint's weights in it, its settings on this machine, its steps measured."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from benchmarks.turns import INSTRUCTION, SEED, Clock, Run, synchronize
from instruct_pix2pix.engine.loading.config import ModelConfig
from instruct_pix2pix.engine.precision import Machine
from instruct_pix2pix.engine.process_memory import tune_memory

Network = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A UNet: (x [rows, 8, h, w], timestep [], text [rows, tokens, width]) -> prediction [rows, 4, h, w]."""


class Diffusers:
    """diffusers' pipeline with the weights of a checkpoint, in one number format."""

    def __init__(self, checkpoint: Path, configs: Path, device: torch.device, dtype: torch.dtype, clock: Clock) -> None:
        from diffusers import StableDiffusionInstructPix2PixPipeline

        self.device, self.clock = device, clock
        self.pipe: Any = StableDiffusionInstructPix2PixPipeline.from_single_file(
            str(checkpoint), config=str(configs), torch_dtype=dtype, local_files_only=True
        ).to(device)
        self.pipe.set_progress_bar_config(disable=True)
        self._marks: list[float] = []
        prepare = self.pipe.prepare_latents

        def prepared(*args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401 - the last that comes before the steps
            latents = prepare(*args, **kwargs)
            self._mark()
            return latents

        self.pipe.prepare_latents = prepared
        self._compiled: Any = None

    def _mark(self) -> None:
        synchronize(self.device)
        self._marks.append(self.clock())

    def forget_unet(self) -> None:
        """Give the memory of diffusers' own UNet back; from now on `run` needs a network."""
        self.pipe.unet.to("meta")

    def run(
        self,
        picture: Image.Image,
        steps: int,
        scales: tuple[float, float],
        *,
        channels_last: bool = True,
        compiled: bool = False,
        network: Network | None = None,
    ) -> Run:
        """Edit in this layout, compiled or not; `network` takes the place of diffusers' UNet."""
        unet = self.pipe.unet
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.pipe.vae.to(memory_format=layout)
        if network is None:
            unet.to(memory_format=layout)
        if compiled and self._compiled is None:
            import torch._inductor.config as inductor

            inductor.freezing = self.device.type == "cpu"
            unet.compile(mode="default" if self.device.type == "cpu" else "reduce-overhead")
            self._compiled = unet._compiled_call_impl
        unet._compiled_call_impl = self._compiled if compiled else None
        if network is not None:
            unet.forward = _as_forward(network)
        try:
            return self._edit(picture, steps, scales)
        finally:
            unet.__dict__.pop("forward", None)

    def _edit(self, picture: Image.Image, steps: int, scales: tuple[float, float]) -> Run:
        last: list[Tensor] = []

        def ended(pipe: object, step: int, t: object, values: dict[str, Tensor]) -> dict[str, Tensor]:
            self._mark()
            last[:] = [values["latents"]]
            return values

        self._marks.clear()
        began = self.clock()
        self.pipe(
            prompt=INSTRUCTION,
            image=picture,
            num_inference_steps=steps,
            guidance_scale=scales[0],
            image_guidance_scale=scales[1],
            generator=torch.Generator().manual_seed(SEED),
            callback_on_step_end=ended,
        )
        took = self.clock() - began
        return Run([b - a for a, b in itertools.pairwise(self._marks)], took, last[0].float().cpu())


def _as_forward(network: Network) -> Callable[..., tuple[Tensor]]:
    """Return a network as the forward method of diffusers' UNet."""

    def forward(sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **more: object) -> tuple[Tensor]:
        return (network(sample, timestep, encoder_hidden_states),)

    return forward


def settings_of(machine: Machine, compiled: bool) -> dict[str, tuple[torch.dtype, bool, bool]]:
    """Return diffusers' settings for this machine by name: format, channels-last, compiled; its best comes last."""
    formats = {"fp32": torch.float32, machine.precision: machine.dtype}
    found = {}
    for name, dtype in formats.items():
        found[f"diffusers-{name}"] = (dtype, False, False)
        found[f"diffusers-{name}-channels-last"] = (dtype, True, False)
    if compiled:
        found[f"diffusers-{machine.precision}-compiled"] = (machine.dtype, True, True)
    return found


def memory_as_it_comes() -> None:
    """Let the allocator be as other programs have it: at what glibc comes to by itself with blocks of such sizes."""
    tune_memory(kept=32 << 20, trimmed=64 << 20)


def write_configs(config: ModelConfig, folder: Path) -> Path:
    """Write what diffusers needs beside a checkpoint: its configs and a tokenizer, so that it asks no network."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionInstructPix2PixPipeline
    from transformers import CLIPTokenizer

    from instruct_pix2pix.engine.tokenizer import byte_alphabet, merges
    from tools.reference_networks import diffusers_unet, diffusers_vae, transformers_text

    pairs = merges()[: config.text.vocab_size - 514]
    words = [*byte_alphabet(), *(c + "</w>" for c in byte_alphabet()), *(a + b for a, b in pairs)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in pairs), ""]), "utf-8")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=77)
    scheduler = EulerDiscreteScheduler(
        beta_start=config.linear_start,
        beta_end=config.linear_end,
        beta_schedule="scaled_linear",
        timestep_spacing="linspace",
    )
    with torch.device("meta"):
        unet, vae = diffusers_unet(config.unet), diffusers_vae(config.vae, config.scale_factor)
        text = transformers_text(config.text)
    parts: Any = {"unet": unet, "vae": vae, "text_encoder": text, "tokenizer": tokenizer, "scheduler": scheduler}
    none: Any = {"safety_checker": None, "feature_extractor": None}
    pipe: Any = StableDiffusionInstructPix2PixPipeline(**parts, **none, requires_safety_checker=False)
    pipe.save_config(folder)
    for name in ("unet", "vae"):
        parts[name].save_config(folder / name)
    text.config.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    scheduler.save_config(folder / "scheduler")
    return folder
