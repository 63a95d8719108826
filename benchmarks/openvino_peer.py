"""OpenVINO as a peer: diffusers' UNet converted once into a cache, in float32, bf16, and int8 by NNCF.

    python -m benchmarks.openvino_peer CHECKPOINT CONFIGS FOLDER [--int8]

writes FOLDER/unet.xml, and FOLDER/int8.xml from it, in a process of its own, whose memory ends with it. All else of an
edit is diffusers' pipeline: text, VAE, scheduler and guidance. The shapes are static when a network is compiled: it is
compiled anew for another count of rows or size. Where OpenVINO or NNCF is not installed, nothing here is called.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.turns import say
from instruct_pix2pix.engine.precision import Machine

ROOT = Path(__file__).resolve().parent.parent
CALIBRATION_SIZE, CALIBRATION_STEPS = 256, 3
"""Of the edit from whose calls of the UNet NNCF reads the ranges of activations: each of three rows at each step."""
MULTIPLE = 64
"""Of the sides of a picture, in pixels, that the converted network takes: diffusers' UNet halves them three times."""
INSTALL = "'{python} -m pip install -r requirements-peers.txt' installs it"


def openvino_ways(machine: Machine) -> dict[str, tuple[str, str]]:
    """Return the ways by name: the converted network, and OpenVINO's number format for what is not in 8 bits.

    bf16 is left out where this machine does not multiply it fast, as for diffusers.
    """
    best = "bf16" if machine.dtype == torch.bfloat16 else "f32"
    ways = {"openvino-fp32": ("unet", "f32")}
    if best == "bf16":
        ways["openvino-bf16"] = ("unet", best)
    return {**ways, "openvino-int8": ("int8", best)}


def why_not(name: str, machine: Machine, size: int) -> str | None:
    """Return the reason why a way cannot be measured here, as the end of a sentence; None where it can be."""
    if machine.device.type != "cpu":
        return "it is compared on processors"
    needed = ["openvino", "nncf"] if name.endswith("int8") else ["openvino"]
    for package in needed:
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed; " + INSTALL.format(python=Path(sys.executable).name)
    if size % MULTIPLE:
        return f"the network was converted for sizes that are multiples of {MULTIPLE}"
    return None


