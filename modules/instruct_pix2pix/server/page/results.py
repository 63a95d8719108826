"""Files in gradio's folder that the page shows: the results of its edits, and pictures that were uploaded."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field

import torch
from gradio.processing_utils import save_bytes_to_cache
from PIL import Image

from ...conditioning import fit
from ...errors import UserError
from ...guidance.relevance import inside
from ...images import encode_picture, open_picture
from ..budget import Budget
from ..pictures import SentPicture, decoded
from ..small_copy import small_size
from ..upload_space import UploadSpace
from ..worker.edit_task import EditResult, EditStatus

MOST_REMEMBERED = 64

KEPT_TINT, KEPT_STRENGTH = (128, 132, 140), 0.6
"""The colour, RGB, over what was kept, and how much it covers."""


@dataclass
class ShownEdit:
    """What the page keeps of a task besides the task itself: paths of files in the cache."""

    picture: str
    """The input, as it was uploaded."""
    files: list[str] = field(default_factory=list)
    """The results."""
    results: list[str] = field(default_factory=list)
    """What is shown of each: the result, or a small copy of a large one."""
    before: str = ""
    """The input in the framing and size of what is shown."""
    kept: dict[int, str] = field(default_factory=dict)
    """The input with what was kept in grey, by the place of the result."""
    candidates: dict[int, list[str]] = field(default_factory=dict)
    """What is shown of those among which a result was found, by its place."""


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
                name = f"{task_id[:6]}-{len(shown.results) + 1:04}-{result.settings.seed}"
                file = self.keep(result.png, f"{name}.png")
                shown.results.append(file if result.small is None else self.keep(result.small, f"{name}.webp"))
                shown.files.append(file)
            if status.results and not shown.before:
                image, icc = self._framed(shown.picture, small_size(*status.results[0].size))
                shown.before = self.keep(encode_picture(image, "PNG", icc=icc), "before.png")
            return shown

    def _framed(self, picture: str, size: tuple[int, int]) -> tuple[Image.Image, bytes | None]:
        """Return an input in the framing of its edit, at this size, and its profile. Raises UserError."""
        with decoded(self._decoding, SentPicture.in_file(picture), patient=True) as (before,):
            return fit(*before.image.size, size, 1).apply(before.image), before.icc

    def what_would_be_kept(self, picture: str, relevance: Image.Image, amount: float) -> str:
        """Return the picture of what an edit would keep of an input by its map. Raises UserError."""
        image, icc = self._framed(picture, relevance.size)
        image = kept_in_grey(image, _by_map(relevance, amount))
        return self.keep(encode_picture(image, "WEBP", icc=icc), "kept.webp")

    def what_was_kept(self, shown: ShownEdit, place: int, result: EditResult) -> str | None:
        """Return the picture of what a result kept, made when it is first asked for; None for one without a map.

        Raises UserError.
        """
        if result.relevance is None:
            return None
        with self._lock:
            if place not in shown.kept:
                before = open_picture(shown.before)
                image = kept_in_grey(before.image, result.inside)
                shown.kept[place] = self.keep(encode_picture(image, "WEBP", icc=before.icc), "kept.webp")
            return shown.kept[place]

    def candidates_of(self, shown: ShownEdit, place: int, result: EditResult) -> list[str]:
        """Return the pictures of those among which a result was found, made when first asked for. Raises UserError."""
        with self._lock:
            if place not in shown.candidates:
                shown.candidates[place] = [self.keep(one.picture, "candidate.webp") for one in result.candidates]
            return shown.candidates[place]

    def mask_of(self, result: EditResult) -> str | None:
        """Write where a result was edited as a mask, white there; None for one without a map. Raises UserError.

        Of an edit of the whole picture it is where the map would have had the edit.
        """
        if result.relevance is None:
            return None
        by_map = _by_map(result.relevance, result.settings.keep_amount)
        mask = result.inside if result.kept and result.inside is not None else by_map
        return self.keep(encode_picture(mask, "PNG"), "mask.png")


def kept_in_grey(before: Image.Image, edited: Image.Image | None) -> Image.Image:
    """Return the input (RGB) with a tint over what was kept; `edited` (L, any size) is 255 where it was not."""
    if edited is None:
        return before
    grey = Image.blend(before.convert("L").convert("RGB"), Image.new("RGB", before.size, KEPT_TINT), KEPT_STRENGTH)
    return Image.composite(before, grey, edited.resize(before.size, Image.Resampling.BILINEAR))


def _by_map(relevance: Image.Image, amount: float) -> Image.Image:
    """Return the part of the picture that a map takes in at an amount (L)."""
    shares = inside(torch.arange(256) / 255, amount)
    return relevance.point([round(255 * share) for share in shares.tolist()])


def sent_path(sent: object) -> str | None:
    """Return the file in what a picture component sends unread; `GradioGate` has checked that it was uploaded."""
    path = sent.get("path") if isinstance(sent, dict) else None
    return path if isinstance(path, str) else None
