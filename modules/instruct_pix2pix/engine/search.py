"""Several candidates for one edit, in lockstep: a matrix, or a race in which only the most promising one goes on.

All take a step before any takes the next, so that after each step there is a coarse picture of every candidate. Rows of
different scales share calls of the model: what differs between them are weights, not rows. Candidates of one seed and
text begin with the same rows, which are evaluated once.

The race is that of ELECT (Kim et al. 2025, arXiv 2504.13490): after two fifths of the steps each candidate is looked at
for what it has done to the rest of the picture, and all but one are given up.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch
from torch import Tensor
from torch.nn import functional as F

from ..conditioning import to_images
from ..errors import UserError
from ..guidance.relevance import inside as inside_of
from ..guidance.relevance import is_whole
from ..settings import EditSettings
from .candidates import Choice, Glimpse, Search, step_of_look
from .edit import at_work, edit_each
from .edit_batch import BatchSampling, Edited, FittedPicture, OnStep, PromptCache, encode_pictures
from .model import EditModel
from .result_size import sized

MOST_CANDIDATES = 400
"""Each holds some latents; 400 of 512 pixels take about 300 MB."""

TOGETHER_CELLS = {"cpu": 2304}
"""Cells of latents that share a call of the model: 16 pictures of the demo model's 96 pixels, one of 512."""
TOGETHER_CELLS_ELSEWHERE = 32768
"""The same on a GPU: 8 pictures of 512 pixels."""


@dataclass(frozen=True)
class Winner:
    """The winner of a race, and what it was up against."""

    edited: Edited
    """An ordinary result: an edit with its settings gives the same picture."""
    looks: tuple[Glimpse, ...]
    """All candidates, in their order."""
    cost: float
    """The model rows of the whole race, in edits like the winner's."""


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
    prompts: PromptCache | None = None,
) -> Winner:
    """Begin the edit with each of the candidates, and finish the one that is chosen; see `edit_together`.

    `prompts` has the texts of edits before, so that none is encoded again.
    """
    looks: list[Glimpse] = []
    place = 0
    with at_work(model):
        whole = [replace(one, zoom=False) for one in candidates]
        sampling = _sampling(model, picture, whole, on_step, together, prompts, watch=True)
        look_at = step_of_look(sampling.steps)

        def look(step: int, denoised: Tensor) -> None:
            nonlocal place
            if step == look_at:
                looks.extend(_looks(model, sampling, denoised, candidates))
                place = choose(looks)
                sampling.go_on_with([place])
                if candidates[place].zoom:
                    raise _Decided

        edited = None
        with contextlib.suppress(_Decided):
            [edited] = sampling.results(sampling.run(look), [place])
            edited = sized(edited, picture, sampling.advance)
    rows = sampling.guidance.rows_in_all
    if edited is None:
        [edited] = edit_each(model, picture, [candidates[place]], on_step)
        rows += edited.rows
    return Winner(replace(edited, seconds=time.perf_counter() - sampling.began), tuple(looks), rows / edited.rows)


def find_each(
    model: EditModel,
    picture: FittedPicture,
    settings: EditSettings,
    search: Search,
    on_step: OnStep | None = None,
    together: int | None = None,
    first: int = 0,
) -> Iterator[Winner]:
    """Make the results that the settings (resolved) ask for, each of them found as `search` says; see `race`.

    With `first`, without as many at the beginning, for settings whose seed is set.
    """
    if search.candidates > 1:
        for candidates in islice(search.begun(settings), first, None):
            yield race(model, picture, candidates, search.choose, on_step, together)
        return
    for edited in edit_each(model, picture, settings.pictures()[first:], on_step):
        yield Winner(edited, (), 1.0)


class _Decided(Exception):  # noqa: N818 - an outcome, not an error
    """The race is over, and the winner is edited in another way."""


def _sampling(
    model: EditModel,
    picture: FittedPicture,
    candidates: Sequence[EditSettings],
    on_step: OnStep | None,
    together: int | None,
    prompts: PromptCache | None = None,
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
        prompts or PromptCache(model),
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
