"""The journal of a folder: nothing that was written down is lost, whatever cut it short."""

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from instruct_pix2pix.batch.journal import NAME, Journal, JournalEntry, PictureState, entries_of
from instruct_pix2pix.batch.units import Item, ResultRequest, Unit
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.settings import EditSettings


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
    "line", ["[]", "null", "{}", '{"name": "a", "state": "odd"}', '{"started": [[1]]}', "\0\0\0", '{"run": 3}']
)
def test_lines_that_make_no_sense_are_passed_over(tmp_path: Path, line: str) -> None:
    with Journal(tmp_path, {}) as journal:
        journal.add(JournalEntry("z.png", PictureState.DONE, "f"))
        seed = journal.run_seed
    with (tmp_path / NAME).open("a") as file:
        file.write(line + "\n")
    with Journal(tmp_path, {}) as journal:
        assert set(journal.latest) == {"z.png"} and journal.run_seed == seed


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
