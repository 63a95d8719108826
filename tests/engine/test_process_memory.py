"""What a long run holds of memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import threading
from pathlib import Path
from instruct_pix2pix.engine.process_memory import give_back, tune_memory
tune_memory()
import torch
rss = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4096
def work():  # blocks of many sizes, with something small that stays behind each
    kept = []
    for i in range(1, 120):
        block = torch.ones(i * 50_000)
        kept.append(bytearray(1000))
        del block
    return kept
torch.ones(6_000_000).sum()
before = rss()
threads = [threading.Thread(target=lambda: kept.append(work())) for kept in [[]] for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
give_back()
print(rss() - before)
"""

LARGE_PICTURE = """
import gc
import time
from pathlib import Path
from PIL import Image
from instruct_pix2pix.server.worker.edit_task import EditRequest
from instruct_pix2pix.server.worker.worker import Worker
from instruct_pix2pix.models.registry import DEMO
from instruct_pix2pix.engine.process_memory import tune_memory
from instruct_pix2pix.engine.precision import choose_machine
from instruct_pix2pix.images import Picture
from instruct_pix2pix.settings import EditSettings
tune_memory()
gc.disable()  # what waits for it stays long, as it counts objects, not bytes
rss = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4096
def edit(side):
    picture = Picture(Image.new("RGB", (side, side)), "plain")
    worker.submit(EditRequest(DEMO, picture, EditSettings(instruction="make it winter", steps=1))).wait(10**9)
with Worker(choose_machine("cpu", "auto")) as worker:
    edit(96)
    before = rss()
    edit(7000)
    until = time.monotonic() + 60  # a worker that has nothing to do gives back all, some time later
    while rss() - before > 60e6 and time.monotonic() < until:
        time.sleep(0.5)
    print(rss() - before)
"""


def printed(program: str) -> int:
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "modules")}
    made = subprocess.run([sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True)
    return int(made.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc that keeps what was freed")
def test_a_process_that_stays_small_keeps_little_of_what_it_freed() -> None:
    assert printed(PROGRAM) < 20e6


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc that keeps what was freed")
def test_a_large_photograph_is_not_kept_after_its_edit() -> None:
    assert printed(LARGE_PICTURE) < 80e6  # of 147 of its own, and some 600 more in that edit
