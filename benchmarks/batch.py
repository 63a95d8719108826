"""A folder of pictures: what a batch costs beside its model, and gains over one edit after the other.

    python benchmarks/batch.py [--pictures 500] [--steps 20] [--model demo] [--json FILE]

Draws pictures of mixed sizes and formats, then makes a batch of them in stretches of a hundred. After each stretch
the same rows go through the model alone, and the same pictures one by one through what `edit` does in a process that
is warm; so all three meet the machine in the same mood. Memory is the resident set at the end of each stretch.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "modules")]

from instruct_pix2pix.batch.driver import ModelFacts, run_batch  # noqa: E402 - after the path
from instruct_pix2pix.batch.local_executor import UnitRunner, local_executor  # noqa: E402
from instruct_pix2pix.batch.planning import BatchRequest  # noqa: E402
from instruct_pix2pix.batch.units import Control, Result, Unit  # noqa: E402
from instruct_pix2pix.engine.edit import edit  # noqa: E402
from instruct_pix2pix.engine.model import EditModel  # noqa: E402
from instruct_pix2pix.engine.precision import choose_machine  # noqa: E402
from instruct_pix2pix.images import open_picture, save_picture  # noqa: E402
from instruct_pix2pix.models.registry import model_dirs, model_hash, resolve  # noqa: E402
from instruct_pix2pix.settings import EditSettings  # noqa: E402
from tools.demo_model import scenes  # noqa: E402

STRETCH = 100
SHAPES = ((1, 1), (4, 3), (3, 4), (16, 9))
WIDTHS = (96, 320, 640, 1280)
ENDINGS = ("png", "jpg", "webp")
INSTRUCTIONS = ("make it winter", "make it night", "turn it into autumn")


@dataclass(frozen=True)
class Stretch:
    """What some of the pictures cost, in seconds for all of them."""

    pictures: int
    units: int
    batch: float
    """Read, edited, encoded, written and entered in the journal."""
    model: float
    """The same rows through the model alone."""
    singly: float
    """One `edit` each, at batch size 1."""
    memory_mb: float


def draw(folder: Path, count: int) -> None:
    """Write pictures of mixed shapes, sizes and formats."""
    chance = random.Random(0)
    for number in range(count):
        (across, down), width = chance.choice(SHAPES), chance.choice(WIDTHS)
        scene = Image.fromarray(scenes.draw(scenes.scene(number), 96))
        picture = scene.resize((width, max(1, width * down // across)), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number:05}.{chance.choice(ENDINGS)}")
        (folder / f"{number:05}.txt").write_text(chance.choice(INSTRUCTIONS))


def measure(
    folder: Path, runner: UnitRunner, facts: ModelFacts, settings: EditSettings, *, show: bool = True
) -> list[Stretch]:
    """Run one batch over a folder and, in its pauses, the other two ways."""
    stretches: list[Stretch] = []
    control = Control()

    def execute(units: Iterator[Unit | None]) -> Generator[Result, None, None]:
        waiting = (unit for unit in units if unit is not None)
        while True:
            began, taken = time.perf_counter(), []

            def some(taken: list[Unit] = taken) -> Iterator[Unit]:
                for unit in waiting:
                    taken.append(unit)
                    yield unit
                    if sum(len(one.requests) for one in taken) >= STRETCH:
                        return

            yield from local_executor(runner, control)(some())
            seconds = time.perf_counter() - began
            if not taken:
                return
            count = sum(len(unit.requests) for unit in taken)
            memory = resident_mb()
            times = seconds, _model_alone(runner, taken), _singly(runner, taken, folder / "singly")
            stretches.append(Stretch(count, len(taken), *times, memory))
            if show:
                _print_row(stretches[-1])

    summary = run_batch(BatchRequest(folder, folder / "out", settings), facts, execute, control=control)
    if not summary.ok:
        raise SystemExit(f"Not every picture was made: {summary}")
    return stretches


def _model_alone(runner: UnitRunner, units: list[Unit]) -> float:
    seconds = 0.0
    for unit in units:
        prepared = runner.prepare(unit)
        began = time.perf_counter()
        runner.edit(prepared)
        seconds += time.perf_counter() - began
    return seconds


def _singly(runner: UnitRunner, units: list[Unit], folder: Path) -> float:
    began = time.perf_counter()
    for request in (request for unit in units for request in unit.requests):
        picture = open_picture(request.item.source)
        for one in edit(runner.model, picture.image, request.settings):
            text = one.infotext(runner.model.name, runner.hash)
            save_picture(one.image, folder / request.item.outputs[0], text, exif=picture.exif, icc=picture.icc)
    return time.perf_counter() - began


def resident_mb(process: int | str = "self") -> float:
    """Memory of a process now, in MB; not a number where the system does not tell, or it has ended."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return float("nan")
    import resource

    return pages * resource.getpagesize() / 1e6


def _print_row(one: Stretch) -> None:
    each = [seconds / one.pictures for seconds in (one.batch, one.model, one.singly)]
    cells = [str(one.pictures), str(one.units), *(f"{seconds:.4f}" for seconds in each)]
    cells += [f"{one.batch / one.model:.3f}", f"{one.singly / one.batch:.2f}", f"{one.memory_mb:.0f}"]
    print("| " + " | ".join(cells) + " |", flush=True)


def main() -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pictures", type=int, default=500)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    path = resolve(args.model, model_dirs())
    machine = choose_machine(args.device, args.precision)
    model = EditModel.load(path, machine)
    runner = UnitRunner(model, model_hash(path))
    facts = ModelFacts(model.config.size, model.config.vae.factor, runner.hash, model.machine.precision)
    settings = EditSettings("make it winter", steps=args.steps, seed=1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "warm").mkdir()
        draw(folder / "warm", min(16, args.pictures))
        measure(folder / "warm", runner, facts, settings, show=False)
        print("| pictures | units | batch, s each | model alone | edit each | batch / model | gain | MB |")
        print("|---:|---:|---:|---:|---:|---:|---:|---:|", flush=True)
        (folder / "in").mkdir()
        draw(folder / "in", args.pictures)
        began = time.perf_counter()
        stretches = measure(folder / "in", runner, facts, settings)
        seconds = time.perf_counter() - began
    whole = Stretch(
        sum(one.pictures for one in stretches),
        sum(one.units for one in stretches),
        sum(one.batch for one in stretches),
        sum(one.model for one in stretches),
        sum(one.singly for one in stretches),
        resident_mb(),
    )
    _print_row(whole)
    number = str(machine.dtype).removeprefix("torch.")
    about = f"{path.stem}, {model.config.size} pixels, {args.steps} steps, {machine.device} in {number}"
    print(f"\n{about}, {torch.get_num_threads()} threads, {platform.processor()}, torch {torch.__version__}")
    print(f"a batch costs {whole.batch / whole.model:.3f} times its model alone (at most 1.1)")
    print(f"and is {whole.singly / whole.batch:.2f} times as fast as one edit each (at least 2)")
    print(f"of that, {whole.singly / whole.model:.2f} is what sharing batches can gain on this machine at all")
    if len(stretches) > 2:
        growth = stretches[-1].memory_mb / stretches[1].memory_mb - 1
        print(f"memory of the last stretch beside the second: {growth:+.1%} (at most +5%)")
    if args.json:
        args.json.write_text(json.dumps({"about": about, "seconds": seconds, "stretches": [*map(asdict, stretches)]}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
