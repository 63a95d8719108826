"""Carries out units with a loaded model: prepare, edit, encode, and on one machine all three at once."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from PIL import Image

from ..engine.edit import fitted
from ..engine.edit_batch import (
    Edited,
    FittedPicture,
    Progress,
    PromptCache,
    edit_batch,
    encode_pictures,
    find_region,
)
from ..engine.model import EditModel
from ..engine.process_memory import give_back
from ..engine.region import edit_region
from ..engine.result_size import DEEP_FORMATS, at_size, framed, size_of, to_write, with_transparency
from ..engine.search import Winner, race
from ..engine.shared_cores import SharedCores
from ..errors import Interrupted, UserError, out_of_memory
from ..guidance.relevance import Region
from ..images import encode_picture, open_picture
from ..settings import KNOBS, EditSettings
from .animation import Frame, Timing, encode_animation, read_frames
from .units import Control, Executor, Item, Result, ResultRequest, Unit

PROBED_FRAMES = 8
"""Frames of an animation that its region is looked for in."""

AHEAD = 2
"""Units that are prepared before the model needs them; as many edited ones may wait to be encoded."""

Admit = Callable[[int], AbstractContextManager[None]]

SentFiles = Mapping[Path, bytes]
"""The contents of files that this machine does not have."""


@dataclass(frozen=True)
class PreparedPicture:
    """A picture, read and fitted to the model; one frame for a still one."""

    frames: tuple[FittedPicture, ...]
    alphas: tuple[Image.Image | None, ...]
    """The transparency of each frame (L) at the size and framing of the result."""
    timing: Timing
    """For a still picture, only its EXIF and ICC profile."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class PreparedUnit:
    """A unit and, for each of its requests, the picture or the problem that prevented it."""

    unit: Unit
    pictures: tuple[PreparedPicture | UserError, ...]
    files: SentFiles = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class EditedUnit:
    """A prepared unit and, for each of its requests, the edited frames, what was found, or what prevented it."""

    prepared: PreparedUnit
    edits: tuple[Sequence[Edited] | Winner | UserError, ...]


