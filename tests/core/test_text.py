"""What is told to a person reaches the terminal as far as it can, and ends nothing where it cannot."""

import errno
import io
import os
import sys
from pathlib import Path

import pytest

from instruct_pix2pix.text import say, telling_ends_nothing


def terminal(encoding: str, errors: str = "strict") -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding, errors)


def shown(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode(stream.encoding)  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("encoding", "name", "seen"),
    [
        ("cp1252", "🏠 é.png", "\\U0001f3e0 é.png"),
        ("ascii", "é.png …", "\\xe9.png \\u2026"),
        ("utf-8", os.fsdecode(b"caf\xe9 \xc3\xa9.png"), "caf\\udce9 é.png"),
    ],
)
def test_what_a_terminal_cannot_show_is_replaced_and_the_rest_stays(
    monkeypatch: pytest.MonkeyPatch, encoding: str, name: str, seen: str
) -> None:
    if os.name == "nt" and "udce9" in seen:
        pytest.skip("Windows has no such names")
    out, err = terminal(encoding), terminal(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    with telling_ends_nothing():
        print(name)
        say(name)
        assert sys.stderr.encoding == encoding and not sys.stderr.isatty()
    assert (sys.stdout, sys.stderr) == (out, err)
    assert shown(out).split() == shown(err).split() == seen.split()


class Full(io.StringIO):
    """Where nothing can be written."""

    def write(self, text: str, /) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def flush(self) -> None:
        raise BrokenPipeError


def test_where_nobody_reads_telling_is_silent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    closed = (tmp_path / "log").open("w")
    closed.close()
    for stream in (None, closed, Full()):
        for name in ("stdout", "stderr"):
            monkeypatch.setattr(sys, name, stream)
        with telling_ends_nothing():
            print("result", flush=True)
            say("progress")
            assert not sys.stdout.isatty()
