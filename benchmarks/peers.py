"""Ours beside other programs: one full-size checkpoint, picture, seed and scales through all of them, in turns.

    python launch.py bench --peers [--quick] [--ways WAY ...] [--rows 1,3] [--model FILE] [--size 512] [--steps 4]
                                   [--rounds 3] [--json] [--save FILE]

Without `--model` a full-size SD1 checkpoint of random weights in half precision (2 GB) is made once, beside this file.
All run the network on the same number of threads: diffusers in each of its settings that this machine is fast in, the
last one being torch.compile, with frozen weights on CPUs and as a graph on CUDA; OpenVINO in each of its formats, its
network in diffusers' pipeline; stable-diffusion.cpp. Ways take turns within a round, so that what else the machine
does meets all of them. A step is counted from the end of the one before; the first of each way, in which weights are
packed or the network compiled, is told apart. Needs requirements-dev.txt; what requirements-peers.txt has besides is
left out where it is not installed.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks import openvino_peer, sdcpp_peer
from benchmarks.diffusers_peer import Diffusers, memory_as_it_comes, settings_of, write_configs
from benchmarks.loading import measure_loading
from benchmarks.openvino_peer import OpenVINONetwork, converted, openvino_ways
from benchmarks.parts import matmul_peak, measure_parts
from benchmarks.sdcpp_peer import StableDiffusionCpp
from benchmarks.turns import INSTRUCTION, OURS, SEED, Clock, Run, Way, chosen, measure_case, say, synchronize
from instruct_pix2pix.cli.measure import CASES, cpu_name
from instruct_pix2pix.engine.cpu_kind import cpu_kind
from instruct_pix2pix.engine.edit import Progress, edit
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.precision import Machine, choose_machine
from instruct_pix2pix.engine.process_memory import tune_memory
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.settings import EditSettings

CHECKPOINT = Path(__file__).with_name("random.safetensors")
"""The full-size checkpoint of random weights that benchmarks take where none is named."""
MISSING = (
    "bench --peers compares with {name}, which is not installed here: "
    "run '{python} -m pip install -r requirements-dev.txt' first."
)
FULL = {"size": 512, "steps": 4, "rounds": 3, "rows": [3, 2, 1], "only": ["load", "parts", "steps"]}
QUICK = {"size": 256, "steps": 2, "rounds": 2, "rows": [3, 1], "only": ["steps"]}
"""What is measured where nothing else is asked for, and with --quick, which compiles nothing by torch either."""
Runner = Callable[[tuple[float, float]], Run]
"""One way's edit with (Text CFG, Image CFG)."""


