"""Several candidates for one edit, in lockstep: a matrix, or a race in which only the most promising one goes on.

All take a step before any takes the next, so that after each step there is a coarse picture of every candidate. Rows of
different scales share calls of the model: what differs between them are weights, not rows. Candidates of one seed and
text begin with the same rows, which are evaluated once.

The race is that of ELECT (Kim et al. 2025, arXiv 2504.13490): after two fifths of the steps each candidate is looked at
for what it has done to the rest of the picture, and all but one are given up.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..conditioning import to_images
from ..errors import UserError
from ..guidance.relevance import inside as inside_of
from ..guidance.relevance import is_whole
from ..settings import KNOBS, SEEDS, EditSettings
from ..variations import variations
from .edit import at_work, edit_each
from .edit_batch import BatchSampling, Edited, FittedPicture, OnStep, PromptCache, encode_pictures
from .model import EditModel
from .result_size import sized

MOST_CANDIDATES = 400
"""Each holds some latents; 400 of 512 pixels take about 300 MB."""

LOOK_SHARE = 0.4
"""The share of the steps after which candidates are looked at, as in ELECT."""

LEAST_CHANGE = 0.7
"""A candidate changes too little that changes less than this share of the most. With a half, on the demo
model, one that had failed won."""
ALIKE = 1.02
"""Changes of the rest are alike that differ by less than this factor."""

PAIRS = ((0.2, 4 / 3), (0.4, 1.2), (0.8, 1.0), (1.25, 0.9), (1.6, 0.8))
"""Factors of Text CFG and Image CFG among which scales are found. On the demo model, around 7.5 and 1.5, pairs between
these changed the results little."""

TOGETHER_CELLS = {"cpu": 2304}
"""Cells of latents that share a call of the model: 16 pictures of the demo model's 96 pixels, one of 512."""
TOGETHER_CELLS_ELSEWHERE = 32768
"""The same on a GPU: 8 pictures of 512 pixels."""


@dataclass(frozen=True)
class Glimpse:
    """What a candidate was becoming when it was looked at. Changes are mean distances from the input, 0..255."""

    settings: EditSettings
    """Those of an edit that makes it."""
    outside: float
    """The change of the rest, ELECT's background inconsistency score."""
    inside: float
    """The change of what the instruction means. In an edit of the whole picture both are the change of all of it."""
    picture: Image.Image = field(repr=False)
    """RGB, small, in the framing of the results."""


@dataclass(frozen=True)
class Winner:
    """The winner of a race, and what it was up against."""

    edited: Edited
    """An ordinary result: an edit with its settings gives the same picture."""
    looks: tuple[Glimpse, ...]
    """All candidates, in their order."""
    cost: float
    """The model rows of the whole race, in edits like the winner's."""


Choice = Callable[[Sequence[Glimpse]], int]
"""Tells from the looks at all candidates the place of the one that goes on."""


def edit_together(
    model: EditModel,
    picture: FittedPicture,
    candidates: Sequence[EditSettings],
    on_step: OnStep | None = None,
    together: int | None = None,
) -> Iterator[Edited]:
    """Edit a picture with each of the candidates, which differ in seed, texts and scales alone; as `edit_each` does.

    `on_step` is told of all of them at once. `together` is how many share a call of the model, None: what is fast here.
    Raises UserError for too many of them, and for 'Only the region'.
    """
    if candidates[0].zoom:
        raise UserError("'Only the region' edits one picture at a time: leave it out where several are made together.")
    with at_work(model):
        sampling = _sampling(model, picture, candidates, on_step, together)
        latents = sampling.run()
        size = _pictures_together(model, latents)
        for first in range(0, len(candidates), size):
            for edited in sampling.results(latents, range(first, min(first + size, len(candidates)))):
                yield sized(edited, picture)


