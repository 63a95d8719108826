"""The matrix as a task of the worker: its cells, what is seen of them on the way, stopping, and its bounds."""

import io
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image, ImageDraw

from instruct_pix2pix.engine.edit import edit
from instruct_pix2pix.engine.precision import choose_machine
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.images import open_picture
from instruct_pix2pix.infotext import settings_from
from instruct_pix2pix.models.registry import DEMO
from instruct_pix2pix.server.worker import matrix_task
from instruct_pix2pix.server.worker.edit_task import EditRequest
from instruct_pix2pix.server.worker.matrix_task import MatrixRequest, MatrixStatus, MatrixTask
from instruct_pix2pix.server.worker.task import TaskState
from instruct_pix2pix.server.worker.worker import Worker
from instruct_pix2pix.settings import EditSettings
from tests.helpers.serving import EXAMPLES, HOUSE
from tools.browser import served_page

PICTURE = open_picture(HOUSE)
END = 10**9


@pytest.fixture(scope="module")
def worker():
    with Worker(choose_machine("cpu", "fp32")) as worker:
        yield worker


def request(
    text_cfg: tuple[float, ...] = (3, 7.5, 12), image_cfg: tuple[float, ...] = (1, 1.5), **settings: Any
) -> MatrixRequest:
    values: dict[str, Any] = {"instruction": "make it winter", "steps": 4, "seed": 3, "size": "64"} | settings
    return MatrixRequest(EditRequest(DEMO, PICTURE, EditSettings(**values)), text_cfg, image_cfg)


def follow(task: MatrixTask, until: Callable[[MatrixStatus], Any] = lambda _: False) -> list[MatrixStatus]:
    """Every change of a task that can be seen, up to its end or until a function of the status is true."""
    seen = [task.status()]
    while not seen[-1].state.ended and not until(seen[-1]):
        seen.append(task.wait(seen[-1].version, 120))
    return seen


def pixels(picture: bytes | Image.Image) -> np.ndarray:
    image = Image.open(io.BytesIO(picture)) if isinstance(picture, bytes) else picture
    return np.asarray(image.convert("RGB"), dtype=int)


def tile(status: MatrixStatus, place: int, columns: int, rows: int) -> np.ndarray:
    """The part of the coarse picture that is one cell's."""
    sheet = Image.open(io.BytesIO(status.coarse))
    width, height = sheet.width / columns, sheet.height / rows
    left, top = place % columns * width, place // columns * height
    return pixels(sheet.crop((round(left), round(top), round(left + width), round(top + height))))


def test_each_cell_is_the_edit_of_its_scales_and_its_layers_seed(worker, model):
    task = worker.submit_matrix(request(count=2, randomize_cfg="both", batch_size=2, result_size="model"))
    status = task.wait(END, 120)
    assert status.state is TaskState.FINISHED and task.parts == (12, 12) and task.seeds == (3, 4)
    expected = [(seed, text, image) for seed in (3, 4) for image in (1, 1.5) for text in (3, 7.5, 12)]
    for place, (cell, (seed, text_cfg, image_cfg)) in enumerate(zip(status.results, expected, strict=True)):
        read, left_out = settings_from(str(open_picture(cell.png).infotext))
        assert not left_out and (read.seed, read.text_cfg, read.image_cfg) == (seed, text_cfg, image_cfg)
        alone = task.ordinary(place)
        assert (alone.seed, alone.text_cfg, alone.image_cfg, alone.count) == (seed, text_cfg, image_cfg, 1)
        (edited,) = edit(model, PICTURE.image, alone)
        assert np.abs(pixels(cell.png) - pixels(edited.image)).max() <= 1
    assert (pixels(status.before) == pixels(PICTURE.image.resize((64, 64), Image.Resampling.LANCZOS))).all()
    assert len(status.sheets) == 2 and 'X Values: "3, 7.5, 12"' in status.sheets[1] and "Seed: 4" in status.sheets[1]


def test_an_ordinary_edit_of_a_cell_has_the_size_that_was_asked_for(worker):
    task = worker.submit_matrix(request(result_size="200", zoom=True, steps=1))
    status = task.wait(END, 120)
    assert status.state is TaskState.FINISHED and open_picture(status.results[0].png).image.size == (64, 64)
    alone = worker.submit(EditRequest(DEMO, PICTURE, task.ordinary(0))).wait(END, 120)
    assert alone.results[0].size == (200, 200) and alone.results[0].settings.zoom


def test_all_cells_are_seen_coarse_after_the_first_step_and_again_while_somebody_looks(worker, monkeypatch):
    alone = worker.submit_matrix(request(count=2, steps=6)).wait(END, 120)
    assert alone.coarse_step == 1  # nobody looked
    monkeypatch.setattr(matrix_task, "PREVIEW_PAUSE", 0)
    task = worker.submit_matrix(request(count=2, steps=12))
    seen = follow(task, lambda _: task.watch())
    steps = [status.coarse_step for status in seen if status.coarse]
    assert steps[0] == 1 and steps == sorted(steps) and len(set(steps)) > 2
    last = seen[-1]
    for place, cell in enumerate(last.results):
        shown = tile(last, place, columns=3, rows=4)
        assert np.abs(shown - pixels(cell.png)).mean() < 10


def test_progress_counts_the_steps_of_all_cells_and_goes_on_between_two_of_them(worker):
    texts = tuple(float(value) for value in range(3, 11))
    task = worker.submit_matrix(request(texts, (1.2, 1.5, 1.8, 2.1), size="96"))
    seen = follow(task)
    steps = [status.step for status in seen]
    assert steps == sorted(steps) and steps[-1] == 4 * 32 == seen[-1].steps
    assert any(step % 32 for step in steps)
    assert any(status.eta is not None for status in seen if status.state is TaskState.RUNNING)
    assert [len(status.results) for status in seen][-1] == 32


