"""A batch on a cluster: the same pictures as on one machine, and nothing lost when workers are."""

import importlib.util
import os
import re
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from instruct_pix2pix.batch.driver import Event, Summary, Wrote, facts_of, run_batch
from instruct_pix2pix.batch.local_executor import UnitRunner, local_executor
from instruct_pix2pix.batch.planning import BatchRequest
from instruct_pix2pix.batch.units import Control, Executor
from instruct_pix2pix.cli import main
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.precision import choose_machine
from instruct_pix2pix.engine.search import Search
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.models.registry import DEMO
from instruct_pix2pix.settings import EditSettings
from tests.helpers.batches import QUICK, contents, lines, picture

if importlib.util.find_spec("ray") is None:
    pytest.skip("Ray is not installed", allow_module_level=True)
if (os.cpu_count() or 1) < 2:
    pytest.skip("two workers need two cores", allow_module_level=True)

from instruct_pix2pix.batch.ray.connection import RayCluster, joined
from instruct_pix2pix.batch.ray.executor import cluster_executor, cluster_precision
from instruct_pix2pix.batch.ray.worker import RayWorker

EACH = (os.cpu_count() or 2) // 2
"""Cores of a worker, so that there are two; the machine without a cluster takes as many, for sums in one order."""
SETTINGS = EditSettings("make it winter", steps=2, seed=3)
FACTS = facts_of(DEMO, "fp32")


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", str(EACH))
        patch.delenv("RAY_ADDRESS", raising=False)
        with joined("auto") as ray:
            yield ray


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(14):
        size = (96, 96) if number % 3 else (96, 64)
        picture(number, size).save(folder / f"{number:02}.{'png' if number % 2 else 'jpg'}")
    (folder / "broken.png").write_bytes((folder / "01.png").read_bytes()[:200])
    return folder


