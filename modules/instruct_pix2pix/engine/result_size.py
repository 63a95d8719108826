"""The size of the finished picture: the input's own, that of the edit, or one that was asked for."""

from __future__ import annotations

from ..conditioning import Fit
from ..settings import EditSettings


def size_of(plan: Fit, settings: EditSettings) -> tuple[int, int]:
    """Return the (width, height) in pixels of the results of an edit that is planned so."""
    left, top, right, bottom = plan.crop
    own = (right - left, bottom - top)
    wanted = settings.result_size
    if wanted == "model":
        return plan.size
    if wanted == "own" or (wanted == "auto" and max(own) > max(plan.size)):
        return own
    if wanted == "auto":
        return plan.size
    longest = max(own)
    width, height = (max(1, (2 * side * int(wanted) + longest) // (2 * longest)) for side in own)
    return width, height
