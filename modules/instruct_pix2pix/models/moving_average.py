"""Tells whether the moving averages (EMA) in a checkpoint are those of its weights.

A merge keeps the averages of the model that it began with, and a file put together by hand may have anyone's: an edit
with them would be an edit by another model than the file's name says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .checkpoints import ema_twin
from .weights_files import header, metadata, read_weights

if TYPE_CHECKING:
    import torch

# What A1111 and the model specification of Stability AI write into the header of a merge.
_RECIPES = ("sd_merge_recipe", "modelspec.merged_from")

# Distance / length of the weights, that a quarter of the matrices exceeds, measured on the demo's UNet, trained on with
# AdamW, averaged as LDM does: 0.002 to 0.003 after 50 and 100 steps at a rate of 1e-4, 0.018 at 8e-4 (the farthest
# matrix 0.04). Two sittings of its training, one after the other, lie 0.05 to 0.25 apart, two models of different
# origin 1.4. So a merge of equal halves may lie below this bound, if the two were trained from one model and not for
# long: it hardly differs then, and the recipe tells of those that A1111 makes.
_NEAR = 0.1
_SAMPLES = 24
_SIZES = range(2**12, 2**20)


def belongs(path: Path, names: Sequence[str]) -> bool:
    """Whether the averages are those of the UNet tensors `names` of this file, each of which has one of its shape.

    Not those of a file that says that it was merged, and not where they lie far from the weights. For that it looks at
    matrices from all depths, and takes the distance that a quarter of them exceeds: a few are far from their average
    where training has just begun to move them from zero. Reads 100 MB at most. Raises UserError as `read_weights`.
    """
    if metadata(path).keys() & set(_RECIPES):
        return False
    shapes = {name: info.shape for name, info in header(path).items()}
    matrices = [name for name in names if len(shapes[name]) > 1 and math.prod(shapes[name]) in _SIZES]
    chosen = matrices[:: math.ceil(len(matrices) / _SAMPLES)] if matrices else []
    mapped = read_weights(path, {*chosen, *map(ema_twin, chosen)})
    distances = [_distance(mapped[name], mapped[ema_twin(name)]) for name in chosen]
    return not distances or sorted(distances)[len(distances) * 3 // 4] <= _NEAR


def _distance(weight: torch.Tensor, average: torch.Tensor) -> float:
    weight, average = weight.float(), average.float()
    distance = ((average - weight).norm() / weight.norm().clamp(min=1e-12)).item()
    return distance if math.isfinite(distance) else math.inf
