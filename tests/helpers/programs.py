"""Programs of their own beside a test: one that does what it is told and ends, and some that never do."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import instruct_pix2pix


def in_child(program: str, *args: object, seconds: float = 60) -> str:
    """Run a program in a process of its own, where what never ends can be ended; return what it prints."""
    modules = str(Path(instruct_pix2pix.__file__).parents[1])
    run = subprocess.run(
        [sys.executable, "-c", program, *map(str, args)],
        env={**os.environ, "PYTHONPATH": modules},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@contextmanager
def endless_loops(count: int) -> Iterator[None]:
    """Run so many programs that do nothing but run."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()
