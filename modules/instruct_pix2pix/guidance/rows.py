"""The dual guidance as the paper has it: which rows a step needs, and with what weights they add up.

    guided = s_T * full + (s_I - s_T) * image_only + (1 - s_I) * null

which is eq. 3 of InstructPix2Pix (Brooks et al. 2022, arXiv 2211.09800),
`null + s_I * (image_only - null) + s_T * (full - image_only)`, written as a weighted sum of model rows:

    full        the picture and the instruction       s_T       (with AND: one for each sub-prompt k, s_T * w_k)
    image_only  the picture and the negative prompt   s_I - s_T (with AND: s_I - s_T * sum of w_k)
    null        no picture and the negative prompt    1 - s_I

InstructDiffusion (Geng et al. 2023, arXiv 2309.03895; edit_cli.py of cientgu/InstructDiffusion) has other weights, and
a row with the instruction alone in place of 'null':

    guided = (image_only + text_only) / 2 + s_T * (full - image_only) + s_I * (full - text_only)

A row whose weight is zero at a step is not evaluated. These weights are computed here and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


@dataclass(frozen=True)
class Scales:
    """Text CFG (higher changes more) and Image CFG (higher changes less) of one step."""

    text: float
    image: float


class Kind(NamedTuple):
    """What a row is shown."""

    prompt: int | None
    """Index of the sub-prompt; None for the negative prompt."""
    image: bool

    @property
    def full(self) -> bool:
        """Whether it is shown the picture and a part of the instruction."""
        return self.image and self.prompt is not None


@dataclass(frozen=True)
class Row:
    """One evaluation of the model that a step needs."""

    prompt: int | None
    """Index of the sub-prompt; None for the negative prompt."""
    image: bool
    weight: float

    @property
    def kind(self) -> Kind:
        """What it is shown."""
        return Kind(self.prompt, self.image)


def rows(
    scales: Scales,
    prompt_weights: Sequence[float] = (1.0,),
    *,
    formula: str = "instruct-pix2pix",
    look_at_image_only: bool = False,
) -> list[Row]:
    """Return the rows of non-zero weight, full ones first, then the image-only one. Their weights add up to 1.

    `formula` is 'instruct-pix2pix' or 'instruct-diffusion', whose terms with the picture's scale are means over the
    sub-prompts. `look_at_image_only` asks for that row whatever its weight.
    """
    pulls = [scales.text * weight for weight in prompt_weights]
    if formula == "instruct-diffusion":
        each = 1 / len(pulls)
        full = [Row(k, True, pull + scales.image * each) for k, pull in enumerate(pulls)]
        image_only = Row(None, True, 0.5 - math.fsum(pulls))
        without = [Row(k, False, (0.5 - scales.image) * each) for k in range(len(pulls))]
    else:
        full = [Row(k, True, pull) for k, pull in enumerate(pulls)]
        image_only = Row(None, True, scales.image - math.fsum(pulls))
        without = [Row(None, False, 1.0 - scales.image)]
    return [row for row in (*full, image_only, *without) if row.weight or (look_at_image_only and row is image_only)]


def kinds_of(several: Iterable[Row]) -> list[Kind]:
    """Return the kinds among rows of several pictures, each once, in the order of `rows`."""
    return sorted({row.kind for row in several}, key=lambda kind: (not kind.full, not kind.image, kind.prompt or 0))


def same_length(texts: Sequence[Tensor]) -> list[Tensor]:
    """Repeat embeddings [B or 1, T_k, C] to one common length.

    Attention over a text said twice is attention over the text, so a row keeps its value beside a longer one.
    """
    length = math.lcm(*(text.shape[1] for text in texts))
    return [text.repeat(1, length // text.shape[1], 1) for text in texts]


def rescale_noise(noise: Tensor, reference: Tensor, amount: float) -> Tensor:
    """Pull the deviation of guided noise [B, C, h, w] back to that of the full row's, by `amount` in 0..1.

    Lin et al. 2023, arXiv 2305.08891, eq. 15-16.
    """
    dims = tuple(range(1, noise.ndim))
    ratio = reference.std(dim=dims, keepdim=True) / noise.std(dim=dims, keepdim=True)
    return noise * (amount * ratio + 1 - amount)


def rescale_denoised(x: Tensor, guided: Tensor, full: Tensor, amount: float) -> Tensor:
    """Rescale a guided denoised latent [B, C, h, w] of x by the full row's, both denoised; see `rescale_noise`.

    x - denoised is sigma times the predicted noise: the ratio of deviations is that of the noise.
    """
    return x - rescale_noise(x - guided, x - full, amount)
