"""Textual inversion: words of a prompt that files stand for, each with vectors in place of tokens of the vocabulary.

Gal et al. 2022, arXiv 2208.01618. A word is the stem of its file. Its vectors become rows after the vocabulary of each
text encoder, so that a text is a list of ids as before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from ...errors import UserError
from ...models.add_ons import EMBEDDING, AddOnFolders, file_hash, file_state
from ...models.weights_files import read_weights
from ...prompts import parse_attention
from ..networks.clip import TextEncoder
from ..tokenizer import Tokenizer

MOST_VECTORS = 75
"""Of a word: what a text encoder reads at once."""


class Words:
    """The words in the folders of a model, matched as AUTOMATIC1111 does: by tokens, the longest first."""

    def __init__(self, tokenizer: Tokenizer, encoders: Sequence[TextEncoder], folders: AddOnFolders) -> None:
        """`encoders` are those of a model, one or two, with one tokenizer."""
        self._tokenizer = tokenizer
        self._encoders = encoders
        self._folders = folders
        self._tokens: dict[str, list[int]] = {}  # of names, which are many
        self._by_first: dict[int, list[tuple[list[int], Path]]] = {}
        self._known: dict[tuple[str, int, int], list[int] | str] = {}
        """By the state of a file its ids, or what is wrong with it."""

    def look(self) -> None:
        """See which files there are now. They are read when a prompt names them."""
        self._by_first = {}
        for name, path in self._folders.files(EMBEDDING).items():
            word = name.rpartition("/")[2]
            ids = self._tokens.get(word) or self._tokens.setdefault(word, self._tokenizer.encode(word))
            if ids:
                self._by_first.setdefault(ids[0], []).append((ids, path))
        for same in self._by_first.values():
            same.sort(key=lambda pair: -len(pair[0]))

    def runs(self, tokens: Sequence[int]) -> Iterator[list[int]]:
        """Yield the tokens of a text one by one, but for those of a word: all its ids together in their place."""
        place = 0
        while place < len(tokens):
            count, path = self._at(tokens, place)
            ids = self._ids(path) if path else None
            yield ids if isinstance(ids, list) else list(tokens[place : place + count])
            place += count

    def hashes(self, text: str) -> dict[str, str]:
        """Return the words in a text with the hashes of their files, as 'TI hashes' has them."""
        return {path.stem: file_hash(path) for path in self._files(text) if isinstance(self._ids(path), list)}

    def notes(self, text: str) -> list[str]:
        """Return a sentence for each file whose name is in a text but which cannot be used: the word remains a word."""
        return [found for path in self._files(text) if isinstance(found := self._ids(path), str)]

    def _files(self, text: str) -> list[Path]:
        found: dict[Path, None] = {}
        for piece, _ in parse_attention(text) if self._by_first else ():
            tokens = self._tokenizer.encode(piece)
            place = 0
            while place < len(tokens):
                count, path = self._at(tokens, place)
                found |= {path: None} if path else {}
                place += count
        return list(found)

    def _at(self, tokens: Sequence[int], place: int) -> tuple[int, Path | None]:
        """Return how many tokens from `place` on are a word, and its file; 1 and None where there is none."""
        for ids, path in self._by_first.get(tokens[place], ()):
            if list(tokens[place : place + len(ids)]) == ids:
                return len(ids), path
        return 1, None

    def _ids(self, path: Path) -> list[int] | str:
        try:
            state = file_state(path)
            if state not in self._known:
                self._known[state] = self._add(path)
        except UserError as error:
            return f"{error} The word '{path.stem}' was read as text."
        return self._known[state]

    def _add(self, path: Path) -> list[int] | str:
        try:
            rows = vectors_in(path, [encoder.config.width for encoder in self._encoders])
        except UserError as error:
            return f"{error} The word '{path.stem}' was read as text."
        ids = [encoder.add_words(vectors) for encoder, vectors in zip(self._encoders, rows, strict=True)]
        return ids[0]


def vectors_in(path: Path, widths: Sequence[int]) -> list[Tensor]:
    """Return the vectors [n, width] of an embedding file for text encoders of these widths, float32.

    Formats: AUTOMATIC1111's .pt (`string_to_param`) and .safetensors (`emb_params`), one tensor under any name
    (diffusers), `clip_l` and `clip_g` (SDXL). Raises UserError for any other file, and where a width differs.
    """
    tensors = read_weights(path)
    named = [name for name in tensors if name == "emb_params" or name.startswith("string_to_param.")]
    if {"clip_l", "clip_g"} <= tensors.keys():
        found = [tensors["clip_l"], tensors["clip_g"]]
    elif len(named) == 1 or len(tensors) == 1:
        found = [tensors[named[0]] if named else next(iter(tensors.values()))]
    else:
        raise UserError(f"'{path.name}' is not an embedding of one word.")
    found = [vectors[None] if vectors.ndim == 1 else vectors for vectors in found]
    if any(vectors.ndim != 2 or not vectors.is_floating_point() for vectors in found):
        raise UserError(f"'{path.name}' is not an embedding: it holds no vectors.")
    if [vectors.shape[1] for vectors in found] != list(widths):
        has, wants = (" and ".join(map(str, sizes)) for sizes in ([v.shape[1] for v in found], widths))
        raise UserError(f"The embedding '{path.name}' has vectors of width {has}, but this model takes {wants}.")
    if len({len(vectors) for vectors in found}) > 1 or not 1 <= len(found[0]) <= MOST_VECTORS:
        raise UserError(f"The embedding '{path.name}' has {len(found[0])} vectors; 1 to {MOST_VECTORS} can be read.")
    rows = [vectors.float() for vectors in found]
    if not all(vectors.isfinite().all() for vectors in rows):
        raise UserError(f"The embedding '{path.name}' holds numbers that are none: download it again.")
    return rows
