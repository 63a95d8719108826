"""A full-size SD1 checkpoint is loaded in little more memory than its weights take, and edits a photograph.

By `pytest tests/engine/test_full_size.py --full-size` alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
DISK, MEMORY = 12e9, 8e9
STATUS, MEMINFO = Path("/proc/self/status"), Path("/proc/meminfo")


def kilobytes(file: Path, name: str) -> int:
    """Return bytes from the kernel's lists, whose lines read 'VmHWM:    123 kB'."""
    line = next(line for line in file.read_text("utf-8").splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def measure(path: str, picture: str) -> None:
    """Load a checkpoint, edit a picture and print what it took. Runs in a process of its own."""
    from skimage import data

    from instruct_pix2pix.engine.edit import edit
    from instruct_pix2pix.engine.model import EditModel
    from instruct_pix2pix.engine.precision import choose_machine
    from instruct_pix2pix.settings import EditSettings

    machine = choose_machine()
    image = Image.fromarray(getattr(data, picture)())
    before = kilobytes(STATUS, "VmRSS")
    began = time.perf_counter()
    model = EditModel.load(Path(path), machine)
    seconds = time.perf_counter() - began
    peak = kilobytes(STATUS, "VmHWM") - before
    networks = model.networks
    weights = sum(p.numel() * machine.dtype.itemsize for network in networks for p in network.parameters())

    finite: list[bool] = []
    settings = EditSettings(instruction="make it a marble statue", steps=2, size="256", seed=1)
    on_step = lambda progress: finite.append(bool(progress.denoised.isfinite().all()))  # noqa: E731
    (edited,) = edit(model, image, settings, on_step=on_step)
    found = {
        "device": str(machine.device),
        "dtype": str(machine.dtype),
        "peak": peak,
        "weights": weights,
        "load_seconds": seconds,
        "edit_seconds": edited.seconds,
        "rows": edited.rows,
        "finite": finite,
        "size": edited.image.size,
        "deviation": float(np.asarray(edited.image).std()),
    }
    print(json.dumps(found))


def run(*arguments: str) -> str:
    path = os.pathsep.join([str(ROOT / "modules"), str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(params=["safetensors", "ckpt with its moving average"])
def checkpoint(request, tmp_path):
    """Write a full-size checkpoint of random weights, and remove it afterwards."""
    if not request.config.getoption("--full-size"):
        pytest.skip("takes minutes and gigabytes: --full-size")
    if not STATUS.exists():
        pytest.skip("memory is measured as Linux counts it")
    if shutil.disk_usage(tmp_path).free < DISK:
        pytest.skip("less than 12 GB of disk are free")
    if kilobytes(MEMINFO, "MemAvailable") < MEMORY:
        pytest.skip("less than 8 GB of memory are free")
    ema = "average" in request.param
    path = tmp_path / ("model.ckpt" if ema else "model.safetensors")
    try:
        run("-m", "tools.random_checkpoint", str(path), "--dtype", "fp16", *(["--ema"] if ema else []))
        yield path
    finally:
        path.unlink(missing_ok=True)


def test_a_full_size_model_loads_in_its_own_size_and_edits(checkpoint, capsys):
    pytest.importorskip("skimage")
    size = checkpoint.stat().st_size
    assert 3.8e9 < size < 3.9e9 if checkpoint.suffix == ".ckpt" else 2.1e9 < size < 2.2e9
    picture = "astronaut" if checkpoint.suffix == ".safetensors" else "chelsea"  # both come with scikit-image
    call = f"from tests.engine.test_full_size import measure; measure({str(checkpoint)!r}, {picture!r})"
    found = json.loads(run("-c", call).splitlines()[-1])
    with capsys.disabled():
        print(
            f"\n{checkpoint.name}, {found['dtype']} on {found['device']}: peak {found['peak'] / 1e9:.2f} GB "
            f"for {found['weights'] / 1e9:.2f} GB of weights, loaded in {found['load_seconds']:.1f} s, "
            f"edited in {found['edit_seconds']:.1f} s"
        )
    if found["device"] == "cpu":
        assert found["peak"] < 1.3 * found["weights"]
    assert found["finite"] == [True, True] and found["rows"] == 6
    assert found["size"] == ([256, 256] if picture == "astronaut" else [256, 170])
    assert found["deviation"] > 1
