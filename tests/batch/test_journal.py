"""The journal of a folder: nothing that was written down is lost, whatever cut it short."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from instruct_pix2pix.batch.driver import Ended, Event, ModelFacts, Planned, run_batch
from instruct_pix2pix.batch.journal import NAME, Journal, JournalEntry, PictureState, entries_of
from instruct_pix2pix.batch.planning import BatchRequest
from instruct_pix2pix.batch.units import Control, Item, Result, ResultRequest, Unit
from instruct_pix2pix.errors import Remedy, UserError
from instruct_pix2pix.settings import EditSettings

TOO_LITTLE_MEMORY = "There is not enough memory: choose a smaller size or batch size."
WRITTEN_BEFORE = """\
{"run": {"seed": 7, "input": "in", "model": "0123456789"}}
{"name": "d.png", "state": "failed", "fingerprint": "7-1700000000000000000", \
"reason": "d.png is not a picture that can be read here: use PNG, JPEG, WebP, BMP, TIFF, GIF, AVIF or HEIC."}
{"name": "c.bmp", "state": "skipped", "fingerprint": "3f264d05183136d0", \
"reason": "c.png is there already: --overwrite replaces it."}
{"started": [["a.bmp", 0, "6cbcd08565a8b170", true], ["b.bmp", 0, "2dbc31b960e32ad4", true]], "replacing": []}
{"name": "a.bmp", "state": "done", "fingerprint": "6cbcd08565a8b170", "outputs": ["a.png"], "seeds": [3347360159], \
"size": [96, 96], "rows": 6, "seconds": 0.25, "notes": ["A note."]}
{"name": "b.bmp", "state": "failed", "fingerprint": "2dbc31b960e32ad4", \
"reason": "There is not enough memory: choose a smaller size or batch size."}
"""
"""A whole journal, as the first version with this format wrote it for the folder of `folder_of_then`."""


def item(name: str, fingerprint: str = "f") -> Item:
    return Item(name, Path(name), EditSettings("x"), (name,), "PNG", 95, (8, 8), 1, fingerprint)


def unit(*names: str) -> Unit:
    return Unit(tuple(ResultRequest(item(name), 0) for name in names), 4)


def test_what_was_written_is_known_again(tmp_path: Path) -> None:
    facts: dict[str, Any] = {"outputs": ("o.png",), "seeds": (3,), "size": (8, 8), "rows": 6, "seconds": 0.5}
    done = JournalEntry("ü 日本.png", PictureState.DONE, "f", **facts)
    with Journal(tmp_path, {"model": "m"}) as journal:
        journal.start(unit("a.png", "b.png"), {"b.png": True})
        journal.add(done, JournalEntry("c.png", PictureState.FAILED, "f", "It is damaged."))
        seed = journal.run_seed
    with Journal(tmp_path, {}) as again:
        assert again.run_seed == seed and not again.fresh
        assert again.latest["ü 日本.png"] == done
        assert again.latest["a.png"].state is PictureState.STARTED and not again.latest["a.png"].overwrite
        assert again.latest["b.png"].overwrite
        assert [[m.name for m in members] for members in again.units] == [["a.png", "b.png"]]
        known = again.known(item("c.png"))
        assert known is not None and known.reason == "It is damaged."
        assert again.known(item("c.png", "another")) is None
    assert {e.name: e.state.value for e in entries_of(tmp_path)} == {"ü 日本.png": "done", "c.png": "failed"}


def test_a_line_cut_short_anywhere_costs_that_line_alone(tmp_path: Path) -> None:
    with Journal(tmp_path, {}) as journal:
        seed = journal.run_seed
        journal.add(JournalEntry("a.png", PictureState.DONE, "f"))
    whole = (tmp_path / NAME).read_bytes()
    line = json.dumps({"name": "b.png", "state": "done", "fingerprint": "f"}).encode()
    for cut in range(len(line)):
        (tmp_path / NAME).write_bytes(whole + line[:cut])
        with Journal(tmp_path, {}) as journal:
            assert journal.run_seed == seed and set(journal.latest) == {"a.png"}
            journal.add(JournalEntry("c.png", PictureState.DONE, "f"))
        assert {entry.name for entry in entries_of(tmp_path)} == {"a.png", "c.png"}


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "null",
        "7",
        "{}",
        '{"name": "a", "state": "odd"}',
        '{"name": "a", "state": []}',
        '{"name": {}, "state": "done"}',
        '{"name": "a", "state": "done", "outputs": "abc"}',
        '{"name": "a", "state": "done", "outputs": ["../a.png"]}',
        '{"name": "a", "state": "done", "outputs": ["/a.png"]}',
        '{"name": "a", "state": "done", "outputs": ["a\\u0000.png"]}',
        '{"name": "a", "state": "done", "seeds": [1e999]}',
        '{"name": "a", "state": "done", "seeds": [-5]}',
        '{"name": "a", "state": "done", "size": [NaN, 8]}',
        '{"name": "a", "state": "done", "size": [8]}',
        '{"name": "a", "state": "done", "size": {"0": 8, "1": 8}}',
        '{"name": "a", "state": "done", "rows": 1e999}',
        '{"name": "a", "state": "done", "rows": ' + "9" * 5000 + "}",
        '{"name": "a", "state": "done", "seconds": Infinity}',
        '{"name": "a", "state": "done", "seconds": "long"}',
        '{"name": "a", "state": "done", "notes": {"a": 1}}',
        '{"started": [[1]]}',
        '{"started": [1], "replacing": []}',
        '{"started": 5, "replacing": []}',
        '{"started": [["a", 1e999, "f", true]], "replacing": []}',
        '{"started": [["a", -1, "f", true]], "replacing": []}',
        '{"started": [["a", 0, "f", true]], "replacing": 5}',
        '{"started": [["a", 0, "f", true]]}',
        "\0\0\0",
        '{"run": 3}',
        '{"run": {"seed": 1e999}}',
        '{"run": {"seed": "7"}}',
        "[" * 100_000,
    ],
)
def test_lines_that_make_no_sense_are_passed_over(tmp_path: Path, line: str) -> None:
    with Journal(tmp_path, {}) as journal:
        journal.add(JournalEntry("z.png", PictureState.DONE, "f"))
        seed = journal.run_seed
    with (tmp_path / NAME).open("a") as file:
        file.write(line + "\n\n")
    with Journal(tmp_path, {}) as journal:
        assert set(journal.latest) == {"z.png"} and journal.run_seed == seed
        assert journal.units == []
        (note,) = journal.notes
        assert note.startswith("A line of batch.jsonl")
    assert [entry.name for entry in entries_of(tmp_path)] == ["z.png"]


def test_a_run_that_goes_on_says_how_many_lines_it_passed_over(tmp_path: Path) -> None:
    request = folder_of_then(tmp_path)
    (request.output / NAME).write_text(WRITTEN_BEFORE + '[]\n{"run": {"seed": 1e999}}\nnothing\n')
    events: list[Event] = []
    control = Control()
    control.stop()
    run_batch(
        request,
        ModelFacts(96, 8, "0123456789", "fp32"),
        lambda _: (r for r in ()),
        report=events.append,
        control=control,
    )
    (planned,) = [event for event in events if isinstance(event, Planned)]
    assert planned.plan.notes == ("3 lines of batch.jsonl could not be read and were passed over.",)


def test_two_runs_cannot_work_in_one_folder(tmp_path: Path) -> None:
    with Journal(tmp_path, {}), pytest.raises(UserError, match="Another run"):
        Journal(tmp_path, {})
    Journal(tmp_path, {}).close()


def test_what_is_known_is_not_said_twice_and_a_skip_forgets_nothing(tmp_path: Path) -> None:
    done = JournalEntry("a.png", PictureState.DONE, "f")
    failed = JournalEntry("b.png", PictureState.FAILED, "f", "Broken.")
    skipped = JournalEntry("a.png", PictureState.SKIPPED, "g", "It is there already.")
    for _ in range(2):
        with Journal(tmp_path, {}) as journal:
            journal.add(done, failed, skipped)
    with Journal(tmp_path, {}) as journal:
        assert journal.known(item("a.png")) == done
    assert len((tmp_path / NAME).read_text().splitlines()) == 4


def test_names_that_are_not_text_survive(tmp_path: Path) -> None:
    name = os.fsdecode(b"\xff\xfe.png")
    with Journal(tmp_path, {}) as journal:
        journal.add(JournalEntry(name, PictureState.DONE, "f"))
    with Journal(tmp_path, {}) as journal:
        assert name in journal.latest


def test_a_full_disk_is_told_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with Journal(tmp_path, {}) as journal:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="No space left"):
            journal.add(JournalEntry("a.png", PictureState.DONE, "f"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such folder")
def test_a_folder_that_cannot_be_made_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another folder"):
        Journal(tmp_path / "file" / "out", {})


# --- the format on the disk, which versions share ---


def folder_of_then(folder: Path) -> BatchRequest:
    """Make the pictures that WRITTEN_BEFORE is about, to the byte and to the second."""
    (folder / "in").mkdir()
    for name, colour in (("a.bmp", "red"), ("b.bmp", "blue"), ("c.bmp", "green")):
        Image.new("RGB", (8, 8), colour).save(folder / "in" / name)
    (folder / "in" / "d.png").write_bytes(b"nothing")
    for path in (folder / "in").iterdir():
        os.utime(path, (1_700_000_000, 1_700_000_000))
    (folder / "out").mkdir()
    (folder / "out" / "c.png").write_bytes(b"of another program")
    settings = EditSettings("make it winter", steps=2, sampler="DPM++ 2M Karras")
    return BatchRequest(folder / "in", folder / "out", settings)


def carried_out(request: BatchRequest) -> tuple[list[str], dict[str, Ended]]:
    """Carry out the request without a model; return the pictures that were made, and how each ended."""
    made: list[str] = []
    events: list[Event] = []

    def execute(units):
        for one in units:
            for asked in one.wanted:
                made.append(asked.item.name)
                if asked.item.name == "b.bmp":
                    problem = UserError("There is not enough memory", remedy=Remedy.SMALLER)
                    yield Result(asked.item.name, asked.index, None, problem)
                else:
                    facts: dict[str, Any] = {"size": (96, 96), "rows": 6, "seconds": 0.25, "notes": ("A note.",)}
                    yield Result(asked.item.name, asked.index, b"data", seed=asked.settings.seed, **facts)

    run_batch(request, ModelFacts(96, 8, "0123456789", "fp32"), execute, report=events.append, control=Control())
    return made, {event.entry.name: event for event in events if isinstance(event, Ended)}


def test_what_is_written_now_is_byte_for_byte_what_was_written_before(tmp_path: Path) -> None:
    request = folder_of_then(tmp_path)
    first = WRITTEN_BEFORE.splitlines(keepends=True)[0]
    (request.output / NAME).write_text(first)
    made, ended = carried_out(request)
    assert (request.output / NAME).read_text() == WRITTEN_BEFORE
    assert made == ["a.bmp", "b.bmp"]
    problems = {name: end.problem and (end.problem.remedy, str(end.problem)) for name, end in ended.items()}
    assert problems["a.bmp"] is None
    assert problems["b.bmp"] == (Remedy.SMALLER, TOO_LITTLE_MEMORY)
    assert problems["c.bmp"] == (Remedy.OVERWRITE, "c.png is there already: --overwrite replaces it.")


def test_a_run_of_before_goes_on(tmp_path: Path) -> None:
    request = folder_of_then(tmp_path)
    (request.output / NAME).write_text(WRITTEN_BEFORE)
    (request.output / "a.png").write_bytes(b"data")
    made, ended = carried_out(request)
    assert made == [] and (request.output / NAME).read_text() == WRITTEN_BEFORE
    assert {name: end.fresh for name, end in ended.items()} == {
        "a.bmp": False,
        "b.bmp": False,
        "c.bmp": True,
        "d.png": True,
    }
    assert str(ended["b.bmp"].problem) == ended["b.bmp"].entry.reason == TOO_LITTLE_MEMORY
    (request.output / "a.png").unlink()  # it is made again, in the unit that it was made in
    assert carried_out(request)[0] == ["a.bmp"]
    last = (request.output / NAME).read_text().removeprefix(WRITTEN_BEFORE).splitlines()
    assert json.loads(last[0])["started"][1] == ["b.bmp", 0, "2dbc31b960e32ad4", False]
