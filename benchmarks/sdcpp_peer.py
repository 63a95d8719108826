"""stable-diffusion.cpp as a peer, by `stable-diffusion-cpp-python`: a checkpoint in ggml's formats f16 and q8_0.

It is a library of C++ that is built when it is installed; where it is not, nothing here is called. It draws other noise
than torch, so that its result is not compared number by number. It evaluates its rows one after the other.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import itertools
import sys
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.openvino_peer import INSTALL
from benchmarks.turns import INSTRUCTION, SEED, Clock, Run
from instruct_pix2pix.engine.precision import Machine

PACKAGE = "stable_diffusion_cpp"
FORMATS = {"sdcpp-f16": "f16", "sdcpp-q8_0": "q8_0"}
"""The ways by name, and ggml's name for the format of weights."""


def why_not(machine: Machine) -> str | None:
    """Return the reason why it cannot be measured here, as the end of a sentence; None where it can be."""
    if machine.device.type != "cpu":
        return "it is compared on processors"
    if importlib.util.find_spec(PACKAGE) is None:
        return "stable-diffusion-cpp-python is not installed; " + INSTALL.format(python=Path(sys.executable).name)
    try:
        importlib.import_module(PACKAGE)
    except (ImportError, OSError, RuntimeError) as error:
        return f"stable-diffusion-cpp-python does not load: {str(error).splitlines()[0]}"
    return None


class StableDiffusionCpp:
    """stable-diffusion.cpp with a checkpoint's weights in one format."""

    def __init__(self, checkpoint: Path, weights: str, threads: int, clock: Clock) -> None:
        package: Any = importlib.import_module(PACKAGE)
        be_silent()
        self.clock = clock
        self._model: Any = package.StableDiffusion(
            model_path=str(checkpoint), wtype=weights, n_threads=threads, verbose=False
        )

    def run(self, picture: Image.Image, steps: int, scales: tuple[float, float]) -> Run:
        """Edit by Euler's way over evenly spaced timesteps; it tells when it begins and when a step has ended."""
        marks: list[float] = []

        def ended(step: int, of: int, seconds: float) -> None:
            if of == steps and step == len(marks):
                marks.append(self.clock())

        began = self.clock()
        self._model.generate_image(
            prompt=INSTRUCTION,
            ref_images=[picture],
            width=picture.width,
            height=picture.height,
            cfg_scale=scales[0],
            image_cfg_scale=scales[1],
            sample_method="euler",
            scheduler="discrete",
            sample_steps=steps,
            seed=SEED,
            progress_callback=ended,
        )
        took = self.clock() - began
        be_silent()
        return Run([b - a for a, b in itertools.pairwise(marks)], took, None)


def be_silent() -> None:
    """Put a callback that does nothing, and stays, in place of the last one.

    The library keeps the address of an edit's callback and calls it when it loads another model, after it is gone; with
    none at all it draws its progress on standard output, where the report goes.
    """
    library, callback = _silence()
    library.sd_set_progress_callback(callback, ctypes.c_void_p(0))


@cache
def _silence() -> tuple[Any, Any]:
    library: Any = importlib.import_module(f"{PACKAGE}.{PACKAGE}")
    return library, library.sd_progress_callback(lambda *_: None)