def ours(model: EditModel, picture: Image.Image, steps: int, scales: tuple[float, float], clock: Clock) -> Run:
    """Make the same edit with our engine, and with the allocator as our commands set it."""
    tune_memory()
    marks: list[float] = []
    last: list[Tensor] = []

    def mark() -> None:
        synchronize(model.machine.device)
        marks.append(clock())

    def ended(progress: Progress) -> None:
        mark()
        last[:] = [progress.denoised]  # Euler's last step arrives at the last estimate

    begins = model.unet_graphs.register_forward_pre_hook(lambda module, inputs: None if marks else mark())
    settings = EditSettings(
        instruction=INSTRUCTION,
        seed=SEED,
        steps=steps,
        sampler="Euler",
        schedule="Uniform",
        text_cfg=scales[0],
        image_cfg=scales[1],
        size=f"{picture.width}x{picture.height}",
    )
    began = clock()
    list(edit(model, picture, settings, on_step=ended))
    took = clock() - began
    begins.remove()
    return Run([b - a for a, b in itertools.pairwise(marks)], took, last[0].float().cpu())


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure all that is asked for. Raises UserError."""
    if args.busy:
        torch.set_num_threads(1)
    machine = choose_machine(args.device, args.precision)
    checkpoint = args.model or make_checkpoint(CHECKPOINT)
    if not checkpoint.is_file():
        raise UserError(f"'{checkpoint}' is no file: --peers takes a checkpoint file, or none for random weights.")
    pixels = np.random.default_rng(0).integers(0, 256, (args.size, args.size, 3), np.uint8)
    picture = Image.fromarray(pixels)
    report: dict[str, Any] = {
        "model": "SD1 at full size, random weights" if args.model is None else checkpoint.stem,
        "size": args.size,
        "steps": args.steps,
        "rounds": args.rounds,
        "device": torch.cuda.get_device_name() if machine.device.type == "cuda" else cpu_name(),
        "cpu_kind": cpu_kind(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "dtype": str(machine.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "seconds": "of the processor, on one thread" if args.busy else "on the clock",
        "versions": {"python": platform.python_version(), **versions("torch", "diffusers", "transformers")},
    }
    with tempfile.TemporaryDirectory() as folder:
        model = EditModel.load(checkpoint, machine)
        configs = write_configs(model.config, Path(folder))
        if "load" in args.only:
            say("from process start to first step, and peak memory")
            del model
            report["load"] = measure_loading(checkpoint, configs, machine)
            model = EditModel.load(checkpoint, machine)
        if "parts" in args.only:
            say("shares of the parts")
            report["matmul_gflops_per_s"] = matmul_peak(machine) / 1e9
            report["parts"] = measure_parts(model, picture)
        if "steps" in args.only:
            peers = Peers(checkpoint, configs, picture, machine, args)
            report |= {"left_out": peers.left_out, "cases": compare(model, peers, args)}
            report["versions"] |= versions("openvino", "nncf", "stable-diffusion-cpp-python")
    return report


class Peers:
    """The other programs, each loaded when its turn comes for the first time."""

    def __init__(
        self, checkpoint: Path, configs: Path, picture: Image.Image, machine: Machine, args: argparse.Namespace
    ) -> None:
        self.checkpoint, self.configs, self.picture, self.machine = checkpoint, configs, picture, machine
        self.steps, self.cache, self.clock = args.steps, args.cache, clock_of(args)
        self.left_out: list[str] = []
        """Sentences: which ways are not measured, and why."""
        self._diffusers = settings_of(machine, not (args.no_compile or args.quick))
        self._openvino = openvino_ways(machine)
        names = [OURS, *self._diffusers, *self._openvino, *sdcpp_peer.FORMATS]
        self._chosen = chosen(names, args.ways)
        self._pipe = cache(self._load_pipe)

    def runners(self) -> dict[str, Runner]:
        """Return the chosen ways that can be measured here, by name; tell of the others in `left_out`."""
        found: dict[str, Runner] = {}
        for name in self._chosen:
            if name in self._diffusers:
                found[name] = self._with_diffusers(*self._diffusers[name])
            elif name in self._openvino:
                if why := openvino_peer.why_not(name, self.machine, self.picture.width):
                    self._leave_out(name, why)
                elif file := self._converted(name):
                    found[name] = self._with_openvino(file, self._openvino[name][1])
            elif name in sdcpp_peer.FORMATS:
                if why := sdcpp_peer.why_not(self.machine):
                    self._leave_out(name, why)
                else:
                    found[name] = self._with_sdcpp(sdcpp_peer.FORMATS[name])
        return found

    def _leave_out(self, name: str, why: str) -> None:
        self.left_out.append(f"{name} is left out: {why}.")
        say(self.left_out[-1])

    def _converted(self, name: str) -> Path | None:
        try:
            return converted(self.checkpoint, self.configs, self.cache, self._openvino[name][0])
        except (OSError, subprocess.CalledProcessError) as error:
            self._leave_out(name, f"its network could not be converted ({error})")
            return None

    def _load_pipe(self, dtype: torch.dtype) -> Diffusers:
        pipe = Diffusers(self.checkpoint, self.configs, self.machine.device, dtype, self.clock)
        if not any(name in self._chosen and used[0] == dtype for name, used in self._diffusers.items()):
            pipe.forget_unet()  # OpenVINO's is the only one that runs in it
        return pipe

    def _with_diffusers(self, dtype: torch.dtype, channels_last: bool, compiled: bool) -> Runner:
        def run(scales: tuple[float, float]) -> Run:
            memory_as_it_comes()
            pipe = self._pipe(dtype)
            return pipe.run(self.picture, self.steps, scales, channels_last=channels_last, compiled=compiled)

        return run

    def _with_openvino(self, file: Path, precision: str) -> Runner:
        network = OpenVINONetwork(file, precision, torch.get_num_threads())
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32  # of the text encoder and the VAE

        def run(scales: tuple[float, float]) -> Run:
            memory_as_it_comes()
            return self._pipe(dtype).run(self.picture, self.steps, scales, network=network)

        return run

    def _with_sdcpp(self, weights: str) -> Runner:
        program = cache(lambda: StableDiffusionCpp(self.checkpoint, weights, torch.get_num_threads(), self.clock))

        def run(scales: tuple[float, float]) -> Run:
            memory_as_it_comes()
            return program().run(self.picture, self.steps, scales)

        return run


def clock_of(args: argparse.Namespace) -> Clock:
    """Return the clock that is asked for."""
    return time.process_time if args.busy else time.perf_counter


def compare(model: EditModel, peers: Peers, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Measure ours and the others in each case of rows."""
    ways = [Way(OURS, lambda scales: ours(model, peers.picture, args.steps, scales, clock_of(args)))]
    ways += [Way(name, run) for name, run in peers.runners().items()]
    cases = []
    for count, (rows, scales) in zip((3, 2, 1), CASES.items(), strict=True):
        if count in args.rows:
            cases.append({"rows": rows, "our_rows": count, **measure_case(ways, scales, args.rounds)})
    return cases


