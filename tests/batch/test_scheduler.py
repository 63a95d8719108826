"""Who works on what in a cluster: machines that come, leave and fail, on a clock that the test moves."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import pytest

from instruct_pix2pix.batch.ray.scheduler import (
    IN_FLIGHT,
    LOOK_ROUND,
    MOST_TRIES,
    PATIENCE,
    SILENCE,
    Answer,
    Call,
    NodeInfo,
    Scheduler,
    WorkerLost,
    node_of,
)
from instruct_pix2pix.batch.ray.worker import WorkerReady, WorkerSetup
from instruct_pix2pix.batch.units import Control, Item, Result, ResultRequest, Unit
from instruct_pix2pix.errors import Remedy, UserError
from instruct_pix2pix.settings import EditSettings

MAKE_SECONDS = 3.0
KILLED = WorkerLost("killed, or its machine lost")


@dataclass(eq=False)
class FakeProcess:
    """A worker that answers when its time has come; what it answers, the test may decide."""

    cluster: FakeCluster
    node_id: str
    pid: int
    calls: dict[Call, tuple[float, Callable[[], Answer]]] = field(default_factory=dict)
    stopped: bool = False
    killed: bool = False

    def load(self, setup: WorkerSetup, threads: int | None, *, send_model: bool) -> Call:
        self.cluster.loads.append((self.node_id, send_model))
        has_model = send_model or self.node_id not in self.cluster.without_model
        answer = WorkerReady(self.pid, "cpu, float32" if has_model else "")
        return self._call(self.cluster.load_seconds, lambda: self.cluster.load_answers.get(self.node_id, answer))

    def make(self, unit: Unit, states: object, files: object) -> Call:
        self.cluster.sent.append((self.pid, names(unit)))
        return self._call(MAKE_SECONDS, lambda: self.cluster.make(self, unit, states, files))

    def stop(self) -> None:
        self.stopped = True

    def kill(self) -> None:
        self.killed = True

    def _call(self, seconds: float, answer: Callable[[], Answer]) -> Call:
        call = next(self.cluster.numbers)
        self.calls[call] = (self.cluster.now + seconds, answer)
        return call


class FakeCluster:
    """Machines, processes and a clock. `events` are (second, what happens then)."""

    def __init__(self, *nodes: NodeInfo) -> None:
        self.now = 0.0
        self.numbers = count()
        self.present = {node.id: node for node in nodes}
        self.processes: list[FakeProcess] = []
        self.events: list[tuple[float, Callable[[], object]]] = []
        self.sent: list[tuple[int, list[str]]] = []
        self.loads: list[tuple[str, bool]] = []
        self.load_seconds = 1.0
        self.load_answers: dict[str, Answer] = {}
        self.without_model: set[str] = set()
        self.without_files: set[str] = set()
        self.deadly: set[str] = set()
        """Pictures that end whoever makes them."""

    def nodes(self) -> Sequence[NodeInfo]:
        return list(self.present.values())

    def start_worker(self, node_id: str, *, cpus: int, gpus: int) -> FakeProcess:
        assert node_id in self.present
        self.processes.append(FakeProcess(self, node_id, len(self.processes)))
        return self.processes[-1]

    def wait(self, calls: Collection[Call], seconds: float) -> Sequence[tuple[Call, Answer]]:
        until = self.now + seconds
        while True:
            due = [
                (0.0 if process.node_id not in self.present else at, call, process)
                for process in self.processes
                if not process.killed
                for call, (at, _) in process.calls.items()
                if call in calls
            ]
            at, call, process = min(due, default=(until, None, None), key=lambda one: one[0])
            moment = min([until, max(at, self.now), *(at for at, _ in self.events)])
            self.now = max(self.now, moment)
            happened = [event for event in self.events if event[0] <= self.now]
            for event in happened:
                self.events.remove(event)
                event[1]()
            if happened:
                continue
            if process is not None and at <= self.now:
                _, answer = process.calls.pop(call)
                return [(call, KILLED if process.node_id not in self.present else answer())]
            return []

    def make(self, process: FakeProcess, unit: Unit, states: object, files: object) -> Answer:
        if self.deadly & set(names(unit)):
            return KILLED
        if process.stopped:
            return []
        if process.node_id in self.without_files and not files:
            return None
        return [Result(request.item.name, request.index, b"data") for request in unit.wanted]

    def at(self, second: float, happens: Callable[[], object]) -> None:
        self.events.append((second, happens))

    def leaves(self, node: NodeInfo) -> None:
        del self.present[node.id]

    def joins(self, node: NodeInfo) -> None:
        self.present[node.id] = node


@dataclass
class Outcome:
    """What a run came to."""

    results: dict[str, Result] = field(default_factory=dict)
    times: dict[str, float] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)
    said_at: list[float] = field(default_factory=list)

    @property
    def made(self) -> set[str]:
        return {name for name, result in self.results.items() if result.data is not None}


def names(unit: Unit) -> list[str]:
    return [request.item.name for request in unit.requests]


def gpu(id_: str, gpus: int = 1) -> NodeInfo:
    return NodeInfo(id_, f"{id_} (10.0.0.1)", 8, gpus, 32 << 30)


def unit(*pictures: str, folder: Path = Path("nowhere")) -> Unit:
    items = [Item(name, folder / name, EditSettings("x"), (name,), "PNG", 95, (8, 8), 1, "f") for name in pictures]
    return Unit(tuple(ResultRequest(item, 0) for item in items), 4)


def run(
    cluster: FakeCluster,
    units: Sequence[Unit | None],
    *,
    outcome: Outcome | None = None,
    control: Control | None = None,
    on_result: Callable[[str], None] = lambda _: None,
    setup: WorkerSetup | None = None,
) -> Outcome:
    outcome = outcome or Outcome()

    def say(sentence: str) -> None:
        outcome.said.append(sentence)
        outcome.said_at.append(cluster.now)

    setup = setup or WorkerSetup(Path("model.safetensors"), None, "0123456789", "auto", "fp32")
    scheduler = Scheduler(cluster, setup, say, lambda: cluster.now)
    for result in scheduler.results(iter(units), control or Control()):
        assert result.name not in outcome.results  # every picture has one result
        outcome.results[result.name] = result
        outcome.times[result.name] = cluster.now
        on_result(result.name)
    scheduler.close()
    assert all(process.killed for process in cluster.processes)
    return outcome


def numbered(number: int) -> list[Unit]:
    return [unit(f"{i}.png") for i in range(number)]


def test_units_go_to_every_worker_and_no_more_than_it_can_keep_busy_with() -> None:
    cluster, taken = FakeCluster(gpu("a", 2), gpu("b")), []

    def units() -> Iterator[Unit]:
        for one in numbered(30):
            taken.append(one)
            yield one

    outcome = Outcome()
    scheduler = Scheduler(cluster, WorkerSetup(Path("m"), None, None, "auto", "fp32"), outcome.said.append, lambda: 0)
    results = scheduler.results(units(), Control())
    next(results)
    assert len(taken) == 3 * IN_FLIGHT
    assert len({pid for pid, _ in cluster.sent}) == 3
    assert 1 + len(list(results)) == 30
    assert outcome.said == [
        f"{name} (10.0.0.1) is ready (process {pid}, cpu, float32)." for name, pid in (("a", 0), ("a", 1), ("b", 2))
    ]


# --- waiting ---


def test_when_all_machines_are_lost_the_run_ends_after_its_patience() -> None:
    node = gpu("a")
    cluster, outcome = FakeCluster(node), Outcome()
    cluster.at(2.0, lambda: cluster.leaves(node))
    with pytest.raises(UserError, match=r"^No machine of the cluster can work: fix that") as raised:
        run(cluster, numbered(2), outcome=outcome)
    assert raised.value.remedy is Remedy.RUN_AGAIN and str(raised.value).endswith("give the same command again.")
    assert PATIENCE <= cluster.now - 2 < PATIENCE + 10
    assert "a (10.0.0.1) has left the cluster." in outcome.said


def test_machines_that_cannot_work_end_the_run_at_once_and_say_why() -> None:
    cluster = FakeCluster(gpu("a"), gpu("b"), NodeInfo("c", "c (10.0.0.1)", 8, 0, 1 << 30))
    cluster.load_answers = dict.fromkeys("ab", WorkerLost("it has version 1 of this program, not 2", unfit=True))
    outcome = Outcome()
    why = "a (10.0.0.1): it has version 1 of this program, not 2; b (10.0.0.1): it has version 1 of this program, not 2"
    with pytest.raises(UserError) as raised:
        run(cluster, numbered(2), outcome=outcome)
    assert str(raised.value) == (
        f"No machine of the cluster can work ({why}; c (10.0.0.1): it has no GPU): "
        "fix that, then give the same command again."
    )
    assert cluster.now < 10
    assert outcome.said[0] == "a (10.0.0.1) cannot help: it has version 1 of this program, not 2."


def test_a_long_wait_for_the_first_worker_is_told_once() -> None:
    cluster = FakeCluster(gpu("a"))
    cluster.load_seconds = 5 * SILENCE
    outcome = run(cluster, numbered(1))
    waits = [at for line, at in zip(outcome.said, outcome.said_at, strict=True) if "No worker is ready yet" in line]
    assert len(waits) == 1 and SILENCE < waits[0] < SILENCE + 1
    assert outcome.made == {"0.png"}


def test_a_second_wait_is_told_again() -> None:
    node = gpu("a")
    cluster = FakeCluster(node)
    cluster.load_seconds = 2 * SILENCE
    cluster.at(2 * SILENCE + 1, lambda: cluster.leaves(node))
    cluster.at(2 * SILENCE + 20, lambda: cluster.joins(node))
    outcome = run(cluster, numbered(1))
    assert sum("No worker is ready yet" in line for line in outcome.said) == 2
    assert outcome.made == {"0.png"}


# --- machines that come and go ---


def test_a_machine_that_leaves_with_units_and_returns_makes_them() -> None:
    node = gpu("a")
    cluster = FakeCluster(node)
    cluster.at(2.0, lambda: cluster.leaves(node))
    cluster.at(300.0, lambda: cluster.joins(node))
    outcome = run(cluster, numbered(5))
    assert outcome.made == {f"{i}.png" for i in range(5)}
    assert min(outcome.times.values()) > 300
    assert (
        "A worker on a (10.0.0.1) has ended (killed, or its machine lost): "
        f"its unfinished batches ({IN_FLIGHT}) are made again."
    ) in outcome.said


def test_units_of_a_machine_that_leaves_are_made_by_another() -> None:
    first, second = gpu("a"), gpu("b")
    cluster = FakeCluster(first, second)
    cluster.at(2.0, lambda: cluster.leaves(first))
    outcome = run(cluster, numbered(8))
    assert outcome.made == {f"{i}.png" for i in range(8)}
    assert max(outcome.times.values()) < 60


def test_a_machine_that_joins_late_gets_work_within_seconds() -> None:
    cluster = FakeCluster(gpu("a"))
    late = gpu("b", 2)
    cluster.at(20.0, lambda: cluster.joins(late))
    outcome = run(cluster, numbered(60))
    ready = [at for line, at in zip(outcome.said, outcome.said_at, strict=True) if line.startswith("b ")]
    assert len(ready) == 2 and all(20 < at < 20 + LOOK_ROUND + 3 for at in ready)
    assert {pid for pid, _ in cluster.sent} == {0, 1, 2}
    assert len(outcome.made) == 60


# --- workers that end ---


def test_a_unit_that_ends_its_workers_is_divided_and_the_picture_to_blame_fails_alone() -> None:
    cluster = FakeCluster(gpu("a", 2))
    cluster.deadly = {"bad.png"}
    good = [unit(f"{i}.png", f"{i}+.png") for i in range(4)]
    outcome = run(cluster, [*good[:2], unit("x.png", "bad.png", "y.png"), *good[2:]])
    assert outcome.made == {f"{i}{plus}.png" for i in range(4) for plus in ("", "+")} | {"x.png", "y.png"}
    assert str(outcome.results["bad.png"].problem) == (
        "The process that made it ended each time, perhaps because memory ran out: try a smaller size."
    )
    tried = [pictures for _, pictures in cluster.sent if "bad.png" in pictures]
    assert tried == [["x.png", "bad.png", "y.png"]] * MOST_TRIES + [["bad.png"]]
    assert sum("has ended" in line for line in outcome.said) == MOST_TRIES + 1


def test_a_result_that_exists_is_not_made_when_its_unit_is_divided() -> None:
    cluster = FakeCluster(gpu("a"))
    cluster.deadly = {"bad.png"}
    pair = unit("there.png", "bad.png")
    pair = replace(pair, requests=(replace(pair.requests[0], wanted=False), pair.requests[1]))
    outcome = run(cluster, [pair, unit("good.png")])
    assert {name: result.data for name, result in outcome.results.items()} == {"bad.png": None, "good.png": b"data"}


def test_a_machine_whose_workers_end_again_and_again_is_left_out() -> None:
    cluster = FakeCluster(gpu("a"), gpu("b"))
    cluster.load_answers["a"] = KILLED
    outcome = run(cluster, numbered(20))
    assert len(outcome.made) == 20
    assert sum(node == "a" for node, _ in cluster.loads) == MOST_TRIES
    ends = "its workers end again and again (killed, or its machine lost)"
    assert outcome.said.count(f"a (10.0.0.1) cannot help: {ends}.") == 1


# --- what machines do not have ---


def test_a_model_is_sent_once_to_each_worker_without_it_and_files_from_then_on(tmp_path: Path) -> None:
    cluster = FakeCluster(gpu("a"), gpu("b"))
    cluster.without_model, cluster.without_files = {"a"}, {"a"}
    for i in range(12):
        (tmp_path / f"{i}.png").write_bytes(b"picture")
    model = tmp_path / "model.safetensors"
    model.write_bytes(b"weights")
    setup = WorkerSetup(model, None, "0123456789", "auto", "fp32")
    outcome = run(cluster, [unit(f"{i}.png", folder=tmp_path) for i in range(12)], setup=setup)
    assert len(outcome.made) == 12
    assert sorted(cluster.loads) == [("a", False), ("a", True), ("b", False)]
    assert outcome.said.count("a (10.0.0.1) does not have model.safetensors: it is sent.") == 1
    assert outcome.said.count("a (10.0.0.1) does not see the pictures where they are: they are sent.") == 1


def test_a_model_that_is_a_folder_is_not_sent(tmp_path: Path) -> None:
    cluster = FakeCluster(gpu("a"), gpu("b"))
    cluster.without_model = {"a"}
    outcome = run(cluster, numbered(6), setup=WorkerSetup(tmp_path, None, None, "auto", "fp32"))
    assert len(outcome.made) == 6 and {node for node, sent in cluster.loads if sent} == set()
    assert f"a (10.0.0.1) cannot help: it has no {tmp_path}, and a model that is a folder is not sent." in outcome.said


def test_a_model_with_its_vae_in_a_file_beside_it_is_not_sent() -> None:
    cluster = FakeCluster(gpu("a"), gpu("b"))
    cluster.without_model = {"a"}
    setup = WorkerSetup(Path("m.ckpt"), None, None, "auto", "fp32", is_one_file=False)
    outcome = run(cluster, numbered(6), setup=setup)
    assert len(outcome.made) == 6 and {node for node, sent in cluster.loads if sent} == set()
    assert any("a model with its VAE in a file beside it is not sent" in line for line in outcome.said)


# --- steering ---


def test_at_a_pause_all_results_are_handed_over_before_the_next_unit_is_asked_for() -> None:
    cluster, done = FakeCluster(gpu("a", 2)), []
    asked: list[int] = []

    def units() -> Iterator[Unit | None]:
        yield from numbered(7)
        yield None
        asked.append(len(done))
        yield unit("after.png")

    outcome = Outcome()
    setup = WorkerSetup(Path("m"), None, None, "auto", "fp32")
    for result in Scheduler(cluster, setup, outcome.said.append, lambda: cluster.now).results(units(), Control()):
        done.append(result.name)
    assert asked == [7] and len(done) == 8 and done[-1] == "after.png"


def test_after_a_stop_workers_start_nothing_and_what_they_had_is_dropped() -> None:
    cluster, control = FakeCluster(gpu("a")), Control()
    outcome = run(cluster, numbered(20), control=control, on_result=lambda _: control.stop())
    assert cluster.processes[0].stopped
    assert 1 <= len(outcome.made) <= IN_FLIGHT + 1 and len(cluster.sent) <= IN_FLIGHT + 1


def test_an_abort_gives_up_at_once() -> None:
    cluster, control = FakeCluster(gpu("a")), Control()
    outcome = run(cluster, numbered(20), control=control, on_result=lambda _: control.abort())
    assert len(outcome.made) == 1


# --- room for workers ---


@pytest.mark.parametrize(
    ("info", "with_gpus", "threads", "expected"),
    [
        (NodeInfo("n", "n", 8, 2, 0), True, None, (2, 1, 1, None, "")),
        (NodeInfo("n", "n", 1, 2, 0), True, None, (2, 0, 1, None, "")),
        (NodeInfo("n", "n", 8, 0, 0), True, None, (0, 1, 1, None, "it has no GPU")),
        (NodeInfo("n", "n", 0, 0, 0), False, None, (0, 0, 0, None, "it has no core to spare")),
        (NodeInfo("n", "n", 10, 0, 64 << 30), False, None, (2, 5, 0, 5, "")),
        (NodeInfo("n", "n", 10, 0, 1 << 30), False, None, (1, 10, 0, 10, "")),
        (NodeInfo("n", "n", 10, 0, 64 << 30), False, "2", (5, 2, 0, 2, "")),
    ],
)
def test_a_machine_has_room_for_as_many_workers_as_its_gpus_or_cores_and_memory_allow(
    monkeypatch: pytest.MonkeyPatch, info: NodeInfo, with_gpus: bool, threads: str | None, expected: tuple
) -> None:
    if threads is None:
        monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    else:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    node = node_of(info, with_gpus, 4 << 30)
    assert (node.slots, node.cpus_each, node.gpus_each, node.threads, node.unfit) == expected


def test_the_problem_of_a_result_travels_between_machines_with_its_remedy_and_paths() -> None:
    problem = UserError("There is no room in ", Path("here"), remedy=Remedy.SMALLER)
    result = pickle.loads(pickle.dumps(Result("a.png", 0, None, problem)))
    assert result.problem.parts == problem.parts and result.problem.remedy is Remedy.SMALLER
    assert str(result.problem) == str(problem)
