"""A loaded model: pictures and texts to latents, rows to denoised latents, latents back to pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..conditioning import join
from ..errors import UserError
from ..guidance.deep import DeepFeatures
from ..guidance.inputs import Prompt, completed
from ..models.add_ons import AddOnFolders
from ..models.registry import model_dirs, resolve
from .beside.add_ons import AddOns
from .beside.tiny_vae import CELL
from .free_memory import ROW
from .kernels.cuda_graph import GraphedUNet
from .loading.loader import Networks, load_networks
from .networks.int8_layers import quantize
from .networks.unet import Condition, size_label, take
from .networks.vae import VAE
from .offload import Kept, kept_or_offloaded
from .placement import CELL_NUMBERS, TEXT_WORK, unet_work, vae_work
from .precision import Machine, choose_machine
from .sampling.schedules import ContinuousSchedule, NoiseSchedule
from .shared_cores import SharedCores
from .text import PromptEncoder, encode_negative, encode_prompt
from .tiles import in_tiles
from .tokenizer import Tokenizer

TILE, SMALL_TILE, OVERLAP = 1024, 512, 128
"""Pictures with a longer side go through the VAE in tiles of this many pixels, in small ones where memory is short."""
SMALL_CELLS = 32
"""Longest side, in cells of the latent, of what is decoded only to be looked at."""


class EditModel:
    """An instruct-pix2pix model on a machine; as a function, the `guidance.evaluation.RowModel` of its rows.

    Latents that are sampled are scaled by the model's factor and float32; the picture's latent is unscaled.
    """

    def __init__(
        self,
        networks: Networks,
        machine: Machine,
        name: str = "",
        folders: AddOnFolders | None = None,
        home: Kept | None = None,
    ) -> None:
        """`folders` are where LoRAs and the like are looked up; by default the program's own.

        `home` is who moves the networks; by default it follows from where they were loaded.
        """
        self.config = networks.config
        self.machine = machine
        self.name = name
        self.home = kept_or_offloaded([networks.unet], machine) if home is None else home
        """Who has the networks on the device while they work."""
        self.notes = (*networks.notes, *self.home.notes)
        """Sentences for whoever uses it, on how it was loaded."""
        self.unet, self.text, self.text_2 = networks.unet, networks.text, networks.text_2
        self.networks: tuple[nn.Module, ...] = (networks.unet, networks.vae, *networks.texts)
        """All that holds weights."""
        self._texts = networks.texts
        if machine.int8:
            quantize(networks.unet)
        for network in self.networks:
            self.home.prepare(network)
        tokenizer = Tokenizer(self.config.text.vocab_size)
        self.add_ons = AddOns(networks, self.home, tokenizer, folders or AddOnFolders.near())
        """What edits have beside the checkpoint, LoRAs and the like."""
        self.unet_graphs = GraphedUNet(self.unet)
        self.levels = NoiseSchedule(self.config.linear_start, self.config.linear_end, self.config.timesteps)
        if self.config.cosxl is not None:
            self.levels = ContinuousSchedule(*self.config.cosxl)
        words = self.add_ons.words
        self.prompts = PromptEncoder(tokenizer, self.text, self.text_2, device=machine.device, words=words)

    @property
    def vae(self) -> VAE:
        """The VAE in use."""
        return self.add_ons.vae

    @classmethod
    @SharedCores()
    def load(
        cls, path: Path | str | None = None, machine: Machine | None = None, models: Sequence[Path] = ()
    ) -> EditModel:
        """Load a model; without a `machine`, onto what `choose_machine` finds.

        `path` is that of a checkpoint file or a diffusers folder. A text may also be the name of a model that lies in
        `models/` or in one of the folders `models`, such as 'instruct-pix2pix-fp16', or 'demo'; None is the first one
        that can edit, or else the demo model. LoRAs and the like are looked up near the file, near the program's own
        models, and near those of the folders `models`. Raises UserError as `registry.resolve` and `load_networks` do.
        """
        machine = machine or choose_machine()
        path = path if isinstance(path, Path) else resolve(path, model_dirs(models))
        _, networks = load_networks(path, machine)
        return cls(networks, machine, path.stem if path.is_file() else path.name, AddOnFolders.near(path, models))

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
        with self.home.using(self._texts, TEXT_WORK):
            return tuple(encode_prompt(self.prompts, instruction, steps))

    @torch.inference_mode()
    def encode_negative(self, negative: str, steps: int, no_text: str = "empty") -> Prompt:
        """Return the negative prompt, embedded, with its step schedule; see `text.encode_negative` for a blank one."""
        own = self.config.cosxl is not None
        with self.home.using(self._texts, TEXT_WORK):
            return encode_negative(self.prompts, negative, steps, no_text=no_text, own_pooled=own)

    def encode_text(
        self, instruction: str, negative: str, steps: int, no_text: str = "empty"
    ) -> tuple[tuple[Prompt, ...], Prompt]:
        """Return both: the instruction's sub-prompts and the negative prompt."""
        prompts = self.encode_instruction(instruction, steps)
        return prompts, completed(self.encode_negative(negative, steps, no_text), prompts[0])

    @torch.inference_mode()
    def condition(
        self, texts: Tensor, pooled: Tensor | None = None, cells: tuple[int, int] | None = None
    ) -> Condition:
        """Texts [N, T, C] of N rows -> what is given back at every step that has these rows.

        SDXL takes their `pooled` vectors [N, P] too, and the (h, w) of the latents.
        """
        dtype, channels = self.machine.dtype, self.config.unet.adm_in_channels
        if channels is None:
            return Condition(texts.to(dtype))
        if pooled is None or cells is None:
            raise ValueError("this model needs the pooled vectors of its texts, and the size of the latents")
        if bool((pooled == pooled[:1]).all()):  # as they are where one instruction stands for all rows
            pooled = pooled[:1]
        height, width = (side * self.config.vae.factor for side in cells)
        return Condition(texts.to(dtype), size_label(pooled.float(), height, width, channels).to(dtype))

    @torch.inference_mode()
    def __call__(
        self,
        x: Tensor,
        sigma: Tensor,
        condition: Condition,
        image: Tensor,
        entries: Sequence[int] | None = None,
        deep: DeepFeatures | None = None,
    ) -> Tensor:
        """Denoise rows: x [M, 4, h, w], sigma [M], image [M, 4, h, w] and N texts -> [N, 4, h, w] float32.

        `entries` [N] says for each row which entry of x, sigma and image it has; None: each its own, and M is N. The
        UNet sees x / sqrt(1 + sigma^2), in which signal and noise have variance 1 together (k-diffusion's
        CompVisDenoiser), and the image as it was trained with: CosXL's scaled. With sigma on the CPU nothing here waits
        for a GPU.
        """
        levels = sigma.cpu().float()
        one_level = len(set(levels.tolist())) == 1  # so it is in one step of one edit
        if entries is not None and (len(entries) == len(x) or not one_level):  # nothing can be shared
            if list(entries) != list(range(len(x))):
                x, image, levels = (each[list(entries)] for each in (x, image, levels))
            entries = None
        level = levels[0] if one_level else levels.to(x.device).view(-1, 1, 1, 1)
        t = self.levels.sigma_to_t(levels[:1] if one_level else levels).to(x.device, non_blocking=True)
        image = image if self.config.cosxl is None else image * self.config.scale_factor
        seen = join(x / (level**2 + 1).sqrt(), image).to(self.machine.dtype, memory_format=torch.channels_last)
        predicted = self._predict(seen, t, condition, entries, deep).float()
        return self.levels.denoised(take(x, entries), predicted, level)

    def _predict(
        self,
        x: Tensor,
        t: Tensor,
        condition: Condition,
        entries: Sequence[int] | None,
        deep: DeepFeatures | None,
    ) -> Tensor:
        """Evaluate the UNet, all rows at once where they fit into memory, else one by one."""
        count = len(condition.text)
        if self.home.moves:
            return self._predict_in_turn(x, t, condition, entries, deep)
        if self.unet_graphs.knows(x, t, condition, entries) or self.is_room_for_rows(count, x):
            return self.unet_graphs(x, t, condition, entries, lambda: self.is_room_for_rows(2 * count, x), deep)
        return self._one_by_one(x, t, condition, entries, deep)

    def _predict_in_turn(
        self,
        x: Tensor,
        t: Tensor,
        condition: Condition,
        entries: Sequence[int] | None,
        deep: DeepFeatures | None,
    ) -> Tensor:
        """Evaluate a UNet whose weights come and go: no recorded kernels find them again."""
        count = len(condition.text)
        together = self.is_room_for_rows(count, x)
        with self.home.using([self.unet], self._work_of_rows(count if together else 1, x)):
            call = self.unet if together else self._one_by_one
            return call(x, t, condition, entries, deep)

    def _one_by_one(
        self,
        x: Tensor,
        t: Tensor,
        condition: Condition,
        entries: Sequence[int] | None,
        deep: DeepFeatures | None,
    ) -> Tensor:
        count = len(condition.text)
        kept = count * [None] if deep is None or deep.rows is None else deep.rows.split(1)
        each = [DeepFeatures(own) for own in kept]
        rows = zip(take(x, entries).split(1), t.expand(count).split(1), condition.rows(), each, strict=True)
        predicted = torch.cat([self.unet(*row, None, own) for *row, own in rows])
        if deep is not None:
            deep.rows = torch.cat([own.rows for own in each if own.rows is not None])
        return predicted

    def _work_of_rows(self, count: int, x: Tensor) -> int:
        """Return the bytes that so many rows like x need beside the UNet's weights."""
        each = CELL_NUMBERS if self.home.moves else ROW
        return unet_work(self.config, count * x[0, 0].numel(), x.element_size(), each)

    def is_room_for_rows(self, count: int, x: Tensor) -> bool:
        """Whether so many rows like x can be computed at once; one at a time takes longer, and the least memory."""
        return count == 1 or self.home.fits(self.unet, self._work_of_rows(count, x))

    @torch.inference_mode()
    def decode(self, latent: Tensor) -> Tensor:
        """Scaled latent [B, 4, h, w] -> picture float32 [B, 3, 8h, 8w], about -1..1."""
        tiny = self.add_ons.tiny_decoder if self.add_ons.fast else None
        if tiny is not None:
            tile, overlap = TILE // CELL, OVERLAP // CELL
            return in_tiles(lambda z: tiny(z.to(self.machine.dtype)), latent, tile=tile, overlap=overlap, scale=CELL)
        z, factor = latent / self.config.scale_factor, self.config.vae.factor
        tile = self._tile(torch.Size([len(z), z.shape[1], z.shape[2] * factor, z.shape[3] * factor])) // factor
        return self._through_vae(self.vae.decode, z, tile=tile, overlap=OVERLAP // factor, scale=factor)

    @torch.inference_mode()
    def decode_small(self, latent: Tensor) -> Tensor:
        """Scaled latent [B, 4, h, w] -> pictures like those of `decode`, of `SMALL_CELLS` at most, to be looked at.

        The tiny decoder makes them where its file is there. Raises UserError where that is not one, and as `decode`.
        """
        cells = max(latent.shape[-2:])
        if cells > SMALL_CELLS:
            size = [max(1, side * SMALL_CELLS // cells) for side in latent.shape[-2:]]
            latent = F.interpolate(latent, size, mode="area")
        tiny = self.add_ons.tiny_decoder
        return self.decode(latent) if tiny is None else tiny(latent.to(self.machine.dtype)).float()

    def _tile(self, picture: torch.Size) -> int:
        """Return the side of the tiles, in pixels, in which pictures of this shape [B, C, H, W] go through the VAE."""
        return TILE if self.home.fits(self.vae, self._work_of_tile(picture, TILE)) else SMALL_TILE

    def _work_of_tile(self, picture: Sequence[int], tile: int) -> int:
        """Return the bytes that a tile of pictures [B, C, H, W] needs beside the VAE's weights."""
        batch, _, height, width = picture
        pixels = batch * min(height, tile) * min(width, tile)
        return vae_work(self.config, pixels, self.vae.quant_conv.weight.dtype.itemsize)

    def _through_vae(
        self, function: Callable[[Tensor], Tensor], x: Tensor, *, tile: int, overlap: int, scale: float
    ) -> Tensor:
        """Apply half of the VAE in tiles -> float32. Raises UserError for numbers that are not finite."""
        while True:
            dtype = self.vae.quant_conv.weight.dtype

            def cast(part: Tensor, dtype: torch.dtype = dtype) -> Tensor:
                return function(part.to(dtype))

            side = int(max(1, scale))  # of what is a pixel on one side and a cell on the other
            shape = (len(x), 3, x.shape[2] * side, x.shape[3] * side)
            with self.home.using([self.vae], self._work_of_tile(shape, tile * side)):
                y = in_tiles(cast, x, tile=tile, overlap=overlap, scale=scale)
            if y.isfinite().all():
                return y
            if dtype == torch.float32 or not x.isfinite().all():
                raise UserError(
                    "The model's numbers grew beyond bounds: choose precision fp32, or download the model again."
                )
            self.home.make_float32(self.vae)  # half precision overflowed: this VAE runs in float32 from now on
