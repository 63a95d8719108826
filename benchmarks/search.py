"""What finding an edit gains and costs, with the demo model on drawn scenes: best of several, strength, the matrix.

    python -m benchmarks.search                                     all of it, small
    python -m benchmarks.search --only best-of --worlds 200
    python -m benchmarks.search --only strength --worlds 60
    python -m benchmarks.search --only matrix [--model FILE] [--size 96] [--rounds 5] [--together 16]

Scenes from seed 600000 on, which nothing was trained on or tuned with; one edit of each, of all kinds in turn.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "modules")]

if TYPE_CHECKING:
    from instruct_pix2pix.engine.candidates import Search
    from instruct_pix2pix.engine.edit_batch import FittedPicture
    from instruct_pix2pix.engine.model import EditModel
    from instruct_pix2pix.settings import EditSettings
    from tools.demo_model.evaluate import Case, Verdict

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)


def main() -> None:
    """Measure and print."""
    from tqdm import tqdm

    from instruct_pix2pix.engine.model import EditModel
    from instruct_pix2pix.engine.precision import choose_machine
    from instruct_pix2pix.models.registry import DEMO
    from tools.demo_model.keep_rest import one_each
    from tools.demo_model.scenes import KINDS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("best-of", "strength", "matrix"))
    parser.add_argument("--worlds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=600_000)
    parser.add_argument("--best-of", type=int, default=4)
    parser.add_argument("--kinds", nargs="+", default=KINDS)
    parser.add_argument("--steps", type=int, default=20)
    about = "of all edits (default: single edits do not, searches do, as where nobody says otherwise)"
    parser.add_argument("--keep-rest", choices=("off", "automatic", "always"), help=about)
    parser.add_argument("--model", type=Path, default=DEMO, help="of the matrix")
    parser.add_argument("--size", type=int, default=96, help="of the matrix, in pixels")
    parser.add_argument("--side", type=int, default=5, help="values of each scale in the matrix")
    parser.add_argument("--rounds", type=int, default=3)
    about = "edit alone only the cells of one Text CFG, and count them for all: the others take as long"
    parser.add_argument("--one-column", action="store_true", help=about)
    parser.add_argument("--together", type=int, help="pictures in one call of the model (default: what is chosen here)")
    parser.add_argument("--precision", default="auto")
    args = parser.parse_args()
    model = EditModel.load(args.model if args.only == "matrix" else DEMO, choose_machine("auto", args.precision))
    if args.only in (None, "best-of", "strength"):
        wanted = one_each(args.first_seed, args.worlds, args.kinds)
        if args.only != "strength":
            measure_best_of(model, tqdm(wanted, disable=None, leave=False), args)
        if args.only != "best-of":
            measure_strength(model, tqdm(wanted, disable=None, leave=False), args)
    if args.only in (None, "matrix"):
        measure_matrix(model, args)


def measure_best_of(model: EditModel, wanted: Iterable[Case], args: argparse.Namespace) -> None:
    """Compare single edits, the mean over all seeds, with the best of them; and with what a perfect choice would be."""
    from instruct_pix2pix.engine.candidates import Search
    from instruct_pix2pix.engine.search import edit_together, find_each

    single, best, perfect, costs = [], [], [], []
    for case in wanted:
        picture, base = _begun(case, args)
        search = Search(best_of=args.best_of)
        [found] = find_each(model, picture, _searched(search, base, args), search)
        each = [_judged(case, one.image) for one in edit_together(model, picture, next(search.begun(base)))]
        single += each
        held = edit_together(model, picture, next(search.begun(_searched(search, base, args))))
        perfect.append(max((_judged(case, one.image) for one in held), key=lambda one: (one.success, -one.outside)))
        best.append(_judged(case, found.edited.image))
        costs.append(found.cost)
    print(f"\nBest of {args.best_of}, {len(best)} edits, {np.mean(costs):.2f} edits in rows each\n")
    goal = (1 + _success(single)) / 2
    print(f"single   success {_success(single):.1%}  outside {_outside(single):.2f}  moved {_moved(single):.2f}")
    print(f"best     success {_success(best):.1%}  outside {_outside(best):.2f}  moved {_moved(best):.2f}")
    print(f"perfect  success {_success(perfect):.1%}  outside {_outside(perfect):.2f}")
    share = _outside(best) / _outside(single)
    print(f"goals: success from {goal:.1%}, outside {share:.0%} of 80%, cost up to 2.3")


def measure_strength(model: EditModel, wanted: Iterable[Case], args: argparse.Namespace) -> None:
    """Compare every fixed pair of scales with what each strength finds among them."""
    from instruct_pix2pix.engine.candidates import Search, strongest, with_pairs
    from instruct_pix2pix.engine.search import edit_together, race

    of_pair: dict[int, list[Verdict]] = {}
    of_strength: dict[float, list[Verdict]] = {}
    costs, pairs = [], []
    for case in wanted:
        picture, base = _begun(case, args)
        pairs = with_pairs(base)
        for place, one in enumerate(edit_together(model, picture, pairs)):
            of_pair.setdefault(place, []).append(_judged(case, one.image))
        begun = with_pairs(_searched(Search(strength=0.5), base, args))
        found = race(model, picture, begun, lambda looks: strongest(looks, 0.5))
        costs.append(found.cost)
        each = [_judged(case, one.image) for one in edit_together(model, picture, begun)]
        for value in STRENGTHS:  # the winner of a race is that edit: tests/engine/test_search.py
            of_strength.setdefault(value, []).append(each[strongest(found.looks, value)])
    print(f"\nStrength, {len(costs)} edits, {np.mean(costs):.2f} edits in rows each\n")
    rows = {f"{pairs[i].text_cfg:g} / {pairs[i].image_cfg:g}": some for i, some in of_pair.items()}
    rows |= {f"strength {value:g}": some for value, some in of_strength.items()}
    for name, some in rows.items():
        print(f"{name:14} success {_success(some):.1%}  outside {_outside(some):.2f}  moved {_moved(some):.2f}")


def measure_matrix(model: EditModel, args: argparse.Namespace) -> None:
    """Compare a matrix with its edits one by one at batch size 1, in turns, in one warm process."""
    from PIL import Image

    from instruct_pix2pix.engine.edit import edit_each, fitted, resolved
    from instruct_pix2pix.engine.search import edit_together
    from instruct_pix2pix.grid import values
    from instruct_pix2pix.settings import EditSettings

    image = Image.open(ROOT / "examples" / "house.png").convert("RGB").resize((args.size, args.size))
    base = EditSettings("make it winter", steps=args.steps, seed=1, size=str(args.size), result_size="model")
    picture, base = fitted(model, image, base), resolved(base)
    texts, images = values(f"3:12:{args.side}", "text_cfg"), values(f"1:2:{args.side}", "image_cfg")
    cells = [replace(base, text_cfg=text, image_cfg=other) for other in images for text in texts]
    first: list[float] = []
    seconds: dict[str, list[float]] = {"one by one": [], "together": []}
    worst = 0
    for number in range(args.rounds + 1):
        began = time.perf_counter()
        some = cells if number else cells[:2]  # the first round warms up
        every = args.side if args.one_column else 1
        alone = [edited for cell in some[::every] for edited in edit_each(model, picture, [cell])]
        middle = time.perf_counter()
        steps: list[float] = []
        together = list(
            edit_together(model, picture, some, lambda _: steps.append(time.perf_counter()), args.together)  # noqa: B023
        )
        ended = time.perf_counter()
        if number:
            seconds["one by one"].append((middle - began) * every)
            seconds["together"].append(ended - middle)
            first.append((steps[0] - middle) / (ended - middle))
            for pair in zip(alone, together[::every], strict=True):
                one, other = (np.asarray(edited.image, dtype=int) for edited in pair)
                worst = max(worst, int(np.abs(one - other).max()))
    medians = {how: statistics.median(some) for how, some in seconds.items()}
    print(f"\nMatrix of {len(cells)} cells, {args.size} pixels\n")
    for how, median in medians.items():
        print(f"{how}: {median:.2f} s ({', '.join(f'{one:.2f}' for one in seconds[how])})")
    ratio = medians["together"] / medians["one by one"]
    print(f"ratio {ratio:.3f}, first coarse picture after {statistics.median(first):.1%}, at most {worst}/255 apart")


def _begun(case: Case, args: argparse.Namespace) -> tuple[FittedPicture, EditSettings]:
    from PIL import Image

    from instruct_pix2pix.conditioning import fit
    from instruct_pix2pix.engine.edit import resolved
    from instruct_pix2pix.engine.edit_batch import FittedPicture
    from instruct_pix2pix.settings import EditSettings
    from tools.demo_model.keep_rest import CELL
    from tools.demo_model.scenes import SIZE

    picture = FittedPicture.by(fit(SIZE, SIZE, SIZE, CELL), Image.fromarray(case.before), None, CELL)
    base = EditSettings(case.instruction, seed=case.seed, steps=args.steps, keep_rest=args.keep_rest or "off")
    return picture, replace(resolved(base), result_size="model")


def _searched(search: Search, base: EditSettings, args: argparse.Namespace) -> EditSettings:
    return search.settled(base, {"keep_rest"} if args.keep_rest else ())


def _judged(case: Case, image: object) -> Verdict:
    from tools.demo_model.evaluate import judge

    return judge(case, np.asarray(image))


def _success(verdicts: Sequence[Verdict]) -> float:
    return float(np.mean([one.success for one in verdicts]))


def _outside(verdicts: Sequence[Verdict]) -> float:
    return float(np.mean([one.outside for one in verdicts]))


def _moved(verdicts: Sequence[Verdict]) -> float:
    return float(np.mean([one.moved for one in verdicts]))


if __name__ == "__main__":
    main()
