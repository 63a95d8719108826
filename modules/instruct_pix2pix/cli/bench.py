"""The command `bench`: what this machine does with a model, as a table and as JSON."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ..engine.edit import Edited, edit
from ..engine.model import EditModel
from ..engine.precision import choose_machine
from ..engine.process_memory import peak_memory, tune_memory
from ..errors import UserError
from ..models.registry import model_dirs, resolve
from ..paths import checkout_of
from ..settings import EditSettings

# Which rows a step has, by its scales: see guidance.py.
CASES = {
    "image+text, image, null": (7.5, 1.5),
    "image+text, image": (7.5, 1.0),
    "image+text": (1.0, 1.0),
}


def run(args: argparse.Namespace) -> int:
    """Measure and print. Raises UserError."""
    if args.steps < 1 or args.repeat < 1:
        raise UserError("Steps and repeats must be 1 or more.")
    tune_memory()
    machine = choose_machine(args.device, args.precision)
    path = resolve(args.model, model_dirs(args.models_dir))
    began = time.perf_counter()
    model = EditModel.load(path, machine)
    load = time.perf_counter() - began
    loaded = peak_memory()
    size = args.size or model.config.size
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8))

    results = []
    for rows, (text_cfg, image_cfg) in CASES.items():
        settings = EditSettings(
            instruction="make it winter",
            seed=1,
            steps=args.steps,
            sampler="Euler",
            text_cfg=text_cfg,
            image_cfg=image_cfg,
            size=str(size),
        )
        _timed(model, picture, settings)  # the first run sets up kernels and caches
        runs = [_timed(model, picture, settings) for _ in range(args.repeat)]
        edits = [seconds for seconds, _, _ in runs]
        steps = [step for _, step, _ in runs]
        evaluated = runs[0][2].rows
        results.append(
            {
                "rows": rows,
                "rows_evaluated": evaluated,
                "seconds_per_edit": round(statistics.median(edits), 4),
                "seconds_per_row": round(statistics.median(steps) * args.steps / evaluated, 5),
                "seconds_per_step": round(statistics.median(steps), 5),
            }
        )
    weights = sum(p.numel() * p.element_size() for n in (model.unet, model.vae, model.text) for p in n.parameters())
    report = {
        "model": path.stem,
        "size": size,
        "steps": args.steps,
        "device": str(machine.device),
        "dtype": str(machine.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "cpu": cpu_name(),
        "torch": torch.__version__,
        "load_seconds": round(load, 3),
        "weights_mb": round(weights / 1e6, 1),
        "peak_mb_after_load": round(loaded / 1e6, 1),
        "peak_mb": round(peak_memory() / 1e6, 1),
        "edits": results,
    }
    print(json.dumps(report, indent=1) if args.json else _table(report))
    return 0


def run_peers(args: argparse.Namespace) -> int:
    """Run the comparison with diffusers, which lies beside the library. Raises UserError where it does not."""
    root = checkout_of()
    if root is None or not (root / "benchmarks" / "peers.py").is_file():
        raise UserError("bench --peers is part of the repository and not of an installed package: run it in a clone.")
    words = ["--steps", str(args.steps), "--rounds", str(args.rounds)]
    words += ["--device", args.device, "--precision", args.precision]
    words += ["--size", str(args.size)] if args.size else []
    words += ["--model", str(resolve(args.model, model_dirs(args.models_dir)).resolve())] if args.model else []
    words += ["--json"] if args.json else []
    path = os.pathsep.join([str(root / "modules"), str(root), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "benchmarks.peers", *words]
    return subprocess.call(command, cwd=root, env={**os.environ, "PYTHONPATH": path})


def _timed(model: EditModel, picture: Image.Image, settings: EditSettings) -> tuple[float, float, Edited]:
    """Return the seconds of one edit, encoding and decoding included, those of its median step, and the edit."""
    marks: list[float] = []
    began = time.perf_counter()
    (edited,) = edit(model, picture, settings, on_step=lambda _: marks.append(time.perf_counter()))
    took = time.perf_counter() - began
    between = [later - earlier for earlier, later in itertools.pairwise(marks)]
    return took, statistics.median(between) if between else took, edited


def cpu_name() -> str:
    """Return what the processor calls itself."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _table(report: dict[str, object]) -> str:
    edits = report["edits"]
    assert isinstance(edits, list)
    lines = [
        "{model}, {size} pixels, {steps} steps, on {device} in {dtype}, {threads} threads, {cpu}, torch {torch}",
        "loaded in {load_seconds} s; weights {weights_mb} MB",
        "peak memory of the process: {peak_mb_after_load} MB after loading, {peak_mb} MB in all",
        "",
        "| rows of a step | rows evaluated | s per row | s per step | s per edit |",
        "|---|---:|---:|---:|---:|",
    ]
    lines = [line.format_map(report) for line in lines]
    lines += [
        f"| {e['rows']} | {e['rows_evaluated']} | {e['seconds_per_row']:.4f} | {e['seconds_per_step']:.4f} "
        f"| {e['seconds_per_edit']:.3f} |"
        for e in edits
    ]
    return "\n".join(lines)
