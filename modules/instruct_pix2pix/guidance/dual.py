"""The guided denoiser of a model of ours: its rows are those of one network (see `evaluation`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Generic

from torch import Tensor

from .cached import REUSING
from .deep import KeptFeatures
from .denoiser import GuidedDenoiser
from .evaluation import Condition, RowEvaluator, RowModel
from .inputs import GuidanceInputs
from .rows import Scales, rows


class DualGuidance(GuidedDenoiser, Generic[Condition]):
    """The guided denoiser of a `RowModel`; the options are those of `GuidedDenoiser`.

    `together` and `between` are those of `RowEvaluator`.
    """

    def __init__(
        self,
        model: RowModel[Condition],
        given: GuidanceInputs,
        scales: Scales | Sequence[Scales],
        sigmas: Tensor,
        *,
        together: int | None = None,
        between: Callable[[float], None] | None = None,
        speed: str = "exact",
        formula: str = "instruct-pix2pix",
        leaders: Sequence[int] | None = None,
        **options: Any,  # noqa: ANN401 - those of the class above
    ) -> None:
        deep = _kept_features(scales, given, formula, leaders) if speed in REUSING else None
        self.evaluator = RowEvaluator(model, given, together, between, deep)
        """Has the model, and what the edit is conditioned on."""
        super().__init__(self.evaluator, scales, sigmas, speed=speed, formula=formula, leaders=leaders, **options)

    @property
    def rows_in_all(self) -> int:
        """The model rows of all pictures so far; one that several pictures share counts once."""
        return self.evaluator.evaluated


def _kept_features(
    scales: Scales | Sequence[Scales], given: GuidanceInputs, formula: str, leaders: Sequence[int] | None
) -> KeptFeatures:
    each = [scales] if isinstance(scales, Scales) else scales
    weights = [prompt.weight for prompt in given.prompts]
    needed = [rows(one, weights, formula=formula) for one in each]
    return KeptFeatures([not all(row.kind.full for row in own) for own in needed], leaders)