class UnitRunner:
    """Carries out units with one model. `prepare` and `encode` may run in any thread, beside `edit` in one."""

    def __init__(self, model: EditModel, model_hash: str | None, admit: Admit | None = None) -> None:
        """`admit` gives room in memory for so many pixels, while they are decoded and fitted."""
        self._admit: Admit = admit or (lambda _: nullcontext())
        self.model = model
        self.hash = model_hash
        self.texts = PromptCache(model)
        self._told: set[str] = set()  # of LoRAs and the like, with the first result

    def __call__(self, unit: Unit, files: SentFiles | None = None) -> list[Result]:
        """Return the results of a unit's wanted requests; what is wrong with a picture is the result's problem."""
        return self.encode(self.edit(self.prepare(unit, files)))

    def prepare(self, unit: Unit, files: SentFiles | None = None) -> PreparedUnit:
        """Read and fit the pictures of a unit, each once."""
        pictures: dict[str, PreparedPicture | UserError] = {}
        for item in unit.items:
            try:
                with self._admit(item.size[0] * item.size[1] * (1 if item.mask is None else 2)):
                    pictures[item.name] = self._picture(item, files or {})
            except Exception as error:
                pictures[item.name] = problem_of(error)
        return PreparedUnit(unit, tuple(pictures[request.item.name] for request in unit.requests), files or {})

    @SharedCores()
    def edit(self, prepared: PreparedUnit, control: Control | None = None) -> EditedUnit:
        """Run the model over a unit. Raises Interrupted between two steps if `control` is aborting."""

        def on_step(_: Progress) -> None:
            if control is not None and control.aborting:
                raise Interrupted

        requests = prepared.unit.requests
        edits: list[Sequence[Edited] | Winner | UserError] = []
        stills: dict[tuple[int, int], list[tuple[int, FittedPicture]]] = {}
        for place, (request, picture) in enumerate(zip(requests, prepared.pictures, strict=True)):
            if isinstance(picture, UserError):
                edits.append(picture)
            elif request.item.search.candidates > 1:
                edits.append(self._found(request, picture.frames[0], prepared.unit.batch_size, on_step))
            elif request.settings.zoom and picture.frames[0].whole is not None:
                edits.append(self._edit_region(picture.frames[0], request.settings, on_step))
            elif request.item.frames > 1:
                edits.append(self._edit_animation(request, picture, prepared.unit.batch_size, on_step))
            else:
                edits.append(())  # replaced below
                stills.setdefault(picture.frames[0].plan.padded, []).append((place, picture.frames[0]))
        for group in stills.values():
            settings = [requests[place].settings for place, _ in group]
            made = self._edit_together([frame for _, frame in group], settings, on_step)
            for (place, _), edited in zip(group, made, strict=True):
                edits[place] = edited if isinstance(edited, UserError) else [edited]
        give_back()  # units have many shapes, and memory freed by one fits the next badly
        return EditedUnit(prepared, tuple(edits))

    def encode(self, edited: EditedUnit) -> list[Result]:
        """Encode the wanted results of a unit as files."""
        results = []
        rows = zip(edited.prepared.unit.requests, edited.prepared.pictures, edited.edits, strict=True)
        for request, picture, edit in rows:
            if not request.wanted:
                continue
            if isinstance(picture, UserError):
                results.append(Result(request.item.name, request.index, None, picture))
            elif isinstance(edit, UserError):
                results.append(Result(request.item.name, request.index, None, edit))
            else:
                try:
                    with self._admit(2 * request.item.size[0] * request.item.size[1]):
                        results.append(self._file(request, picture, edit, edited.prepared.files))
                except Exception as error:
                    results.append(Result(request.item.name, request.index, None, problem_of(error)))
        return results

    def _picture(self, item: Item, files: SentFiles) -> PreparedPicture:
        read = None if item.mask is None else open_picture(_source(item.mask, files))
        mask, mask_notes = (None, ()) if read is None else (read.mask, read.notes)

        if item.frames > 1:

            def use(frame: Frame) -> tuple[FittedPicture, Image.Image | None]:
                one = fitted(self.model, frame.image, item.settings, mask)
                return replace(one, whole=None), frame.alpha and framed(frame.alpha, one.plan, item.settings)

            pairs, timing = read_frames(_source(item.source, files), use)
            frames, alphas = tuple(one for one, _ in pairs), tuple(alpha for _, alpha in pairs)
            whole = (f"{KNOBS['zoom'].label} has no effect on an animation.",) if item.settings.zoom else ()
            return PreparedPicture(frames, alphas, timing, timing.notes + mask_notes + whole)
        picture = open_picture(_source(item.source, files), deep=item.settings.zoom and item.fmt in DEEP_FORMATS)
        frame = fitted(self.model, picture.image, item.settings, mask, picture.deep)
        timing = Timing((), None, picture.exif, picture.icc)
        alpha = picture.alpha and framed(picture.alpha, frame.plan, item.settings)
        if not item.settings.zoom:
            frame = replace(frame, whole=None)  # read again when the results are made: units wait in memory
        return PreparedPicture((frame,), (alpha,), timing, picture.notes + mask_notes)

    def _edit_animation(
        self, request: ResultRequest, picture: PreparedPicture, batch_size: int, on_step: Callable[[Progress], None]
    ) -> list[Edited] | UserError:
        edits: list[Edited] = []
        region = None
        if request.settings.keep_rest != "off":  # one for all frames, or its edge would flicker
            some = picture.frames[:: -(-len(picture.frames) // PROBED_FRAMES)]
            asked = [request.settings] * len(some)
            latents = encode_pictures(self.model, some, request.settings)
            region = find_region(self.model, some, latents, asked, self.texts).shared()
        for start in range(0, len(picture.frames), batch_size):
            frames = picture.frames[start : start + batch_size]
            for edited in self._edit_together(frames, [request.settings] * len(frames), on_step, region):
                if isinstance(edited, UserError):
                    return edited
                edits.append(edited)
        return edits

    def _edit_region(
        self, frame: FittedPicture, settings: EditSettings, on_step: Callable[[Progress], None]
    ) -> list[Edited] | UserError:
        try:
            return [edit_region(self.model, frame, settings, self.texts, on_step)]
        except Interrupted:
            raise
        except Exception as error:
            return problem_of(error)

    def _found(
        self, request: ResultRequest, frame: FittedPicture, together: int, on_step: Callable[[Progress], None]
    ) -> Winner | UserError:
        try:
            choose = request.item.search.choose
            return race(self.model, frame, request.candidates, choose, on_step, together, self.texts)
        except Interrupted:
            raise
        except Exception as error:
            return problem_of(error)

    def _edit_together(
        self,
        frames: Sequence[FittedPicture],
        settings: Sequence[EditSettings],
        on_step: Callable[[Progress], None],
        region: Region | None = None,
    ) -> list[Edited | UserError]:
        """Edit frames of one size in one batch; if that fails, in halves, down to one, which gets its problem."""
        try:
            distinct = list({id(frame): frame for frame in frames}.values())
            latents = encode_pictures(self.model, distinct, settings[0])
            places = {id(frame): place for place, frame in enumerate(distinct)}
            latents = latents[[places[id(frame)] for frame in frames]]
            return list(edit_batch(self.model, frames, latents, settings, self.texts, on_step, region))
        except Interrupted:
            raise
        except Exception as error:
            problem = problem_of(error)
        if len(frames) == 1:
            return [problem]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = len(frames) // 2
        first = self._edit_together(frames[:half], settings[:half], on_step, region)
        return first + self._edit_together(frames[half:], settings[half:], on_step, region)

    def _at_size(
        self, item: Item, picture: PreparedPicture, frames: Sequence[Edited], files: SentFiles
    ) -> Sequence[Edited]:
        """Return edits at the size that is asked for, from the file read again where that is not the model's."""
        plan = picture.frames[0].plan
        if picture.frames[0].whole is not None or size_of(plan, item.settings) == plan.size:
            return frames
        mask = None if item.mask is None else open_picture(_source(item.mask, files)).mask
        if item.frames == 1:
            whole = open_picture(_source(item.source, files), deep=item.fmt in DEEP_FORMATS)
            return [at_size(frames[0], whole.image, plan, mask=mask, deep=whole.deep)]
        left = iter(frames)

        def use(frame: Frame) -> Edited:
            return at_size(next(left), frame.image, plan, mask=mask)

        return read_frames(_source(item.source, files), use)[0]

    def _file(
        self, request: ResultRequest, picture: PreparedPicture, edit: Sequence[Edited] | Winner, files: SentFiles
    ) -> Result:
        item, timing = request.item, picture.timing
        frames, cost = ([edit.edited], edit.cost) if isinstance(edit, Winner) else (edit, 0.0)
        frames = self._at_size(item, picture, frames, files)
        text = frames[0].infotext(self.model.name, self.hash)
        if item.frames > 1:
            pairs = zip(frames, picture.alphas, strict=True)
            images = [with_transparency(one.image, alpha) for one, alpha in pairs]
            data = encode_animation(images, item.fmt, timing, text, quality=item.quality)
        else:
            pixels = to_write(frames[0], picture.alphas[0], item.fmt)
            data = encode_picture(
                pixels, item.fmt, text, exif=timing.exif, icc=timing.icc, quality=item.quality, name=item.source.name
            )
        return Result(
            item.name,
            request.index,
            data,
            seed=frames[0].settings.seed,
            size=frames[0].image.size,
            text_cfg=frames[0].settings.text_cfg,
            image_cfg=frames[0].settings.image_cfg,
            cost=cost,
            rows=sum(one.rows for one in frames),
            seconds=sum(one.seconds for one in frames),
            notes=(*picture.notes, *self._not_told(frames[0].beside.notes)),
        )

    def _not_told(self, notes: Sequence[str]) -> list[str]:
        new = [note for note in notes if note not in self._told]
        self._told.update(new)
        return new


def local_executor(runner: UnitRunner, control: Control) -> Executor:
    """Return an executor that carries out units with one model; it prepares the next and encodes the last meanwhile.

    The model runs in the calling thread, and nothing else here uses torch: OpenMP keeps a team of threads for each
    thread that does. With more of them than cores, libgomp's waits sleep and the model takes nearly twice as long.
    """

    def execute(units: Iterator[Unit | None]) -> Generator[Result, None, None]:
        with ThreadPoolExecutor(2, "batch-read") as readers, ThreadPoolExecutor(1, "batch-encode") as encoder:
            prepared: deque[Future[PreparedUnit]] = deque()
            encoded: deque[Future[list[Result]]] = deque()

            def edit_next() -> None:
                unit = prepared.popleft().result()
                if control.stopping:
                    return  # dropped: the run that goes on will make it
                with suppress(Interrupted):
                    encoded.append(encoder.submit(runner.encode, runner.edit(unit, control)))

            try:
                for unit in units:
                    if unit is not None:
                        prepared.append(readers.submit(runner.prepare, unit))
                    while prepared and (unit is None or len(prepared) >= AHEAD):
                        edit_next()
                        yield from _finished(encoded)
                    if unit is None:
                        yield from _finished(encoded, wait=True)
                while prepared:
                    edit_next()
                    yield from _finished(encoded)
                yield from _finished(encoded, wait=True)
            except BaseException:  # GeneratorExit too: the caller wants no more
                control.abort()
                for pool in (readers, encoder):
                    pool.shutdown(wait=False, cancel_futures=True)
                raise
            finally:
                runner.model.add_ons.take_off()

    return execute


def _finished(encoded: deque[Future[list[Result]]], *, wait: bool = False) -> Iterator[Result]:
    """Yield the results that are encoded, in order; wait for all of them, or else until no more than AHEAD remain."""
    while encoded and (wait or len(encoded) > AHEAD or encoded[0].done()):
        yield from encoded.popleft().result()


def paths_of(unit: Unit) -> list[Path]:
    """Return the files that a unit is made from."""
    return [path for item in unit.items for path in (item.source, item.mask) if path is not None]


def problem_of(error: Exception) -> UserError:
    """Return what to tell a person of an error with one picture, without the error's traceback."""
    told = error if isinstance(error, UserError) else out_of_memory(error)
    if told is not None:
        return told.bare()
    return UserError(f"Something went wrong in this program ({type(error).__name__}: {error}).")


def _source(path: Path, files: SentFiles) -> Path | io.BytesIO:
    if path not in files:
        return path
    stream = io.BytesIO(files[path])
    stream.name = str(path)  # for sentences
    return stream
