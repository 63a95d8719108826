"""What is done to the guided latent of a host's step, and to its picture: tamed, rescaled, the rest kept."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor

from ..conditioning import to_images
from ..guidance.apg import ProjectedGuidance, Projection
from ..guidance.relevance import Keeper
from ..guidance.rows import rescale_denoised


class StepFinisher:
    """The last part of the guidance over one sampling, the same in every host."""

    def __init__(
        self,
        start: Tensor | None,
        *,
        projection: Projection,
        rescale: float,
        keep: str,
        amount: float,
        free: Tensor | None = None,
    ) -> None:
        """Finish steps that begin at `start` [B, 4, h, w], the picture's scaled latent.

        `keep` is one of `settings.KEEP_REST`; `free` [1, 1, h, w] in 0..1 is what a painted mask lets change.
        """
        self._start = start
        self._projected = None if projection == Projection() else ProjectedGuidance(projection)
        self._rescale = rescale
        self._keep, self._amount, self._free = keep, amount, free
        self._keeper: Keeper | None = None

    @property
    def works_on_denoised(self) -> bool:
        """Whether it does more than rescale, which noise can be too."""
        return self._projected is not None or self._keep != "off"

    @property
    def has_work(self) -> bool:
        """Whether there is anything to do."""
        return self.works_on_denoised or self._rescale > 0

    def looks_at_image_only(self, step: int, steps: int) -> bool:
        """Whether a step, from 0, needs the image-only row for the map, whatever its weight."""
        keeper = self._keeper_for(steps)
        return keeper is not None and keeper.wants_image_only(step)

    def __call__(
        self, x: Tensor, guided: Tensor, full: Tensor, rest: Tensor | None, *, text_cfg: float, step: int, steps: int
    ) -> Tensor:
        """Guided latents of x -> what the sampler goes on with; all denoised [B, 4, h, w].

        `rest` is the image-only row, or what stands for it; None in a step that has none.
        """
        if self._projected is not None:
            guided = self._projected(guided, full, text_cfg)
        if self._rescale:
            guided = rescale_denoised(x, guided, full, self._rescale)
        keeper = self._keeper_for(steps)
        if keeper is None or guided.shape != keeper.start.shape:  # some samplers take steps at another size
            return guided
        if rest is not None:
            keeper.see(step, full, rest)
        return keeper.hold(step, guided, full)

    def kept(self, image: Image.Image, source: Tensor, place: int) -> Image.Image:
        """Return a finished picture of the batch with the rest of it from `source` [1 or B, 3, H, W] in -1..1."""
        region = None if self._keeper is None else self._keeper.region
        if region is None or image.size != (source.shape[-1], source.shape[-2]) or not 0 <= place < len(region.inside):
            return image
        cells = region.inside[place : place + 1].float().cpu()
        share = torch.nn.functional.interpolate(cells, image.size[::-1], mode="bilinear")
        mask = Image.fromarray((share[0, 0] * 255).round().byte().numpy())
        [before] = to_images(source[place % len(source)][None].float().cpu())
        return Image.composite(image, before, mask)

    def _keeper_for(self, steps: int) -> Keeper | None:
        if self._keeper is None and self._keep != "off" and self._start is not None:
            automatic = self._keep == "automatic"
            self._keeper = Keeper(self._start, steps, self._amount, automatic=automatic, free=self._free)
        return self._keeper
