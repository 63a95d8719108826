"""Asks a model for the rows of several pictures: each only for what it needs, as many in one call as may be."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor

from .deep import DeepFeatures, KeptFeatures
from .inputs import GuidanceInputs
from .rows import Kind, same_length

Condition = TypeVar("Condition")
"""What a model makes of texts, once: its own type, which the guidance hands back to it as it is."""

MOST_CONDITIONS = 4
"""Conditions to keep, those used last: a step may have all rows and the next one some of them."""


class RowModel(Protocol[Condition]):
    """A network wrapped as a denoiser of rows, several of which may share their latent and picture."""

    def condition(
        self, texts: Tensor, pooled: Tensor | None = None, cells: tuple[int, int] | None = None
    ) -> Condition:
        """Texts [N, T, C] of N rows -> a handle, to be made once and given back at every step that has these rows.

        With SDXL their `pooled` vectors [N, P], and the (h, w) of the latents that are denoised.
        """
        ...

    def __call__(
        self,
        x: Tensor,
        sigma: Tensor,
        condition: Condition,
        image: Tensor,
        entries: Sequence[int],
        deep: DeepFeatures | None = None,
    ) -> Tensor:
        """x [M, 4, h, w], sigma [M], image [M, 4, h, w] and N texts -> denoised [N, 4, h, w].

        `entries` [N] says for each row which entry of x, sigma and image it has. `deep` has deep features of the N
        rows, which are then taken, or asks for them; a model without such leaves it as it is.
        """
        ...


class RowEvaluator(Generic[Condition]):
    """Evaluates rows of the pictures of one sampling.

    `together` is how many pictures share a call of the model, None: all. `between` is told, between two calls of one
    step, which share of them is done, 0..1; what it raises ends the sampling. `evaluated` counts the rows so far.
    `deep` keeps features for every other call of the full rows alone; None: all calls have all layers.
    """

    def __init__(
        self,
        model: RowModel[Condition],
        given: GuidanceInputs,
        together: int | None = None,
        between: Callable[[float], None] | None = None,
        deep: KeptFeatures | None = None,
    ) -> None:
        self.model = model
        self.given = given
        self.evaluated = 0
        self._together = together
        self._between = between
        self._deep = deep
        self._conditions: OrderedDict[object, Condition] = OrderedDict()

    @property
    def prompt_weights(self) -> list[float]:
        """See `denoiser.RowSource`."""
        return [prompt.weight for prompt in self.given.prompts]

    def texts_at(self, step: int) -> tuple[Tensor, ...]:
        """See `denoiser.RowSource`."""
        return tuple(prompt.at(step) for prompt in (*self.given.prompts, self.given.negative))

    def __call__(
        self, x: Tensor, sigma: Tensor, step: int, kinds: Sequence[Kind], needed: Sequence[Sequence[Kind]]
    ) -> Tensor:
        """x [B, 4, h, w] at one level sigma [] or [B] -> denoised rows [R, B, 4, h, w], one for each of `kinds`.

        `needed` says which of them each picture needs, in the same order; the others are zeros.
        """
        size = self._together or len(x)
        calls = [
            (own, some[i : i + size])
            for own, pictures in pictures_alike(needed).items()
            for some in self._split(own, pictures)
            for i in range(0, len(some), size)
        ]
        if calls == [(tuple(kinds), [*range(len(x))])]:
            return self._call(x, sigma, step, kinds, None)
        denoised = x.new_zeros(len(kinds), *x.shape)
        for number, (own, pictures) in enumerate(calls):
            if number and self._between is not None:
                self._between(number / len(calls))
            places = torch.tensor([kinds.index(kind) for kind in own]).unsqueeze(1)
            denoised[places, torch.tensor(pictures)] = self._call(x[pictures], sigma, step, own, pictures)
        return denoised

    def _split(self, kinds: Sequence[Kind], pictures: list[int]) -> list[list[int]]:
        """Part the pictures whose call has deep features that are kept from those whose call has all layers."""
        if self._deep is None:
            return [pictures]
        served = [picture for picture in pictures if self._deep.serves(kinds, picture)]
        return [some for some in (served, [one for one in pictures if one not in served]) if some]

    def _call(
        self, x: Tensor, sigma: Tensor, step: int, kinds: Sequence[Kind], pictures: Sequence[int] | None
    ) -> Tensor:
        """Return rows [R, b, 4, h, w] from one call; x [b, 4, h, w] are these of the pictures, None: all."""
        batch, count = len(x), len(kinds)
        self.evaluated += batch * count
        image = _of(self.given.image.to(x), pictures).expand(batch, -1, -1, -1)
        seen = list(dict.fromkeys(kind.image for kind in kinds))  # with and without the picture
        places = range(batch) if pictures is None else pictures
        deep = None if self._deep is None else self._deep.before(kinds, places)
        served = deep is not None and deep.rows is not None
        denoised = self.model(
            x.repeat(len(seen), 1, 1, 1),
            sigma.reshape(-1)[:1].float().expand(batch * len(seen)),
            self._condition(step, kinds, x, pictures),
            torch.cat([image if one else torch.zeros_like(image) for one in seen]),
            [seen.index(kind.image) * batch + i for kind in kinds for i in range(batch)],
            deep,
        )
        if self._deep is not None and deep is not None and not served:
            self._deep.after(deep, kinds, places)
        return denoised.unflatten(0, (count, batch))

    def _condition(self, step: int, kinds: Sequence[Kind], x: Tensor, pictures: Sequence[int] | None) -> Condition:
        batch, cells = len(x), (x.shape[-2], x.shape[-1])
        prompts = [self.given.negative if kind.prompt is None else self.given.prompts[kind.prompt] for kind in kinds]
        texts = [prompt.at(step) for prompt in prompts]
        vectors = [vector for prompt in prompts if (vector := prompt.pooled_at(step)) is not None]
        stages = tuple((kind.prompt, prompt.stage(step)) for kind, prompt in zip(kinds, prompts, strict=True))
        shared = all(len(each) == 1 for each in (*texts, *vectors))
        key = batch, cells, stages, None if shared or pictures is None else tuple(pictures)
        if key not in self._conditions:
            states = torch.cat([_of(text, pictures).expand(batch, -1, -1) for text in same_length(texts)])
            pooled = [_of(vector, pictures).expand(batch, -1) for vector in vectors]
            made = self.model.condition(states, torch.cat(pooled), cells) if pooled else self.model.condition(states)
            self._conditions[key] = made
        self._conditions.move_to_end(key)
        while len(self._conditions) > MOST_CONDITIONS:
            self._conditions.popitem(last=False)
        return self._conditions[key]


def pictures_alike(needed: Sequence[Sequence[Kind]]) -> dict[tuple[Kind, ...], list[int]]:
    """Return the pictures that need the same rows, by those rows; without those that need none."""
    alike: dict[tuple[Kind, ...], list[int]] = {}
    for picture, own in enumerate(needed):
        if own:
            alike.setdefault(tuple(own), []).append(picture)
    return alike


def _of(values: Tensor, pictures: Sequence[int] | None) -> Tensor:
    """Return the entries of these pictures, or the one that stands for all."""
    return values if pictures is None or len(values) == 1 else values[list(pictures)]
