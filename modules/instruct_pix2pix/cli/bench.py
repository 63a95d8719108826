"""The command `bench`: what this machine does with a model, as a table and as JSON."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from dataclasses import dataclass

from ..errors import UserError
from ..paths import checkout_of
from .arguments import Command, ModelOptions, add_model, model_options_of
from .huge_pages import use_huge_pages

STEPS = 4
"""Of a measured edit, where nothing else is asked for."""


@dataclass(frozen=True)
class BenchOptions:
    """What `bench` is asked to measure."""

    model: ModelOptions
    size: int | None
    """The side of the picture in pixels; None is the model's own."""
    steps: int | None
    """Steps of the measured edits; None is `STEPS`, or what the comparison has by itself."""
    repeat: int
    """Edits to take the median of."""
    peers: bool
    """Compare with other programs instead; what follows is the comparison's own."""
    rounds: int | None
    """Edits by each."""
    ways: str | None
    """Which programs and settings, a list with commas; None is all."""
    rows: str | None
    """Which counts of rows, a list with commas; None is all."""
    quick: bool
    as_json: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_model(parser)
    parser.add_argument("--size", type=int, metavar="PIXELS", help="side of the picture (default: the model's)")
    parser.add_argument("--steps", type=int, help=f"steps of the measured edits (default {STEPS})")
    parser.add_argument("--repeat", type=int, default=3, help="edits to take the median of (default 3)")
    about = "compare with other programs at full size, in turns; takes long, and needs requirements-peers.txt"
    parser.add_argument("--peers", action="store_true", help=about)
    about = "with --peers: smaller and fewer, 256 pixels, two steps, two rounds"
    parser.add_argument("--quick", action="store_true", help=about)
    about = "with --peers: which to measure beside ours, such as 'diffusers-bf16,openvino' (default all)"
    parser.add_argument("--ways", metavar="WAY,...", help=about)
    about = "with --peers: how many rows ours evaluates, such as '3,1' (default 3,2,1)"
    parser.add_argument("--rows", metavar="N,...", help=about)
    about = "edits by each with --peers (default 3); python -m benchmarks.peers --help lists what else it takes"
    parser.add_argument("--rounds", type=int, help=about)
    parser.add_argument("--json", action="store_true", help="print JSON")


def options_of(args: argparse.Namespace) -> BenchOptions:
    """Return what the arguments ask for."""
    return BenchOptions(
        model=model_options_of(args),
        size=args.size,
        steps=args.steps,
        repeat=args.repeat,
        peers=args.peers,
        rounds=args.rounds,
        ways=args.ways,
        rows=args.rows,
        quick=args.quick,
        as_json=args.json,
    )


def run(options: BenchOptions) -> int:
    """Measure and print. Raises UserError."""
    use_huge_pages()
    if options.peers:
        return _run_peers(options)
    steps = STEPS if options.steps is None else options.steps
    if steps < 1 or options.repeat < 1:
        raise UserError("Steps and repeats must be 1 or more.")
    path = options.model.find()
    # Imported here: `--help` need not wait for torch, nor who names no model.
    from ..engine.precision import choose_machine
    from ..engine.process_memory import tune_memory
    from .measure import as_table, measure

    tune_memory()
    machine = choose_machine(options.model.device, options.model.precision, options.model.memory)
    report = measure(path, machine, size=options.size, steps=steps, repeat=options.repeat)
    print(json.dumps(report, indent=1) if options.as_json else as_table(report))
    return 0


def _run_peers(options: BenchOptions) -> int:
    """Run the comparison with other programs, which lies beside the library. Raises UserError where it does not."""
    root = checkout_of()
    if root is None or not (root / "benchmarks" / "peers.py").is_file():
        raise UserError("bench --peers is part of the repository and not of an installed package: run it in a clone.")
    chosen = options.model
    words = ["--device", chosen.device, "--precision", chosen.precision]
    words += ["--model", str(chosen.find().resolve())] if chosen.model else []
    for name in ("size", "steps", "rounds", "ways", "rows"):
        value = getattr(options, name)
        words += [] if value is None else [f"--{name}", str(value)]
    words += ["--quick"] if options.quick else []
    words += ["--json"] if options.as_json else []
    path = os.pathsep.join([str(root / "modules"), str(root), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "benchmarks.peers", *words]
    return subprocess.call(command, cwd=root, env={**os.environ, "PYTHONPATH": path})


COMMAND = Command(
    "bench",
    "Measure this machine: seconds for a row and an edit, memory, load time.",
    add_arguments,
    options_of,
    run,
)
