"""On a busy machine torch's threads wait asleep; nothing else changes."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from instruct_pix2pix.engine import shared_cores
from instruct_pix2pix.engine.edit import edit
from instruct_pix2pix.engine.shared_cores import SharedCores, SpareTeam, seconds_waited
from instruct_pix2pix.settings import EditSettings
from tests.helpers.batches import picture
from tests.helpers.programs import endless_loops

linux = pytest.mark.skipif(
    seconds_waited() is None or shared_cores.loaded_libgomp() is None,
    reason="torch runs on another OpenMP, or this system does not tell how long threads wait",
)
GUARD = 60.0
"""Seconds after which something is taken never to happen."""


@pytest.fixture
def busy() -> Iterator[None]:
    """Two programs more than there are cores that do nothing but run."""
    with endless_loops((os.cpu_count() or 1) + 2):
        yield


def threads() -> int:
    return sum(1 for _ in Path("/proc/self/task").iterdir())


def work_until(happened: Callable[[], bool]) -> bool:
    x = torch.ones(512, 512)
    end = time.monotonic() + GUARD
    while not happened() and time.monotonic() < end:
        torch.mm(x, x)
    return happened()


@linux
def test_beside_other_programs_a_spare_team_makes_threads_sleep_and_goes_when_they_have_gone(busy):
    work_until(lambda: True)
    before, more = threads(), len(os.sched_getaffinity(0))
    with SharedCores():
        assert work_until(lambda: threads() > before + more)
    assert work_until(lambda: threads() <= before)


@linux
def test_a_spare_team_has_more_threads_than_there_are_cores_until_it_ends():
    library = shared_cores.loaded_libgomp()
    assert library is not None
    work_until(lambda: True)
    before = threads()
    team = SpareTeam(library)
    assert work_until(lambda: threads() > before + len(os.sched_getaffinity(0)))
    team.end()
    assert work_until(lambda: threads() == before)


@linux
def test_a_busy_machine_gives_the_same_bits(model, request):
    settings = EditSettings("make it winter", steps=6, seed=1, size="96")
    (alone,) = edit(model, picture(1), settings)
    request.getfixturevalue("busy")
    (beside,) = edit(model, picture(1), settings)
    assert np.array_equal(np.asarray(alone.image), np.asarray(beside.image))


def test_where_the_system_tells_nothing_the_block_runs_all_the_same(monkeypatch, tmp_path):
    monkeypatch.setattr(shared_cores, "OWN_TASKS", tmp_path / "none")
    monkeypatch.setattr(shared_cores, "LOADED_FILES", tmp_path / "none")
    with SharedCores():
        result = torch.ones(3).sum()
    assert float(result) == 3


def test_what_goes_wrong_inside_is_not_hidden():
    with pytest.raises(ZeroDivisionError), SharedCores():
        raise ZeroDivisionError
