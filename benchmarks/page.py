"""What do the page and the API cost? The same edit through each and by the engine alone, in turns.

    python -m benchmarks.page [--model FILE --size 256] [--steps 20] [--count 4] [--rounds 9]

Both have the model loaded. The page's time runs from the click on Generate until all results are shown and
Generate can be pressed again; that of the API until the answer is there; the engine's from the open picture until the
last file is written, as the command `edit` does it. All are on one machine: the browser takes its share of the cores.
"""

from __future__ import annotations

import argparse
import base64
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import httpx

from benchmarks.soak import serving
from instruct_pix2pix.engine.edit import edit
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.precision import choose_machine
from instruct_pix2pix.images import open_picture, save_picture
from instruct_pix2pix.models.registry import DEMO, model_hash
from instruct_pix2pix.settings import EditSettings
from tools.browser import EXAMPLES, chromium, visit

INSTRUCTION = "make it winter"
GENERATED = """async () => {
    const button = () => document.getElementById("img2img_generate");
    const shows = (wanted) => new Promise((resolve) => {
        const look = () => Boolean(button()?.offsetParent) === wanted && (watch.disconnect(), resolve());
        const watch = new MutationObserver(look);
        watch.observe(document.body, { attributes: true });  // where the page marks that an edit is under way
    });
    button().click();
    await shows(false);
    await shows(true);
    await Promise.all([...document.images].map((one) => one.decode().catch(() => {})));
}"""
"""Playwright's own waiting asks the page at every frame, which takes time from the edit."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=DEMO)
    parser.add_argument("--size", type=int, help="longest side of the edit (default: the model's)")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()

    machine = choose_machine("auto", "auto")
    model, hash_ = EditModel.load(args.model, machine), model_hash(args.model)
    size = str(args.size or "auto")
    settings = EditSettings(instruction=INSTRUCTION, steps=args.steps, count=args.count, seed=1, size=size)
    times: dict[str, list[float]] = {"engine": [], "API": [], "page": []}
    with tempfile.TemporaryDirectory() as folder, serving(args.model) as (port, _), chromium() as browser:

        def alone() -> float:
            began = time.perf_counter()
            picture = open_picture(EXAMPLES / "house.png")
            for i, result in enumerate(edit(model, picture.image, settings)):
                save_picture(result.image, Path(folder, f"{i}.png"), result.infotext(model.name, hash_))
            return time.perf_counter() - began

        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600, trust_env=False)
        asked: dict[str, Any] = {"prompt": INSTRUCTION, "steps": args.steps, "n_iter": args.count, "seed": 1}
        if args.size:
            asked |= {"width": args.size, "height": args.size}  # the example is a square
        asked["init_images"] = [base64.b64encode((EXAMPLES / "house.png").read_bytes()).decode()]

        def through_api() -> float:
            began = time.perf_counter()
            assert len(client.post("/sdapi/v1/img2img", json=asked).json()["images"]) == args.count
            return time.perf_counter() - began

        no_worker = cast(Any, None)  # it is in the other process
        with visit(browser, f"http://127.0.0.1:{port}", no_worker) as visited:
            visited.drop(EXAMPLES / "house.png")
            visited.write(INSTRUCTION)
            for control, value in (("img2img_steps", args.steps), ("img2img_batch_count", args.count)):
                visited.set(control, value)
            visited.set("img2img_seed", 1)
            if args.size:
                visited.unfold("Size of the edit")
                visited.page.get_by_label("Longest side").first.check()
                visited.locate("#img2img_longest input[type=number]").wait_for()
                visited.set("img2img_longest", args.size)

            def through_page() -> float:
                began = time.perf_counter()
                visited.page.evaluate(GENERATED)
                return time.perf_counter() - began

            for round_ in range(args.rounds + 1):
                for name, way in (("engine", alone), ("API", through_api), ("page", through_page)):
                    seconds = way()
                    if round_:  # the first one warms up
                        times[name].append(seconds)
            shown = visited.locate("#img2img_gallery .thumbnail-item").count()
    assert shown == args.count
    print(f"{model.name}, {args.count} pictures, {args.steps} steps, {machine.dtype}, {args.rounds} rounds")
    base = statistics.median(times["engine"])
    for name, values in times.items():
        middle = statistics.median(values)
        spread = f"{min(values):.2f} to {max(values):.2f}"
        print(f"{name:6} median {middle:.2f} s ({spread}), {middle / base:.3f} of the engine")


if __name__ == "__main__":
    main()
