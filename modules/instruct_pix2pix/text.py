"""Text for a person: safe for a terminal or a page, and short."""

from __future__ import annotations

import html
import math
import sys


def printable(text: str) -> str:
    """Return text with '?' for control characters, which could upset a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def escape(text: object) -> str:
    """Return text without meaning in HTML or in the templates of gradio's `gr.HTML`."""
    return html.escape(str(text)).replace("{", "&#123;").replace("`", "&#96;")


def reason_of(error: Exception) -> str:
    """Return the message of an error in at most 120 characters that are safe for a terminal."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return printable(text)[:120]


def number_text(value: float) -> str:
    """Return a number without trailing zeros, exact when read back: '7', '7.5', '0.05'."""
    if math.isfinite(value) and value == int(value):
        return str(int(value))
    return repr(float(value))


def say(line: str) -> None:
    """Tell a person at the terminal: on stderr, at once."""
    print(line, file=sys.stderr, flush=True)
