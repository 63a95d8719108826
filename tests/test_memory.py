"""What a long run holds of memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

PROGRAM = """
import threading
from pathlib import Path
from instruct_pix2pix.app.memory import give_back, tune_memory
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


@pytest.mark.skipif(sys.platform != "linux", reason="it is glibc that keeps what was freed")
def test_a_process_that_stays_small_keeps_little_of_what_it_freed() -> None:
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "modules")}
    made = subprocess.run([sys.executable, "-c", PROGRAM], env=environ, capture_output=True, text=True, check=True)
    assert int(made.stdout) < 20e6
