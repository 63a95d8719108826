"""From process start to the first step, and the peak of memory: ours, diffusers and a plain torch.load.

Each runs in a process of its own, `python -m benchmarks.loading WAY CHECKPOINT CONFIGS DTYPE DEVICE`, which prints
when it had imported what it needs, loaded the weights, and made one step of one row; `processor` are the seconds of
all threads until then, which other programs on the machine change little.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from instruct_pix2pix.engine.precision import Machine

ROOT = Path(__file__).resolve().parent.parent
SIZE = 64
"""Pixels; small, so that it is the loading that counts."""


def measure_loading(checkpoint: Path, configs: Path, machine: Machine, rounds: int = 3) -> list[dict[str, Any]]:
    """Return for each way the medians of seconds since its process began, the largest peak, and the weights' bytes."""
    dtype = str(machine.dtype).removeprefix("torch.")
    ways = ["ours", "diffusers from_single_file", "torch.load"]
    made: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder, "plain.pt")
        _write_plain(checkpoint, plain)
        for _ in range(rounds):
            for way in ways:
                file = plain if way == "torch.load" else checkpoint
                made[way].append(_child(way, file, configs, dtype, machine.device.type))
    weights = made["ours"][0]["weights"]
    found = []
    for way, runs in made.items():
        moments = {}
        for key in ("imported", "loaded", "first_step", "processor"):
            values = [run[key] for run in runs if run[key] is not None]
            moments[key] = statistics.median(values) if values else None
        found.append(
            {"way": way, "size": SIZE, **moments, "peak": max(run["peak"] for run in runs), "weights": weights}
        )
    return found


def _write_plain(checkpoint: Path, out: Path) -> None:
    """Write the tensors as torch.save does. In a process of its own, whose memory ends with it."""
    program = (
        "import sys, torch; from instruct_pix2pix.models.weights_files import read_weights; "
        "torch.save({'state_dict': {k: v.clone() for k, v in read_weights(sys.argv[1]).items()}}, sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", program, str(checkpoint), str(out)], check=True, env=_environment())


def _environment() -> dict[str, str]:
    path = [str(ROOT / "modules"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "HF_HUB_OFFLINE": "1"}


def _child(way: str, file: Path, configs: Path, dtype: str, device: str) -> dict[str, Any]:
    words = [sys.executable, "-m", "benchmarks.loading", way, str(file), str(configs), dtype, device]
    began = time.time()
    done = subprocess.run(words, check=True, env=_environment(), stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    return {k: v - began if k in ("imported", "loaded", "first_step") and v else v for k, v in found.items()}


def _ours(file: Path, configs: Path, dtype: str, device: str) -> dict[str, Any]:
    from instruct_pix2pix.cli.huge_pages import use_huge_pages

    use_huge_pages()  # as the command `edit` does
    import torch

    from instruct_pix2pix.engine.edit import edit
    from instruct_pix2pix.engine.model import EditModel
    from instruct_pix2pix.engine.precision import Machine
    from instruct_pix2pix.engine.process_memory import tune_memory
    from instruct_pix2pix.settings import EditSettings

    tune_memory()
    imported = time.time()
    model = EditModel.load(file, Machine(torch.device(device), getattr(torch, dtype)))
    loaded = time.time()
    first: list[float] = []
    settings = EditSettings(
        instruction="make it winter", steps=2, sampler="Euler", text_cfg=1.0, image_cfg=1.0, size=f"{SIZE}x{SIZE}"
    )
    networks = model.networks
    weights = sum(p.numel() * p.element_size() for network in networks for p in network.parameters())
    processor: list[float] = []

    def ended(progress: object) -> None:
        first.append(time.time())
        processor.append(time.process_time())

    list(edit(model, _picture(), settings, on_step=ended))
    moments = {"imported": imported, "loaded": loaded, "first_step": first[0]}
    return {**moments, "processor": processor[0], "weights": weights}


def _diffusers(file: Path, configs: Path, dtype: str, device: str) -> dict[str, Any]:
    import torch
    from diffusers import StableDiffusionInstructPix2PixPipeline

    imported = time.time()
    pipe: Any = StableDiffusionInstructPix2PixPipeline.from_single_file(
        str(file), config=str(configs), torch_dtype=getattr(torch, dtype), local_files_only=True
    ).to(device)
    loaded = time.time()
    first: list[float] = []
    processor: list[float] = []

    def ended(pipe: object, step: int, t: object, values: dict[str, Any]) -> dict[str, Any]:
        first.append(time.time())
        processor.append(time.process_time())
        return values

    pipe("make it winter", _picture(), 2, 1.0, 1.0, callback_on_step_end=ended)
    return {"imported": imported, "loaded": loaded, "first_step": first[0], "processor": processor[0]}


def _torch(file: Path, configs: Path, dtype: str, device: str) -> dict[str, Any]:
    """The least that reads all weights in the running format, without a network to put them in."""
    import torch

    imported = time.time()
    state = torch.load(file, map_location=device, weights_only=True)["state_dict"]
    converted = {k: v.to(getattr(torch, dtype)) if v.is_floating_point() else v for k, v in state.items()}
    assert converted
    return {"imported": imported, "loaded": time.time(), "first_step": None, "processor": time.process_time()}


def _picture() -> Any:  # noqa: ANN401 - Pillow is not imported before it is needed
    from PIL import Image

    return Image.new("RGB", (SIZE, SIZE), (90, 120, 60))


def main() -> None:
    """Be one of the measured processes."""
    way, file, configs, dtype, device = sys.argv[1:]
    measure = {"ours": _ours, "diffusers from_single_file": _diffusers, "torch.load": _torch}[way]
    found = measure(Path(file), Path(configs), dtype, device)
    from instruct_pix2pix.engine.process_memory import peak_memory

    print(json.dumps({**found, "peak": peak_memory()}))


if __name__ == "__main__":
    main()