def race(
    model: EditModel,
    picture: FittedPicture,
    candidates: Sequence[EditSettings],
    choose: Choice,
    on_step: OnStep | None = None,
    together: int | None = None,
) -> Winner:
    """Begin the edit with each of the candidates, and finish the one that is chosen; see `edit_together`."""
    looks: list[Glimpse] = []
    place = 0
    with at_work(model):
        whole = [replace(one, zoom=False) for one in candidates]
        sampling = _sampling(model, picture, whole, on_step, together, watch=True)
        look_at = max(1, math.ceil(LOOK_SHARE * sampling.steps))

        def look(step: int, denoised: Tensor) -> None:
            nonlocal place
            if step == look_at:
                looks.extend(_looks(model, sampling, denoised, candidates))
                place = choose(looks)
                sampling.guidance.give_up(i for i in range(len(candidates)) if i != place)
                if candidates[place].zoom:
                    raise _Decided

        edited = None
        with contextlib.suppress(_Decided):
            [edited] = sampling.results(sampling.run(look), [place])
            edited = sized(edited, picture)
    rows = sampling.guidance.rows_in_all
    if edited is None:
        [edited] = edit_each(model, picture, [candidates[place]], on_step)
        rows += edited.rows
    return Winner(replace(edited, seconds=time.perf_counter() - sampling.began), tuple(looks), rows / edited.rows)


@dataclass(frozen=True)
class Search:
    """How the settings of a result are found: by several seeds, by several scales, or not at all."""

    best_of: int = 1
    """How many seeds each result is the best of."""
    strength: float | None = None
    """How much to change, 0..1, by scales that are found; None: by the scales that were asked for."""

    def __post_init__(self) -> None:
        """Raises UserError for both at once."""
        if self.best_of > 1 and self.strength is not None:
            raise UserError("The best of several seeds and scales that are found cannot be combined: choose one.")

    @property
    def candidates(self) -> int:
        """How many edits are begun for each result."""
        return self.best_of if self.strength is None else len(PAIRS)

    def check(self, settings: EditSettings, asked: Collection[str]) -> None:
        """Raise UserError where scales are to be found and others were `asked` for, by the settings' names."""
        if self.strength is None:
            return
        if settings.randomize_cfg != "off" or {"text_cfg", "image_cfg"} & set(asked):
            raise UserError("How much to change finds both scales itself: leave out Text CFG and Image CFG.")
        if settings.guidance != "instruct-pix2pix":
            raise UserError("How much to change is made for the guidance of InstructPix2Pix: set the scales yourself.")

    def begun(self, settings: EditSettings) -> Iterator[list[EditSettings]]:
        """Return the candidates for each result: settings of one picture, for edits that differ in seed or scales."""
        first = settings.seeds()[0]
        for text in variations(settings.instruction):
            one = replace(settings, instruction=text)
            for number in range(settings.count):
                seeds = range(first + number * self.best_of, first + (number + 1) * self.best_of)
                tried = [one.for_image(seed % SEEDS) for seed in seeds]
                yield tried if self.strength is None else with_pairs(tried[0])

    def choose(self, looks: Sequence[Glimpse]) -> int:
        """Return the place of the candidate that goes on."""
        return steadiest(looks) if self.strength is None else strongest(looks, self.strength)


def find_each(
    model: EditModel,
    picture: FittedPicture,
    settings: EditSettings,
    search: Search,
    on_step: OnStep | None = None,
    together: int | None = None,
) -> Iterator[Winner]:
    """Make the results that the settings (resolved) ask for, each of them found as `search` says; see `race`."""
    if search.candidates > 1:
        for candidates in search.begun(settings):
            yield race(model, picture, candidates, search.choose, on_step, together)
        return
    for edited in edit_each(model, picture, settings.pictures(), on_step):
        yield Winner(edited, (), 1.0)


# --- choices ---


def steadiest(looks: Sequence[Glimpse]) -> int:
    """Return the place of the candidate that leaves the rest as it was, of those that change something.

    Of several that leave it nearly alike, the one that changes most.
    """
    least = LEAST_CHANGE * max(one.inside for one in looks)
    alive = [i for i, one in enumerate(looks) if one.inside >= least]
    most = min(looks[i].outside for i in alive) * ALIKE
    return max((i for i in alive if looks[i].outside <= most), key=lambda i: looks[i].inside)


