"""The worker as its callers see it: the queue, progress, results, stopping, and what can go wrong."""

import io
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image

from instruct_pix2pix.batch.driver import facts_of, run_batch
from instruct_pix2pix.batch.local_executor import UnitRunner, local_executor
from instruct_pix2pix.batch.planning import BatchRequest
from instruct_pix2pix.batch.units import Control
from instruct_pix2pix.conditioning import fit
from instruct_pix2pix.engine.candidates import Search, with_pairs
from instruct_pix2pix.engine.edit import edit, fitted
from instruct_pix2pix.engine.loading.config import CONFIGS, load_config
from instruct_pix2pix.engine.model import EditModel
from instruct_pix2pix.engine.precision import choose_machine
from instruct_pix2pix.engine.search import find_each
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.images import Picture, open_picture
from instruct_pix2pix.infotext import parse, settings_from
from instruct_pix2pix.models.registry import DEMO, model_hash
from instruct_pix2pix.server.worker import edit_task
from instruct_pix2pix.server.worker.edit_task import EditRequest, EditResult, EditStatus, EditTask
from instruct_pix2pix.server.worker.folder_task import FolderTask
from instruct_pix2pix.server.worker.pace import LEAST_LEFT
from instruct_pix2pix.server.worker.preview import preview
from instruct_pix2pix.server.worker.queue import QueueFull, TaskQueue
from instruct_pix2pix.server.worker.task import TaskState
from instruct_pix2pix.server.worker.worker import Worker
from instruct_pix2pix.settings import EditSettings
from tests.helpers.serving import EXAMPLES, HOUSE

MACHINE = choose_machine("cpu", "fp32")
PICTURE, BALL = open_picture(HOUSE), open_picture(EXAMPLES / "ball.png")
END = 10**9


@pytest.fixture(scope="module")
def worker():
    with Worker(MACHINE) as worker:
        yield worker


def request(checkpoint: Path = DEMO, picture: Picture = PICTURE, **settings: Any) -> EditRequest:
    values: dict[str, Any] = {
        "instruction": "make it winter",
        "steps": 3,
        "seed": 3,
        "size": "64",
        "result_size": "model",
    }
    values |= settings
    return EditRequest(checkpoint, picture, EditSettings(**values))


def follow(task: EditTask, until: Any = lambda status: False) -> list[EditStatus]:
    """Every change of a task that can be seen, up to its end or until a function of the status is true."""
    seen = [task.status()]
    while not seen[-1].state.ended and not until(seen[-1]):
        seen.append(task.wait(seen[-1].version, 120))
    return seen


def picture_of(result: EditResult) -> Image.Image:
    return Image.open(io.BytesIO(result.png))


def pixels(image: Image.Image) -> bytes:
    return image.tobytes()


def test_a_job_makes_the_engines_own_pictures_with_their_settings(worker, model):
    task = worker.submit(request(count=3, batch_size=2))
    status = task.wait(END, 120)
    expected = list(edit(model, PICTURE.image, task.settings))
    assert status.state is TaskState.FINISHED
    assert [pixels(picture_of(r)) for r in status.results] == [pixels(e.image) for e in expected]
    for result, seed in zip(status.results, (3, 4, 5), strict=True):
        read, left_out = settings_from(result.infotext)
        assert not left_out and read.seed == seed == result.settings.seed and read.instruction == "make it winter"
        assert open_picture(result.png).infotext == result.infotext


def test_progress_counts_the_steps_of_all_pictures_and_the_seconds_left(worker):
    seen = follow(worker.submit(request(count=3, batch_size=2, steps=4)))
    steps = [status.step for status in seen]
    assert steps == sorted(steps) and steps[-1] == 12 and {status.steps for status in seen} == {12}
    assert [status.version for status in seen] == sorted({status.version for status in seen})
    running = [status for status in seen if status.state is TaskState.RUNNING and status.step]
    assert all(status.eta is not None and status.eta >= LEAST_LEFT for status in running)
    assert max(status.batch_step for status in seen) == 4
    assert len(seen[-1].results) == 3 and seen[-1].seconds > 0


