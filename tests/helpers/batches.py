"""Folders of pictures for the tests of `batch`, and what to look at afterwards."""

import json
from contextlib import suppress
from pathlib import Path

from PIL import Image

from tools.demo_model import scenes

QUICK = ["--steps", "1", "--model", "demo", "--precision", "fp32"]


def picture(seed: int, size: tuple[int, int] = (96, 96)) -> Image.Image:
    """Return a drawn landscape, RGB."""
    return Image.fromarray(scenes.draw(scenes.scene(seed))).resize(size)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder but the journal, by its name there."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != "batch.jsonl":
            with suppress(FileNotFoundError):  # a file in the making has got its final name just now
                found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def lines(folder: Path) -> list[dict]:
    """Return the lines of a folder's journal."""
    return [json.loads(line) for line in (folder / "batch.jsonl").read_text("utf-8").splitlines()]


def ends(folder: Path) -> dict[str, dict]:
    """Return the last word of a folder's journal on each picture."""
    return {line["name"]: line for line in lines(folder) if "state" in line}
