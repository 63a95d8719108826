"""Makes the units of a batch with a loaded model: read, edit, encode, and on one machine all three at once."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from ..engine.edit import plan_for
from ..engine.edit_batch import Edited, FittedPicture, Progress, PromptCache, edit_batch, encode_pictures
from ..engine.model import EditModel
from ..engine.process_memory import give_back
from ..errors import Interrupted, UserError, out_of_memory
from ..images import encode_picture, open_picture
from ..settings import EditSettings
from .animation import Frame, Timing, encode_animation, read_frames
from .units import Control, Executor, Item, Made, Shot, Unit

AHEAD = 2
"""Units that are read before their turn; as many may wait to be encoded."""

Files = Mapping[Path, bytes]
"""Contents to take for files that this machine does not have."""


@dataclass(frozen=True)
class Canvas:
    """A picture, read and fitted; one frame for a still one."""

    frames: tuple[FittedPicture, ...]
    alphas: tuple[Image.Image | None, ...]
    """The transparency of each frame at the size and framing of the result."""
    timing: Timing
    """For a still picture, only its EXIF and ICC profile."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reading:
    """A unit, read: for each shot its canvas, or a sentence why there is none."""

    unit: Unit
    canvases: tuple[Canvas | str, ...]


@dataclass(frozen=True)
class Editing:
    """A unit, edited: for each shot its frames, or a sentence why there are none."""

    reading: Reading
    results: tuple[Sequence[Edited] | str, ...]


class UnitRunner:
    """A loaded model at work on units. `read` and `encode` may run in any thread, beside `edit` in one."""

    def __init__(self, model: EditModel, model_hash: str | None) -> None:
        self.model = model
        self.hash = model_hash
        self.texts = PromptCache(model)

    def __call__(self, unit: Unit, files: Files | None = None) -> list[Made]:
        """Make the wanted shots of a unit; what is wrong with a picture is in its Made."""
        return self.encode(self.edit(self.read(unit, files)))

    def read(self, unit: Unit, files: Files | None = None) -> Reading:
        """Read and fit the pictures of a unit, each once."""
        canvases: dict[str, Canvas | str] = {}
        for shot in unit.shots:
            if shot.item.name not in canvases:
                try:
                    canvases[shot.item.name] = self._canvas(shot.item, files or {})
                except Exception as error:
                    canvases[shot.item.name] = sentence_for(error)
        return Reading(unit, tuple(canvases[shot.item.name] for shot in unit.shots))

    def edit(self, reading: Reading, control: Control | None = None) -> Editing:
        """Run the model over a unit. Raises Interrupted when `control` says so, between two steps."""

        def on_step(_: Progress) -> None:
            if control is not None and control.aborting:
                raise Interrupted

        shots = reading.unit.shots
        results: list[Sequence[Edited] | str] = [c if isinstance(c, str) else "" for c in reading.canvases]
        stills: dict[tuple[int, int], list[tuple[int, FittedPicture]]] = {}
        for place, (shot, canvas) in enumerate(zip(shots, reading.canvases, strict=True)):
            if isinstance(canvas, str):
                continue
            if shot.item.frames > 1:
                results[place] = self._animated(shot, canvas, reading.unit.batch_size, on_step)
            else:  # one size as a rule; a header may have promised another
                stills.setdefault(canvas.frames[0].plan.padded, []).append((place, canvas.frames[0]))
        for group in stills.values():
            made = self._divided([frame for _, frame in group], [shots[place].settings for place, _ in group], on_step)
            for (place, _), result in zip(group, made, strict=True):
                results[place] = result if isinstance(result, str) else [result]
        give_back()  # units have many shapes, and what one leaves fits the next badly
        return Editing(reading, tuple(results))

    def encode(self, editing: Editing) -> list[Made]:
        """Encode the wanted results of a unit as files."""
        made = []
        rows = zip(editing.reading.unit.shots, editing.reading.canvases, editing.results, strict=True)
        for shot, canvas, result in rows:
            if not shot.wanted:
                continue
            if isinstance(canvas, str) or isinstance(result, str):
                made.append(Made(shot.item.name, shot.index, None, result if isinstance(result, str) else ""))
                continue
            try:
                made.append(self._file(shot, canvas, result))
            except Exception as error:
                made.append(Made(shot.item.name, shot.index, None, sentence_for(error)))
        return made

    def _canvas(self, item: Item, files: Files) -> Canvas:
        mask = None if item.mask is None else open_picture(_source(item.mask, files)).image

        def fitted(image: Image.Image) -> FittedPicture:
            plan = plan_for(self.model, image, item.settings)
            return FittedPicture.by(plan, image, mask, self.model.config.vae.factor)

        def small(alpha: Image.Image | None, frame: FittedPicture) -> Image.Image | None:
            return None if alpha is None else frame.plan.framed(alpha)

        if item.frames > 1:

            def take(frame: Frame) -> tuple[FittedPicture, Image.Image | None]:
                one = fitted(frame.image)
                return one, small(frame.alpha, one)

            pairs, timing = read_frames(_source(item.source, files), take)
            return Canvas(tuple(one for one, _ in pairs), tuple(alpha for _, alpha in pairs), timing)
        picture = open_picture(_source(item.source, files))
        frame = fitted(picture.image)
        timing = Timing((), None, picture.exif, picture.icc)
        return Canvas((frame,), (small(picture.alpha, frame),), timing, picture.notes)

    def _animated(
        self, shot: Shot, canvas: Canvas, batch_size: int, on_step: Callable[[Progress], None]
    ) -> list[Edited] | str:
        edited: list[Edited] = []
        for start in range(0, len(canvas.frames), batch_size):
            frames = canvas.frames[start : start + batch_size]
            for one in self._divided(frames, [shot.settings] * len(frames), on_step):
                if isinstance(one, str):
                    return one
                edited.append(one)
        return edited

    def _divided(
        self, frames: Sequence[FittedPicture], settings: Sequence[EditSettings], on_step: Callable[[Progress], None]
    ) -> list[Edited | str]:
        """Edit together; where that fails, in halves, until what fails alone gets its sentence."""
        try:
            distinct = list({id(frame): frame for frame in frames}.values())
            latents = encode_pictures(self.model, distinct)
            places = {id(frame): place for place, frame in enumerate(distinct)}
            latents = latents[[places[id(frame)] for frame in frames]]
            return list(edit_batch(self.model, frames, latents, settings, self.texts, on_step))
        except Interrupted:
            raise
        except Exception as error:
            sentence = sentence_for(error)
        if len(frames) == 1:
            return [sentence]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = len(frames) // 2
        first = self._divided(frames[:half], settings[:half], on_step)
        return first + self._divided(frames[half:], settings[half:], on_step)

    def _file(self, shot: Shot, canvas: Canvas, frames: Sequence[Edited]) -> Made:
        item, timing = shot.item, canvas.timing
        images = [_with_alpha(one.image, alpha) for one, alpha in zip(frames, canvas.alphas, strict=True)]
        text = frames[0].infotext(self.model.name, self.hash)
        if item.frames > 1:
            data = encode_animation(images, item.fmt, timing, text, quality=item.quality)
        else:
            image = frames[0].image if item.fmt == "JPEG" else images[0]
            data = encode_picture(
                image, item.fmt, text, exif=timing.exif, icc=timing.icc, quality=item.quality, name=item.source.name
            )
        rows, seconds = sum(one.rows for one in frames), sum(one.seconds for one in frames)
        seed, size = frames[0].settings.seed, images[0].size
        return Made(item.name, shot.index, data, "", seed, size, rows, seconds, canvas.notes)