def test_a_lower_denoising_strength_has_fewer_steps_to_count(worker):
    status = worker.submit(request(steps=10, denoise=0.5)).wait(END, 120)
    assert status.step == status.steps == 6


def test_first_come_first_served(worker):
    ended: list[str] = []
    three = [worker.submit(request(steps=5)) for _ in range(3)]
    for task in three:
        task.last_status.add_done_callback(lambda _, task=task: ended.append(task.id))
    assert [task.status().position for task in three] in ([0, 1, 2], [0, 0, 1])  # the first may be over already
    assert three[2].wait(END, 120).state is TaskState.FINISHED
    assert ended == [task.id for task in three]


def test_an_interrupted_job_stops_within_a_step_and_keeps_what_is_finished(worker, model):
    task = worker.submit(request(count=4, steps=8))
    at = follow(task, lambda status: status.batch >= 1 and status.batch_step >= 1)[-1]
    task.interrupt()
    status = task.wait(END, 120)
    assert status.state is TaskState.INTERRUPTED and status.interrupted
    assert len(status.results) == at.batch == 1 and status.step <= at.step + 1
    (first,) = edit(model, PICTURE.image, replace(task.settings, count=1))
    assert pixels(picture_of(status.results[0])) == pixels(first.image)


def test_a_job_that_is_interrupted_in_the_line_never_begins_and_the_others_go_on(worker):
    first, second, third = (worker.submit(request(steps=6)) for _ in range(3))
    second.interrupt()
    assert second.status().state is TaskState.INTERRUPTED and third.status().position <= 1
    assert third.wait(END, 120).state is first.wait(END, 120).state is TaskState.FINISHED
    assert second.status().step == 0


def test_skip_gives_up_one_batch_and_goes_on_with_the_next_seeds(worker, model):
    task = worker.submit(request(count=5, batch_size=2, steps=4))
    follow(task, lambda status: status.batch_step >= 1)
    task.skip()
    status = task.wait(END, 120)
    assert status.state is TaskState.FINISHED and status.step == status.steps == 20
    assert [result.settings.seed for result in status.results] == [5, 6, 7]
    expected = list(edit(model, PICTURE.image, task.settings))[2:]
    assert [pixels(picture_of(r)) for r in status.results] == [pixels(e.image) for e in expected]


def test_a_reloaded_page_finds_its_job_again(worker):
    task = worker.submit(request())
    assert worker.queue.find(task.id) is task and worker.queue.find("nothing") is None
    task.wait(END, 120)
    assert worker.queue.find(task.id) is task and len(task.status().results) == 1


def test_a_model_is_changed_between_jobs_and_its_loading_is_a_state(tmp_path):
    other = tmp_path / "other.safetensors"
    shutil.copy(DEMO, other)
    shutil.copy(DEMO.with_suffix(".yaml"), other.with_suffix(".yaml"))
    with Worker(MACHINE) as worker:
        first, second = worker.submit(request()), worker.submit(request(other))
        states = [status.state for status in follow(first)]
        assert [*dict.fromkeys(states)][-3:] == [TaskState.LOADING, TaskState.RUNNING, TaskState.FINISHED]
        assert second.wait(END, 120).model == "other" and first.status().model == "demo"
        assert "Model: other" in second.status().results[0].infotext
        loaded = worker.loaded
        assert loaded is not None and loaded.path == other
        worker.submit(request(other)).wait(END, 120)
        assert worker.loaded is loaded  # not loaded again
        other.write_bytes(DEMO.read_bytes())  # written anew, so it may be another model
        worker.submit(request(other)).wait(END, 120)
        assert worker.loaded is not None and worker.loaded is not loaded


