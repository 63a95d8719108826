"""Reads the small files around weights (json, yaml) within bounds: one from anywhere may be made to fill memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MOST_JSON = 16_000_000
"""Bytes of a json, which is also a safetensors header; those of SD1 and SDXL have 0.1 to 0.4 MB."""

_MOST_TEXTS = 500_000
_MOST_LISTS = 200_000


class TooMuch(ValueError):  # noqa: N818 - with its message it says what is wrong
    """A file holds more than any of its kind; the message says of what."""


def read_small(path: Path, most: int) -> bytes:
    """Return the content of a file. Raises OSError for a pipe, device or folder, TooMuch for more than `most` bytes."""
    if not path.is_file() and path.exists():  # before open: a pipe would block
        raise OSError(f"{path.name} is not a file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise TooMuch(f"{path.name} is longer than {most:,} bytes")
    return content


def parse_json(text: bytes) -> Any:  # noqa: ANN401 - whatever it describes
    """Parse json whose objects will fit into some 100 MB. Raises ValueError; RecursionError for one nested too deep.

    Counted before parsing, as in Python an empty list takes 60 bytes and a text 50. A quote after a backslash is one
    inside a text: trainers keep whole tables as a text in the metadata.
    """
    texts = (text.count(b'"') - text.count(b'\\"')) // 2
    if texts > _MOST_TEXTS or text.count(b"[") + text.count(b"{") > _MOST_LISTS:
        raise TooMuch("it lists more than a model has")
    return json.loads(text)