def make_checkpoint(path: Path) -> Path:
    """Return a full-size checkpoint of random weights, written unless it is there."""
    from tools.random_checkpoint import write_random_checkpoint

    if not path.exists():
        say(f"writing {path} (2.1 GB of random weights)")
        path.parent.mkdir(exist_ok=True)
        write_random_checkpoint(path)
    return path


def versions(*names: str) -> dict[str, str]:
    """Return the versions of those packages that are installed."""
    return {name: version(name) for name in names if _installed(name)}


def _installed(name: str) -> bool:
    return any(True for _ in distributions(name=name))


def table(report: dict[str, Any]) -> str:
    """Return the report for people, in Markdown."""
    lines = [
        "{model}, {size} pixels, {steps} steps, {rounds} rounds in turns; {device} ({cpu_kind}), {cpu_capability}, "
        "threads: {threads}, {dtype}, seconds {seconds}; ".format_map(report)
        + ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    ]
    if report["dtype"] == "float32":
        lines += ["", "diffusers and OpenVINO in bf16 are left out: this machine does not multiply bf16 fast."]
    if left_out := report.get("left_out"):
        lines += ["", *(f"- {sentence}" for sentence in left_out)]
    for case in report.get("cases", ()):
        lines += [
            "",
            f"Text CFG {case['text_cfg']:g}, Image CFG {case['image_cfg']:g}; rows of ours: {case['rows']}",
            "",
            "| way | s per step | ours is faster by | first step s | text and VAE s | difference to ours |",
            "|---|---:|---:|---:|---:|---:|",
            *(
                f"| {w['name']} | {w['step']:.4g} | {w['ours_times_as_fast']:.2f} | {w['first_step']:.2f} "
                f"| {w['beside_steps']:.3g} | {'–' if w['difference'] is None else format(w['difference'], '.1e')} |"
                for w in case["ways"]
            ),
        ]
    if parts := report.get("parts"):
        peak = report["matmul_gflops_per_s"]
        lines += [
            "",
            f"Ours by part, three rows; share of {peak:.0f} GFLOP/s, which matrix products reach here:",
            "",
            "| part | GFLOP | s | GFLOP/s | share |",
            "|---|---:|---:|---:|---:|",
            *(
                f"| {p['part']} | {p['gflop']:.1f} | {p['seconds']:.3f} | {p['gflop'] / p['seconds']:.0f} "
                f"| {p['gflop'] / p['seconds'] / peak:.0%} |"
                for p in parts
            ),
        ]
    if load := report.get("load"):
        lines += [
            "",
            f"From process start to the end of one row's first step ({load[0]['size']} pixels), file in page cache:",
            "",
            "| way | imports s | loaded s | first step s | processor s | peak MB | peak / weights |",
            "|---|---:|---:|---:|---:|---:|---:|",
            *(
                f"| {x['way']} | {x['imported']:.1f} | {x['loaded']:.1f} | "
                + (f"{x['first_step']:.1f}" if x["first_step"] else "–")
                + f" | {x['processor']:.1f} | {x['peak'] / 1e6:.0f} | {x['peak'] / x['weights']:.2f} |"
                for x in load
            ),
        ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    args = parser().parse_args(arguments)
    for name, value in (QUICK if args.quick else FULL).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    try:
        if args.steps < 2 or args.rounds < 1:
            raise UserError("--steps must be 2 or more, --rounds 1 or more.")
        if args.size < 64 or args.size % 8:
            raise UserError("--size must be a multiple of 8, 64 or more.")
        for name in ("diffusers", "transformers"):
            if importlib.util.find_spec(name) is None:
                raise UserError(MISSING.format(name=name, python=sys.executable))
        report = run(args)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    if args.save:
        args.save.write_text(json.dumps(report, indent=1), "utf-8")
    print(json.dumps(report, indent=1) if args.json else table(report))
    return 0


def parser() -> argparse.ArgumentParser:
    """Return the arguments of the program."""
    found = argparse.ArgumentParser(prog="bench --peers", description=(__doc__ or "").split("\n")[0])
    found.add_argument("--model", type=Path, metavar="FILE", help="an SD1 edit checkpoint (default: random weights)")
    found.add_argument("--device", default="auto", help="auto, cpu or cuda")
    found.add_argument("--precision", default="auto", help="of ours: auto, fp32, fp16 or bf16")
    about = "which to measure beside ours, by name or by the name's beginning, as 'openvino' (default all)"
    found.add_argument("--ways", type=words_of, default=[], metavar="WAY,...", help=about)
    about = "256 pixels, 2 steps, 2 rounds, 3 rows and 1, no torch.compile, where nothing else is said: some minutes"
    found.add_argument("--quick", action="store_true", help=about)
    found.add_argument("--size", type=int, metavar="PIXELS", help="side of the picture (default 512)")
    about = "steps of an edit, 2 or more (default 4); 2, 4, 10 and 28 fall on whole timesteps, as diffusers' always do"
    found.add_argument("--steps", type=int, help=about)
    found.add_argument("--rounds", type=int, help="edits by each (default 3)")
    found.add_argument("--rows", type=rows_of, metavar="3,2,1", help="cases of rows that ours evaluates (default all)")
    kinds = ["load", "parts", "steps"]
    found.add_argument("--only", nargs="+", choices=kinds, help="what to measure (default all)")
    about = "count the processor's time on one thread, which other programs on the machine change little"
    found.add_argument("--busy", action="store_true", help=about)
    found.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which takes minutes")
    about = "where converted networks are kept, 3 GB for SD1 (default benchmarks/cache)"
    found.add_argument("--cache", type=Path, default=Path(__file__).with_name("cache"), metavar="DIR", help=about)
    found.add_argument("--json", action="store_true", help="print JSON")
    found.add_argument("--save", type=Path, metavar="FILE", help="write the JSON there as well")
    return found


def words_of(text: str) -> list[str]:
    """Return the words of a list with commas."""
    return [word.strip() for word in text.split(",") if word.strip()]


def rows_of(text: str) -> list[int]:
    """Return counts of rows from a list with commas. Raises ArgumentTypeError for others than 1, 2 and 3."""
    words = words_of(text)
    if not words or not set(words) <= {"1", "2", "3"}:
        raise argparse.ArgumentTypeError(f"'{text}' is no list of 1, 2 and 3")
    return [int(word) for word in words]


if __name__ == "__main__":
    sys.exit(main())
