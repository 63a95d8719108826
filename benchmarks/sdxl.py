"""SDXL at full size: how much memory its loading takes beside its weights, and how long its steps are.

    python -m benchmarks.sdxl [--cosxl] [--precision auto] [--device auto] [--size 768] [--steps 2] [--diffusers]

Writes a checkpoint of random weights in fp16 (7 GB) into a temporary folder, loads it in a process of its own, makes
the steps, and deletes it; fails where loading took more than 1.3 times the weights, or numbers are not finite. It needs
8 GB of disk, and the memory that 3.5 billion weights take in the precision: 7 GB in bf16 and fp16, 14 GB in fp32. With
`--diffusers` it first times calls of diffusers' UNet with three rows of the same size, alone in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MOST_OF_WEIGHTS = 1.3
"""The peak of memory while loading, in times what the weights take."""


def measure_ours(checkpoint: str, device: str, precision: str, size: int, steps: int) -> dict[str, Any]:
    """Load a checkpoint and edit a picture of `size` pixels; return bytes, and the seconds of loading and of steps."""
    from PIL import Image

    from instruct_pix2pix.engine.edit import edit
    from instruct_pix2pix.engine.model import EditModel
    from instruct_pix2pix.engine.precision import choose_machine
    from instruct_pix2pix.engine.process_memory import peak_memory, tune_memory
    from instruct_pix2pix.settings import EditSettings

    tune_memory()
    machine = choose_machine(device, precision)
    before = peak_memory()
    began = time.perf_counter()
    model = EditModel.load(Path(checkpoint), machine)
    loaded = time.perf_counter() - began
    peak = peak_memory() - (0 if machine.device.type == "cuda" else before)
    weights = sum(p.numel() * p.element_size() for network in model.networks for p in network.parameters())
    moments: list[float] = []
    finite: list[bool] = []

    def ended(progress: Any) -> None:  # noqa: ANN401 - a Progress
        finite.append(bool(progress.denoised.isfinite().all()))  # which waits for a GPU
        moments.append(time.perf_counter())

    settings = EditSettings(instruction="make it winter", steps=steps, seed=1, size=f"{size}x{size}")
    picture = Image.effect_mandelbrot((size, size), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    (edited,) = edit(model, picture, settings, on_step=ended)
    between = [after - before for before, after in pairwise(moments)]
    rows = edited.rows // steps
    return {
        "device": str(machine.device),
        "precision": machine.precision,
        "weights": weights,
        "peak_of_loading": peak,
        "of_weights": round(peak / weights, 3),
        "peak_in_all": peak_memory(),
        "seconds_to_load": round(loaded, 1),
        "seconds_of_the_edit": round(edited.seconds, 1),
        "seconds_a_step": [round(one, 3) for one in between],
        "seconds_a_row": round(min(between) / rows, 3) if between else None,
        "finite": all(finite),
    }


def measure_diffusers(device: str, precision: str, size: int, steps: int) -> dict[str, Any]:
    """Time calls of diffusers' UNet with three rows, as its pipeline makes them; its weights are not filled."""
    import torch

    from instruct_pix2pix.engine.loading.config import CONFIGS, load_config
    from instruct_pix2pix.engine.precision import choose_machine
    from tools.reference_networks import diffusers_unet

    machine = choose_machine(device, precision)
    with torch.device("meta"):
        unet = diffusers_unet(load_config(CONFIGS / "sdxl.yaml").unet, size_width=256)
    unet = unet.to(machine.dtype).to_empty(device=machine.device).eval()
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    like: dict[str, Any] = {"device": machine.device, "dtype": machine.dtype}
    x, text = torch.randn(3, 8, size // 8, size // 8, **like), torch.randn(3, 77, 2048, **like)
    added = {"text_embeds": torch.randn(3, 1280, **like), "time_ids": torch.full([3, 6], float(size), **like)}
    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        with torch.inference_mode():
            predicted = unet(x, torch.tensor(500.0), text, added_cond_kwargs=added).sample
        float(predicted.float().sum())  # which waits for a GPU
        seconds.append(round(time.perf_counter() - began, 3))
    return {"seconds_a_step": seconds, "seconds_a_row": round(min(seconds) / 3, 3)}


def _in_child(function: str, *arguments: object) -> dict[str, Any]:
    path = os.pathsep.join([str(ROOT / "modules"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    code = f"import json; from benchmarks.sdxl import {function}; print(json.dumps({function}(*{arguments!r})))"
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Measure and print; return 1 where it is not as it should be."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sdxl", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--cosxl", action="store_true", help="a CosXL-Edit model instead of an SDXL one")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--size", type=int, default=768)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--diffusers", action="store_true", help="time diffusers' UNet too")
    given = parser.parse_args()
    how = (given.device, given.precision, given.size, given.steps)
    found: dict[str, Any] = {}
    if given.diffusers:
        found["diffusers"] = _in_child("measure_diffusers", *how)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder, "random.safetensors")
        words = [sys.executable, "-m", "tools.random_checkpoint", str(checkpoint), "--config", "sdxl"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "modules"), str(ROOT)])}
        subprocess.run([*words, *(["--cosxl"] if given.cosxl else [])], check=True, cwd=ROOT, env=environment)
        found["ours"] = _in_child("measure_ours", str(checkpoint), *how)
    print(json.dumps(found, indent=1))
    return 0 if found["ours"]["of_weights"] < MOST_OF_WEIGHTS and found["ours"]["finite"] else 1


if __name__ == "__main__":
    sys.exit(main())
