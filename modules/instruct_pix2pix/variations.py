r"""Variations: 'as {watercolor|ukiyo-e|charcoal}' stands for three instructions.

Groups may stand beside each other and in each other; the last one varies first. Braces without a bar between them are
plain text. So is `\{`, `\|` or `\}`, which the prompt language reads as the sign alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from .errors import UserError

MOST_VARIATIONS = 100
DEEPEST = 8
"""Groups in each other; braces that are further in are plain text."""

_TOKEN = re.compile(r"[{}|]|(?:[^\\{}|]|\\.|\\$)+", re.DOTALL)


def variations(text: str) -> tuple[str, ...]:
    """Return the instructions that a text stands for, each once; itself alone where it has no alternatives.

    Raises UserError for more than MOST_VARIATIONS.
    """
    if "|" not in text or "{" not in text:
        return (text,)
    tokens = _TOKEN.findall(text)
    return tuple(dict.fromkeys(_expanded(tokens, 0, len(tokens), _closing(tokens))))


def _closing(tokens: Sequence[str]) -> dict[int, int]:
    """Return the place of the closing brace for that of each opening one that has one."""
    found, opened = {}, []
    for place, token in enumerate(tokens):
        if token == "{":
            opened.append(place)
        elif token == "}" and opened:
            first = opened.pop()
            if len(opened) < DEEPEST:
                found[first] = place
    return found


def _expanded(tokens: Sequence[str], place: int, end: int, closing: dict[int, int]) -> list[str]:
    """Return what the tokens from `place` to `end` stand for."""
    texts, plain = [""], ""
    while place < end:
        if place not in closing:
            plain += tokens[place]
            place += 1
            continue
        parts = _parts(tokens, place + 1, closing[place], closing)
        options = [text for part in parts for text in _expanded(tokens, *part, closing)]
        if len(parts) == 1:
            options = [f"{{{text}}}" for text in options]
        if len(texts) * len(options) > MOST_VARIATIONS:
            raise UserError(f"The instruction stands for more than {MOST_VARIATIONS} others: take out alternatives.")
        texts = [text + plain + option for text in texts for option in options]
        plain, place = "", closing[place] + 1
    return [text + plain for text in texts]


def _parts(tokens: Sequence[str], place: int, end: int, closing: dict[int, int]) -> list[tuple[int, int]]:
    """Return where each alternative of a group begins and ends."""
    bounds = [place - 1]
    while place < end:
        if tokens[place] == "|":
            bounds.append(place)
        place = closing.get(place, place) + 1
    return [(first + 1, last) for first, last in zip(bounds, [*bounds[1:], end], strict=True)]
