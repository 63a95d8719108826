"""Text for a person: safe for a terminal or a page, and short."""

from __future__ import annotations

import contextlib
import html
import math
import os
import sys
from collections.abc import Iterator
from typing import TextIO, cast

RED, DIM = 31, 2
"""Graphic renditions (ECMA-48, 8.3.117)."""


def printable(text: str) -> str:
    """Return text with '?' for control characters, which could upset a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def writable(text: str) -> str:
    """Return text with '?' for bytes of a file name that are not text, which no file or answer in UTF-8 can hold."""
    return text.encode("utf-8", "replace").decode()


def escape(text: object) -> str:
    """Return text without meaning in HTML or in the templates of gradio's `gr.HTML`."""
    return html.escape(writable(str(text))).replace("{", "&#123;").replace("`", "&#96;")


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
    """Tell a person at the terminal: on stderr, at once. See `telling_ends_nothing`."""
    print(line, file=sys.stderr, flush=True)


def say_problem(line: str) -> None:
    """Say what went wrong, in red where the terminal has colours."""
    say(_coloured(line, RED))


def say_hint(line: str) -> None:
    """Say what one need not read, dim where the terminal has colours."""
    say(_coloured(line, DIM))


def _coloured(line: str, rendition: int) -> str:
    """Return a line for stderr in a graphic rendition, unless NO_COLOR (no-color.org) is set."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    old_console = os.name == "nt" and "WT_SESSION" not in os.environ
    if plain or old_console or sys.stderr is None or not sys.stderr.isatty():
        return line
    return f"\x1b[{rendition}m{line}\x1b[0m"


@contextlib.contextmanager
def telling_ends_nothing() -> Iterator[None]:
    """Let nothing that is written to stdout and stderr raise: a door opens this around all that it does.

    Letters that a terminal cannot show, and bytes of file names that are not text, become an escape such as '\\xe9'.
    Where nobody reads (a closed pipe, a full disk, no console at all) what is told is lost, and the work goes on.
    """
    before = sys.stdout, sys.stderr
    streams = _TellingStream(sys.stdout), _TellingStream(sys.stderr)
    sys.stdout, sys.stderr = cast("tuple[TextIO, TextIO]", streams)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
        for stream in streams:
            stream.finish()


class _TellingStream:
    """A text stream in front of another, or of None, that raises nothing when it is written to."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    @property
    def encoding(self) -> str:
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return self._stream is not None and self._stream.isatty()
        return False

    def write(self, text: str) -> int:
        if self._stream is not None:
            with contextlib.suppress(OSError, ValueError):
                try:
                    self._stream.write(text)
                except UnicodeEncodeError:
                    self._stream.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
        return len(text)

    def flush(self) -> None:
        if self._stream is not None:
            with contextlib.suppress(OSError, ValueError):
                self._stream.flush()

    def finish(self) -> None:
        """Write what is left; where that fails, let Python not fail in the same way when it ends, with status 120."""
        if self._stream is None:
            return
        try:
            self._stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
