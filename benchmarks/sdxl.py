"""SDXL at full size: how much memory its loading takes beside its weights, and how long its steps are.

    python -m benchmarks.sdxl [--cosxl] [--precision auto] [--device auto] [--size 768] [--steps 2]
                              [--diffusers] [--openvino] [--rounds 1]

Writes a checkpoint of random weights in fp16 (7 GB) into a temporary folder, loads it in a process of its own, makes
the steps, and deletes it; fails where loading took more than 1.3 times the weights, or numbers are not finite. It needs
8 GB of disk, and the memory that 3.5 billion weights take in the precision: 7 GB in bf16 and fp16, 14 GB in fp32. With
`--diffusers` and `--openvino` it first times calls of diffusers' UNet, and of OpenVINO's conversion of it, with three
rows of the same size. Each is alone in memory, in a process of its own; these take turns for `--rounds` rounds. The
conversion, once, takes 6 GB more of disk and some 12 GB of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
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
    """Time calls of diffusers' UNet with three rows, as its pipeline makes them; its weights are random."""
    from instruct_pix2pix.engine.precision import choose_machine

    machine = choose_machine(device, precision)
    unet = _diffusers_unet(machine.dtype, machine.device)

    def call(x: Any, t: Any, text: Any, pooled: Any, sizes: Any) -> Any:  # noqa: ANN401 - tensors
        return unet(x, t, text, added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes}).sample

    return _timed(call, _inputs(3, size, machine.dtype, machine.device), steps)


def convert_for_openvino(file: str) -> dict[str, Any]:
    """Write diffusers' UNet with random weights for OpenVINO: traced in fp16, which halves its memory."""
    import torch
    from openvino.frontend.pytorch.patch_model import __make_16bit_traceable as make_16bit_traceable  # pyright: ignore[reportMissingImports]

    from benchmarks.openvino_peer import write_network

    unet = _diffusers_unet(torch.float16, torch.device("cpu"))
    make_16bit_traceable(unet)
    began = time.perf_counter()
    write_network(unet, _inputs(1, 256, torch.float32, torch.device("cpu")), Path(file), half=True)
    return {"seconds_to_convert": round(time.perf_counter() - began, 1)}


def measure_openvino(file: str, precision: str, size: int, steps: int) -> dict[str, Any]:
    """Time calls of the converted UNet with three rows, compiled for these; the first compiles and is not counted."""
    import torch

    from benchmarks.openvino_peer import OpenVINONetwork
    from instruct_pix2pix.engine.precision import choose_machine

    chosen = "bf16" if choose_machine("cpu", precision).dtype == torch.bfloat16 else "f32"
    network = OpenVINONetwork(Path(file), chosen, torch.get_num_threads())
    inputs = _inputs(3, size, torch.float32, torch.device("cpu"))
    network(*inputs)
    return _timed(network, inputs, steps)


def _diffusers_unet(dtype: Any, device: Any) -> Any:  # noqa: ANN401 - torch is not imported before it is needed
    import torch

    from instruct_pix2pix.engine.loading.config import CONFIGS, load_config
    from tools.reference_networks import diffusers_unet

    with torch.device("meta"):
        unet = diffusers_unet(load_config(CONFIGS / "sdxl.yaml").unet, size_width=256)
    unet = unet.to(dtype).to_empty(device=device).eval().requires_grad_(False)
    for parameter in unet.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return unet


def _inputs(rows: int, size: int, dtype: Any, device: Any) -> list[Any]:  # noqa: ANN401
    """Return x, timestep, text, pooled texts and sizes for so many rows, in the order of the converted network."""
    import torch

    like: dict[str, Any] = {"device": device, "dtype": dtype}
    x, text = torch.randn(rows, 8, size // 8, size // 8, **like), torch.randn(rows, 77, 2048, **like)
    label = [torch.randn(rows, 1280, **like), torch.full([rows, 6], float(size), **like)]
    return [x, torch.tensor([500.0], device=device), text, *label]


def _timed(network: Callable[..., Any], inputs: list[Any], steps: int) -> dict[str, Any]:
    import torch

    seconds = []
    for _ in range(steps):
        began = time.perf_counter()
        with torch.inference_mode():
            predicted = network(*inputs)
        float(predicted.float().sum())  # which waits for a GPU
        seconds.append(round(time.perf_counter() - began, 3))
    return {"seconds_a_step": seconds, "seconds_a_row": round(min(seconds) / len(inputs[0]), 3)}


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
    parser.add_argument("--openvino", action="store_true", help="time OpenVINO's too: it needs requirements-peers.txt")
    parser.add_argument("--rounds", type=int, default=1, help="how often each is measured, in turns (default 1)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the files are written (default: temporary)")
    given = parser.parse_args()
    how = (given.device, given.precision, given.size, given.steps)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        checkpoint, network = Path(folder, "random.safetensors"), Path(folder, "unet.xml")
        if given.openvino:
            found["openvino"] = [_in_child("convert_for_openvino", str(network))]
        words = [sys.executable, "-m", "tools.random_checkpoint", str(checkpoint), "--config", "sdxl"]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "modules"), str(ROOT)])}
        subprocess.run([*words, *(["--cosxl"] if given.cosxl else [])], check=True, cwd=ROOT, env=environment)
        for _ in range(given.rounds):
            if given.diffusers:
                found.setdefault("diffusers", []).append(_in_child("measure_diffusers", *how))
            if given.openvino:
                found["openvino"].append(_in_child("measure_openvino", str(network), *how[1:]))
            found.setdefault("ours", []).append(_in_child("measure_ours", str(checkpoint), *how))
    print(json.dumps(found, indent=1))
    return 0 if all(one["of_weights"] < MOST_OF_WEIGHTS and one["finite"] for one in found["ours"]) else 1


if __name__ == "__main__":
    sys.exit(main())