def with_pairs(settings: EditSettings) -> list[EditSettings]:
    """Return settings of one picture at each of `PAIRS`."""
    text, image = (KNOBS[name].maximum or math.inf for name in ("text_cfg", "image_cfg"))
    pairs = [(min(text, max(1.0, settings.text_cfg * a)), min(image, settings.image_cfg * b)) for a, b in PAIRS]
    return [replace(settings, text_cfg=round(t, 2), image_cfg=round(i, 2)) for t, i in pairs]


def strongest(looks: Sequence[Glimpse], strength: float) -> int:
    """Return the place of the candidate that changes most, of those that spare the rest as `strength` 0..1 wants it."""
    low, high = min(one.outside for one in looks), max(one.outside for one in looks)
    most = high if strength >= 1 else low + strength * (high - low)  # which may round to less than `high`
    return max(range(len(looks)), key=lambda i: (looks[i].outside <= most, looks[i].inside))


class _Decided(Exception):  # noqa: N818 - an outcome, not an error
    """The race is over, and the winner is edited in another way."""


def _sampling(
    model: EditModel,
    picture: FittedPicture,
    candidates: Sequence[EditSettings],
    on_step: OnStep | None,
    together: int | None,
    *,
    watch: bool = False,
) -> BatchSampling:
    if len(candidates) > MOST_CANDIDATES:
        raise UserError(f"{len(candidates)} edits are too many to be made together: {MOST_CANDIDATES} are the most.")
    latent = encode_pictures(model, [picture], candidates[0])
    return BatchSampling(
        model,
        [picture] * len(candidates),
        latent,
        candidates,
        PromptCache(model),
        on_step,
        together=together or _pictures_together(model, latent),
        watch=watch,
    )


def _pictures_together(model: EditModel, latents: Tensor) -> int:
    """Return how many pictures with latents like these [.., 4, h, w] share a call of the model."""
    cells = TOGETHER_CELLS.get(latents.device.type, TOGETHER_CELLS_ELSEWHERE)
    count = max(1, cells // latents[0, 0].numel())
    while count > 1 and not model.is_room_for_rows(3 * count, latents):
        count //= 2
    return count


# --- looks ---


def _looks(
    model: EditModel, sampling: BatchSampling, denoised: Tensor, candidates: Sequence[EditSettings]
) -> Iterator[Glimpse]:
    """Look at what the candidates are becoming, from their denoised latents [N, 4, h, w]."""
    watcher = sampling.watcher
    assert watcher is not None
    relevant = watcher.shared_map()
    free = torch.ones_like(relevant) if sampling.free is None else sampling.free[:1].to(relevant)
    parts = (free, free) if _edits_the_whole(sampling, relevant, free) else (relevant * free, (1 - relevant) * free)
    before = model.decode_small(sampling.start)
    region, rest = (F.interpolate(part, before.shape[-2:], mode="bilinear")[0, 0] for part in parts)
    for one, latent in zip(candidates, denoised.split(1), strict=True):
        after = model.decode_small(latent)
        distance = (after.clamp(-1, 1) - before.clamp(-1, 1)).abs().mean(dim=1)[0] * 127.5
        outside, inside = (float((part * distance).sum() / part.sum().clamp(min=1e-6)) for part in (rest, region))
        yield Glimpse(one, outside, inside, sampling.pictures[0].plan.undo(to_images(after)[0]))


def _edits_the_whole(sampling: BatchSampling, relevant: Tensor, free: Tensor) -> bool:
    """Tell whether most of the candidates change all of the picture: then there is no rest to compare them by."""
    full = None if sampling.watcher is None else sampling.watcher.full
    if full is None:
        return False
    edited = inside_of(relevant, sampling.settings[0].keep_amount).expand(len(full), -1, -1, -1)
    whole = is_whole(edited, (full - sampling.start).abs().mean(dim=1, keepdim=True), free)
    return 2 * int(whole.sum()) > len(whole)