def test_a_folder_goes_on_in_its_number_format_and_the_next_edit_in_the_servers(worker, tmp_path):
    (tmp_path / "in").mkdir()
    house = open_picture(HOUSE).image
    settings = EditSettings("make it winter", steps=1, size="64", seed=3)
    folder = BatchRequest(tmp_path / "in", tmp_path / "out", settings)
    model = EditModel.load(DEMO, choose_machine("cpu", "fp16"))
    house.save(tmp_path / "in" / "a.png")
    run_batch(folder, facts_of(DEMO, "fp16"), local_executor(UnitRunner(model, model_hash(DEMO)), Control()))
    house.save(tmp_path / "in" / "b.png")
    task = FolderTask(worker.queue, DEMO, folder)
    worker.queue.enqueue(task)
    summary = task.wait(END).summary
    assert summary is not None and (summary.before, summary.done) == (1, 1)
    texts = [open_picture(tmp_path / "out" / name).infotext for name in ("a.png", "b.png")]
    texts.append(worker.submit(request()).wait(END).results[0].infotext)
    assert [parse(str(text)).fields["Precision"] for text in texts] == ["fp16", "fp16", "fp32"]


def test_a_model_that_cannot_be_loaded_fails_its_own_job_only(worker, tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(DEMO.read_bytes()[:100_000])
    three = [worker.submit(request(path)) for path in (DEMO, broken, tmp_path / "gone.safetensors")]
    last = worker.submit(request()).wait(END, 120)
    states = [task.status().state for task in three]
    assert states == [TaskState.FINISHED, TaskState.FAILED, TaskState.FAILED] and last.state is TaskState.FINISHED
    assert "broken.safetensors" in three[1].status().error and str(tmp_path) not in three[1].status().error
    assert not three[1].status().unexpected


def test_what_cannot_be_right_is_refused_when_it_is_submitted(worker):
    for wrong in (request(instruction=" "), request(sampler="Oiler"), request(schedule="Karas")):
        with pytest.raises(UserError):
            worker.submit(wrong)


def test_more_pictures_than_fit_into_memory_are_refused(worker):
    status = worker.submit(request(count=1000, size="4096")).wait(END, 120)
    assert status.state is TaskState.FAILED and "too many" in status.error and not status.unexpected


def test_the_line_has_an_end():
    with Worker(MACHINE, TaskQueue(most_waiting=1)) as worker:
        accepted = [worker.submit(request(steps=50)) for _ in range(2)]
        with pytest.raises(QueueFull, match="queue"):
            worker.submit(request())
        for task in accepted:
            task.interrupt()
        accepted[0].wait(END, 120)
        assert worker.submit(request()).wait(END, 120).state is TaskState.FINISHED


def test_old_jobs_are_forgotten():
    with Worker(MACHINE, TaskQueue(most_kept=2)) as worker:
        four = [worker.submit(request(steps=1)) for _ in range(4)]
        four[-1].wait(END, 120)
        assert [worker.queue.find(task.id) is task for task in four] == [False, False, True, True]
    with Worker(MACHINE, TaskQueue(kept_seconds=0)) as worker:
        task = worker.submit(request(steps=1))
        task.wait(END, 120)
        worker.submit(request(steps=1)).wait(END, 120)
        assert worker.queue.find(task.id) is None


def test_the_preview_shows_what_the_picture_is_becoming(worker, monkeypatch):
    monkeypatch.setattr(edit_task, "PREVIEW_FROM", 0)
    monkeypatch.setattr(edit_task, "PREVIEW_LEFT", 0)
    monkeypatch.setattr(edit_task, "PREVIEW_PAUSE", 0)
    task = worker.submit(request(steps=12, count=1))
    shown = []
    follow(task, lambda status: shown.append(task.preview()) or False)
    seen = [np.asarray(image, np.float32) for image in shown if image is not None]
    final = np.asarray(picture_of(task.status().results[0]), np.float32)
    assert seen and seen[0].shape == final.shape
    assert np.abs(seen[-1] - final).mean() < np.abs(seen[0] - final).mean()
    assert np.abs(seen[-1] - final).mean() < 8
    assert task.preview() is None


def test_who_watches_all_the_time_gets_previews_now_and_then(worker, monkeypatch):
    made = []

    def slow(*_: object) -> None:
        made.append(time.monotonic())
        time.sleep(0.01)

    monkeypatch.setattr(edit_task, "PREVIEW_FROM", 0.2)
    monkeypatch.setattr(edit_task, "PREVIEW_LEFT", 0)
    monkeypatch.setattr(edit_task, "preview", slow)
    task = worker.submit(request(steps=40))
    began = time.monotonic()
    follow(task, lambda status: task.preview() and False)
    assert 1 <= len(made) <= 1 + (time.monotonic() - began) / 0.4  # however slow this machine is
    assert made[0] - began >= 0.2  # what is over sooner needs none
    assert min(np.diff(made), default=1) >= 0.4


def test_the_preview_of_a_batch_is_a_grid_in_the_framing_of_the_input(worker, monkeypatch):
    monkeypatch.setattr(edit_task, "PREVIEW_FROM", 0)
    monkeypatch.setattr(edit_task, "PREVIEW_LEFT", 0)
    wide = open_picture(HOUSE)
    wide = Picture(wide.image.resize((300, 100)), wide.name)
    task = worker.submit(request(picture=wide, count=3, batch_size=3, steps=8))
    follow(task, lambda status: status.batch_step == 2)
    shown = task.preview()
    task.interrupt()
    assert shown is not None and shown.size == (128, 42)  # the edits are 64 x 21


@pytest.mark.parametrize(
    ("config", "colour"), [("sd1.yaml", [0.298, 0.207, 0.208]), ("sdxl.yaml", [0.3448, 0.4168, 0.4395])]
)
def test_the_preview_in_the_latent_spaces_of_sd1_and_sdxl_is_the_published_linear_map(config, colour):
    without = SimpleNamespace(tiny_decoder=None)
    model = cast(EditModel, SimpleNamespace(config=load_config(CONFIGS / config), add_ons=without))
    latents = torch.zeros(1, 4, 8, 8)
    latents[:, 0, :, 4:] = 1.0
    shown = np.asarray(preview(model, latents, fit(64, 64, 64, 8)))
    assert shown.shape == (64, 64, 3)
    assert np.abs(shown[32, 4] - np.array([127.5, 127.5, 127.5])).max() <= 1
    assert np.abs(shown[32, 60] - (np.array(colour) + 1) * 127.5).max() <= 1


def test_a_transparent_picture_stays_transparent(worker):
    alpha = Image.new("L", PICTURE.image.size, 255)
    alpha.paste(0, (0, 0, 40, 40))
    status = worker.submit(request(picture=Picture(PICTURE.image, "x", alpha))).wait(END, 120)
    made = np.asarray(picture_of(status.results[0]))
    assert made.shape[2] == 4 and made[10, 10, 3] == 0 and made[60, 60, 3] == 255


def test_a_result_of_many_pixels_has_the_size_that_was_asked_for_and_a_small_copy_to_look_at(worker):
    alpha = Image.new("L", PICTURE.image.size, 255)
    alpha.paste(0, (0, 0, 48, 96))
    picture = Picture(PICTURE.image, "x", alpha)
    (result,) = worker.submit(request(picture=picture, steps=1, result_size="2600")).wait(END, 120).results
    whole, small = open_picture(result.png), Image.open(io.BytesIO(result.small or b""))
    assert result.size == whole.image.size == (2600, 2600) and small.size == (2048, 2048)
    assert "Size: 64x64" in str(whole.infotext) and "Result size: 2600" in str(whole.infotext)
    shrunk = np.asarray(Image.open(io.BytesIO(result.png)).resize(small.size), int)
    assert np.abs(shrunk - np.asarray(small, int))[:, 1100:].mean() < 3
    assert whole.alpha is not None and whole.alpha.getpixel((1200, 9)) == 0 and whole.alpha.getpixel((1400, 9)) == 255


def test_what_ended_tasks_hold_is_what_their_files_take(worker):
    task = worker.submit(request(steps=1, result_size="2600"))
    status = task.wait(END, 120)
    assert 4 * task.pixels <= sum(len(r.png) + len(r.small) for r in status.results) < 4 * 2600 * 2600


def test_a_result_counts_twice_only_where_it_has_16_bits_a_channel(worker, monkeypatch):
    monkeypatch.setattr(edit_task, "MOST_RESULT_PIXELS", 200 * 150)
    fine = np.random.default_rng(3).integers(0, 65536, (100, 200, 3), np.uint16)
    picture = Picture(Image.fromarray((fine >> 8).astype(np.uint8)), "fine.png", deep=fine)
    small = worker.submit(request(picture=picture, steps=1, result_size="200")).wait(END, 120)
    assert small.state is TaskState.FAILED and "too many at once" in small.error  # its own size
    other = worker.submit(request(picture=picture, steps=1, result_size="240")).wait(END, 120)
    assert other.state is TaskState.FINISHED and other.results[0].size == (240, 120)


def test_results_that_do_not_fit_into_memory_are_counted_at_their_own_size(worker):
    for count, said in ((1000, "make 48 at most"), (1, "")):
        status = worker.submit(request(count=count, steps=1, result_size="2500")).wait(END, 120)
        assert said in status.error and bool(status.error) == bool(said)
    status = worker.submit(request(result_size="32768")).wait(END, 120)
    assert "32768 x 32768 pixels is too large" in status.error and not status.unexpected


def test_a_result_tells_how_much_is_the_inputs_own_and_where(worker, model):
    asked = request(picture=BALL, instruction="remove the ball", steps=8, size="auto", keep_rest="always")
    (result,) = worker.submit(asked).wait(END, 120).results
    (edited,) = edit(model, BALL.image, asked.settings)
    assert result.kept == edited.kept and 0.3 < result.kept < 1
    assert result.relevance is not None and edited.relevance is not None
    assert pixels(result.relevance) == pixels(edited.relevance)
    kept = np.asarray(result.inside) == 0
    made, before = np.asarray(picture_of(result), int), np.asarray(BALL.image, int)
    assert kept.mean() > 0.2 and (made == before)[kept].all() and (made != before)[~kept].any()


def test_a_result_is_saved_when_it_is_finished_though_the_job_is_interrupted(worker, tmp_path):
    asked = replace(request(steps=4, count=50, seed=7), outputs=tmp_path / "outputs")
    task = worker.submit(asked)
    follow(task, lambda status: bool(status.results))
    task.interrupt()
    status = task.wait(END)
    saved = sorted((tmp_path / "outputs" / status.saved).iterdir())
    assert len(saved) == len(status.results) < 50
    for file, result in zip(saved, status.results, strict=True):
        assert file.read_bytes() == result.png


def test_no_saved_result_takes_the_place_of_another(worker, tmp_path):
    outputs = tmp_path / "outputs"
    varied = replace(request(instruction="make it {winter|night}", steps=1, count=2), outputs=outputs)
    plain = replace(request(instruction="make it night", steps=1), outputs=outputs)
    tasks = [worker.submit(varied, "task(one)"), worker.submit(plain, "task(two)"), worker.submit(plain)]
    results = [result for task in tasks for result in task.wait(END, 120).results]
    saved = [file.read_bytes() for file in outputs.glob("*/*.png")]
    assert len(saved) == len(results) == 6 and {*saved} == {result.png for result in results}
    assert [result.settings.seed for result in results] == [3, 4, 3, 4, 3, 3]
    assert [result.settings.instruction[8:] for result in results[:4]] == ["winter", "winter", "night", "night"]


# --- results that are found ---


def found_by(search: Search, **settings: Any) -> EditRequest:
    return replace(request(picture=BALL, instruction="remove the ball", **settings), search=search)


@pytest.mark.parametrize("search", [Search(best_of=3), Search(strength=0.5)], ids=str)
def test_what_is_found_among_several_is_an_ordinary_result_that_its_infotext_makes_again(worker, model, search):
    task = worker.submit(found_by(search, steps=5, count=2, seed=8))
    status = task.wait(END, 120)
    expected = find_each(model, fitted(model, BALL.image, task.settings), task.settings, search)
    assert status.state is TaskState.FINISHED and len(status.results) == 2
    for result, winner in zip(status.results, expected, strict=True):
        assert pixels(picture_of(result)) == pixels(winner.edited.image) and result.cost == winner.cost > 1
        looks = [(one.settings, one.outside, one.inside) for one in result.candidates]
        assert looks == [(one.settings, one.outside, one.inside) for one in winner.looks]
        assert [one.settings for one in result.candidates if one.chosen] == [result.settings]
        assert {Image.open(io.BytesIO(one.picture)).size for one in result.candidates} == {winner.looks[0].picture.size}
        alone = replace(request(picture=BALL), settings=settings_from(result.infotext)[0])
        [again] = worker.submit(alone).wait(END, 120).results
        apart = np.asarray(picture_of(again), int) - np.asarray(picture_of(result), int)
        assert np.abs(apart).max() <= 1 and not again.candidates and again.cost == 1


def test_each_result_has_seeds_of_its_own_to_be_the_best_of(worker):
    results = worker.submit(found_by(Search(best_of=3), steps=2, count=2, seed=8)).wait(END, 120).results
    assert [[one.settings.seed for one in result.candidates] for result in results] == [[8, 9, 10], [11, 12, 13]]


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({}, 2 * (3 * 2 + 3)),  # of five steps, two with all three
        ({"denoise": 0.7}, 2 * (3 * 2 + 2)),
        ({"zoom": True}, 2 * (3 * 2 + 2 * 5)),  # the winner is edited twice: the whole, then the region
        ({"batch_size": 2, "count": 1}, 2 * (3 * 2 + 3)),
    ],
    ids=str,
)
def test_progress_counts_the_steps_of_all_candidates_and_goes_on_only(worker, changes, steps):
    changes = {"count": 2, "steps": 5, **changes}
    changes["count"] *= changes.get("batch_size", 1)
    seen = follow(worker.submit(found_by(Search(best_of=3), **changes)))
    done = [status.step for status in seen]
    assert done == sorted(done) and done[-1] == seen[-1].steps == steps
    running = [status for status in seen if status.state is TaskState.RUNNING and status.step]
    assert {status.steps for status in running} == {steps}
    assert {status.candidates for status in running} == {1, 3} and {status.pictures for status in seen} == {2}
    assert all(status.eta is not None and status.eta >= LEAST_LEFT for status in running)


