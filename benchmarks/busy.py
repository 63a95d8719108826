"""What an edit costs beside other programs, with threads that wait as torch's do and as ours do.

    python benchmarks/busy.py [--programs 0 1 2 4] [--rounds 9] [--steps 10] [--model demo] [--size auto]

The other programs are endless loops. Both ways take turns in one process; the medians are compared with the median of
torch's way with nothing beside it, and with the fair share: threads and programs that share the cores alike.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "modules")]

import torch  # noqa: E402 - after the path
from PIL import Image  # noqa: E402

from instruct_pix2pix.engine import edit as engine  # noqa: E402
from instruct_pix2pix.engine.model import EditModel  # noqa: E402
from instruct_pix2pix.engine.precision import choose_machine  # noqa: E402
from instruct_pix2pix.models.registry import model_dirs, resolve  # noqa: E402
from instruct_pix2pix.settings import EditSettings  # noqa: E402
from tools.demo_model import scenes  # noqa: E402

WAYS = {"torch's": contextlib.nullcontext, "ours": engine.SharedCores}


@contextlib.contextmanager
def beside(count: int) -> Iterator[None]:
    """Run so many endless loops during the block."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    time.sleep(0.5)
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def main() -> int:
    """Measure and print one line for each way and each number of programs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, nargs="+", default=[0, 1, 2, 4])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--size", default="auto")
    parser.add_argument("--model", default="demo")
    args = parser.parse_args()

    model = EditModel.load(resolve(args.model, model_dirs([])), choose_machine("cpu"))
    picture = Image.fromarray(scenes.draw(scenes.scene(1)))
    settings = EditSettings("make it winter", steps=args.steps, seed=1, size=args.size)

    def seconds(way: str) -> float:
        engine.SharedCores = WAYS[way]
        began = time.perf_counter()
        list(engine.edit(model, picture, settings))
        return time.perf_counter() - began

    threads = torch.get_num_threads()
    cores = len(os.sched_getaffinity(0))
    print(
        f"{threads} threads on {cores} cores, {model.machine.precision}, {args.steps} steps, torch {torch.__version__}"
    )
    for way in WAYS:
        seconds(way)
    idle = 0.0
    for count in args.programs:
        times: dict[str, list[float]] = {way: [] for way in WAYS}
        with beside(count):
            for _ in range(args.rounds):
                for way, measured in times.items():
                    measured.append(seconds(way))
        idle = idle or median(times["torch's"])
        fair = max(1.0, (threads + count) / cores)
        for way, measured in times.items():
            found = median(measured)
            print(
                f"{count} programs, {way:8} {found:7.3f} s ({min(measured):.3f} to {max(measured):.3f}), "
                f"{found / idle:5.2f} times idle; fair share {fair:.2f}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
