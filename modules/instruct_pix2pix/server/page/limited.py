"""The page as strangers get it: controls that go as far as the limits, and none for what the server does not do."""

from __future__ import annotations

from ..limits import Limits
from .layout import Layout


def keep_within(layout: Layout, limits: Limits) -> None:
    """Set the ends of the controls of a page that is being made; the server holds the limits in any case."""
    settings = layout.settings
    for slider, most in (
        (settings.steps, limits.steps),
        (settings.batches, limits.edits),
        (settings.batch_size, limits.edits),
        (settings.best_of, limits.edits),
        (settings.longest, limits.side),
        (settings.width, limits.side),
        (settings.height, limits.side),
    ):
        slider.maximum = max((slider.minimum or 0) + (slider.step or 1), min(slider.maximum, most))
        slider.value = min(slider.value, slider.maximum)
    settings.result_longest.maximum = limits.result
    settings.result_longest.value = min(settings.result_longest.value, limits.result)
    layout.batch.tab.visible = False
    layout.preferences.save.value = layout.preferences.save.visible = False