def test_a_race_is_interrupted_between_two_of_its_candidates(worker):
    task = worker.submit(found_by(Search(best_of=64), steps=50, batch_size=1))
    at = follow(task, lambda status: status.step >= 1)[-1]
    task.interrupt()
    status = task.wait(END, 120)
    assert status.state is TaskState.INTERRUPTED and not status.results and status.step <= at.step + 64


def test_skip_gives_up_the_present_race_and_goes_on_with_the_next_seeds(worker):
    task = worker.submit(found_by(Search(best_of=3), steps=10, count=3, seed=8))
    follow(task, lambda status: status.batch_step >= 1)
    task.skip()
    status = task.wait(END, 120)
    assert status.state is TaskState.FINISHED and status.step == status.steps
    assert [result.candidates[0].settings.seed for result in status.results] == [11, 14]


def test_the_preview_shows_the_candidates_and_then_the_one_that_goes_on(worker, monkeypatch):
    monkeypatch.setattr(edit_task, "PREVIEW_FROM", 0)
    monkeypatch.setattr(edit_task, "PREVIEW_LEFT", 0)
    monkeypatch.setattr(edit_task, "PREVIEW_PAUSE", 0)
    task = worker.submit(found_by(Search(best_of=4), steps=30))
    shown = []
    follow(task, lambda status: shown.append(task.preview()) or False)
    sizes = [image.size for image in shown if image is not None]
    assert [*dict.fromkeys(sizes)] == [(128, 128), (64, 64)] and sizes == sorted(sizes, reverse=True)


