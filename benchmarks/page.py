"""What does the page cost? The same edit through the page in a browser and by the engine alone, in turns.

    python -m benchmarks.page [--steps 20] [--count 4] [--rounds 9]

Both have the demo model loaded. The page's time runs from the click on Generate until all results are shown and
Generate can be pressed again; the other's from the open picture until the last file is written, as the command `edit`
does it. The machine is shared by the browser, the server and the engine, one of them at work at a time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, cast

from benchmarks.soak import serving
from instruct_pix2pix.app.edit import infotext_of
from instruct_pix2pix.app.library import DEMO, model_hash
from instruct_pix2pix.engine.edit import edit
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.precision import choose_machine
from instruct_pix2pix.images import open_picture, save_picture
from instruct_pix2pix.settings import EditSettings
from tests.browsing import EXAMPLES, chromium, visit

INSTRUCTION = "make it winter"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()

    machine = choose_machine("auto", "auto")
    model, hash_ = EditModel.load(DEMO, machine), model_hash(DEMO)
    settings = EditSettings(instruction=INSTRUCTION, steps=args.steps, count=args.count, seed=1)
    ours: list[float] = []
    page: list[float] = []
    with tempfile.TemporaryDirectory() as folder, serving() as (port, _), chromium() as browser:

        def alone() -> float:
            began = time.perf_counter()
            picture = open_picture(EXAMPLES / "house.png")
            for i, result in enumerate(edit(model, picture.image, settings)):
                save_picture(result.image, Path(folder, f"{i}.png"), infotext_of(result, model.name, hash_))
            return time.perf_counter() - began

        no_worker = cast(Any, None)  # it is in the other process
        with visit(browser, f"http://127.0.0.1:{port}", no_worker) as visited:
            visited.drop(EXAMPLES / "house.png")
            visited.write(INSTRUCTION)
            for control, value in (("img2img_steps", args.steps), ("img2img_batch_count", args.count)):
                visited.set(control, value)
            visited.set("img2img_seed", 1)

            def through_page() -> float:
                began = time.perf_counter()
                visited.generate()
                visited.page.wait_for_function("[...document.images].every((one) => one.complete)")
                return time.perf_counter() - began

            for round_ in range(args.rounds + 1):
                times = (alone(), through_page())
                if round_:  # the first one warms up
                    ours.append(times[0])
                    page.append(times[1])
            shown = visited.locate("#img2img_gallery .thumbnail-item").count()
    assert shown == args.count
    ratios = [b / a for a, b in zip(ours, page, strict=True)]
    a, b = statistics.median(ours), statistics.median(page)
    print(f"{args.count} pictures, {args.steps} steps, {machine.dtype}: engine {a:.2f} s, page {b:.2f} s (medians)")
    print(f"ratio of medians {b / a:.3f}; ratios of the rounds {min(ratios):.3f} to {max(ratios):.3f}")


if __name__ == "__main__":
    main()
