"""What keeping the rest costs: edits without and with it in turns, and the ratio of their medians.

    python -m benchmarks.keep_rest [--model FILE] [--size 96] [--steps 20] [--repeat 15]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "modules")]


def main() -> None:
    """Measure and print the seconds of both, their rows, and the ratio."""
    from PIL import Image

    from instruct_pix2pix.engine.edit import edit
    from instruct_pix2pix.engine.model import EditModel
    from instruct_pix2pix.engine.precision import choose_machine
    from instruct_pix2pix.models.registry import DEMO
    from instruct_pix2pix.settings import EditSettings

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=DEMO)
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeat", type=int, default=15)
    args = parser.parse_args()
    model = EditModel.load(args.model, choose_machine())
    picture = Image.open(ROOT / "examples" / "house.png").convert("RGB").resize((args.size, args.size))
    off = EditSettings("paint the house blue", steps=args.steps, seed=1, size=str(args.size), result_size="model")
    seconds: dict[str, list[float]] = {"off": [], "automatic": []}
    rows = {}
    for turn in range(args.repeat + 1):
        for how, times in seconds.items():
            began = time.perf_counter()
            [made] = edit(model, picture, replace(off, keep_rest=how))
            rows[how] = made.rows
            if turn:  # the first of each warms up
                times.append(time.perf_counter() - began)
    medians = {how: statistics.median(times) for how, times in seconds.items()}
    for how, median in medians.items():
        print(f"{how}: {median:.4f} s, {rows[how]} rows")
    print(f"ratio {medians['automatic'] / medians['off']:.4f}")


if __name__ == "__main__":
    main()
