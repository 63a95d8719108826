"""The 'parameters' text of a picture, as the AUTOMATIC1111 web UI writes and reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import UserError
from .settings import KNOBS, EditSettings, seed_notes
from .text import number_text, writable

NEGATIVE = "Negative prompt:"

# The web UI's own order. These are always written; any other knob only when it is not at its default.
# 'Denoising strength' is among them because the web UI would otherwise leave its slider where it was.
ORDER = (
    "Steps",
    "Sampler",
    "Schedule type",
    "CFG scale",
    "Image CFG scale",
    "Seed",
    "Size",
    "Model hash",
    "Model",
    "Denoising strength",
)

# The web UI strips every line and reads 'Negative prompt:' at the start of any line as the start of
# the negative prompt. A text that this would change is written once more, quoted, under these names.
EXACT = {"instruction": "Exact prompt", "negative": "Exact negative prompt"}

# What the web UI reads: `name: value`, the value quoted as JSON when it holds a comma, colon or newline.
# A name is tried only where a run of its letters begins, so that hostile text is read as fast as any.
FIELD = re.compile(r'(?<![\w \-/])[ \-/]*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')

# What shows that a line holds settings: these names, and of words that plain text has too those with such values.
SETTINGS = re.compile(
    r"(?:Sampler|Schedule type|CFG scale|Image CFG scale|Model hash|Denoising strength): .*"
    r"|(?:Steps|Seed): -?[0-9.]+|Size: [0-9]+x[0-9]+"
)

# A line that an extension of the web UI writes below the settings: 'Template: …', 'Negative Template: …'.
BELOW = re.compile(r"([A-Z][\w \-/]*):\s*(.*)")

# Before 1.9 the web UI wrote the schedule into the sampler's name: 'DPM++ 2M Karras'.
OLD_SAMPLER = re.compile(r"(.+) (Karras|Exponential|Polyexponential)", re.IGNORECASE)


@dataclass(frozen=True)
class Infotext:
    """The parts of a 'parameters' text: the two prompts, and the fields of its last line."""

    instruction: str
    negative: str
    fields: Mapping[str, str]


def build(
    settings: EditSettings,
    *,
    seed: int,
    size: tuple[int, int],
    model_name: str | None,
    model_hash: str | None,
    extra: Mapping[str, Any] | None = None,
) -> str:
    """Write the text of the picture with this seed; `size` is its (width, height) in pixels.

    `extra` adds fields at the end (None is left out). Raises ValueError for a field name that the
    web UI could not read back, UserError for a seed that is none.
    """
    one = settings.for_image(seed)
    fields: dict[str, Any] = dict.fromkeys(ORDER)
    fields |= {"Size": f"{size[0]}x{size[1]}", "Model hash": model_hash or None, "Model": model_name or None}
    for name, knob in KNOBS.items():
        value = getattr(one, name)
        if knob.infotext and (knob.infotext in ORDER or value != knob.default):
            fields[knob.infotext] = value
    # A reader takes 'Size' for the size to edit at: write that size too where it was another.
    fields[KNOBS["size"].infotext or ""] = None if one.size == fields["Size"] else one.size
    fields |= extra or {}
    text = _compose(one, fields)
    read = parse(text)
    lost = {EXACT[name]: getattr(one, name) for name in EXACT if getattr(one, name) != getattr(read, name)}
    return _compose(one, fields | lost) if lost else text


def parse(text: str) -> Infotext:
    """Parse a 'parameters' text by the web UI's rules; any text gives a result.

    Two rules are stricter than the web UI's, which takes any last line with three pairs for the settings: they have to
    have names or values of settings, and may stand above the lines of an extension, which become fields of their own.
    """
    lines, found = _split(text.strip().split("\n"))
    prompts: dict[str, list[str]] = {"instruction": [], "negative": []}
    current = "instruction"
    for line in map(str.strip, lines):
        if line.startswith(NEGATIVE):
            current, line = "negative", line.removeprefix(NEGATIVE).strip()
        if line or prompts[current]:
            prompts[current].append(line)
    fields = {name: _unquoted(value) for name, value in found}
    exact = {name: fields.pop(field, "\n".join(prompts[name])) for name, field in EXACT.items()}
    return Infotext(exact["instruction"], exact["negative"], fields)


def _split(lines: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the lines of the prompts, and the fields below them as they are written."""
    for place in range(len(lines) - 1, -1, -1):
        fields = FIELD.findall(lines[place].strip())
        if len(fields) < 3 or sum(SETTINGS.fullmatch(f"{name}: {value}") is not None for name, value in fields) < 2:
            continue
        below: list[tuple[str, str]] = []
        for line in filter(None, map(str.strip, lines[place + 1 :])):
            named = None if line.startswith(NEGATIVE) else BELOW.fullmatch(line)
            if named:
                below.append((named[1], named[2]))
            elif below:
                below.append((below[-1][0], f"{below.pop()[1]}\n{line}"))
            else:
                return lines, []
        return lines[:place], [*fields, *below]
    return lines, []


def settings_from(text: str) -> tuple[EditSettings, tuple[str, ...]]:
    """Return the settings in a text that are valid, and one sentence for each value that was left out or changed.

    Fields that are not a setting of an edit are ignored.
    """
    read = parse(text)
    words = dict(read.fields)
    old = OLD_SAMPLER.fullmatch(words.get("Sampler", ""))
    if old and "Schedule type" not in words:
        words["Sampler"], words["Schedule type"] = old[1], old[2].capitalize()
    words.setdefault(KNOBS["size"].infotext or "", words.get("Size", "auto"))
    values: dict[str, Any] = {}
    left_out: list[str] = []
    for name, knob in KNOBS.items():
        word = getattr(read, name) if name in EXACT else words.get(knob.infotext or "")
        if word is None:
            continue
        try:
            values[name] = knob.parse(word)
            left_out += seed_notes(word) if name == "seed" else []
        except UserError as error:
            left_out.append(str(error))
    return EditSettings(**values), tuple(left_out)


def _compose(settings: EditSettings, fields: Mapping[str, Any]) -> str:
    parts = [settings.instruction]
    if settings.negative:
        parts.append(f"{NEGATIVE} {settings.negative}")
    for name in fields:
        found = FIELD.fullmatch(f"{name}: 0")
        if not found or found[1] != name:
            raise ValueError(f"not a field name that can be read back: {name!r}")
    written = [f"{name}: {_quoted(value)}" for name, value in fields.items() if value is not None]
    parts.append(", ".join(written))
    return "\n".join(parts).strip()


def _quoted(value: object) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = number_text(value)
    text = writable(str(value))
    # The last three conditions go beyond the web UI's writer; its reader needs them all the same.
    if re.search(r"[,:\n]", text) or not text or text != text.strip() or text[0] == '"':
        return json.dumps(text, ensure_ascii=False)
    return text


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == '"':
        try:
            read = json.loads(value)
        except ValueError:
            return value
        return read if isinstance(read, str) else value
    return value
