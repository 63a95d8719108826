"""The queue of tasks, without a worker's thread and without a model."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import cast

import pytest

from instruct_pix2pix.errors import Interrupted, UserError
from instruct_pix2pix.server.worker.queue import MOST_INPUT_PIXELS, QueueFull, TaskQueue
from instruct_pix2pix.server.worker.task import MOST_RESULT_PIXELS, LoadedModel, Task, TaskState, TaskStatus

NO_MODEL = cast(LoadedModel, None)


class Idle(Task[TaskStatus]):
    """A task that does nothing and says how many pixels it holds."""

    kind = "idle"

    def __init__(self, queue: TaskQueue, id_: str | None = None, pixels: int = 0) -> None:
        super().__init__(queue, Path("model"), TaskStatus(), id_)
        self.held = pixels

    def carry_out(self, loaded: LoadedModel) -> None:
        pass

    @property
    def pixels(self) -> int:
        return self.held

    @property
    def parts(self) -> tuple[int, int]:
        return 0, 1


def put(queue: TaskQueue, id_: str | None = None, pixels: int = 0) -> Idle:
    task = Idle(queue, id_, pixels)
    queue.enqueue(task)
    return task


def take(queue: TaskQueue) -> Task:
    task = queue.take(0)
    assert task is not None
    return task


def carry_out_all(queue: TaskQueue) -> None:
    while task := queue.take(0):
        queue.end(task, None)


def test_first_come_first_served() -> None:
    queue = TaskQueue()
    three = [put(queue) for _ in range(3)]
    assert queue.running is None and len(queue) == 3
    assert [task.status().position for task in three] == [0, 1, 2]
    for task in three:
        assert take(queue) is task is queue.running
        assert task.status().state is TaskState.LOADING
        queue.end(task, None)
        assert task.status().state is TaskState.FINISHED and queue.running is None
    assert len(queue) == 0 and queue.take(0) is None


def test_a_task_that_is_interrupted_while_it_waits_leaves_the_queue_and_can_be_found() -> None:
    queue = TaskQueue()
    first, second, third = (put(queue) for _ in range(3))
    second.interrupt()
    second.interrupt()  # it has ended already
    status = second.last_status.result(0)
    assert status.state is TaskState.INTERRUPTED and status.interrupted and second.status().position == 0
    assert len(queue) == 2 and third.status().position == 1 and queue.find(second.id) is second
    assert take(queue) is first


def test_a_task_that_is_interrupted_while_its_model_is_loaded_does_not_run() -> None:
    queue = TaskQueue()
    put(queue)
    task = take(queue)
    task.interrupt()
    assert task.status().state is TaskState.LOADING and len(queue) == 1
    with pytest.raises(Interrupted):
        task.run(NO_MODEL)
    queue.end(task, Interrupted())
    assert task.status().state is TaskState.INTERRUPTED and len(queue) == 0


@pytest.mark.parametrize(
    ("problem", "said", "unexpected"),
    [
        (UserError("This was wrong: change it."), "This was wrong: change it.", False),
        (MemoryError(), "not enough memory", False),
        (ZeroDivisionError("secret"), "went wrong in this program", True),
    ],
)
def test_a_problem_ends_a_task_with_a_sentence(problem: Exception, said: str, unexpected: bool) -> None:
    queue = TaskQueue()
    put(queue)
    task = take(queue)
    queue.end(task, problem)
    status = task.last_status.result(0)
    assert status.state is TaskState.FAILED and status.unexpected is unexpected
    assert said in status.error and "secret" not in status.error


def test_an_id_is_taken_until_its_task_has_ended() -> None:
    queue = TaskQueue()
    first = put(queue, "mine")
    with pytest.raises(UserError, match="already a task 'mine'"):
        put(queue, "mine")
    first.interrupt()
    assert queue.find("mine") is first
    second = put(queue, "mine")
    assert queue.find("mine") is second and queue.find("other") is None


def test_the_queue_is_full_at_its_limit_and_has_room_again_when_a_task_has_ended() -> None:
    queue = TaskQueue(most_waiting=1)
    put(queue)  # it runs, or soon will
    waiting = put(queue)
    with pytest.raises(QueueFull, match="2 edits are in the queue"):
        put(queue)
    waiting.interrupt()
    put(queue)


def test_pictures_that_wait_have_a_limit_together_but_a_single_one_has_none() -> None:
    queue = TaskQueue()
    large = put(queue, pixels=2 * MOST_INPUT_PIXELS)
    with pytest.raises(QueueFull):
        put(queue, pixels=1)
    large.interrupt()
    put(queue, pixels=MOST_INPUT_PIXELS // 2)
    put(queue, pixels=MOST_INPUT_PIXELS // 2)
    with pytest.raises(QueueFull):
        put(queue, pixels=1)


def test_the_oldest_of_too_many_ended_tasks_are_forgotten() -> None:
    queue = TaskQueue(most_kept=2)
    tasks = [put(queue) for _ in range(4)]
    carry_out_all(queue)
    assert [queue.find(task.id) is task for task in tasks] == [False, False, True, True]


def test_ended_tasks_are_forgotten_after_their_time() -> None:
    queue = TaskQueue(kept_seconds=0.05)
    task = put(queue)
    carry_out_all(queue)
    assert queue.find(task.id) is task
    time.sleep(0.06)
    assert queue.find(task.id) is task  # until something happens
    waiting = put(queue)
    assert queue.find(task.id) is None and queue.find(waiting.id) is waiting


def test_large_results_are_forgotten_sooner_except_the_newest() -> None:
    queue = TaskQueue()
    tasks = [put(queue) for _ in range(2)]
    for task in tasks:
        task.held = MOST_RESULT_PIXELS
    carry_out_all(queue)
    assert [queue.find(task.id) is task for task in tasks] == [False, True]


def test_taking_waits_until_there_is_a_task() -> None:
    queue = TaskQueue()
    began = time.monotonic()
    assert queue.take(0.05) is None and time.monotonic() - began >= 0.05
    task = Idle(queue)
    timer = threading.Timer(0.05, queue.enqueue, [task])
    timer.start()
    assert queue.take(60) is task
    timer.join()


def test_waiting_for_a_task_returns_at_each_change() -> None:
    queue = TaskQueue()
    task = put(queue)
    status = task.wait(timeout=60)
    assert status.state is TaskState.QUEUED
    assert task.wait(status.version, 0.01) == status  # nothing happened
    timer = threading.Timer(0.05, queue.take, [0])
    timer.start()
    assert task.wait(status.version, 60).state is TaskState.LOADING
    timer.join()
    queue.end(task, None)
    assert task.wait(10**9, 60).state is TaskState.FINISHED


def test_a_closed_queue_interrupts_its_tasks_and_takes_no_more() -> None:
    queue = TaskQueue()
    running, waiting = put(queue), put(queue)
    assert take(queue) is running and not queue.closed
    queue.close()
    assert queue.closed and running.status().interrupted
    assert waiting.status().state is TaskState.INTERRUPTED and len(queue) == 1
    with pytest.raises(QueueFull, match="about to stop"):
        put(queue)
    queue.end(running, Interrupted())
    assert queue.take(60) is None
