"""A progress bar over the steps of edits, the same on a terminal and in a notebook."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tqdm import tqdm

    from ..edit_batch import OnStep, Progress

FINISHING = "{desc}finishing after {n_fmt} {unit}s [{elapsed}]"
"""What a bar says after the last step, where no time would be left: the picture is yet to be decoded and written."""


@contextmanager
def moved_by_steps(bar: tqdm, pictures: int, each: Callable[[int], int] = int) -> Iterator[OnStep]:
    """Move a bar, whose total is all their steps, over the edits of so many pictures; yields what is told of a step.

    `each` says how many steps a picture takes, those of its candidates included, whose edits have so many.
    """
    with bar:

        def show(progress: Progress) -> None:
            if progress.enlarged:
                bar.set_description(f"full size {progress.enlarged:.0%}")
                return
            if progress.within:
                return
            bar.set_description(refresh=False)
            total = each(progress.steps) * pictures
            if not bar.n and bar.total != total:  # at a lower denoising strength there are fewer steps
                bar.reset(total)
            bar.update(len(progress.seeds))
            if bar.n >= bar.total:
                bar.bar_format = FINISHING
                bar.refresh()

        yield show
        bar.bar_format = None  # a bar that stays tells how long it took
        bar.set_description(refresh=False)