def converted(checkpoint: Path, configs: Path, cache: Path, kind: str) -> Path:
    """Return the network of a checkpoint as OpenVINO's file, 'unet' or 'int8', converted unless the cache has it.

    Raises OSError or subprocess.CalledProcessError where that fails.
    """
    state = checkpoint.stat()
    about = f"{checkpoint.resolve()} {state.st_size} {state.st_mtime_ns} {_version('openvino')} {_version('nncf')}"
    folder = cache / f"{checkpoint.stem}-{hashlib.sha256(about.encode()).hexdigest()[:12]}"
    file = folder / f"{kind}.xml"
    if not file.exists():
        say(f"converting the UNet for OpenVINO ({kind}), once, into {folder}")
        began = time.perf_counter()
        folder.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, "-m", "benchmarks.openvino_peer", str(checkpoint), str(configs), str(folder)]
        path = os.pathsep.join([str(ROOT / "modules"), str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}
        words += ["--int8"] if kind == "int8" else []
        subprocess.run(words, check=True, env=environment, stdout=sys.stderr)
        say(f"converted in {time.perf_counter() - began:.0f} s")
    return file


class OpenVINONetwork:
    """A converted network, compiled for the shapes it is called with; a `diffusers_peer.Network`."""

    def __init__(self, file: Path, precision: str, threads: int) -> None:
        self.file, self.precision, self.threads = file, precision, threads
        self._compiled: Any = None
        self._shapes: list[list[int]] = []

    def __call__(self, x: Tensor, timestep: Tensor, text: Tensor, *label: Tensor) -> Tensor:
        """Return the prediction in the format of x. SDXL's label is its pooled texts and its sizes."""
        inputs = [one.float().numpy() for one in (x, timestep.reshape(1), text, *label)]
        shapes = [list(one.shape) for one in inputs]
        if shapes != self._shapes:
            self._compiled = None  # its memory goes before the next one takes as much
            self._compiled, self._shapes = compile_network(self.file, shapes, self.precision, self.threads), shapes
        (found,) = self._compiled(inputs).values()
        return torch.from_numpy(np.array(found)).to(x.dtype)


def compile_network(file: Path, shapes: Sequence[Sequence[int]], precision: str, threads: int) -> Any:  # noqa: ANN401
    """Return OpenVINO's compiled model of a file, for inputs of these shapes, on so many threads of the CPU."""
    import openvino  # pyright: ignore[reportMissingImports]

    core = openvino.Core()
    model = core.read_model(file)
    model.reshape({one: openvino.PartialShape(list(shape)) for one, shape in zip(model.inputs, shapes, strict=True)})
    hints = {
        "INFERENCE_PRECISION_HINT": precision,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": "1",
        "INFERENCE_NUM_THREADS": str(threads),
    }
    return core.compile_model(model, "CPU", hints)


class Called(nn.Module):
    """diffusers' UNet with positional arguments, as a trace wants it."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor,
        text: Tensor,
        text_embeds: Tensor | None = None,
        time_ids: Tensor | None = None,
    ) -> Tensor:
        """Return the prediction [rows, 4, h, w]; the timestep is [1], the last two are the parts of SDXL's label."""
        more = {} if time_ids is None else {"added_cond_kwargs": {"text_embeds": text_embeds, "time_ids": time_ids}}
        return self.unet(sample, timestep, text, return_dict=False, **more)[0]


def write_network(unet: nn.Module, examples: Sequence[Tensor], file: Path, half: bool) -> None:
    """Trace diffusers' UNet with these inputs and write it for OpenVINO, open to other rows, sizes and lengths.

    `half` stores the weights in fp16, which loses nothing where the checkpoint has them so.
    """
    import openvino  # pyright: ignore[reportMissingImports]

    shapes = [[-1, example.shape[1], *[-1] * (example.ndim - 2)] if example.ndim > 1 else [1] for example in examples]
    shapes[2][2:] = examples[2].shape[2:]  # rows and tokens may change, the width of a text may not
    with torch.no_grad():
        model = openvino.convert_model(
            Called(unet).eval(), example_input=tuple(examples), input=[openvino.PartialShape(one) for one in shapes]
        )
    write_model(model, file, half)


def write_model(model: Any, file: Path, half: bool) -> None:  # noqa: ANN401 - OpenVINO's
    """Write both files of a model of OpenVINO; the one that is looked for comes last."""
    import openvino  # pyright: ignore[reportMissingImports]

    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        written = Path(folder, file.name)
        openvino.save_model(model, written, compress_to_fp16=half)
        shutil.move(written.with_suffix(".bin"), file.with_suffix(".bin"))
        shutil.move(written, file)


def quantize(file: Path, calls: Sequence[Sequence[np.ndarray]], out: Path) -> None:
    """Quantize a converted network after training: weights and activations of convolutions and products in int8.

    The ranges of activations are those of `calls`, each a list of the inputs.
    """
    import nncf  # pyright: ignore[reportMissingImports]
    import openvino  # pyright: ignore[reportMissingImports]

    model = openvino.Core().read_model(file)
    data = nncf.Dataset(list(calls), lambda inputs: list(inputs))
    eight_bits = nncf.quantize(
        model, data, subset_size=len(calls), preset=nncf.QuantizationPreset.MIXED, model_type=nncf.ModelType.TRANSFORMER
    )
    write_model(eight_bits, out, half=False)


def calibration_calls(checkpoint: Path, configs: Path, file: Path) -> list[list[np.ndarray]]:
    """Return the inputs of the UNet in a short edit, row by row, its predictions being those of the converted one."""
    from benchmarks.diffusers_peer import Diffusers

    pipe = Diffusers(checkpoint, configs, torch.device("cpu"), torch.float32, time.perf_counter)
    pipe.forget_unet()
    network = OpenVINONetwork(file, "f32", torch.get_num_threads())
    calls: list[list[np.ndarray]] = []

    def recorded(x: Tensor, timestep: Tensor, text: Tensor) -> Tensor:
        rows = zip(x.split(1), text.split(1), strict=True)
        calls.extend([one.numpy(), timestep.reshape(1).numpy(), words.numpy()] for one, words in rows)
        return network(x, timestep, text)

    side = CALIBRATION_SIZE
    pixels = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    pipe.run(Image.fromarray(pixels), CALIBRATION_STEPS, (7.5, 1.5), network=recorded)
    return calls


def _convert(checkpoint: Path, configs: Path, file: Path) -> None:
    from diffusers import UNet2DConditionModel

    from instruct_pix2pix.models.weights_files import read_weights

    half = any(weight.dtype == torch.float16 for weight in read_weights(checkpoint).values())
    unet: Any = UNet2DConditionModel.from_single_file(
        str(checkpoint), config=str(configs), subfolder="unet", torch_dtype=torch.float32, local_files_only=True
    )
    x = torch.randn(1, unet.config.in_channels, 32, 32)
    write_network(unet, [x, torch.tensor([500.0]), torch.randn(1, 77, unet.config.cross_attention_dim)], file, half)


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "none"


def main() -> None:
    """Be the process that converts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.openvino_peer")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("configs", type=Path, help="what diffusers_peer.write_configs wrote")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--int8", action="store_true", help="in eight bits as well")
    given = parser.parse_args()
    file = given.folder / "unet.xml"
    if not file.exists():
        _convert(given.checkpoint, given.configs, file)
    if given.int8:
        quantize(file, calibration_calls(given.checkpoint, given.configs, file), given.folder / "int8.xml")


if __name__ == "__main__":
    main()
