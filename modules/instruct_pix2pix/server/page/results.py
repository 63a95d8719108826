"""Files in gradio's folder that the page shows: the results of its edits, and pictures that were uploaded."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import torch
from gradio.processing_utils import save_bytes_to_cache
from PIL import Image, ImageOps

from ...conditioning import fit
from ...errors import UserError
from ...exif import ORIENTATION, exif_of
from ...guidance.relevance import inside
from ...images import PARAMETERS, encode_picture, read_as, texts_of
from ...infotext import settings_from
from ...settings import EditSettings
from ..budget import Budget
from ..pictures import SentPicture, decoded
from ..small_copy import LONGEST, small_copy, small_size
from ..upload_space import UploadSpace
from ..worker.edit_task import EditResult, EditStatus
from ..worker.saved_results import saved_by

MOST_EDITS, MOST_RESULTS = 1000, 4000
"""Edits that are remembered, and their results, of all visitors: each takes some 10 KB of memory."""

THUMB = 224
"""Pixels of a thumbnail's longest side, twice what is shown."""

BROWSERS_SHOW, BROWSERS_TURN = ("PNG", "JPEG", "MPO", "WEBP", "AVIF"), ("JPEG", "MPO")
"""Formats that every browser shows, and those that it shows upright."""

KEPT_TINT, KEPT_STRENGTH = (128, 132, 140), 0.6
"""The colour, RGB, over what was kept, and how much it covers."""


@dataclass
class ShownResult:
    """What the page keeps of one result."""

    settings: EditSettings
    infotext: str
    size: tuple[int, int]
    """(Width, height) in pixels."""
    file: str = ""
    shown: str = ""
    """What is shown of it: the file itself, or a small copy of a large one."""
    thumb: bytes = b""
    """A small WebP, once somebody has asked for it."""


@dataclass
class ShownEdit:
    """What the page keeps of a task besides the task itself: paths of files in the cache."""

    task_id: str
    session: str = ""
    """The id of the session whose it is."""
    picture: str = ""
    """The input, as it was uploaded; empty where that is not known."""
    mask: str = ""
    """Where it was painted over; empty for an edit of the whole picture."""
    ones: dict[int, ShownResult] = field(default_factory=dict)
    """The results, by their numbers."""
    before: str = ""
    """The input to compare with: itself where a result has its size, else in the framing and size of what is shown."""
    kept: dict[int, str] = field(default_factory=dict)
    """The input with what was kept in grey, by the number of the result."""
    candidates: dict[int, list[str]] = field(default_factory=dict)
    """What is shown of those among which a result was found, by its number."""

    @property
    def results(self) -> list[str]:
        """What is shown of each result."""
        return [one.shown for one in [*self.ones.values()]]


def result_id(task_id: str, number: int) -> str:
    """Return what the page calls a result."""
    return f"{task_id}-{number}"


