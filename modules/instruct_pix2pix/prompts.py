"""The A1111 prompt language: attention weights, step schedules and AND, as text in and text out.

A prompt is read from the outside in: `split_and` gives the sub-prompts, `schedule` the text of each at every
step, `parse_attention` the weight of every piece of such a text. The results are those of the AUTOMATIC1111
web UI, its oddities included, so that a prompt written for it means the same here. Where it would misread plain
English, the English goes first, and `for_host` writes the prompt so that the web UI reads it in this way too:

- a number after a ':' is a weight only up to MOST_WEIGHT, and not where it is a time or a ratio, `10:30` or `16:9`;
- a prompt without AND has no weight at its end;
- AND and BREAK are words of a prompt that is all in capitals;
- a backslash before a letter or a digit is text, as in a path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Union

from .errors import UserError
from .text import number_text
from .variations import variations

BREAK = ("BREAK", -1.0)
"""What `parse_attention` returns where a new 75-token chunk begins."""

MOST_WEIGHT = 10
"""The largest weight, of either sign; a larger number is none."""

MOST_LORA_WEIGHT = 100
"""The largest weight of a LoRA, of either sign: sliders have some that are made for 10 and more."""

_KEYWORD = re.compile(r"\b(?:AND|BREAK)\b")


def _in_capitals(text: str) -> bool:
    """Whether AND and BREAK stand among other words in capitals, and none in small letters."""
    return _KEYWORD.sub("", text).isupper()


# --- (attention:1.2) ---------------------------------------------------------------------------------

_STRONGER = 1.1
_WEAKER = 1 / 1.1

_ATTENTION = re.compile(
    r"""
      (?P<escape> \\ (?P<literal> [\\()\[\]] | (?![^\W_]) ) )
    | (?P<weight> (?: (?<!\d): | :(?!\d+\s*\)) )
                  \s* (?P<value> [+-]? (?: 0* (?: \d (?: \.\d* )? | 10 (?: \.0* )? ) | \.\d+ ) ) \s* \) )
    | (?P<bracket> [()\[\]] )
    | (?P<text> [^\\()\[\]:]+ | : | \\ )
    """,
    re.VERBOSE,
)
_BREAK = re.compile(r"\bBREAK\b")


def parse_attention(text: str) -> list[tuple[str, float]]:
    r"""Return the pieces of `text` with their weights; neighbours of equal weight are one piece.

    `(a)` weighs 1.1, `(a:1.3)` 1.3 and `[a]` 1/1.1, and they multiply when nested; a bracket left open
    reaches to the end, one never opened is text. `\(` `\)` `\[` `\]` `\\` are those characters; a backslash before
    anything else but a letter or a digit vanishes. `BREAK` gives the piece `BREAK`; inside a weighted bracket its own
    weight is multiplied too, which makes it a word, as in A1111.
    """
    words: list[str] = []
    weights: list[float] = []
    opened: dict[str, list[int]] = {"(": [], "[": []}

    def multiply(bracket: str, factor: float) -> None:
        for n in range(opened[bracket].pop(), len(words)):
            weights[n] *= factor

    def add(word: str, weight: float = 1.0) -> None:
        words.append(word)
        weights.append(weight)

    in_capitals = _in_capitals(text)
    for found in _ATTENTION.finditer(text):
        token = found.group()
        if found["escape"] is not None:
            add(found["literal"])
        elif token in opened:
            opened[token].append(len(words))
        elif found["weight"] is not None and opened["("]:
            multiply("(", float(found["value"]))
        elif token == ")" and opened["("]:
            multiply("(", _STRONGER)
        elif token == "]" and opened["["]:
            multiply("[", _WEAKER)
        else:
            for n, part in enumerate([token] if in_capitals else _split_at_break(token)):
                if n:
                    add(*BREAK)
                add(part)

    for bracket, factor in (("(", _STRONGER), ("[", _WEAKER)):
        while opened[bracket]:
            multiply(bracket, factor)
    return _merge_equal(words, weights) or [("", 1.0)]


def _split_at_break(text: str) -> list[str]:
    """Split at the word BREAK and drop the white space around it."""
    parts = _BREAK.split(text)
    for n in range(1, len(parts)):
        parts[n - 1] = parts[n - 1].rstrip()
        parts[n] = parts[n].lstrip()
    return parts


def _merge_equal(words: list[str], weights: list[float]) -> list[tuple[str, float]]:
    merged: list[tuple[list[str], float]] = []
    for word, weight in zip(words, weights, strict=True):
        if merged and merged[-1][1] == weight:
            merged[-1][0].append(word)
        else:
            merged.append(([word], weight))
    return [("".join(run), weight) for run, weight in merged]


# --- [from:to:when] and [a|b] ------------------------------------------------------------------------

Node = Union[str, "list[Node]", "_Choice"]

_SCHEDULE = re.compile(r"(?:[^\\\[\]():|]|\\.)+|[\[\]():|\\]")
_WHEN = re.compile(r"\s*([+-]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*")


@dataclass(frozen=True)
class _Choice:
    """A bracket that shows one of its options: the second after step `when`, or each in turn."""

    options: list[list[Node]]
    when: int | None

    def at(self, step: int) -> list[Node]:
        if self.when is None:
            return self.options[(step - 1) % len(self.options)]
        return self.options[0 if step <= self.when else 1]


@dataclass
class _Open:
    """A bracket that is not closed yet: `parts` with the `marks` (':' or '|') between them."""

    bracket: str
    parts: list[list[Node]] = field(default_factory=lambda: [[]])
    marks: list[str] = field(default_factory=list)

    def mark(self, mark: str) -> None:
        self.marks.append(mark)
        self.parts.append([])

    def as_text(self) -> list[Node]:
        nodes: list[Node] = [self.bracket, self.parts[0]]
        for mark, part in zip(self.marks, self.parts[1:], strict=True):
            nodes += [mark, part]
        return nodes

    def closed_by(self, bracket: str, steps: int) -> Node | None:
        """Return the node of the bracket when `bracket` closes it, or None where the two make no sense."""
        if self.bracket + bracket == "()":
            return [*self.as_text(), ")"] if self.marks in ([], [":"]) else None
        if self.bracket + bracket != "[]":
            return None
        if not self.marks:
            return [*self.as_text(), "]"]
        if ":" not in self.marks:
            return _Choice(self.parts, None)
        when = self._when(steps)
        if when is None or self.marks not in ([":"], [":", ":"]):
            return None
        before, after = ([], self.parts[0]) if len(self.marks) == 1 else self.parts[:2]
        return _Choice([before, after], when)

    def _when(self, steps: int) -> int | None:
        """Read the last part: a step number, or a share of all steps where it has a point."""
        last = self.parts[-1]
        number = _WHEN.fullmatch(last[0]) if len(last) == 1 and isinstance(last[0], str) else None
        if number is None:
            return None
        value = float(number[1]) * (steps if "." in number[1] else 1)
        return int(max(0.0, min(value, steps)))  # bounded first: 1e999 is a number too


def schedule(text: str, steps: int) -> list[tuple[int, str]]:
    """Return `(until_step, text)` pairs, the last one until `steps`; steps count from 1.

    `[from:to:when]`, `[to:when]` and `[from::when]` change the text after step `when` (a number with a
    point is a share of `steps`); `[a|b]` alternates at every step. Attention brackets stay as they are.
    A bracket that means none of this is text; a `|` outside of square brackets, or a backslash with
    nothing after it, makes the whole prompt plain text, as in A1111.
    """
    parsed = _parse_schedule(text, steps)
    if parsed is None:
        return [(steps, text)]
    nodes, choices = parsed
    ends = {steps}
    for choice in choices:
        ends.update(range(1, steps + 1) if choice.when is None else {choice.when} - {0})
    return [(end, _show(nodes, end)) for end in sorted(ends)]


def _parse_schedule(text: str, steps: int) -> tuple[list[Node], list[_Choice]] | None:
    """Return the text as a tree together with all choices in it, or None if it has no such reading.

    One pass with a stack of open brackets: a bracket whose closing makes no sense turns itself and all
    those around it into text, because none of them may hold a bracket without a partner.
    """
    tokens = _SCHEDULE.findall(text)
    if "\\" in tokens:
        return None
    top: list[Node] = []
    stack: list[_Open] = []
    choices: list[_Choice] = []
    for token in tokens:
        if token in ("[", "("):
            stack.append(_Open(token))
            continue
        if token in (":", "|") and stack:
            stack[-1].mark(token)
            continue
        node: Node = token
        if token in ("]", ")"):
            closed = stack[-1].closed_by(token, steps) if stack else None
            if closed is None:
                _turn_into_text(stack, top)
            else:
                stack.pop()
                node = closed
                if isinstance(closed, _Choice):
                    choices.append(closed)
        (stack[-1].parts[-1] if stack else top).append(node)
    _turn_into_text(stack, top)
    return None if "|" in top else (top, choices)


def _turn_into_text(stack: list[_Open], top: list[Node]) -> None:
    for opened in stack:
        top += opened.as_text()
    stack.clear()


def _show(nodes: list[Node], step: int) -> str:
    """Write the tree out as the text of one step; not recursive, brackets may nest without limit."""
    shown: list[str] = []
    todo: list[Node] = [nodes]
    while todo:
        node = todo.pop()
        if isinstance(node, str):
            shown.append(node)
        else:
            todo.extend(reversed(node.at(step) if isinstance(node, _Choice) else node))
    return "".join(shown)


# --- one AND other :0.5 ------------------------------------------------------------------------------

_AND = re.compile(r"\bAND\b")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?|\d*\.\d+)")
_NETWORK = re.compile(r"<(?P<kind>lora|lyco|hypernet):(?P<rest>[^<>]*)>", re.IGNORECASE)
_UNCLOSED = re.compile(r"<(?:lora|lyco):[^<>\s]*", re.IGNORECASE)
_WHOLE = re.compile(r"\d+\.?\s*$")


def split_and(text: str) -> list[tuple[str, float]]:
    """Return the sub-prompts between the words AND with their weights: `a :0.5` weighs 0.5, else 1.

    What asks for a LoRA or the like is left out, as in the web UI; see `lora_tags`. Raises UserError for a weight
    beyond MOST_WEIGHT. Composable Diffusion, arXiv 2206.01714.
    """
    text = _NETWORK.sub("", text)
    parts = [text] if _in_capitals(text) else _AND.split(text)
    return [_weighted(part) for part in parts] if len(parts) > 1 else [(text.rstrip(), 1.0)]


def network_notes(text: str, negative: str = "") -> list[str]:
    """Return a sentence for what a prompt asks for and does not get.

    That is a hypernetwork, '<hypernet:name:1>', for there are none here; a LoRA whose '>' is missing; and one in the
    negative prompt, which is text there, as in the web UI. Raises UserError for too many variations of `text`.
    """
    texts = variations(text)
    hypernets = [tag[0] for one in texts for tag in _NETWORK.finditer(one) if tag["kind"].lower() == "hypernet"]
    unclosed = [tag[0] for one in texts for tag in _UNCLOSED.finditer(_NETWORK.sub("", one))]
    negatives = [tag[0] for tag in _NETWORK.finditer(negative)]
    told = (
        (hypernets, "had no effect: there are no such networks here."),
        (unclosed, "was read as words: a LoRA is written <lora:name:0.8>, with a > at its end."),
        (negatives, "was read as words of the negative prompt: a LoRA belongs into the instruction."),
    )
    return [f"{', '.join(dict.fromkeys(found))[:200].rstrip()} {what}" for found, what in told if found]


@dataclass(frozen=True)
class LoraTag:
    """A LoRA that a prompt asks for, with its weight in the text encoder and in the UNet."""

    name: str
    text: float
    unet: float

    @property
    def weights(self) -> str:
        """Both in words: '0.8', or '0.5 (text) and 1 (UNet)'."""
        text, unet = number_text(self.text), number_text(self.unet)
        return unet if text == unet else f"{text} (text) and {unet} (UNet)"


def lora_tags(text: str) -> tuple[LoraTag, ...]:
    """Return the LoRAs that a prompt asks for, each once, in order; weights of one name are added up.

    `<lora:name>` has weight 1, `<lora:name:0.5>` that weight, `<lora:name:0.5:1>` one for the text encoder and one for
    the UNet, which may also be written `te=0.5` and `unet=1`; `lyco` is the same. As in AUTOMATIC1111, but that LORA in
    capitals is one too. Raises UserError for one that cannot be read so.
    """
    tags: dict[str, LoraTag] = {}
    for found in _NETWORK.finditer(text):
        if found["kind"].lower() == "hypernet":
            continue
        tag = _lora_tag(found[0], found["rest"].split(":"))
        known = tags.get(tag.name, LoraTag(tag.name, 0.0, 0.0))
        tags[tag.name] = LoraTag(tag.name, known.text + tag.text, known.unet + tag.unet)
    return tuple(tags.values())


def _lora_tag(whole: str, parts: list[str]) -> LoraTag:
    named = dict(part.split("=", 1) for part in parts[1:] if "=" in part)
    name, *weights = [part.strip() for part in parts if part is parts[0] or "=" not in part]
    try:
        if not name or len(weights) > 2 or named.keys() - {"te", "unet"}:
            raise ValueError
        text = float(named.get("te", weights[0] if weights else 1))
        unet = float(named.get("unet", weights[1] if len(weights) > 1 else text))
        if not max(abs(text), abs(unet)) <= MOST_LORA_WEIGHT:
            raise ValueError
    except ValueError:
        raise UserError(
            f"{whole[:80]} is no LoRA that can be used: write <lora:name:0.8>, with a weight from {-MOST_LORA_WEIGHT} "
            f"to {MOST_LORA_WEIGHT}, or <lora:name:0.5:1> with one for the text and one for the UNet."
        ) from None
    return LoraTag(name, text, unet)


def _weighted(part: str) -> tuple[str, float]:
    head, colon, tail = part.rpartition(":")
    if not colon or not _NUMBER.fullmatch(tail.strip()) or (head[-1:].isdigit() and _WHOLE.match(tail)):
        return part.rstrip(), 1.0
    weight = float(tail)
    if abs(weight) > MOST_WEIGHT:
        raise UserError(
            f"The weight of a sub-prompt (the number after its ':') is {tail.strip()[:20]}, but must lie between "
            f"{-MOST_WEIGHT} and {MOST_WEIGHT}: use one near 1, or write the number without a ':'."
        )
    return head.rstrip(), weight


# --- the same for the web UI's own parser ------------------------------------------------------------

_HOST_AND_WEIGHT = re.compile(r":\s*[+-]?(?:\d+\.?|\d*\.\d+)\s*$")
_HOST_NUMBER = re.compile(r":\s*[+-]?[.\d]+(?=\s*\))")


def for_host(text: str) -> str:
    """Return a prompt that the web UI's own parser reads as this module reads `text`; nearly always `text` itself.

    Raises UserError as `split_and` does.
    """
    parts = _AND.split(negative_for_host(text))
    for n, part in enumerate(parts):
        weighted = len(parts) > 1 and _weighted(part)[0] != part.rstrip()
        if _HOST_AND_WEIGHT.search(part) and not weighted:
            parts[n] = f"{part.rstrip()} :1{' ' * (n + 1 < len(parts))}"
    return "AND".join(parts)


def negative_for_host(text: str) -> str:
    """Do the same for a text in which AND is a word."""
    if _in_capitals(text):
        text = _KEYWORD.sub(lambda found: found[0].lower(), text)  # CLIP knows no capitals
    written: list[str] = []
    opened = done = 0
    for found in _ATTENTION.finditer(text):
        token, start = found.group(), found.start()
        if start < done:
            continue
        number = _HOST_NUMBER.match(text, start) if token == ":" and opened else None
        if number is not None:  # text to us; the web UI takes the last weight of a bracket
            token, done = f"{number[0]}:{_STRONGER}", number.end()
        elif token == "\\" and found["text"] is not None:
            token = "\\\\"
        elif token == "(":
            opened += 1
        elif token.endswith(")") and found["escape"] is None:
            opened = max(0, opened - 1)
        written.append(token)
    return "".join(written)
