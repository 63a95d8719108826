"""What an edit costs on this machine: seconds for a row, a step and an edit, and memory."""

from __future__ import annotations

import itertools
import platform
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..engine.cpu_kind import cpu_kind, expectation
from ..engine.edit import Edited, edit
from ..engine.model import EditModel
from ..engine.precision import Machine
from ..engine.process_memory import peak_memory
from ..settings import EditSettings

CASES = {
    "image+text, image, null": (7.5, 1.5),
    "image+text, image": (7.5, 1.0),
    "image+text": (1.0, 1.0),
}
"""Which rows a step evaluates, and the (Text CFG, Image CFG) that make it so."""


def measure(path: Path, machine: Machine, *, size: int | None, steps: int, repeat: int) -> dict[str, Any]:
    """Load a model, edit noise `repeat` times in each of CASES, and return medians; ready for JSON.

    `size` is the side of the picture in pixels, or None for the model's own. Raises UserError.
    """
    began = time.perf_counter()
    model = EditModel.load(path, machine)
    load = time.perf_counter() - began
    loaded = peak_memory()
    size = size or model.config.size
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8))
    edits = []
    for rows, (text_cfg, image_cfg) in CASES.items():
        settings = EditSettings(
            instruction="make it winter",
            seed=1,
            steps=steps,
            sampler="Euler",
            text_cfg=text_cfg,
            image_cfg=image_cfg,
            size=str(size),
        )
        edits.append({"rows": rows, **_seconds(model, picture, settings, repeat)})
    weights = sum(p.numel() * p.element_size() for n in model.networks for p in n.parameters())
    return {
        "model": path.stem,
        "size": size,
        "steps": steps,
        "device": str(machine.device),
        "dtype": machine.number,
        "threads": torch.get_num_threads(),
        "cpu": cpu_name(),
        "cpu_kind": cpu_kind(),
        "expect": expectation(cpu_kind()),
        "torch": torch.__version__,
        "load_seconds": round(load, 3),
        "weights_mb": round(weights / 1e6, 1),
        "peak_mb_after_load": round(loaded / 1e6, 1),
        "peak_mb": round(peak_memory() / 1e6, 1),
        "edits": edits,
    }


def as_table(report: Mapping[str, Any]) -> str:
    """Return a report of `measure` as text, with a table in Markdown."""
    lines = [
        "{model}, {size} pixels, {steps} steps, on {device} in {dtype}, {threads} threads, {cpu}, torch {torch}",
        "loaded in {load_seconds} s; weights {weights_mb} MB",
        "peak memory of the process: {peak_mb_after_load} MB after loading, {peak_mb} MB in all",
        "{expect}",
        "",
        "| rows of a step | rows evaluated | s per row | s per step | s per edit |",
        "|---|---:|---:|---:|---:|",
    ]
    lines = [line.format_map(report) for line in lines]
    lines += [
        f"| {e['rows']} | {e['rows_evaluated']} | {e['seconds_per_row']:.4f} | {e['seconds_per_step']:.4f} "
        f"| {e['seconds_per_edit']:.3f} |"
        for e in report["edits"]
    ]
    return "\n".join(lines)


def cpu_name() -> str:
    """Return what the processor calls itself."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _seconds(model: EditModel, picture: Image.Image, settings: EditSettings, repeat: int) -> dict[str, float]:
    _timed(model, picture, settings)  # the first edit sets up kernels and caches
    runs = [_timed(model, picture, settings) for _ in range(repeat)]
    step = statistics.median(step for _, step, _ in runs)
    evaluated = runs[0][2].rows
    return {
        "rows_evaluated": evaluated,
        "seconds_per_edit": round(statistics.median(seconds for seconds, _, _ in runs), 4),
        "seconds_per_row": round(step * settings.steps / evaluated, 5),
        "seconds_per_step": round(step, 5),
    }


def _timed(model: EditModel, picture: Image.Image, settings: EditSettings) -> tuple[float, float, Edited]:
    """Return the seconds of one edit, encoding and decoding included, those of its median step, and the edit."""
    marks: list[float] = []
    began = time.perf_counter()
    (edited,) = edit(model, picture, settings, on_step=lambda _: marks.append(time.perf_counter()))
    took = time.perf_counter() - began
    between = [later - earlier for earlier, later in itertools.pairwise(marks)]
    return took, statistics.median(between) if between else took, edited
