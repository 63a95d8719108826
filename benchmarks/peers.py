"""Ours beside diffusers: one full-size checkpoint, picture, seed and scales through both, in turns.

    python launch.py bench --peers [--model FILE] [--size 512] [--steps 4] [--rounds 3] [--json] [--save FILE]

Without `--model` a full-size SD1 checkpoint of random weights in half precision (2 GB) is made once, beside this file.
Both run the network on the same number of threads; diffusers in each of its settings that this machine is fast in, the
last one being torch.compile, with frozen weights on CPUs and as a graph on CUDA. Settings take turns within a round, so
that what else the machine does meets all of them. A step is counted from the end of the one before; the first of each
setting, in which weights are packed or the network compiled, is told apart. Needs requirements-dev.txt.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.loading import measure_loading
from benchmarks.parts import matmul_peak, measure_parts
from instruct_pix2pix.cli.measure import CASES, cpu_name
from instruct_pix2pix.engine.edit import Progress, edit
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.precision import Machine, choose_machine
from instruct_pix2pix.engine.process_memory import tune_memory
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.settings import EditSettings

Clock = Callable[[], float]
"""Seconds: of the wall, or with --busy of the processor."""
INSTRUCTION, SEED = "make it winter", 1
MISSING = (
    "bench --peers compares with {name}, which is not installed here: "
    "run '{python} -m pip install -r requirements-dev.txt' first."
)


@dataclass
class Run:
    """One edit: seconds of each step, of the whole, and the latent at its end [1, 4, h, w] float32."""

    steps: list[float]
    edit: float
    latent: Tensor


@dataclass
class Way:
    """One program in one setting, and what was measured of it in the case at hand."""

    name: str
    run: Callable[[tuple[float, float]], Run]
    runs: list[Run] = field(default_factory=list)

    def figures(self) -> dict[str, Any]:
        """Medians in seconds; the first step of all is left out of them where there are more."""
        steps = [second for run in self.runs for second in run.steps]
        rest = [run.edit - sum(run.steps) for run in self.runs]
        later = steps[1:] or steps
        return {
            "name": self.name,
            "first_step": steps[0],
            "step": statistics.median(later),
            "fastest_step": min(later),
            "measured_steps": len(later),
            "beside_steps": statistics.median(rest[1:] or rest),
        }


class Diffusers:
    """diffusers' pipeline with the weights of a checkpoint, in one number format."""

    def __init__(self, checkpoint: Path, configs: Path, machine: Machine, dtype: torch.dtype, clock: Clock) -> None:
        from diffusers import StableDiffusionInstructPix2PixPipeline

        self.device, self.clock = machine.device, clock
        self.pipe: Any = StableDiffusionInstructPix2PixPipeline.from_single_file(
            str(checkpoint), config=str(configs), torch_dtype=dtype, local_files_only=True
        ).to(machine.device)
        self.pipe.set_progress_bar_config(disable=True)
        self._marks: list[float] = []
        prepare = self.pipe.prepare_latents

        def prepared(*args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401 - the last that comes before the steps
            latents = prepare(*args, **kwargs)
            self._mark()
            return latents

        self.pipe.prepare_latents = prepared
        self._compiled: Any = None

    def _mark(self) -> None:
        synchronize(self.device)
        self._marks.append(self.clock())

    def run(
        self, picture: Image.Image, steps: int, scales: tuple[float, float], *, channels_last: bool, compiled: bool
    ) -> Run:
        """Edit in this layout, compiled or not."""
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.pipe.unet.to(memory_format=layout)
        self.pipe.vae.to(memory_format=layout)
        if compiled and self._compiled is None:
            import torch._inductor.config as inductor

            inductor.freezing = self.device.type == "cpu"
            self.pipe.unet.compile(mode="default" if self.device.type == "cpu" else "reduce-overhead")
            self._compiled = self.pipe.unet._compiled_call_impl
        self.pipe.unet._compiled_call_impl = self._compiled if compiled else None
        last: list[Tensor] = []

        def ended(pipe: object, step: int, t: object, values: dict[str, Tensor]) -> dict[str, Tensor]:
            self._mark()
            last[:] = [values["latents"]]
            return values

        self._marks.clear()
        began = self.clock()
        self.pipe(
            prompt=INSTRUCTION,
            image=picture,
            num_inference_steps=steps,
            guidance_scale=scales[0],
            image_guidance_scale=scales[1],
            generator=torch.Generator().manual_seed(SEED),
            callback_on_step_end=ended,
        )
        took = self.clock() - began
        return Run([b - a for a, b in itertools.pairwise(self._marks)], took, last[0].float().cpu())


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


def memory_as_it_comes() -> None:
    """Let the allocator be as other programs have it: at what glibc comes to by itself with blocks of such sizes."""
    tune_memory(kept=32 << 20, trimmed=64 << 20)


def synchronize(device: torch.device) -> None:
    """Wait for what a GPU was told to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def write_configs(model: EditModel, folder: Path) -> Path:
    """Write what diffusers needs beside a checkpoint: its configs and a tokenizer, so that it asks no network."""
    from diffusers import EulerDiscreteScheduler, StableDiffusionInstructPix2PixPipeline
    from transformers import CLIPTokenizer

    from instruct_pix2pix.engine.tokenizer import byte_alphabet, merges
    from tools.reference_networks import diffusers_unet, diffusers_vae, transformers_text

    config = model.config
    pairs = merges()[: config.text.vocab_size - 514]
    words = [*byte_alphabet(), *(c + "</w>" for c in byte_alphabet()), *(a + b for a, b in pairs)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(words)}), "utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in pairs), ""]), "utf-8")
    tokenizer = CLIPTokenizer.from_pretrained(folder, model_max_length=77)
    scheduler = EulerDiscreteScheduler(
        beta_start=config.linear_start,
        beta_end=config.linear_end,
        beta_schedule="scaled_linear",
        timestep_spacing="linspace",
    )
    with torch.device("meta"):
        unet, vae = diffusers_unet(config.unet), diffusers_vae(config.vae, config.scale_factor)
        text = transformers_text(config.text)
    parts: Any = {"unet": unet, "vae": vae, "text_encoder": text, "tokenizer": tokenizer, "scheduler": scheduler}
    none: Any = {"safety_checker": None, "feature_extractor": None}
    pipe: Any = StableDiffusionInstructPix2PixPipeline(**parts, **none, requires_safety_checker=False)
    pipe.save_config(folder)
    for name in ("unet", "vae"):
        parts[name].save_config(folder / name)
    text.config.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    scheduler.save_config(folder / "scheduler")
    return folder


def settings_of(machine: Machine, compiled: bool) -> list[tuple[str, torch.dtype, bool, bool]]:
    """Return diffusers' settings for this machine: name, format, channels-last, compiled. The last is the default."""
    formats = [torch.float32] if machine.dtype == torch.float32 else [torch.float32, machine.dtype]
    found = []
    for dtype in formats:
        name = str(dtype).removeprefix("torch.")
        found += [(name, dtype, False, False), (f"{name}, channels-last", dtype, True, False)]
    if compiled:
        name, dtype, _, _ = found[-1]
        how = "compiled, frozen" if machine.device.type == "cpu" else "compiled, as a CUDA graph"
        found.append((f"{name}, {how}", dtype, True, True))
    return found


def relative(a: Tensor, b: Tensor) -> float:
    """Return |a - b| / |b|."""
    return float((a - b).norm() / b.norm())


def measure_case(ways: Sequence[Way], scales: tuple[float, float], rounds: int) -> dict[str, Any]:
    """Run all ways in turns; ours is the first of them."""
    for way in ways:
        way.runs = []
    for number in range(rounds):
        for way in ways:
            way.runs.append(way.run(scales))
            seconds = ", ".join(f"{step:.3g}" for step in way.runs[-1].steps)
            say(f"{scales[0]:g} / {scales[1]:g}, round {number + 1} of {rounds}, {way.name}: steps of {seconds} s")
    figures = [way.figures() for way in ways]
    reference = ways[0].runs[-1].latent
    for way, one in zip(ways, figures, strict=True):
        one["ours_times_as_fast"] = one["step"] / figures[0]["step"]
        one["difference"] = relative(reference, way.runs[-1].latent)
    return {"text_cfg": scales[0], "image_cfg": scales[1], "ways": figures}


def say(text: str) -> None:
    """One line of progress, apart from the report."""
    print(text, file=sys.stderr, flush=True)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure all that is asked for. Raises UserError."""
    if args.busy:
        torch.set_num_threads(1)
    machine = choose_machine(args.device, args.precision)
    checkpoint = args.model or make_checkpoint(Path(__file__).with_name("random.safetensors"))
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
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "dtype": str(machine.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "seconds": "of the processor, on one thread" if args.busy else "on the clock",
        "versions": {"python": platform.python_version(), **versions("torch", "diffusers", "transformers")},
    }
    with tempfile.TemporaryDirectory() as folder:
        model = EditModel.load(checkpoint, machine)
        configs = write_configs(model, Path(folder))
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
            report["cases"] = compare(model, checkpoint, configs, picture, args)
    return report


def compare(
    model: EditModel, checkpoint: Path, configs: Path, picture: Image.Image, args: argparse.Namespace
) -> list[dict[str, Any]]:
    """Measure ours and diffusers in each case of rows."""
    clock = time.process_time if args.busy else time.perf_counter
    pipes: dict[torch.dtype, Diffusers] = {}

    def theirs(dtype: torch.dtype, channels_last: bool, compiled: bool, scales: tuple[float, float]) -> Run:
        memory_as_it_comes()
        if dtype not in pipes:
            pipes[dtype] = Diffusers(checkpoint, configs, model.machine, dtype, clock)
        return pipes[dtype].run(picture, args.steps, scales, channels_last=channels_last, compiled=compiled)

    ways = [Way("ours", lambda scales: ours(model, picture, args.steps, scales, clock))]
    for name, dtype, channels_last, compiled in settings_of(model.machine, not args.no_compile):
        ways.append(
            Way(f"diffusers {name}", lambda scales, how=(dtype, channels_last, compiled): theirs(*how, scales))
        )
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
    """Return the versions of installed packages."""
    from importlib.metadata import version

    return {name: version(name) for name in names}


def table(report: dict[str, Any]) -> str:
    """Return the report for people, in Markdown."""
    lines = [
        "{model}, {size} pixels, {steps} steps, {rounds} rounds in turns; {device}, {cpu_capability}, "
        "threads: {threads}, {dtype}, seconds {seconds}; ".format_map(report)
        + ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    ]
    if report["dtype"] == "float32":
        lines += ["", "diffusers in bf16 is left out: this machine does not multiply bf16 fast."]
    for case in report.get("cases", ()):
        lines += [
            "",
            f"Text CFG {case['text_cfg']:g}, Image CFG {case['image_cfg']:g}; rows of ours: {case['rows']}",
            "",
            "| way | s per step | ours is faster by | first step s | text and VAE s | difference to ours |",
            "|---|---:|---:|---:|---:|---:|",
            *(
                f"| {w['name']} | {w['step']:.4g} | {w['ours_times_as_fast']:.2f} | {w['first_step']:.2f} "
                f"| {w['beside_steps']:.3g} | {w['difference']:.1e} |"
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
    parser = argparse.ArgumentParser(prog="bench --peers", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, metavar="FILE", help="an SD1 edit checkpoint (default: random weights)")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--precision", default="auto", help="of ours: auto, fp32, fp16 or bf16")
    parser.add_argument("--size", type=int, default=512, metavar="PIXELS", help="side of the picture (default 512)")
    about = "steps of an edit, 2 or more (default 4); 2, 4, 10 and 28 fall on whole timesteps, as diffusers' always do"
    parser.add_argument("--steps", type=int, default=4, help=about)
    parser.add_argument("--rounds", type=int, default=3, help="edits by each (default 3)")
    parser.add_argument("--rows", type=int, nargs="+", choices=(3, 2, 1), default=[3, 2, 1], help="cases (default all)")
    kinds = ["load", "parts", "steps"]
    parser.add_argument("--only", nargs="+", choices=kinds, default=kinds, help="what to measure (default all)")
    about = "count the processor's time on one thread, which other programs on the machine change little"
    parser.add_argument("--busy", action="store_true", help=about)
    parser.add_argument("--no-compile", action="store_true", help="leave out torch.compile, which takes minutes")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--save", type=Path, metavar="FILE", help="write the JSON there as well")
    args = parser.parse_args(arguments)
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


if __name__ == "__main__":
    sys.exit(main())