def local_executor(maker: UnitRunner, control: Control) -> Executor:
    """Return an executor that makes units with one model, reading ahead and encoding behind it.

    The model runs in the calling thread, and nothing else here uses torch: OpenMP has threads for each thread that
    does, and where there are more of them than cores, libgomp's wait asleep and the model is nearly twice as slow.
    """

    def execute(units: Iterator[Unit | None]) -> Generator[Made, None, None]:
        with ThreadPoolExecutor(2, "batch-read") as readers, ThreadPoolExecutor(1, "batch-encode") as encoder:
            reading: deque[Future[Reading]] = deque()
            encoding: deque[Future[list[Made]]] = deque()

            def edit_next() -> None:
                unit = reading.popleft().result()
                if control.stopping:
                    return  # dropped: the run that goes on will make it
                with suppress(Interrupted):
                    encoding.append(encoder.submit(maker.encode, maker.edit(unit, control)))

            try:
                for unit in units:
                    if unit is not None:
                        reading.append(readers.submit(maker.read, unit))
                    while reading and (unit is None or len(reading) >= AHEAD):
                        edit_next()
                        yield from _ended(encoding)
                    if unit is None:
                        yield from _ended(encoding, wait=True)
                while reading:
                    edit_next()
                    yield from _ended(encoding)
                yield from _ended(encoding, wait=True)
            except BaseException:  # also when nobody wants more
                control.abort()
                for pool in (readers, encoder):
                    pool.shutdown(wait=False, cancel_futures=True)
                raise

    return execute


def _ended(encoding: deque[Future[list[Made]]], *, wait: bool = False) -> Iterator[Made]:
    """Take what is encoded, in order; all of it with `wait`, and so much that no more than AHEAD remain."""
    while encoding and (wait or len(encoding) > AHEAD or encoding[0].done()):
        yield from encoding.popleft().result()


def paths_of(unit: Unit) -> list[Path]:
    """Return the files that a unit is made from."""
    items = {shot.item.name: shot.item for shot in unit.shots}.values()
    return [path for item in items for path in (item.source, item.mask) if path is not None]


def sentence_for(error: Exception) -> str:
    """Return what to tell a person of what went wrong with a picture."""
    told = error if isinstance(error, UserError) else out_of_memory(error)
    if told is not None:
        return str(told)
    return f"Something went wrong in this program ({type(error).__name__}: {error})."


def _source(path: Path, files: Files) -> Path | io.BytesIO:
    if path not in files:
        return path
    stream = io.BytesIO(files[path])
    stream.name = str(path)  # for sentences
    return stream


def _with_alpha(image: Image.Image, alpha: Image.Image | None) -> Image.Image:
    if alpha is None:
        return image
    image = image.copy()
    image.putalpha(alpha)
    return image