def test_how_much_to_change_looks_around_the_scales_of_the_model(worker):
    asked = found_by(Search(strength=1.0), steps=2, text_cfg=20.0, image_cfg=3.0)
    [result] = worker.submit(asked).wait(END, 120).results
    middle = EditSettings()
    pairs = [(one.text_cfg, one.image_cfg) for one in with_pairs(middle)]
    assert [(one.settings.text_cfg, one.settings.image_cfg) for one in result.candidates] == pairs
    for wrong in (replace(asked, asked=frozenset({"text_cfg"})), found_by(Search(strength=1.0), randomize_cfg="text")):
        with pytest.raises(UserError, match="finds both scales itself"):
            worker.submit(wrong)


def test_what_was_looked_at_counts_in_what_a_task_keeps(worker, monkeypatch):
    task = worker.submit(found_by(Search(best_of=3), steps=1))
    [result] = task.wait(END, 120).results
    held = [len(one.picture) for one in result.candidates]
    assert 4 * task.pixels >= len(result.png) + sum(held) - 4 and max(held) < 4 * edit_task.CANDIDATE_PIXELS
    monkeypatch.setattr(edit_task, "MOST_RESULT_PIXELS", 2 * (64 * 64 + 3 * edit_task.CANDIDATE_PIXELS))
    for count, state in ((2, TaskState.FINISHED), (3, TaskState.FAILED)):
        status = worker.submit(found_by(Search(best_of=3), steps=1, count=count)).wait(END, 120)
        assert status.state is state and ("make 2 at most" in status.error) == (count == 3)


