"""The command `grid`: one picture, one instruction and seed, over Text CFG and Image CFG, in one picture."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace

import numpy as np
from PIL import Image
from tqdm import tqdm

from ..engine.edit import Edited, Progress, edit_each, plan_for, resolved
from ..engine.precision import choose_machine
from ..engine.process_memory import tune_memory
from ..grid import draw, values
from ..images import open_picture, save_picture
from ..models.registry import model_dirs, resolve
from ..text import number_text
from .arguments import settings_of
from .edit import load, output_names


def run(args: argparse.Namespace) -> int:
    """Make all edits and write their matrix. Raises UserError."""
    tune_memory()
    given = {name: getattr(args, name) for name in ("text_cfg", "image_cfg")}
    scales = {name: values(text, name) for name, text in given.items()}
    args.text_cfg = args.image_cfg = None
    settings = resolved(settings_of(args).require_instruction())
    picture = open_picture(args.image)
    mask = open_picture(args.mask).image if args.mask else None
    (output,) = output_names(args.image, args.output, 1, "grid")
    machine = choose_machine(args.device, args.precision)
    path = resolve(args.model, model_dirs(args.models_dir))
    model, hash_ = load(path, machine)

    one = replace(settings, seed=settings.seeds()[0])
    asked = [replace(one, text_cfg=t, image_cfg=i) for i in scales["image_cfg"] for t in scales["text_cfg"]]
    source = plan_for(model, picture.image, one).framed(picture.image)
    results: list[Edited] = []
    with tqdm(total=settings.steps * len(asked), unit="step", leave=False, disable=None) as bar:

        def show(progress: Progress) -> None:
            bar.total = progress.steps * len(asked)
            bar.update()

        for result in edit_each(model, picture.image, asked, mask=mask, on_step=show):
            results.append(result)
            if args.json:
                with tqdm.external_write_mode(sys.stdout):
                    print(json.dumps(_facts(result, source)), flush=True)
    columns = len(scales["text_cfg"])
    cells = [[result.image for result in results[i : i + columns]] for i in range(0, len(results), columns)]
    plot = {
        "Script": "X/Y/Z plot",
        "X Type": "CFG Scale",
        "X Values": ", ".join(map(number_text, scales["text_cfg"])),
        "Y Type": "Image CFG Scale",
        "Y Values": ", ".join(map(number_text, scales["image_cfg"])),
    }
    text = results[0].infotext(model.name, hash_, plot)
    written = save_picture(draw(cells, scales["text_cfg"], scales["image_cfg"], source), output, text)
    if args.json:
        print(json.dumps({"path": str(written), "seed": one.seed}))
    else:
        print(f"{written}  (seed {one.seed})")
    return 0


def _facts(result: Edited, source: Image.Image) -> dict[str, object]:
    change = np.asarray(result.image, dtype=np.float32) - np.asarray(source.convert("RGB"), dtype=np.float32)
    return {
        "text_cfg": result.settings.text_cfg,
        "image_cfg": result.settings.image_cfg,
        "changed": round(float(np.abs(change).mean()), 2),
        "rows": result.rows,
        "seconds": round(result.seconds, 3),
    }
