"""Prompt text to embeddings: weighted tokens in chunks of 75, through any CLIP-like text encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UserError
from ..guidance.inputs import Prompt
from ..prompts import BREAK, parse_attention, schedule, split_and
from .beside.words import Words
from .tokenizer import Tokenizer

CONTEXT = 77
"""Tokens a CLIP text encoder reads at once: BOS, 75 of text, EOS."""
CHUNK = CONTEXT - 2
COMMA_BACKTRACK = 20
"""How near the end of a full chunk its last comma must be, in tokens, to end the chunk there (A1111's default)."""


@dataclass(frozen=True)
class Chunk:
    """One run of the text encoder: 77 token ids and the weight of each (1 for BOS, EOS and padding)."""

    tokens: tuple[int, ...]
    weights: tuple[float, ...]


class PromptEncoder:
    """Turns one prompt text (no AND, no step schedule) into what the UNet reads of it.

    `encoder` maps token ids [n, 77] int64, made on `device`, to hidden states [n, 77, C]. Chunks are padded with EOS,
    as in SD1. `second`, which SDXL has, maps them to states of its own and a pooled vector [n, P].
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        encoder: Callable[[Tensor], Tensor],
        second: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
        *,
        device: torch.device | str = "cpu",
        words: Words | None = None,
    ) -> None:
        """`words` are those that stand for vectors of their own."""
        self.tokenizer = tokenizer
        self.encoder = encoder
        self.second = second
        self.device = device
        self.words = words
        self._comma = tokenizer.encode(",")[0]

    def chunks(self, text: str) -> list[Chunk]:
        """Return the chunks of `text`, at least one.

        BREAK ends a chunk. So does the 75th token; then the words after a comma among the last 20 tokens move on to the
        next chunk together, so that no phrase is torn apart.
        """
        done: list[Chunk] = []
        current: list[tuple[int, float]] = []
        comma: int | None = None  # where the last comma of this chunk is
        for word, weight in parse_attention(text):
            if (word, weight) == BREAK:
                done.append(self._chunk(current))
                current, comma = [], None
                continue
            tokens = self.tokenizer.encode(word)
            for run in self.words.runs(tokens) if self.words else ([token] for token in tokens):
                token = run[0]
                if len(current) == CHUNK:
                    end = CHUNK
                    if token != self._comma and comma is not None and CHUNK - comma <= COMMA_BACKTRACK:
                        end = comma + 1
                    done.append(self._chunk(current[:end]))
                    current, comma = current[end:], None
                if len(current) + len(run) > CHUNK:  # the vectors of a word stay together
                    done.append(self._chunk(current))
                    current, comma = [], None
                if token == self._comma:
                    comma = len(current)
                current += [(token, weight) for token in run]
        if current or not done:
            done.append(self._chunk(current))
        return done

    def _chunk(self, weighted: list[tuple[int, float]]) -> Chunk:
        padding = CHUNK - len(weighted)
        return Chunk(
            tokens=(
                self.tokenizer.bos,
                *(token for token, _ in weighted),
                self.tokenizer.eos,
                *[self.tokenizer.eos] * padding,
            ),
            weights=(1.0, *(weight for _, weight in weighted), 1.0, *[1.0] * padding),
        )

    def encode(self, text: str) -> Tensor:
        """Return the embedding of `text`, [1, n * 77, C] for n chunks, in the encoder's dtype.

        Hidden states are multiplied by the weights of their tokens, then every chunk is scaled back to the mean that it
        had before (A1111's emphasis 'Original'); with two encoders so are those of each, which then stand side by side.
        Raises UserError when the weights make that impossible.
        """
        return self.encode_pooled(text)[0]

    def encode_pooled(self, text: str) -> tuple[Tensor, Tensor | None]:
        """Return the embedding of `text` as `encode` does, and its pooled vector [1, P], if the model reads one.

        The vector is that of the first chunk, without weights, as in A1111.
        """
        chunks = self.chunks(text)
        tokens = torch.tensor([chunk.tokens for chunk in chunks], device=self.device)
        states, pooled = [self.encoder(tokens)], None
        if self.second is not None:
            more, vectors = self.second(tokens)
            states, pooled = [*states, more], vectors[:1]
        if any(weight != 1.0 for chunk in chunks for weight in chunk.weights):
            weights = torch.tensor([chunk.weights for chunk in chunks]).to(tokens.device)
            states = [_emphasise(hidden, weights) for hidden in states]
        return torch.cat(states, dim=-1).flatten(0, 1)[None], pooled


def _emphasise(hidden: Tensor, weights: Tensor) -> Tensor:
    """Multiply hidden states [n, 77, C] by weights [n, 77] and restore the mean of each chunk."""
    before = hidden.float()
    after = before * weights[..., None]
    mean = after.mean((1, 2), keepdim=True)
    # A chunk without weights keeps its exact values, whatever its mean is.
    after = torch.where(
        (weights == 1.0).all(1)[:, None, None], before, after * (before.mean((1, 2), keepdim=True) / mean)
    ).to(hidden.dtype)
    if before.isfinite().all() and not after.isfinite().all():
        raise UserError(
            "The weights in the prompt are too extreme to compute with; keep them between 0 and 2."
        )
    return after


def encode_schedule(encoder: PromptEncoder, text: str, steps: int, weight: float = 1.0) -> Prompt:
    """Encode one sub-prompt with its step schedule, AND taken as a word, as in a negative prompt."""
    return _encode(encoder, [(text, weight)], steps)[0]


def encode_negative(
    encoder: PromptEncoder, text: str, steps: int, *, no_text: str = "empty", own_pooled: bool = True
) -> Prompt:
    """Encode a negative prompt; where it is blank, it stands for 'no text', of which SDXL knows two meanings.

    `no_text` 'empty' is the empty text, with the pooled vector of its own or else (None) that of the instruction;
    'zeros' is zeros for both. Models that read no pooled vector know the empty text alone.
    """
    prompt = encode_schedule(encoder, text, steps)
    if not prompt.pooled or (no_text == "empty" and own_pooled):
        return prompt
    stages, pooled = list(prompt.schedule), list(prompt.pooled)
    for i, (_, shown) in enumerate(schedule(text, steps)):
        vector = pooled[i]
        if not shown.strip():
            pooled[i] = None
            if no_text == "zeros" and vector is not None:
                stages[i], pooled[i] = (stages[i][0], torch.zeros_like(stages[i][1])), torch.zeros_like(vector)
    return Prompt(tuple(stages), prompt.weight, tuple(pooled))


def encode_prompt(encoder: PromptEncoder, text: str, steps: int) -> list[Prompt]:
    """Encode a whole prompt, AND and step schedules included; one Prompt per AND part.

    Every distinct text is encoded once, however often the steps or parts return to it.
    """
    return _encode(encoder, split_and(text), steps)


def _encode(encoder: PromptEncoder, parts: list[tuple[str, float]], steps: int) -> list[Prompt]:
    schedules = [
        ([(until, shown.strip()) for until, shown in schedule(text, steps)], weight) for text, weight in parts
    ]
    texts = dict.fromkeys(t for s, _ in schedules for _, t in s)
    embedded = {text: encoder.encode_pooled(text) for text in texts}
    pooled = encoder.second is not None
    return [
        Prompt(
            tuple((until, embedded[t][0]) for until, t in stages),
            weight,
            tuple(embedded[t][1] for _, t in stages) if pooled else (),
        )
        for stages, weight in schedules
    ]
