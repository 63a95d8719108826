"""The guider: the dual guidance as ComfyUI's samplers take it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from comfy.samplers import CFGGuider, cfg_function  # pyright: ignore[reportMissingImports]
from comfy.utils import common_upscale  # pyright: ignore[reportMissingImports]
from torch import Tensor
from torch.nn import functional as F

from ...errors import UserError
from ...guidance.apg import Projection
from ...guidance.denoiser import GuidedDenoiser
from ...guidance.focus import Focus
from ...guidance.relevance import Keeper, Region, Watcher, relevance
from ...guidance.rows import Scales
from ...settings import EditSettings
from .condition_rows import ConditionRows
from .conditions import FULL, IMAGE_ONLY, NAMES, PICTURE, Conditioning, row_conditions
from .edit_kind import kind_of

CFG_PATCHES = ("sampler_pre_cfg_function", "sampler_cfg_function", "sampler_post_cfg_function")
"""What other nodes put around ComfyUI's CFG."""


@dataclass(frozen=True)
class EditSampling:
    """What one sampling has."""

    rows: ConditionRows
    denoiser: GuidedDenoiser
    watcher: Watcher | None
    start: Tensor
    """The picture's scaled latent [B or 1, 4, h, w]."""
    free: Tensor | None
    """What a mask lets change, [B or 1, 1, h, w] in 0..1."""


class EditGuider(CFGGuider):
    """The dual guidance of a model that edits.

    `mask` [B or 1, H, W] in 0..1, of any size: white is edited, the rest is held at the input; with `focus` 'mask' it
    is where the instruction acts, and nothing is held. `look` asks for the map even where nothing is to be kept, where
    it costs no row. Raises UserError for a model that cannot edit, and for conditions that are no edit's.
    """

    def __init__(
        self,
        model: Any,
        positive: Conditioning,
        negative: Conditioning,
        settings: EditSettings,
        *,
        mask: Tensor | None = None,
        focus: str = "off",
        look: bool = False,
    ) -> None:
        super().__init__(model)
        if focus == "mask" and mask is None:
            raise UserError("Focus is set to 'mask', but no mask is connected: connect one, or choose 'found'.")
        self.settings = settings
        self.set_cfg(settings.text_cfg)  # what ComfyUI's log calls the scale
        self.inner_set_conds(row_conditions(positive, negative, kind_of(model), settings.no_text))
        self._mask = mask
        self._focus = focus
        self._look = look and settings.text_cfg != settings.image_cfg
        self._levels = torch.zeros(0)
        self.sampling: EditSampling | None = None
        """The last sampling."""

    def inner_sample(self, noise: Tensor, latent_image: Tensor, device: Any, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any) -> Tensor:  # noqa: E501 # fmt: skip
        """Sample as ComfyUI does."""
        self._levels, self.sampling = sigmas.float().cpu(), None
        return super().inner_sample(noise, latent_image, device, sampler, sigmas, *args, **kwargs)

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None) -> Tensor:  # noqa: E501 # fmt: skip
        """x [B, 4, h, w] at one level timestep [B] -> denoised [B, 4, h, w], which ComfyUI calls noise."""
        del seed
        options = model_options or {}
        now = self.sampling = self.sampling or self._begin(x)
        now.rows.options = options
        guided = now.denoiser(x, timestep)
        if any(name in options for name in CFG_PATCHES):
            guided = self._patched(x, timestep, guided, now.denoiser.full, options)
        if now.free is not None and guided.shape[-2:] == now.free.shape[-2:]:
            guided = torch.lerp(now.start.expand_as(guided), guided, now.free.to(guided))
        return guided

    def region(self) -> Region | None:
        """Return where the pictures of the last sampling were edited: `inside` is 1 everywhere where nothing is kept.

        None where that was not looked at.
        """
        watcher = None if self.sampling is None else self.sampling.watcher
        if isinstance(watcher, Keeper):
            return watcher.region
        if watcher is None or not watcher.differences:
            return None
        found = relevance([*watcher.differences.values()])
        return Region(found, torch.ones_like(found))

    def _begin(self, x: Tensor) -> EditSampling:
        asked, steps = self.settings, int((self._levels > 0).sum())
        rows = ConditionRows(self.inner_model, self.conds, self._levels.tolist())
        start, mask = self._start(x), self._cells(x)
        free = mask if self._focus != "mask" else None
        watcher = Watcher(steps) if self._look else None
        if asked.keep_rest != "off":
            automatic = asked.keep_rest == "automatic"
            watcher = Keeper(start, steps, asked.keep_amount, automatic=automatic, free=free)
        denoiser = GuidedDenoiser(
            rows,
            Scales(asked.text_cfg, asked.image_cfg),
            self._levels,
            rescale=asked.rescale,
            speed=asked.speed,
            formula=asked.guidance,
            projection=Projection(asked.apg_eta, asked.apg_threshold, asked.apg_momentum),
            watcher=watcher,
            focus=None if self._focus == "off" else Focus(steps, mask=mask if self._focus == "mask" else None),
        )
        return EditSampling(rows, denoiser, watcher, start, free)

    def _start(self, x: Tensor) -> Tensor:
        """Return the picture's scaled latent like x, as the model sees it."""
        picture = self.conds[NAMES[FULL]][0][PICTURE].to(x)
        if picture.shape[-2:] != x.shape[-2:]:
            picture = common_upscale(picture, x.shape[-1], x.shape[-2], "bilinear", "center")
        scaled = self.inner_model.process_latent_in(picture)
        return scaled if len(scaled) in (1, len(x)) else scaled[:1]

    def _cells(self, x: Tensor) -> Tensor | None:
        """Return the mask at the size of x, [B or 1, 1, h, w]: a cell that is edited in part is edited."""
        if self._mask is None:
            return None
        whole = self._mask.to(x).reshape(-1, 1, *self._mask.shape[-2:])
        cells = F.adaptive_max_pool2d(whole, x.shape[-2:])
        return cells if len(cells) in (1, len(x)) else cells[:1]

    def _patched(
        self, x: Tensor, timestep: Tensor, guided: Tensor, full: Tensor | None, options: dict[str, Any]
    ) -> Tensor:
        """Return the guided latent as what other nodes put around CFG makes it.

        They see a CFG of two rows at this Text CFG that comes to the same: the full row, and what stands for the rest.
        """
        scale = self.settings.text_cfg
        cond, uncond = self.conds[NAMES[FULL]], self.conds[NAMES[IMAGE_ONLY]]
        out = [guided, guided]
        if full is not None and abs(scale - 1.0) > 1e-3:
            out = [full, (guided - scale * full) / (1.0 - scale)]
        for function in options.get("sampler_pre_cfg_function", []):
            out = function(
                {
                    "conds": [cond, uncond],
                    "conds_out": out,
                    "cond_scale": scale,
                    "timestep": timestep,
                    "input": x,
                    "sigma": timestep,
                    "model": self.inner_model,
                    "model_options": options,
                }
            )
        return cfg_function(
            self.inner_model,
            out[0],
            out[1],
            scale,
            x,
            timestep,
            model_options=options,
            cond=cond,
            uncond=uncond,
        )
