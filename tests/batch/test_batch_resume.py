"""A batch that is killed, interrupted or out of disk goes on where it was, to the same bits."""

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import instruct_pix2pix.batch.driver as command
from instruct_pix2pix.cli import main
from instruct_pix2pix.engine.precision import choose_machine
from instruct_pix2pix.images import open_picture
from instruct_pix2pix.infotext import parse
from tests.helpers.batches import QUICK, contents, ends, lines, picture
from tests.helpers.programs import endless_loops

ROOT = Path(__file__).parents[2]
COUNT, KILLS = 40, 10  # up to eight results are made before each
PATIENCE = 300.0
"""Seconds; for machines under load."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    base = tmp_path_factory.mktemp("resume")
    (base / "in" / "sub").mkdir(parents=True)
    for n in range(COUNT):
        name = f"{'sub/' if n % 5 == 0 else ''}{n:02}.{('png', 'jpg', 'webp')[n % 3]}"
        picture(n, (96, 96) if n % 4 else (96, 48)).save(base / "in" / name)
    first, *rest = [picture(n, (48, 48)) for n in range(3)]
    first.save(base / "in" / "moving.gif", save_all=True, append_images=rest, duration=80)
    (base / "in" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n no")
    return base


def words(folder: Path, out: str) -> list[str]:
    more = ["--recursive", "--count", "2", "--batch-size", "4", *QUICK]
    return ["batch", str(folder / "in"), str(folder / out), "make it winter", *more]


def start(folder: Path, out: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "instruct_pix2pix.cli.main", *words(folder, out)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "modules")},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def with_seed_of(folder: Path, out: str, like: str) -> None:
    """Let a run draw the seeds of another one."""
    first = (folder / like / "batch.jsonl").read_bytes().splitlines(keepends=True)[0]
    (folder / out).mkdir()
    (folder / out / "batch.jsonl").write_bytes(first)


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> dict[str, bytes]:
    said, _ = (run := start(folder, "whole")).communicate(timeout=PATIENCE)
    assert run.returncode == 1 and f"{COUNT + 1} done, 1 failed" in said
    return contents(folder / "whole")


@pytest.fixture
def busy() -> Iterator[None]:
    """A program on every core that does nothing but run."""
    with endless_loops(os.cpu_count() or 1):
        yield


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_killed_at_ten_random_moments_on_a_busy_machine_it_ends_with_the_same_bits(
    folder: Path, undisturbed, busy
) -> None:
    with_seed_of(folder, "killed", "whole")
    inputs = contents(folder / "in")
    journal = folder / "killed" / "batch.jsonl"
    draw = random.Random()
    kept: dict[str, tuple[bytes, int]] = {}
    for part in range(1, KILLS + 1):
        run = start(folder, "killed")
        begun = journal.read_bytes().count(b"started")
        least = len(kept) + draw.randrange(4)  # somewhere in the next stretch of the work
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and run.poll() is None:
            if len(contents(folder / "killed")) >= least and journal.read_bytes().count(b"started") > begun:
                break
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.1))
        run.send_signal(signal.SIGKILL)
        run.communicate()
        assert run.returncode == -signal.SIGKILL, f"kill {part} came too late"
        there = contents(folder / "killed")
        final = {name: data for name, data in there.items() if not name.rpartition("/")[2].startswith(".")}
        for name in final:  # no half-written file has a final name
            open_picture(folder / "killed" / name)
        for name, (data, written) in kept.items():  # what was done is neither redone nor damaged
            assert final[name] == data and (folder / "killed" / name).stat().st_mtime_ns == written, name
        done = [name for line in ends(folder / "killed").values() for name in line.get("outputs", ())]
        kept |= {name: (final[name], (folder / "killed" / name).stat().st_mtime_ns) for name in done}
    time.sleep(1)
    said, _ = (run := start(folder, "killed")).communicate(timeout=PATIENCE)
    assert (run.returncode == 1 and f"{COUNT + 1} done" in said) or "done before" in said
    assert contents(folder / "killed") == undisturbed
    assert contents(folder / "in") == inputs
    states = {name: line["state"] for name, line in ends(folder / "killed").items()}
    assert states == {name: line["state"] for name, line in ends(folder / "whole").items()}


@pytest.fixture(scope="module")
def here(folder: Path, undisturbed) -> dict[str, bytes]:
    """The outputs of an undisturbed run in this process, whose sums another number of threads may order otherwise."""
    with_seed_of(folder, "here", "whole")
    assert main.main(words(folder, "here")) == 1
    return contents(folder / "here")


@pytest.mark.parametrize("moment", [2, 5, 10])
def test_out_of_disk_it_stops_with_a_sentence_and_goes_on_when_there_is_room(
    folder: Path, here: dict[str, bytes], monkeypatch, capsys, moment: int
) -> None:
    """What is flushed to the disk, journal lines and files alike, meets a full disk at different moments."""
    out = f"full-{moment}"
    with_seed_of(folder, out, "whole")
    flush, flushed = os.fsync, []

    def full(descriptor: int) -> None:
        flushed.append(1)
        if len(flushed) >= moment:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        flush(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        assert main.main(words(folder, out)) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert ("room" in said or "space" in said) and "same command" in said
    assert all(line["state"] == "done" for line in ends(folder / out).values() if line["name"] != "broken.png")
    assert len(contents(folder / out)) < len(here)
    assert main.main(words(folder, out)) == 1
    assert contents(folder / out) == here


def stopped_after(count: int, patch: pytest.MonkeyPatch) -> None:
    """Let a run be stopped by Ctrl+C when it has written so many results."""
    write, written = command.write_whole, []

    def write_some(path: Path, data: bytes) -> None:
        if len(written) == count:
            raise KeyboardInterrupt
        write(path, data)
        written.append(path)

    patch.setattr(command, "write_whole", write_some)


def test_ctrl_c_ends_it_cleanly_and_says_how_to_go_on(folder: Path, here, monkeypatch, capsys) -> None:
    with_seed_of(folder, "stopped", "whole")
    with monkeypatch.context() as patch:
        stopped_after(9, patch)
        assert main.main(words(folder, "stopped")) == 130
    said = capsys.readouterr().err
    assert "The same command goes on" in said and "Traceback" not in said
    assert len(contents(folder / "stopped")) == 9
    assert main.main(words(folder, "stopped")) == 1
    assert contents(folder / "stopped") == here


ONE_BY_ONE = [
    ["make it winter", "--strength", "strong", "--keep-rest"],
    ["make it {winter|night|sunset}"],
    ["make it {winter|night}", "--best-of", "2", "--zoom"],
]


@pytest.mark.parametrize("asked", ONE_BY_ONE, ids=" ".join)
def test_what_is_searched_for_and_what_varies_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch, asked: list[str]
) -> None:
    (tmp_path / "in").mkdir()
    for n in range(3):
        picture(n, (96, 96) if n % 2 else (192, 96)).save(tmp_path / "in" / f"{n}.png")
    quick = ["--count", "2", "--steps", "3", "--batch-size", "4", *QUICK[2:]]

    def go(out: str) -> int:
        return main.main(["batch", str(tmp_path / "in"), str(tmp_path / out), *asked, *quick])

    assert go("whole") == 0
    whole = contents(tmp_path / "whole")
    assert len(set(whole.values())) == len(whole) >= 6
    with_seed_of(tmp_path, "cut", "whole")
    with monkeypatch.context() as patch:
        stopped_after(3, patch)  # in the middle of a picture, and of what is computed together
        assert go("cut") == 130
    assert len(contents(tmp_path / "cut")) == 3
    (tmp_path / "cut" / "0-2.png").unlink()  # made again, by itself or in the company that it had
    assert go("cut") == 0
    assert contents(tmp_path / "cut") == whole


def test_a_real_ctrl_c_leaves_no_thread_behind(folder: Path, undisturbed) -> None:
    run = start(folder, "signalled")
    journal = folder / "signalled" / "batch.jsonl"
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and not (journal.exists() and b'"done"' in journal.read_bytes()):
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=PATIENCE)
    assert run.returncode == 130 and "The same command goes on" in said and "Traceback" not in said


def test_a_killed_overwriting_run_goes_on_overwriting(folder: Path, here, monkeypatch) -> None:
    with_seed_of(folder, "over", "whole")
    for name in here:
        (folder / "over" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "over" / name).write_bytes(b"old")
    with monkeypatch.context() as patch:
        stopped_after(7, patch)
        assert main.main([*words(folder, "over"), "--overwrite"]) == 130
    assert main.main([*words(folder, "over"), "--overwrite"]) == 1
    assert contents(folder / "over") == here


def test_a_finished_picture_is_begun_only_once(folder: Path, undisturbed) -> None:
    started = [tuple(member[:2]) for line in lines(folder / "whole") if "started" in line for member in line["started"]]
    assert len(started) == len(set(started)) == 2 * (COUNT + 1)


# --- the number format ---


def precisions(folder: Path) -> dict[str, str]:
    """Return in which number format each result was computed, by its infotext."""
    texts = {path.name: open_picture(path).infotext or "" for path in sorted(folder.glob("*.png"))}
    return {name: parse(text).fields["Precision"] for name, text in texts.items()}


@pytest.fixture
def begun_in_fp16(tmp_path: Path) -> Path:
    """A folder of two pictures, of which one was edited, in a format that no machine chooses by itself on a CPU."""
    (tmp_path / "in").mkdir()
    picture(1).save(tmp_path / "in" / "a.png")
    assert batch(tmp_path, "--precision", "fp16") == 0
    picture(2).save(tmp_path / "in" / "b.png")
    return tmp_path


def batch(folder: Path, *more: str) -> int:
    few = ["--steps", "1", "--size", "64", "--model", "demo", "--device", "cpu"]
    return main.main(["batch", str(folder / "in"), str(folder / "out"), "make it winter", *few, *more])


@pytest.mark.parametrize("asked", [[], ["--precision", "auto"], ["--precision", "measure"], ["--precision", "fp16"]])
def test_a_folder_goes_on_in_the_number_format_in_which_it_was_begun(begun_in_fp16: Path, capsys, asked) -> None:
    assert batch(begun_in_fp16, *asked) == 0
    assert precisions(begun_in_fp16 / "out") == {"a.png": "fp16", "b.png": "fp16"}
    assert "1 done before" in (said := capsys.readouterr().err)
    assert ("was begun in fp16" in said) == (asked != ["--precision", "fp16"])
    assert lines(begun_in_fp16 / "out")[0]["run"]["precision"] == "fp16"


def test_another_number_format_is_another_request(begun_in_fp16: Path, capsys) -> None:
    assert batch(begun_in_fp16, "--precision", "fp32") == 1
    assert precisions(begun_in_fp16 / "out") == {"a.png": "fp16", "b.png": "fp32"}
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert batch(begun_in_fp16, "--precision", "fp32", "--overwrite") == 0
    assert precisions(begun_in_fp16 / "out") == {"a.png": "fp32", "b.png": "fp32"}


@pytest.mark.parametrize("recorded", ["", "int4", 7, None, ["fp16"]])
def test_a_journal_that_tells_no_usable_number_format_is_resumed_in_this_machines(begun_in_fp16, recorded) -> None:
    journal = begun_in_fp16 / "out" / "batch.jsonl"
    first, *rest = journal.read_text("utf-8").splitlines()
    run = json.loads(first)
    run["run"]["precision"] = recorded
    journal.write_text("\n".join([json.dumps(run), *rest, ""]), "utf-8")
    batch(begun_in_fp16)
    assert precisions(begun_in_fp16 / "out")["b.png"] == choose_machine("cpu").precision