def test_an_interrupted_matrix_stops_soon_and_its_coarse_pictures_stay(worker):
    task = worker.submit_matrix(request(steps=100))
    at = follow(task, lambda status: status.step >= 12)[-1]
    assert task.pixels == 96 * 96
    task.interrupt()
    status = task.wait(END, 120)
    assert status.state is TaskState.INTERRUPTED and status.step <= at.step + 2 * 6 and status.results == ()
    assert pixels(status.coarse).shape == (2 * 64, 3 * 64, 3) and status.size == (64, 64)
    assert task.pixels == (len(status.coarse) + len(status.before)) // 4
    waiting = worker.submit_matrix(request(steps=100))
    waiting.interrupt()
    assert waiting.wait(END, 120).state is TaskState.INTERRUPTED
    assert worker.submit_matrix(request(steps=1)).wait(END, 120).state is TaskState.FINISHED


def test_what_an_ended_matrix_holds_is_what_its_files_take(worker):
    task = worker.submit_matrix(request(size="512", steps=1, text_cfg=(3, 6), image_cfg=(1,)))
    status = task.wait(END, 120)
    assert [Image.open(io.BytesIO(cell.small)).size for cell in status.results] == [(256, 256)] * 2
    held = sum(len(cell.png) + len(cell.small) for cell in status.results) + len(status.before) + len(status.coarse)
    assert task.pixels == held // 4 < 2 * 512 * 512


def test_more_cells_than_fit_are_refused_in_a_sentence(worker, monkeypatch):
    many = tuple(float(value) for value in range(1, 21))
    with pytest.raises(UserError, match="800 edits are too many for one matrix"):
        worker.submit_matrix(request(many, tuple(value / 20 for value in many), count=2))
    monkeypatch.setattr(matrix_task, "MOST_RESULT_PIXELS", 5 * 64 * 64)
    status = worker.submit_matrix(request()).wait(END, 120)
    assert status.state is TaskState.FAILED and "5 pictures are the most" in status.error and not status.unexpected


def test_what_cannot_be_right_is_refused_when_it_is_submitted(worker):
    for wrong, said in (
        (request(instruction=" "), "empty"),
        (request(sampler="Oiler"), "Oiler"),
        (request(instruction="make it {winter|night}"), "choose one of the variations"),
    ):
        with pytest.raises(UserError, match=said):
            worker.submit_matrix(wrong)
    alike = worker.submit_matrix(request(instruction="make it {winter|winter}", steps=1))
    assert alike.wait(END, 120).state is TaskState.FINISHED


def test_a_matrix_knows_its_mask(worker):
    mask = Image.new("L", (96, 96))
    ImageDraw.Draw(mask).rectangle((30, 30, 70, 70), fill=255)
    asked = request(steps=2, size="auto")
    task = worker.submit_matrix(replace(asked, edit=replace(asked.edit, mask=mask)))
    status = task.wait(END, 120)
    assert task.has_mask(mask.copy()) and not task.has_mask(None) and not task.has_mask(mask.resize((95, 96)))
    before = pixels(PICTURE.image)
    for cell in status.results:
        changed = np.abs(pixels(cell.png) - before).max(axis=2) > 1
        assert changed[31:69, 31:69].any() and not changed[:29].any() and not changed[72:].any()


def test_its_pictures_are_served_while_and_after_it_is_made(tmp_path: Path):
    with (
        served_page(tmp_path / "outputs") as (address, worker),
        httpx.Client(base_url=address, trust_env=False) as client,
    ):
        task = worker.submit_matrix(request(steps=30, size="auto"))
        follow(task, lambda status: status.coarse)
        told = client.get(f"/matrices/{task.id}?live=true").json()
        assert told["size"] == [96, 96] and told["coarse"] >= 1 and told["before"] and told["cells"] == 6
        coarse = client.get(f"/matrices/{task.id}/coarse/1")
        assert pixels(coarse.content).shape == (2 * 96, 3 * 96, 3)
        assert client.get(f"/matrices/{task.id}?live=false").json()["coarse"] == 0
        for missing in (f"{task.id}/cells/6", f"{task.id}/cells/-1", f"{task.id}/matrix.png?layer=1", "nothing"):
            assert client.get(f"/matrices/{missing}").status_code == 404
        status = task.wait(END, 120)
        assert client.get(f"/matrices/{task.id}?again=true").json()["ended"]
        assert client.get(f"/matrices/{task.id}/cells/5").content == status.results[5].png
        assert (pixels(client.get(f"/matrices/{task.id}/before").content) == pixels(PICTURE.image)).all()
        whole = client.get(f"/matrices/{task.id}/matrix.png")
        sheet = Image.open(io.BytesIO(whole.content))
        assert re.search(r'filename="matrix-3.png"', whole.headers["content-disposition"])
        assert 'X Values: "3, 7.5, 12"' in sheet.info["parameters"]
        right, bottom = sheet.width - 8, sheet.height - 8
        corner = pixels(sheet)[bottom - 96 : bottom, right - 96 : right]
        assert (corner == pixels(status.results[5].png)).all()
        other = worker.submit(EditRequest(DEMO, open_picture(EXAMPLES / "ball.png"), EditSettings("x", steps=1)))
        assert client.get(f"/matrices/{other.id}").status_code == 404
