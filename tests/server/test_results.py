"""What the page keeps of results: the input to compare with, what comes back from where it was saved, and bounds."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from instruct_pix2pix.errors import UserError
from instruct_pix2pix.images import encode_picture
from instruct_pix2pix.infotext import build
from instruct_pix2pix.server.budget import Budget
from instruct_pix2pix.server.page import results as results_module
from instruct_pix2pix.server.page.results import Results, result_id
from instruct_pix2pix.server.page.strip import sessions as sessions_module
from instruct_pix2pix.server.page.strip.sessions import Keeping, Session, Sessions
from instruct_pix2pix.server.upload_space import UploadSpace
from instruct_pix2pix.server.worker.edit_task import EditResult, EditStatus
from instruct_pix2pix.server.worker.saved_results import path_of, saved_by
from instruct_pix2pix.settings import EditSettings

TASK, OTHER = "0123456789abcdef", "fedcba9876543210"
ANN, BEN = "a" * 32, "b" * 32
"""Sessions."""
SIZE = (40, 24)


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


@pytest.fixture
def results(tmp_path: Path, outputs: Path) -> Results:
    (tmp_path / "cache").mkdir()
    return Results(UploadSpace(tmp_path / "cache"), Budget(10**8), outputs)


def picture(size: tuple[int, int] = SIZE) -> Image.Image:
    """A picture that is another one when it is turned or mirrored."""
    across, down = np.meshgrid(np.linspace(0, 255, size[0]), np.linspace(0, 255, size[1]))
    return Image.fromarray(np.stack([across, down, across / 2], axis=2).astype(np.uint8))


def result(number: int = 1, size: tuple[int, int] = SIZE, **settings: object) -> EditResult:
    made = EditSettings(instruction="make it winter", **{"seed": 10 + number, **settings})  # type: ignore[arg-type]
    infotext = build(made, seed=made.seed, size=size, model_name=None, model_hash=None)
    return EditResult(encode_picture(picture(size), "PNG", infotext), size, made, infotext, 1.0, number=number)


def save(outputs: Path, task_id: str, *made: EditResult, owner: str = ANN, day: float = 1.7e9) -> list[Path]:
    paths = [path_of(outputs, owner, task_id, day, one.number, one.settings.seed) for one in made]
    for path, one in zip(paths, made, strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(one.png)
    return paths


# --- before ---


@pytest.mark.parametrize(
    ("name", "turned", "own"),
    [
        ("a.png", 1, True),
        ("a.jpg", 1, True),
        ("a.jpg", 6, True),  # every browser turns it
        ("a.webp", 1, True),
        ("a.png", 6, False),  # not every browser does
        ("a.tif", 1, False),  # no browser shows it
        ("cmyk.jpg", 1, False),  # each shows other colours
        ("moving.webp", 1, False),
    ],
)
def test_the_input_itself_is_compared_with_where_browsers_show_it_as_it_was_edited(
    results: Results, tmp_path: Path, name: str, turned: int, own: bool
) -> None:
    image, exif = picture(), Image.Exif()
    exif[0x0112] = turned
    file = image.transpose(Image.Transpose.ROTATE_90) if turned == 6 else image
    more = {"save_all": True, "append_images": [file.rotate(180)]} if name.startswith("moving") else {}
    file.convert("CMYK" if name.startswith("cmyk") else "RGB").save(tmp_path / name, exif=exif, **more)
    results.begin(TASK, ANN, str(tmp_path / name))
    shown = results.write(TASK, EditStatus(results=(result(),)))
    assert shown is not None and (shown.before == str(tmp_path / name)) == own
    before = Image.open(shown.before)
    upright = before.transpose(Image.Transpose.ROTATE_270) if own and turned == 6 else before
    assert upright.size == SIZE and upright.mode == "RGB"
    assert np.abs(np.asarray(upright, dtype=int) - np.asarray(image, dtype=int)).mean() < 6


def test_a_result_of_another_size_is_compared_with_the_input_at_its_own(results: Results, tmp_path: Path) -> None:
    picture((80, 48)).save(tmp_path / "a.png")
    results.begin(TASK, ANN, str(tmp_path / "a.png"))
    shown = results.write(TASK, EditStatus(results=(result(),)))
    assert shown is not None and Image.open(shown.before).size == SIZE


# --- what was saved ---


def test_names_of_saved_results_are_told_by_task_and_owner_alone(outputs: Path) -> None:
    assert saved_by(outputs, ANN, [TASK]) == {}
    mine = save(outputs, TASK, result(1), result(3))
    save(outputs, OTHER, result(2))
    save(outputs, TASK, result(2), owner=BEN)
    (mine[0].parent / mine[0].name.replace("-0001-", "-none-")).write_bytes(b"")
    assert saved_by(outputs, ANN, [TASK]) == {TASK: {1: mine[0], 3: mine[1]}}
    assert TASK not in str(mine[0]) and ANN not in str(mine[0])
    assert saved_by(outputs, "", [TASK]) == saved_by(outputs, ANN, [TASK[:-1], TASK[:6], ""]) == {}


def test_what_was_saved_comes_back_with_its_settings(results: Results, outputs: Path) -> None:
    large = result(2, (2500, 200), text_cfg=9.5)
    paths = save(outputs, TASK, result(1), large, result(3))
    paths[2].write_bytes(b"something else")
    results.restore(BEN, [TASK])
    assert results.find(TASK) is None
    results.restore(ANN, [TASK, OTHER])
    assert results.find(OTHER) is None and results.one(result_id(TASK, 3)) is None
    found = results.one(result_id(TASK, 2))
    assert found is not None and found[0].picture == "" and results.before_of(found[0]) is None
    one = results.there(*found)
    assert Path(one.file).read_bytes() == large.png and Image.open(one.shown).size == (2048, 164)
    assert (one.settings.text_cfg, one.size, one.infotext) == (9.5, (2500, 200), large.infotext)
    thumb = Image.open(io.BytesIO(results.thumb_of(*found)))
    assert thumb.format == "WEBP" and thumb.width == 224


def test_a_file_that_was_swept_away_is_taken_from_where_it_was_saved_or_said_to_be_gone(
    results: Results, outputs: Path, tmp_path: Path
) -> None:
    picture().save(tmp_path / "a.png")
    for task in (TASK, OTHER):
        results.begin(task, ANN, str(tmp_path / "a.png"))
        shown = results.write(task, EditStatus(results=(result(),)))
        assert shown is not None
        Path(shown.ones[1].file).unlink()
    save(outputs, TASK, result())
    mine, other = results.one(result_id(TASK, 1)), results.one(result_id(OTHER, 1))
    assert mine is not None and other is not None
    assert Path(results.there(*mine).file).read_bytes() == result().png
    Path(results.there(*mine).file).unlink()
    with pytest.raises(UserError, match="no longer here"):
        results.there(*other)


ARABIC = "\N{ARABIC-INDIC DIGIT ONE}"
NONE = ("", "-", TASK, f"{TASK}-", f"{TASK}-2", f"{TASK}--1", f"{TASK}-{ARABIC}", f"{TASK}-{10**9}", 3, None)


@pytest.mark.parametrize("name", NONE)
def test_no_other_name_is_a_result(results: Results, tmp_path: Path, name: object) -> None:
    picture().save(tmp_path / "a.png")
    results.begin(TASK, ANN, str(tmp_path / "a.png"))
    results.write(TASK, EditStatus(results=(result(),)))
    assert results.one(f"{TASK}-1") is not None and results.one(name) is None


# --- bounds ---


def test_the_oldest_edits_are_forgotten_beyond_the_limits(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results_module, "MOST_EDITS", 3)
    monkeypatch.setattr(results_module, "MOST_RESULTS", 4)
    picture().save(tmp_path / "a.png")
    for i in range(5):
        results.begin(str(i), ANN, str(tmp_path / "a.png"))
    assert [bool(results.find(str(i))) for i in range(5)] == [False, False, True, True, True]
    results.write("4", EditStatus(results=(result(1), result(2), result(3), result(4), result(5))))
    results.begin("5", ANN, "")
    assert results.find("4") is None and results.find("5") is not None


def test_a_session_holds_so_many_and_the_oldest_session_is_forgotten(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, most in (("MOST_SESSIONS", 2), ("MOST_UNPINNED", 3), ("MOST_PINNED", 2), ("MOST_TASKS", 2)):
        monkeypatch.setattr(sessions_module, name, most)
    picture().save(tmp_path / "a.png")
    held = Sessions(results)
    results.begin(TASK, ANN, str(tmp_path / "a.png"))
    made = tuple(map(result, range(1, 6)))
    results.write(TASK, EditStatus(results=made[:2]))
    session, _ = held.update(ANN, Session())
    assert list(session.entries) == [f"{TASK}-1", f"{TASK}-2"]
    assert held.keep(ANN, f"{TASK}-1", Keeping.PINNED)
    results.write(TASK, EditStatus(results=made))
    session, _ = held.update(ANN, Session())
    assert list(session.entries) == [f"{TASK}-{number}" for number in (1, 3, 4, 5)]
    assert held.keep(ANN, f"{TASK}-4", Keeping.PINNED) and not held.keep(ANN, f"{TASK}-2", Keeping.KEPT)
    with pytest.raises(UserError, match="unpin one"):
        held.keep(ANN, f"{TASK}-5", Keeping.PINNED)
    assert held.keep(ANN, f"{TASK}-4", Keeping.PINNED)  # it is already
    for name in ("two", "three"):
        assert held.update(name, Session())[0] == Session()
    assert not held.has(ANN, f"{TASK}-1")
    # and comes back as its tab remembers it: what had gone is not there again
    again, lost = held.update(ANN, session)
    assert (again, lost) == (session, 0)
