"""A loaded model: pictures and texts to latents, rows to denoised latents, latents back to pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..conditioning import join
from ..errors import UserError
from ..guidance.dual import Prompt
from .cuda_graph import GraphedUNet
from .free_memory import PIXEL, ROW, is_room_for
from .layers import prepare
from .loader import Networks, load_networks
from .precision import Machine
from .sampling.schedules import NoiseSchedule
from .text import PromptEncoder, encode_prompt, encode_schedule
from .tiles import in_tiles
from .tokenizer import Tokenizer
from .unet import Context, entries

TILE, SMALL_TILE, OVERLAP = 1024, 512, 128
"""Pictures with a longer side go through the VAE in tiles of this many pixels, in small ones where memory is short."""


class EditModel:
    """An instruct-pix2pix model on a machine; as a function, the `guidance.Model` of its rows.

    Latents that are sampled are scaled by the model's factor and float32; the picture's latent is unscaled.
    """

    def __init__(self, networks: Networks, machine: Machine, name: str = "") -> None:
        self.config = networks.config
        self.machine = machine
        self.name = name
        self.unet, self.vae, self.text = networks.unet, networks.vae, networks.text
        for network in (self.unet, self.vae, self.text):
            prepare(network, machine)
        self.noise = GraphedUNet(self.unet)
        self._contexts: list[tuple[Tensor, Context]] = []
        self.levels = NoiseSchedule(self.config.linear_start, self.config.linear_end, self.config.timesteps)
        self.prompts = PromptEncoder(Tokenizer(self.config.text.vocab_size), self.text, device=machine.device)

    @classmethod
    def load(cls, path: Path, machine: Machine) -> EditModel:
        """Load a checkpoint file or a diffusers folder. Raises UserError as `load_networks` does."""
        _, networks = load_networks(path, machine)
        return cls(networks, machine, path.stem if path.is_file() else path.name)

    @torch.inference_mode()
    def encode_image(self, picture: Tensor) -> Tensor:
        """Picture [B, 3, H, W] in -1..1 -> the posterior's mode, unscaled, float32 [B, 4, H/8, W/8].

        Unscaled is how the checkpoints were trained, although the sampled latents are scaled.
        """
        x, factor = picture.to(self.machine.device), self.config.vae.factor
        tile = self._tile(x.shape)
        return self._through_vae(
            lambda part: self.vae.moments(part)[0], x, tile=tile, overlap=OVERLAP, scale=1 / factor
        )

    @torch.inference_mode()
    def encode_instruction(self, instruction: str, steps: int) -> tuple[Prompt, ...]:
        """Return the instruction's sub-prompts, embedded, with their step schedules."""
        return tuple(encode_prompt(self.prompts, instruction, steps))

    @torch.inference_mode()
    def encode_negative(self, negative: str, steps: int) -> Prompt:
        """Return the negative prompt, embedded, with its step schedule."""
        return encode_schedule(self.prompts, negative, steps)

    def encode_text(self, instruction: str, negative: str, steps: int) -> tuple[tuple[Prompt, ...], Prompt]:
        """Return both: the instruction's sub-prompts and the negative prompt."""
        return self.encode_instruction(instruction, steps), self.encode_negative(negative, steps)

    @torch.inference_mode()
    def __call__(
        self, x: Tensor, sigma: Tensor, text: Tensor, image: Tensor, twins: Sequence[int] | None = None
    ) -> Tensor:
        """Denoise rows: x [N, 4, h, w], sigma [N], text [N, T, C], image [N, 4, h, w] -> [N, 4, h, w] float32.

        `twins` tells for each row the first one with the same x and image, of the same sigma: rows that differ in text
        alone begin as one. The UNet predicts the noise of x / sqrt(1 + sigma^2), in which signal and noise have
        variance 1 together (k-diffusion's CompVisDenoiser). With sigma on the CPU nothing here waits for a GPU.
        """
        dtype, device = self.machine.dtype, x.device
        levels = sigma.cpu().float()
        alike = len(set(levels.tolist())) == 1  # so it is in one step of one edit
        level = levels[0] if alike else levels.to(device).view(-1, 1, 1, 1)
        levels = levels[:1] if alike else levels
        t = self.levels.sigma_to_t(levels).to(device, non_blocking=True)
        first, rows = _firsts(twins) if twins is not None and alike else (None, None)
        scaled = join(entries(x, first) / (level**2 + 1).sqrt(), entries(image, first))
        scaled = scaled.to(dtype, memory_format=torch.channels_last)
        context = self._seen(text, rows)
        if self.noise.knows(scaled, t, context) or self._is_room_for_rows(len(text), scaled):
            noise = self.noise(scaled, t, context, lambda: self._is_room_for_rows(2 * len(text), scaled))
        else:
            each = zip(context.part(scaled).split(1), t.expand(len(x)).split(1), context.each(), strict=True)
            noise = torch.cat([self.unet(*row) for row in each])
        return x - level * noise.float()

    def _is_room_for_rows(self, count: int, x: Tensor) -> bool:
        """Whether so many rows like x can be computed at once; one at a time takes longer, and the least memory."""
        numbers = count * ROW * x[0, 0].numel() * self.config.unet.model_channels / 320
        return count == 1 or is_room_for(numbers, x.dtype, x.device)

    def _seen(self, text: Tensor, rows: list[int] | None) -> Context:
        """Return the context of this text; for the last two tensors that came, with what the UNet made of them.

        Two, as a step may have all rows and the next one some of them.
        """
        context = next((context for known, context in self._contexts if known is text), None)
        if context is None:
            context = Context(text.to(self.machine.dtype))
            self._contexts = [(text, context), *self._contexts[:1]]
        context.rows = rows
        return context

    @torch.inference_mode()
    def decode(self, latent: Tensor) -> Tensor:
        """Scaled latent [B, 4, h, w] -> picture float32 [B, 3, 8h, 8w], about -1..1."""
        z, factor = latent / self.config.scale_factor, self.config.vae.factor
        tile = self._tile(torch.Size([len(z), z.shape[1], z.shape[2] * factor, z.shape[3] * factor])) // factor
        return self._through_vae(self.vae.decode, z, tile=tile, overlap=OVERLAP // factor, scale=factor)

    def _tile(self, picture: torch.Size) -> int:
        """Return the side of the tiles, in pixels, in which pictures of this shape [B, C, H, W] go through the VAE."""
        batch, _, height, width = picture
        numbers = PIXEL * batch * min(height, TILE) * min(width, TILE) * self.config.vae.ch / 128
        return TILE if is_room_for(numbers, self.vae.quant_conv.weight.dtype, self.machine.device) else SMALL_TILE

    def _through_vae(
        self, function: Callable[[Tensor], Tensor], x: Tensor, *, tile: int, overlap: int, scale: float
    ) -> Tensor:
        """Apply half of the VAE in tiles -> float32. Raises UserError for numbers that are not finite."""
        while True:
            dtype = self.vae.quant_conv.weight.dtype

            def cast(part: Tensor, dtype: torch.dtype = dtype) -> Tensor:
                return function(part.to(dtype))

            y = in_tiles(cast, x, tile=tile, overlap=overlap, scale=scale)
            if y.isfinite().all():
                return y
            if dtype == torch.float32 or not x.isfinite().all():
                raise UserError(
                    "The model's numbers grew beyond bounds: choose precision fp32, or download the model again."
                )
            self.vae.float()  # half precision overflowed: this VAE runs in float32 from now on


def _firsts(twins: Sequence[int]) -> tuple[list[int] | None, list[int] | None]:
    """Return the rows that differ, and for each row its place among those; None for both where all differ."""
    first = sorted(set(twins))
    return (None, None) if len(first) == len(twins) else (first, [first.index(twin) for twin in twins])