def test_a_result_that_cannot_be_saved_is_not_lost_and_the_reason_is_told(worker, tmp_path):
    (tmp_path / "outputs").write_text("a file, where a folder should be")
    task = worker.submit(replace(request(steps=2, count=2), outputs=tmp_path / "outputs"))
    status = task.wait(END)
    assert (status.state, len(status.results), status.saved) == (TaskState.FINISHED, 2, "")
    assert "could not be written" in status.unsaved and str(tmp_path) not in status.unsaved


@pytest.mark.parametrize(
    ("error", "said", "unexpected"),
    [(ZeroDivisionError("/home/me/secret"), "went wrong", True), (MemoryError(), "not enough memory", False)],
)
def test_a_fault_is_told_in_a_sentence_without_its_details(worker, monkeypatch, error, said, unexpected):
    def faulty(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(edit_task, "find_each", faulty)
        status = worker.submit(request()).wait(END, 120)
    assert status.state is TaskState.FAILED and said in status.error and status.unexpected is unexpected
    assert "secret" not in status.error
    assert worker.submit(request()).wait(END, 120).state is TaskState.FINISHED


def test_closing_ends_every_job_and_takes_no_more():
    worker = Worker(MACHINE)
    two = [worker.submit(request(steps=150)) for _ in range(2)]
    worker.close()
    assert [task.wait(END, 1).state for task in two] == [TaskState.INTERRUPTED, TaskState.INTERRUPTED]
    assert all(task.last_status.done() for task in two)
    with pytest.raises(UserError, match="stop"):
        worker.submit(request())
