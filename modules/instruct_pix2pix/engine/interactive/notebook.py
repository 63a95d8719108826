"""A notebook, and an edit's progress in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ..edit_batch import OnStep
from .step_bar import moved_by_steps


def in_notebook() -> bool:
    """Whether this program is the kernel of a notebook (Jupyter, Colab, VS Code): where outputs are shown as HTML."""
    ipython = sys.modules.get("IPython")  # a kernel has imported it
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and "IPKernelApp" in shell.config


@contextmanager
def notebook_bar(steps: int, pictures: int) -> Iterator[OnStep | None]:
    """Show a bar over the steps of so many pictures in a notebook, and nothing anywhere else; yields what moves it.

    The bar is the notebook's own where ipywidgets is there, else one of text.
    """
    if not in_notebook():
        yield None
        return
    from tqdm.auto import tqdm  # here: it warns where ipywidgets is missing, and is of use in a notebook alone

    with moved_by_steps(tqdm(total=steps * pictures, unit="step"), pictures) as show:
        yield show
