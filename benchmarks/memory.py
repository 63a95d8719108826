"""What the command `batch` holds of memory, picture after picture.

    python benchmarks/memory.py [--pictures 500] [--steps 4] [--model demo]

Draws a folder as people have them: mixed formats, shapes and sizes, turned by EXIF, in folders, with names of all
scripts, one in 25 broken. Edits it with the command in a process of its own, whose resident set is read five times a
second and averaged over each hundred pictures. Linux only.
"""

from __future__ import annotations

import argparse
import math
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "modules")]

from benchmarks.batch import STRETCH, resident_mb  # noqa: E402 - after the path
from tools.demo_model import scenes  # noqa: E402

TURN = 0x0112
"""The EXIF field of how a camera was held: 1 to 8."""


def draw(folder: Path, count: int) -> int:
    """Write pictures of all kinds, some of them broken; return how many are whole."""
    chance = random.Random(0)
    broken = 0
    for number in range(count):
        name = f"{number:05} {chance.choice(('garden', 'Überfahrt', '風景', 'день'))}.{_ending(chance)}"
        target = folder / chance.choice(("", "", "summer", "summer/夏")) / name
        target.parent.mkdir(parents=True, exist_ok=True)
        scene = Image.fromarray(scenes.draw(scenes.scene(number), 96))
        exif = Image.Exif()
        exif[TURN] = chance.choice((1, 1, 1, 3, 6, 8))
        scene.resize((chance.randrange(160, 1600), chance.randrange(160, 1200))).save(target, exif=exif)
        if number % 25 == 7:
            target.write_bytes(target.read_bytes()[: chance.choice((0, 60, 700))])
            broken += 1
    return count - broken


def _ending(chance: random.Random) -> str:
    return chance.choice(("png", "jpg", "jpeg", "webp", "tif"))


def watch(command: list[str], journal: Path) -> tuple[int, list[list[float]]]:
    """Run a command; return its exit status and its resident sets in MB, by hundreds of pictures that ended."""
    stretches: list[list[float]] = []
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        time.sleep(0.2)
        ended = journal.read_bytes().count(b'"state"') if journal.exists() else 0
        resident = resident_mb(process.pid)
        if math.isnan(resident):
            break
        while ended and len(stretches) <= (ended - 1) // STRETCH:
            stretches.append([])
        if stretches:
            stretches[-1].append(resident)
    return process.wait(), stretches


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--model", default="demo")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name, "in"), Path(name, "out")
        source.mkdir()
        whole = draw(source, args.pictures)
        words = [str(source), str(target), "make it winter", "--recursive", "--seed", "1"]
        words += ["--steps", str(args.steps), "--model", args.model]
        began = time.perf_counter()
        _, stretches = watch([sys.executable, str(ROOT / "launch.py"), "batch", *words], target / "batch.jsonl")
        seconds = time.perf_counter() - began
        made = sum(path.is_file() for path in target.rglob("*")) - 1  # without the journal
    print("| hundred | mean MB | most MB |\n|---:|---:|---:|")
    for number, values in enumerate(stretches, 1):
        print(f"| {number} | {fmean(values):.0f} | {max(values):.0f} |")
    print(f"\n{made} of {whole} whole pictures edited, in {seconds:.0f} s")
    if len(stretches) > 2:
        growth = fmean(stretches[-1]) / fmean(stretches[1]) - 1
        print(f"the last hundred beside the second: {growth:+.1%} (at most +5%)")
    return 0 if made == whole else 1


if __name__ == "__main__":
    sys.exit(main())
