"""Ctrl+C and a notebook's interrupt, held back until a step is done: so an edit leaves its model as it was."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from types import FrameType

from ..edit_batch import Edited, OnStep, Progress


class HeldInterrupt:
    """While its block runs, SIGINT is noted; `after_step` then raises the KeyboardInterrupt.

    Python raises it wherever a program is, which may be in the middle of exchanging weights. Only Python's own handler
    is stood in for, and only in the main thread, which alone has handlers: elsewhere this does nothing.
    """

    def __init__(self, on_step: OnStep | None = None) -> None:
        self._on_step = on_step
        self._held = False
        self._asked = False

    def __enter__(self) -> HeldInterrupt:
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._note)
            self._held = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._held:
            self._held = False
            signal.signal(signal.SIGINT, signal.default_int_handler)

    def after_step(self, progress: Progress) -> None:
        """Tell of a step, as to `OnStep`; raises KeyboardInterrupt where one was asked for."""
        if self._on_step is not None:
            self._on_step(progress)
        self.end_if_asked()

    def end_if_asked(self) -> None:
        """Raise the KeyboardInterrupt that was asked for, if any."""
        if self._asked:
            self._asked = False
            raise KeyboardInterrupt

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._asked = True


def each_whole(results: Iterator[Edited], interrupt: HeldInterrupt) -> Iterator[Edited]:
    """Yield results as they are made, with `interrupt.after_step` told of their steps, while it is held back.

    It is not while the caller has one. One asked for after a result's last step is raised once the caller has it.
    """
    while True:
        with interrupt:
            result = next(results, None)
        if result is not None:
            yield result
        interrupt.end_if_asked()
        if result is None:
            return
