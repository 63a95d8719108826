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


@dataclass(frozen=True)
class BenchOptions:
    """What `bench` is asked to measure."""

    model: ModelOptions
    size: int | None
    """The side of the picture in pixels; None is the model's own."""
    steps: int
    repeat: int
    """Edits to take the median of."""
    peers: bool
    """Compare with diffusers instead."""
    rounds: int
    """Edits by each, with `peers`."""
    as_json: bool


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add_model(parser)
    parser.add_argument("--size", type=int, metavar="PIXELS", help="side of the picture (default: the model's)")
    parser.add_argument("--steps", type=int, default=4, help="steps of the measured edits (default 4)")
    parser.add_argument("--repeat", type=int, default=3, help="edits to take the median of (default 3)")
    about = "compare with diffusers at full size, in turns; takes minutes, and needs requirements-dev.txt"
    parser.add_argument("--peers", action="store_true", help=about)
    about = "edits by each with --peers (default 3); python -m benchmarks.peers --help lists what else it takes"
    parser.add_argument("--rounds", type=int, default=3, help=about)
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
        as_json=args.json,
    )


def run(options: BenchOptions) -> int:
    """Measure and print. Raises UserError."""
    use_huge_pages()
    if options.peers:
        return _run_peers(options)
    if options.steps < 1 or options.repeat < 1:
        raise UserError("Steps and repeats must be 1 or more.")
    path = options.model.find()
    # Imported here: `--help` need not wait for torch, nor who names no model.
    from ..engine.precision import choose_machine
    from ..engine.process_memory import tune_memory
    from .measure import as_table, measure

    tune_memory()
    machine = choose_machine(options.model.device, options.model.precision, options.model.memory)
    report = measure(path, machine, size=options.size, steps=options.steps, repeat=options.repeat)
    print(json.dumps(report, indent=1) if options.as_json else as_table(report))
    return 0


def _run_peers(options: BenchOptions) -> int:
    """Run the comparison with diffusers, which lies beside the library. Raises UserError where it does not."""
    root = checkout_of()
    if root is None or not (root / "benchmarks" / "peers.py").is_file():
        raise UserError("bench --peers is part of the repository and not of an installed package: run it in a clone.")
    chosen = options.model
    words = ["--steps", str(options.steps), "--rounds", str(options.rounds)]
    words += ["--device", chosen.device, "--precision", chosen.precision]
    words += ["--size", str(options.size)] if options.size else []
    words += ["--model", str(chosen.find().resolve())] if chosen.model else []
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
