"""What an SDXL model that edits asks of a host's job: its texts, its picture, and CosXL's noise levels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..models.checkpoints import inspect, noise_levels
from .processing import Processing

POOLED = 1280
"""Numbers of the label that stand for the text; the others for sizes, which are the same in all rows."""
COSXL_PICTURE = 0.13025
"""What CosXL-Edit was trained to see the picture's latent times: the scale of SDXL's latents. SDXL ip2p: unscaled."""
COUNT = 1000
"""Noise levels in a host's table."""


@dataclass(frozen=True)
class Levels:
    """CosXL's continuous noise levels, told to a host as a table of them, even in log sigma, as if there were steps.

    All that a host does with a timestep is then a place in the table, whole or not; the network is told `time`.
    """

    low: float
    high: float

    def sigmas(self) -> Tensor:
        """Return the table, float32 [1000], ascending."""
        return torch.linspace(math.log(self.low), math.log(self.high), COUNT, dtype=torch.float64).exp().float()

    def place(self, sigma: Tensor) -> Tensor:
        """Return where each sigma is in the table, 0 to 999, of its shape."""
        span = math.log(self.high / self.low)
        return ((sigma.float() / self.low).log() / span * (COUNT - 1)).clamp(0, COUNT - 1)

    def sigma(self, place: Tensor) -> Tensor:
        """Return the sigma at each place."""
        return (self.time(place) * 4).exp()

    def time(self, place: Tensor) -> Tensor:
        """Return what the network is told at each place: ln(sigma) / 4."""
        return (place.float() / (COUNT - 1) * math.log(self.high / self.low) + math.log(self.low)) / 4


@dataclass(frozen=True)
class SDXL:
    """An SDXL model that edits."""

    levels: Levels | None = None
    """Those of a model in the manner of CosXL."""
    no_text: str = "empty"
    """See `NO_TEXT` of the settings."""

    @property
    def picture_scale(self) -> float:
        """What the picture's latent is multiplied by."""
        return 1.0 if self.levels is None else COSXL_PICTURE

    def negative(self, text: str) -> str:
        """Return a negative prompt as a host has to see it: for a blank one hosts take zeros, but not for a space."""
        return text if text.strip() else " "

    def negative_row(self, own: Mapping[str, Tensor], full: Tensor, texts: Sequence[str]) -> dict[str, Tensor]:
        """Return the embeddings and labels of the rows without the instruction, `crossattn` and `vector` as in `own`.

        `full` [B, 1280 + sizes] are the labels of the rows with it, `texts` the negative prompts of the pictures. Of a
        blank one both are zeros where 'no text' means that. Else training dropped the instruction but not its pooled
        vector, so a blank one has the instruction's; with CosXL its own.
        """
        states, label = own["crossattn"], own["vector"]
        pooled = label[:, :POOLED]
        blank = torch.tensor([not text.strip() for text in texts], device=label.device)[:, None]
        if self.no_text == "zeros":
            states = states.masked_fill(blank[..., None], 0.0)
            pooled = pooled.masked_fill(blank, 0.0)
        elif self.levels is None:
            pooled = torch.where(blank, full[:, :POOLED].to(label), pooled)
        return {"crossattn": states, "vector": torch.cat([pooled, label[:, POOLED:].expand(len(pooled), -1)], dim=1)}


def sdxl_of(p: Processing, no_text: str) -> SDXL | None:
    """Return what the checkpoint of a job is, by its file; None for one that is not SDXL. Raises UserError."""
    if not getattr(p.sd_model, "is_sdxl", False):
        return None
    path = Path(p.sd_model.sd_checkpoint_info.filename)
    return SDXL(Levels(*noise_levels(path)) if inspect(path).kind == "CosXL-Edit" else None, no_text)


@contextmanager
def swapped(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Let an attribute of a host's object be another one for as long as the context lasts."""
    own = any(name in vars(owner).get(place, {}) for place in ("_modules", "_buffers")) or name in vars(owner)
    before = getattr(owner, name) if own else None
    setattr(owner, name, value)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


def remake_levels(p: Processing, levels: Levels) -> Any:
    """Let the sampler of `p`, made for the levels of the host's model, make what it has of them anew, and return that.

    The host's model has its new levels already. What k-diffusion's samplers have is set to the table itself, which
    float32 loses where it goes through cumulative alphas, and is not rounded to whole places.
    """
    sampler, denoiser = p.sampler, p.sampler.model_wrap_cfg
    denoiser.model_wrap = None
    sampler.model_wrap = wrap = denoiser.inner_model
    if hasattr(denoiser, "alphas"):
        denoiser.alphas = p.sd_model.alphas_cumprod
    if has_table(wrap):
        wrap.sigmas = levels.sigmas().to(wrap.sigmas)
        wrap.log_sigmas = wrap.sigmas.log()
        wrap.quantize = False
    return wrap


def has_table(wrap: Any) -> bool:
    """Whether a host's model, as a sampler has it, is one of k-diffusion's, with all levels; LCM's has some of them."""
    return hasattr(wrap, "quantize") and len(wrap.sigmas) == COUNT
