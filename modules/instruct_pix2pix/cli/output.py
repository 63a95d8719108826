"""What commands show: progress on stderr, results on stdout, and the names of the files they write."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from ..engine.interactive.step_bar import moved_by_steps
from ..errors import UserError
from ..files import is_folder, short_name, status_of
from ..images import format_of
from ..models.checkpoints import Checkpoint
from ..models.hub import size_text
from ..settings import EditSettings
from ..text import number_text, printable, say

if TYPE_CHECKING:
    from ..engine.candidates import Search
    from ..engine.edit import OnStep


def progress_bar(total: int, unit: str) -> tqdm:
    """Return a bar that leaves no trace, and that is not shown where stderr is not a terminal."""
    return tqdm(total=total, unit=unit, leave=False, disable=None)


@contextlib.contextmanager
def byte_bars() -> Iterator[Callable[[str, int, int], None]]:
    """Show a bar for each thing that is done to files, if it takes two seconds; see `models.saved_model.Progress`."""
    with contextlib.ExitStack() as stack:
        shown = ""
        bar: tqdm | None = None

        def show(what: str, done: int, total: int) -> None:
            nonlocal shown, bar
            if bar is None or what != shown:
                stack.close()
                bar = tqdm(
                    total=total, desc=printable(what), unit="B", unit_scale=True, leave=False, disable=None, delay=2
                )
                shown = what
                stack.enter_context(bar)
            bar.update(done - bar.n)

        yield show


def tell_model(path: Path, checkpoint: Checkpoint, notes: Iterable[str]) -> None:
    """Say on stderr what a person should know of a model that was written, and on stdout what it is."""
    for note in notes:
        say(note)
    size = size_text(checkpoint.size_bytes)
    print(f"{printable(str(path))}: {checkpoint.label}, {size}, {checkpoint.dtype}")


def step_bar(steps: int, pictures: int, each: Callable[[int], int] = int) -> AbstractContextManager[OnStep]:
    """Show a bar over the steps of all pictures; what its block is given is told of every step.

    `each` is as for `moved_by_steps`.
    """
    return moved_by_steps(progress_bar(each(steps) * pictures, "step"), pictures, each)


def above_bar() -> AbstractContextManager[None]:
    """Take the bar away while something else is written."""
    return tqdm.external_write_mode(sys.stdout)


def say_new(notes: Iterable[str], told: set[str]) -> None:
    """Say what was not `told` before, above the bar, and add it to that."""
    with above_bar():
        for note in notes:
            if note not in told:
                say(note)
    told.update(notes)


def print_result(facts: Mapping[str, object], sentence: str, *, as_json: bool) -> None:
    """Print one result on stdout: its facts as a JSON object, or a sentence."""
    with above_bar():
        print(json.dumps(facts) if as_json else sentence, flush=True)


def result_text(asked: EditSettings, own: EditSettings, search: Search, seconds: float, cost: float) -> str:
    """Return what is said of a result with these `own` settings: its seed, and what else could not be known before.

    `cost` is that of a search, in edits.
    """
    words = [f"'{printable(own.instruction)}'"] if own.instruction != asked.instruction else []
    words.append(f"seed {own.seed}")
    if search.strength is not None:
        words.append(f"Text CFG {number_text(own.text_cfg)}, Image CFG {number_text(own.image_cfg)}")
    words.append(f"{seconds:.1f} s")
    if search.candidates > 1:
        words.append(f"best of {search.candidates}, cost {cost:.1f} edits")
    return ", ".join(words)


def output_names(image: Path, output: Path | None, count: int, what: str = "edited") -> list[Path]:
    """Return where the results go: OUT, or OUT-1, OUT-2 … for several.

    Without a name, or with a folder, they are called after the picture and replace nothing. Raises UserError for a
    name that no picture can be written to, a folder that may not be written to, and the picture's own name.
    """
    if output is None or is_folder(output) or not output.suffix:
        ends = itertools.chain([f"-{what}"], (f"-{what}-{number}" for number in itertools.count(2)))
        attempts = (_numbered((output or Path()) / image.stem, end, ".png", count) for end in ends)
        names = next(names for names in attempts if not any(map(status_of, names)))
        _check_folder_of(names[0])
        return names
    format_of(output)
    names = _numbered(output.with_suffix(""), "", output.suffix, count)
    _check_folder_of(names[0])
    if any(map(status_of, names)) and any(name.resolve() == image.resolve() for name in names):
        raise UserError(f"The result would overwrite the picture {image.name}: choose another name with -o.")
    return names


def _check_folder_of(path: Path) -> None:
    """Raise UserError where it is known beforehand that a file cannot be written."""
    folder = next(one for one in path.absolute().parents if status_of(one))
    if not is_folder(folder) or not os.access(folder, os.W_OK):
        raise UserError(f"{printable(path.name)} may not be written there: choose another folder.")


def _numbered(path: Path, mark: str, suffix: str, count: int) -> list[Path]:
    ends = [suffix] if count == 1 else [f"-{number}{suffix}" for number in range(1, count + 1)]
    return [path.with_name(short_name(path.name, mark + end)) for end in ends]
