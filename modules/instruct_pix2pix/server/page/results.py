"""Files in gradio's folder that the page shows: the results of its edits, and pictures that were uploaded."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

from gradio.processing_utils import save_bytes_to_cache

from ...conditioning import fit
from ...errors import UserError
from ...images import encode_picture
from ..budget import Budget
from ..pictures import SentPicture, decoded
from ..upload_space import UploadSpace
from ..worker.edit_task import EditStatus

MOST_REMEMBERED = 64


@dataclass
class ShownEdit:
    """What the page keeps of a task besides the task itself: paths of files in the cache."""

    picture: str
    """The input, as it was uploaded."""
    results: list[str] = field(default_factory=list)
    before: str = ""
    """The input in the framing and size of the results."""


class Results:
    """The files of the newest edits, by the ids of their tasks. Every method may be called from any thread."""

    def __init__(self, space: UploadSpace, decoding: Budget) -> None:
        """`space` has gradio's folder for uploads, `decoding` is the budget of pixels."""
        self._space, self._decoding = space, decoding
        self._shown: OrderedDict[str, ShownEdit] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, task_id: str, picture: str) -> None:
        """Remember a task and its input, and forget the oldest one beyond the limit."""
        with self._lock:
            self._shown[task_id] = ShownEdit(picture)
            while len(self._shown) > MOST_REMEMBERED:
                self._shown.popitem(last=False)

    def find(self, task_id: object) -> ShownEdit | None:
        """Return what is kept of a task that the page began."""
        return self._shown.get(task_id) if isinstance(task_id, str) else None

    def keep(self, data: bytes, name: str) -> str:
        """Write a file that the page may show; return its path. Raises UserError."""
        self._space.admit(len(data), files=1)
        try:
            return save_bytes_to_cache(data, name, str(self._space.folder))
        except OSError as error:
            raise UserError(f"{name} cannot be kept ({error.strerror}): try again.") from error

    def write(self, task_id: str, status: EditStatus) -> ShownEdit | None:
        """Write the results that are new, and at first the input in their framing; return what is kept.

        Raises UserError; what could not be written is tried again by the next call.
        """
        with self._lock:
            shown = self._shown.get(task_id)
            if shown is None:
                return None
            for result in status.results[len(shown.results) :]:
                name = f"{task_id[:6]}-{result.settings.seed}.png"
                shown.results.append(self.keep(result.png(), name))
            if status.results and not shown.before:
                with decoded(self._decoding, SentPicture.in_file(shown.picture), patient=True) as (before,):
                    image = fit(*before.image.size, status.results[0].image.size, 1).apply(before.image)
                    data = encode_picture(image, "PNG", icc=before.icc)
                shown.before = self.keep(data, "before.png")
            return shown


def sent_path(sent: object) -> str | None:
    """Return the file in what a picture component sends unread; `GradioGate` has checked that it was uploaded."""
    path = sent.get("path") if isinstance(sent, dict) else None
    return path if isinstance(path, str) else None
