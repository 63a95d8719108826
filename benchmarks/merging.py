"""Memory and time of `merge` and `convert` with full-size files of random weights: `python -m benchmarks.merging`.

    python -m benchmarks.merging [--dtype fp16] [--ema] [--folder DIR]

Writes three SD1 checkpoints (2.1 GB each in fp16, 7.7 GB in fp32 with --ema) and what is made of them into a folder
of its own below DIR, and removes them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def _measured(*words: str) -> tuple[float, float]:
    """Run a program to its end; return its seconds and the peak of its resident set in MB."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "modules"), str(ROOT)])}
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", *words], env=env, cwd=ROOT)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(words)} ended with status {process.returncode}")
    return time.monotonic() - began, used.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def main() -> int:
    """Make the files, merge and convert them, and print a row of a table for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--dtype", default="fp16")
    parser.add_argument("--ema", action="store_true")
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as made:
        here = Path(made)
        files = [str(here / name) for name in ("edit.safetensors", "style.ckpt", "base.safetensors")]
        for seed, file in enumerate(files):
            words = ["--dtype", given.dtype, "--seed", str(seed), *(["--ema"] if given.ema else [])]
            _measured("tools.random_checkpoint", file, *words)
        command = "instruct_pix2pix.cli.main"
        print("| command | seconds | peak of the process, MB |\n|---|---:|---:|")
        for words in (
            ["merge", *files, "-o", str(here / "merged.safetensors")],
            ["convert", files[1], str(here / "converted.safetensors"), "--precision", "bf16"],
        ):
            seconds, peak = _measured(command, *words)
            size = Path(files[0]).stat().st_size / 1e9
            print(f"| {words[0]} of files of {size:.2f} GB | {seconds:.0f} | {peak:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
