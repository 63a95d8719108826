"""How a result is found among several: which edits are begun, and which of them goes on.

No network is needed to say that, nor torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from ..errors import UserError
from ..settings import KNOBS, SEEDS, EditSettings

if TYPE_CHECKING:
    from PIL import Image

LOOK_SHARE = 0.4
"""The share of the steps after which candidates are looked at, as in ELECT."""

LEAST_CHANGE = 0.7
"""A candidate changes too little that changes less than this share of the most, beyond what each does to the rest. With
a half, on the demo model, one that had failed won."""
ALIKE = 1.02
"""Changes of the rest are alike that differ by less than this factor."""

PAIRS = ((0.2, 4 / 3), (0.4, 1.2), (0.8, 1.0), (1.25, 0.9), (1.6, 0.8))
"""Factors of Text CFG and Image CFG among which scales are found. On the demo model, around 7.5 and 1.5, pairs between
these changed the results little."""


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


Choice = Callable[[Sequence[Glimpse]], int]
"""Tells from the looks at all candidates the place of the one that goes on."""


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

    def settled(self, settings: EditSettings, asked: Collection[str]) -> EditSettings:
        """Return the settings of its edits: they keep the rest, unless it was `asked` for by the setting's name not to.

        What the instruction means is known from all candidates, and a choice alone cannot take away the change of the
        rest that all of them have. Raises UserError where scales are to be found and others were `asked` for.
        """
        if self.strength is not None:
            self._check_strength(settings, asked)
        held = self.candidates > 1 and settings.keep_rest == "off" and "keep_rest" not in asked
        return replace(settings, keep_rest="automatic") if held else settings

    def _check_strength(self, settings: EditSettings, asked: Collection[str]) -> None:
        if settings.randomize_cfg != "off" or {"text_cfg", "image_cfg"} & set(asked):
            raise UserError(
                "How much to change finds both scales itself: leave out Text CFG, Image CFG and Randomize CFG."
            )
        if settings.guidance != "instruct-pix2pix":
            raise UserError("How much to change is made for the guidance of InstructPix2Pix: set the scales yourself.")

    def begun(self, settings: EditSettings) -> Iterator[list[EditSettings]]:
        """Return the candidates for each result of the settings: see `tried`."""
        first = replace(settings, seed=settings.seeds()[0])
        return (self.tried(first, index) for index in range(settings.results))

    def tried(self, settings: EditSettings, index: int) -> list[EditSettings]:
        """Return the candidates for the result of this index, from 0; the settings have a seed that is set.

        Settings of one picture, for edits that differ in seed or scales.
        """
        first = settings.seed + index % settings.count * (self.best_of - 1)  # `picture` goes on by one for each result
        tried = [replace(settings, seed=(first + number) % SEEDS).picture(index) for number in range(self.best_of)]
        return tried if self.strength is None else with_pairs(tried[0])

    def steps(self, steps: int, again: int = 0) -> int:
        """Return the steps that a result takes, those of all its candidates, of so many `steps` each.

        `again` are those of the winner where it is edited in another way after the race.
        """
        look_at = step_of_look(steps)
        return steps if self.candidates == 1 else self.candidates * look_at + (again or steps - look_at)

    def choose(self, looks: Sequence[Glimpse]) -> int:
        """Return the place of the candidate that goes on."""
        return steadiest(looks) if self.strength is None else strongest(looks, self.strength)


# --- choices ---


def step_of_look(steps: int) -> int:
    """Return the step, from 1, after which the candidates are looked at."""
    return max(1, math.ceil(LOOK_SHARE * steps))


def steadiest(looks: Sequence[Glimpse]) -> int:
    """Return the place of the candidate that leaves the rest as it was, of those that change something.

    Of several that leave it nearly alike, the one that changes most.
    """
    changes = [_change(one) for one in looks]
    least = max(changes) * (LEAST_CHANGE if max(changes) > 0 else 1)
    alive = [i for i, change in enumerate(changes) if change >= least]
    most = min(looks[i].outside for i in alive) * ALIKE
    return max((i for i in alive if looks[i].outside <= most), key=lambda i: looks[i].inside)


def _change(look: Glimpse) -> float:
    """Return what a candidate does beyond what it does to the rest: one that has burnt changes all alike."""
    return look.inside if look.inside == look.outside else look.inside - look.outside


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