class Results:
    """The files of the newest edits, by the ids of their tasks. Every method may be called from any thread."""

    def __init__(self, space: UploadSpace, decoding: Budget, outputs: Path) -> None:
        """`space` has gradio's folder for uploads, `decoding` is the budget of pixels, `outputs` where results go."""
        self._space, self._decoding, self._outputs = space, decoding, outputs
        self._shown: OrderedDict[str, ShownEdit] = OrderedDict()
        self._lock = threading.Lock()

    def begin(self, task_id: str, session: str, picture: str, mask: str = "") -> None:
        """Remember a task of a session, its input and its mask, and forget the oldest ones beyond the limits."""
        with self._lock:
            self._shown[task_id] = ShownEdit(task_id, session, picture, mask)
            self._forget_old()

    def _forget_old(self) -> None:
        count = sum(len(shown.ones) for shown in self._shown.values())
        while len(self._shown) > 1 and (len(self._shown) > MOST_EDITS or count > MOST_RESULTS):
            count -= len(self._shown.popitem(last=False)[1].ones)

    def find(self, task_id: object) -> ShownEdit | None:
        """Return what is kept of a task that the page began."""
        return self._shown.get(task_id) if isinstance(task_id, str) else None

    def of(self, session: str) -> list[ShownEdit]:
        """Return all that is kept of a session, the oldest first."""
        with self._lock:
            return [shown for shown in self._shown.values() if shown.session == session]

    def one(self, id_: object) -> tuple[ShownEdit, int] | None:
        """Return the edit and the number of a result, as `result_id` names it."""
        task_id, _, word = str(id_ or "").rpartition("-")
        shown, number = self.find(task_id), int(word) if word.isascii() and word.isdigit() and len(word) < 9 else 0
        return None if shown is None or number not in shown.ones else (shown, number)

    def keep(self, data: bytes, name: str) -> str:
        """Write a file that the page may show; return its path. Raises UserError."""
        self._space.admit(len(data), files=1)
        try:
            return save_bytes_to_cache(data, name, str(self._space.folder))
        except OSError as error:
            raise UserError(f"{name} cannot be kept ({error.strerror}): try again.") from error

    def write(self, task_id: str, status: EditStatus) -> ShownEdit | None:
        """Write the results that are new, and at first the input to compare with; return what is kept.

        Raises UserError; what could not be written is tried again by the next call.
        """
        with self._lock:
            shown = self._shown.get(task_id)
            if shown is None:
                return None
            for result in status.results:
                if result.number not in shown.ones:
                    one = ShownResult(result.settings, result.infotext, result.size)
                    self._keep_files(task_id, result.number, one, result.png, result.small)
                    shown.ones[result.number] = one
            if status.results and not shown.before:
                shown.before = self._before(shown.picture, status.results[0].size)
            return shown

    def _keep_files(self, task_id: str, number: int, one: ShownResult, png: bytes, small: bytes | None) -> None:
        name = f"{task_id[:6]}-{number:04}-{one.settings.seed}"
        one.file = self.keep(png, f"{name}.png")
        one.shown = one.file if small is None else self.keep(small, f"{name}.webp")

    def _before(self, picture: str, size: tuple[int, int]) -> str:
        def is_shown_so(image: Image.Image, *_: object) -> bool:
            turn = exif_of(image).get(ORIENTATION, 1)
            upright = image.size[::-1] if turn in (5, 6, 7, 8) else image.size
            sound = image.mode != "CMYK" and not getattr(image, "is_animated", False)
            turned = turn == 1 or image.format in BROWSERS_TURN
            return sound and turned and image.format in BROWSERS_SHOW and upright == size

        if read_as(picture, is_shown_so, None):
            return picture
        image, icc = self._framed(picture, small_size(*size))
        return self.keep(encode_picture(image, "PNG", icc=icc), "before.png")

    def _framed(self, picture: str, size: tuple[int, int]) -> tuple[Image.Image, bytes | None]:
        """Return an input in the framing of its edit, at this size, and its profile. Raises UserError."""
        with decoded(self._decoding, SentPicture.in_file(picture), patient=True) as (before,):
            return fit(*before.image.size, size, 1).apply(before.image), before.icc

    # --- results that were made a while ago ---

    def restore(self, session: str, task_ids: Collection[str]) -> None:
        """Remember again what tasks of a session saved: after a restart of the server, or when they were forgotten."""
        for task_id, files in saved_by(self._outputs, session, task_ids).items():
            ones: dict[int, ShownResult] = {}
            for number, path in sorted(files.items()):
                with suppress(UserError):  # it was moved or changed meanwhile
                    ones[number] = read_as(path, _saved_result, None)
            with self._lock:
                known = self._shown.setdefault(task_id, ShownEdit(task_id, session))
                known.ones = dict(sorted({**ones, **known.ones}.items()))
                self._forget_old()

    def there(self, shown: ShownEdit, number: int) -> ShownResult:
        """Return a result whose files are there, brought from where it was saved if need be. Raises UserError."""
        with self._lock:
            one = shown.ones[number]
            if not (Path(one.file).is_file() and Path(one.shown).is_file()):
                path = saved_by(self._outputs, shown.session, [shown.task_id]).get(shown.task_id, {}).get(number)
                if path is None:
                    raise UserError("This result is no longer here: reuse its settings to make it again.")
                small = None
                if max(one.size) > LONGEST:
                    with decoded(self._decoding, SentPicture.in_file(str(path)), patient=True) as (picture,):
                        small = small_copy(picture.image, picture.icc)
                try:
                    self._keep_files(shown.task_id, number, one, path.read_bytes(), small)
                except OSError as error:
                    raise UserError(f"This result cannot be read ({error.strerror}): try again.") from error
            return one

    def before_of(self, shown: ShownEdit) -> str | None:
        """Return the input to compare with, as long as it is there."""
        return shown.before if shown.before and Path(shown.before).is_file() else None

    def thumb_of(self, shown: ShownEdit, number: int) -> bytes:
        """Return the thumbnail of a result (WebP), made when it is first asked for. Raises UserError."""
        one = shown.ones[number]
        if not one.thumb:
            file = self.there(shown, number).shown
            with decoded(self._decoding, SentPicture.in_file(file), patient=True) as (picture,):
                small = ImageOps.contain(picture.image, (THUMB, THUMB)) if max(one.size) > THUMB else picture.image
                one.thumb = encode_picture(small, "WEBP", icc=picture.icc, quality=85)
        return one.thumb

    # --- what was kept of an input ---

    def what_would_be_kept(self, picture: str, relevance: Image.Image, amount: float) -> str:
        """Return the picture of what an edit would keep of an input by its map. Raises UserError."""
        image, icc = self._framed(picture, relevance.size)
        image = kept_in_grey(image, _by_map(relevance, amount))
        return self.keep(encode_picture(image, "WEBP", icc=icc), "kept.webp")

    def what_was_kept(self, shown: ShownEdit, number: int, result: EditResult) -> str | None:
        """Return the picture of what a result kept, made when it is first asked for; None for one without a map.

        Raises UserError.
        """
        if result.relevance is None:
            return None
        with self._lock:
            if number not in shown.kept:
                image, icc = self._framed(shown.picture, small_size(*result.size))
                image = kept_in_grey(image, result.inside)
                shown.kept[number] = self.keep(encode_picture(image, "WEBP", icc=icc), "kept.webp")
            return shown.kept[number]

    def candidates_of(self, shown: ShownEdit, number: int, result: EditResult) -> list[str]:
        """Return the pictures of those among which a result was found, made when first asked for. Raises UserError."""
        with self._lock:
            if number not in shown.candidates:
                shown.candidates[number] = [self.keep(one.picture, "candidate.webp") for one in result.candidates]
            return shown.candidates[number]

    def mask_of(self, result: EditResult) -> str | None:
        """Write where a result was edited as a mask, white there; None for one without a map. Raises UserError.

        Of an edit of the whole picture it is where the map would have had the edit.
        """
        if result.relevance is None:
            return None
        by_map = _by_map(result.relevance, result.settings.keep_amount)
        mask = result.inside if result.kept and result.inside is not None else by_map
        return self.keep(encode_picture(mask, "PNG"), "mask.png")


def _saved_result(image: Image.Image, *_: object) -> ShownResult:
    """Return a result from the header of the file in which it was saved."""
    infotext = texts_of(image).get(PARAMETERS, "")
    return ShownResult(settings_from(infotext)[0], infotext, image.size)


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