@pytest.fixture(scope="module")
def alone(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one machine makes of the photos."""
    folder = tmp_path_factory.mktemp("alone")
    before = torch.get_num_threads()
    torch.set_num_threads(EACH)
    maker = UnitRunner(EditModel.load(DEMO, choose_machine("cpu", "fp32")), FACTS.hash)
    run(photos, folder, local_executor(maker, Control()))
    torch.set_num_threads(before)
    return contents(folder)


def run(
    photos: Path, output: Path, execute: Executor, report: Callable[[Event], None] = lambda _: None, **more
) -> Summary:
    return run_batch(BatchRequest(photos, output, SETTINGS, batch_size=2), FACTS, execute, report=report, **more)


def on_cluster(control: Control, said: list[str], path: Path = DEMO) -> Executor:
    return cluster_executor("auto", path, FACTS.hash, "cpu", "fp32", control, say=said.append)


def ended(folder: Path) -> Counter[str]:
    return Counter(line["name"] for line in lines(folder) if "state" in line)


def workers(said: list[str]) -> list[int]:
    return [int(found[1]) for line in said if (found := re.search(r"is ready \(process (\d+)", line))]


def test_two_workers_make_the_pictures_that_one_machine_makes(
    cluster: object, photos: Path, alone: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)  # a path that is none where the workers are
    said: list[str] = []
    summary = run(Path(photos.name), tmp_path, on_cluster(Control(), said))
    assert (summary.done, summary.failed, summary.left) == (14, 1, 0)
    assert len(set(workers(said))) == 2
    assert contents(tmp_path) == alone
    assert not any("sent" in line for line in said)


def test_workers_find_what_one_machine_finds(cluster: object, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(4):
        picture(number).save(tmp_path / "in" / f"{number}.png")
    settings = EditSettings("make it {winter|night}", steps=2, seed=3)
    asked = BatchRequest(tmp_path / "in", tmp_path / "alone", settings, search=Search(best_of=3))
    before = torch.get_num_threads()
    torch.set_num_threads(EACH)
    runner = UnitRunner(EditModel.load(DEMO, choose_machine("cpu", "fp32")), FACTS.hash)
    assert run_batch(asked, FACTS, local_executor(runner, Control())).done == 4
    torch.set_num_threads(before)
    there = replace(asked, output=tmp_path / "there")
    assert run_batch(there, FACTS, on_cluster(Control(), [])).done == 4
    assert contents(tmp_path / "there") == contents(tmp_path / "alone")
    costs = [line["cost"] for line in lines(tmp_path / "there") if "cost" in line]
    assert len(costs) == 4 and min(costs) > 2


def test_a_worker_killed_in_the_middle_costs_a_retry_and_no_picture(
    cluster: object, photos: Path, alone: dict[str, bytes], tmp_path: Path
) -> None:
    said: list[str] = []
    killed: list[int] = []

    def kill(event: Event) -> None:
        if isinstance(event, Wrote) and not killed:
            killed.append(workers(said)[0])
            os.kill(killed[0], signal.SIGKILL)

    summary = run(photos, tmp_path, on_cluster(Control(), said), kill)
    assert killed and any("has ended" in line for line in said)
    assert (summary.done, summary.failed, summary.left) == (14, 1, 0)
    assert contents(tmp_path) == alone
    assert set(ended(tmp_path).values()) == {1} and len(ended(tmp_path)) == 15
    begun = Counter((name, index) for line in lines(tmp_path) for name, index, *_ in line.get("started", ()))
    assert set(begun.values()) == {1}


def test_a_unit_that_ends_every_worker_fails_alone(cluster: object, photos: Path, tmp_path: Path) -> None:
    """The picture is a file that kills whoever reads it, as a want of memory or a fault of a decoder would."""

    class Fragile(RayWorker):
        def make(self, unit, states, files):
            if any(shot.item.name == "05.png" for shot in unit.requests):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().make(unit, states, files)

    said: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("instruct_pix2pix.batch.ray.connection.RayWorker", Fragile)
        summary = run(photos, tmp_path, on_cluster(Control(), said))
    assert set(summary.reasons) == {"05.png", "broken.png"}
    assert "ended each time" in summary.reasons["05.png"]
    assert (summary.done, summary.left) == (13, 0)


def test_machines_without_the_pictures_and_the_model_get_them_sent(
    cluster: object, photos: Path, alone: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers' idea of what lies on their disk is taken from them; the bytes then come from the driver."""
    model = tmp_path / "elsewhere" / DEMO.name
    model.parent.mkdir()
    for suffix in (".safetensors", ".yaml"):
        model.with_suffix(suffix).write_bytes(DEMO.with_suffix(suffix).read_bytes())
    said: list[str] = []

    class Far(RayWorker):
        def load(self, setup, threads, parts=None):
            return super().load(replace(setup, path=Path("/nowhere") / setup.path.name), threads, parts)

        def make(self, unit, states, files):
            far = [
                replace(shot, item=replace(shot.item, source=Path("/nowhere") / shot.item.source.name))
                for shot in unit.requests
            ]
            moved = {Path("/nowhere") / path.name: data for path, data in files.items()}
            states = {Path("/nowhere") / path.name: state for path, state in states.items()}
            return super().make(replace(unit, requests=tuple(far)), states, moved)

    monkeypatch.setattr("instruct_pix2pix.batch.ray.connection.RayWorker", Far)
    summary = run(photos, tmp_path / "out", on_cluster(Control(), said, model))
    assert (summary.done, summary.failed, summary.left) == (14, 1, 0)
    assert contents(tmp_path / "out") == alone
    assert any("does not have demo" in line for line in said)
    assert any("does not see the pictures" in line for line in said)


def test_a_run_that_is_stopped_goes_on_later(
    cluster: object, photos: Path, alone: dict[str, bytes], tmp_path: Path
) -> None:
    control = Control()

    def stop(event: Event) -> None:
        if isinstance(event, Wrote):
            control.stop()

    summary = run(photos, tmp_path, on_cluster(control, []), stop, control=control)
    assert 0 < summary.done < 14 and summary.left > 0
    control, waited = Control(), []
    control.pause()

    def go_on() -> None:
        waited.append(len(ended(tmp_path)))
        control.resume()

    threading.Timer(1, go_on).start()
    summary = run(photos, tmp_path, on_cluster(control, []), control=control)
    assert waited and summary.left == 0
    assert contents(tmp_path) == alone


def test_only_this_machine_can_reach_a_cluster_of_its_own(cluster) -> None:
    node = cluster.nodes()[0]
    assert node["NodeManagerAddress"] == "127.0.0.1"
    for port in (node["NodeManagerPort"], node["ObjectManagerPort"]):
        socket.create_connection(("127.0.0.1", port), 5).close()
        for address in {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}:
            if not str(address).startswith("127."):
                with pytest.raises(OSError):
                    socket.create_connection((str(address), port), 5).close()


def test_the_machines_of_a_cluster_compute_in_the_number_format_that_one_of_them_chooses(cluster) -> None:
    chosen = choose_machine("cpu").precision
    assert RayCluster(cluster).precision("cpu", "auto") == cluster_precision("auto", "cpu", "auto") == chosen
    with pytest.raises(UserError, match="no device 'toaster'"):
        RayCluster(cluster).precision("toaster", "auto")


@pytest.mark.parametrize("address", ["nonsense", "localhost:0", "127.0.0.1:1", "ray://127.0.0.1:10001", "a b:1"])
def test_a_bad_address_is_a_sentence_and_nothing_is_begun(address: str, photos: Path, tmp_path: Path, capsys) -> None:
    words = ["batch", str(photos), str(tmp_path / "out"), "make it winter", *QUICK, "--cluster", address]
    assert main.main(words) == 1
    said = capsys.readouterr().err.strip()
    assert said.count("\n") == 0 and address in said and ("HOST:PORT" in said or "No cluster answers" in said)
    assert not (tmp_path / "out").exists()


def test_without_ray_the_sentence_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'instruct-pix2pix-studio\[cluster\]'"):
        cluster_executor("auto", DEMO, None, "cpu", "fp32", Control())
