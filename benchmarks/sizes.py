"""What one edit holds of memory, by the size of the picture.

    python -m benchmarks.sizes [--model FILE] [--size 512 1024 2048] [--steps 1] [--limit 8]

Each size is edited in a process of its own, with both guidances. `--limit` lets the engine believe in a machine with so
many gigabytes, one of them the system's: where it would not fit, rows are computed one by one then, or the VAE's tiles
are small. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "modules")]
SYSTEM = 10**9
"""Bytes that a machine of the limit needs for itself."""


def measure(checkpoint: Path, size: int, steps: int, limit: float | None) -> dict[str, Any]:
    """Edit once in this process. Returns seconds, and megabytes: of weights, at most after loading and in all."""
    from PIL import Image

    from benchmarks.batch import resident_mb
    from instruct_pix2pix.engine import free_memory
    from instruct_pix2pix.engine.edit import edit
    from instruct_pix2pix.engine.model import EditModel
    from instruct_pix2pix.engine.precision import choose_machine
    from instruct_pix2pix.engine.process_memory import peak_memory, tune_memory
    from instruct_pix2pix.settings import EditSettings

    tune_memory()
    if limit is not None:
        free_memory.available = lambda device: int(limit * 1e9 - SYSTEM - resident_mb("self") * 1e6)
    model = EditModel.load(checkpoint, choose_machine())
    weights = sum(p.numel() * p.element_size() for n in model.networks for p in n.parameters())
    loaded = peak_memory()
    calls: Counter[int] = Counter()
    model.unet.register_forward_hook(lambda module, inputs, output: calls.update([len(output)]))
    tiles: Counter[int] = Counter()
    model.vae.decoder.register_forward_hook(lambda module, inputs, output: tiles.update([max(output.shape[2:])]))
    picture = Image.effect_noise((size, size), 80).convert("RGB")
    settings = EditSettings(instruction="make it winter", steps=steps, seed=1, size=f"{size}x{size}")
    began = time.perf_counter()
    list(edit(model, picture, settings))
    seconds = time.perf_counter() - began
    return {
        "dtype": str(model.machine.dtype).removeprefix("torch."),
        "weights": weights / 1e6,
        "loaded": loaded / 1e6,
        "peak": peak_memory() / 1e6,
        "rows": max(calls),
        "tile": max(tiles),
        "tiles": sum(tiles.values()),
        "seconds": seconds,
    }


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, default=Path(__file__).with_name("random.safetensors"))
    parser.add_argument("--size", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--limit", type=float, help="gigabytes of a smaller machine")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        print(json.dumps(measure(args.model, args.size[0], args.steps, args.limit)))
        return
    print("| pixels | format | weights MB | at most while loading | at most in all | rows at once | VAE tiles | s |")
    print("|---:|---|---:|---:|---:|---:|---:|---:|")
    for size in args.size:
        words = ["--model", str(args.model), "--size", str(size), "--steps", str(args.steps), "--here"]
        words += ["--limit", str(args.limit)] if args.limit else []
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.sizes", *words], check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        f = json.loads(done.stdout.splitlines()[-1])
        print(
            f"| {size} | {f['dtype']} | {f['weights']:.0f} | {f['loaded']:.0f} | {f['peak']:.0f} | {f['rows']} "
            f"| {f['tiles']} of up to {f['tile']} | {f['seconds']:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
