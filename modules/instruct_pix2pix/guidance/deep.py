"""Deep features that serve twice: every other evaluation of the full row alone is one of the network's outer layers.

What comes up from a network's inner layers changes slowly from step to step (DeepCache, Ma et al. 2023, arXiv
2312.00858). So, of the steps whose guidance is an earlier step's (see `cached`), every other one takes the deep
features too from the step before it, and only what lies above them is evaluated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .rows import Kind


@dataclass
class DeepFeatures:
    """What comes up from a network's inner layers in one call."""

    rows: Tensor | None = None
    """[N, C, h, w], one for each of its rows.

    A network that is given some evaluates its outer layers alone; one that is given none puts them here, if it can be
    called in this way.
    """


class KeptFeatures:
    """The deep features of the pictures' full rows, from the last call that had all layers until one that had not.

    None are kept of pictures without guidance, whose full row is all that a step has. What a picture gets does not
    depend on those beside it.
    """

    def __init__(self, guided: Sequence[bool], leaders: Sequence[int] | None = None) -> None:
        """`guided` says whether there is guidance: one for all pictures, or one for each.

        `leaders` are those of `GuidedDenoiser`: at the first call, what one of them has is its followers' too.
        """
        self._kept: dict[int, Tensor] = {}
        self._guided = guided
        self._followers: dict[int, list[int]] = {}
        for picture, leader in enumerate(leaders or ()):
            self._followers.setdefault(leader, []).append(picture)

    def serves(self, kinds: Sequence[Kind], picture: int) -> bool:
        """Whether there is something for a call with rows of these kinds of a picture."""
        return picture in self._kept and all(kind.full for kind in kinds)

    def before(self, kinds: Sequence[Kind], pictures: Sequence[int]) -> DeepFeatures:
        """Return what a call with rows of these kinds is given, each kind for each of the pictures."""
        if not all(self.serves(kinds, picture) for picture in pictures):
            return DeepFeatures()
        kept = [self._kept.pop(picture) for picture in pictures]
        return DeepFeatures(torch.cat([own[k : k + 1] for k in range(len(kinds)) for own in kept]))

    def after(self, made: DeepFeatures, kinds: Sequence[Kind], pictures: Sequence[int]) -> None:
        """Keep what a call with all layers has put into what it was given; the full kinds come first."""
        if made.rows is None:
            return
        full = sum(kind.full for kind in kinds)
        for place, picture in enumerate(pictures):
            for one in self._followers.pop(picture, [picture]):
                if self._guided[one if len(self._guided) > 1 else 0]:
                    self._kept[one] = made.rows[place : full * len(pictures) : len(pictures)]
