"""The sub-tab Batch in a real browser against a real server with the demo model, and what it may reach."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.requests import Request

from instruct_pix2pix.batch.planning import BatchRequest
from instruct_pix2pix.errors import Remedy, UserError
from instruct_pix2pix.server.folder_access import FolderAccess
from instruct_pix2pix.server.page.folder_routes import zipped
from instruct_pix2pix.server.page.wording import names_for
from instruct_pix2pix.server.upload_space import UploadSpace
from instruct_pix2pix.server.uploads import Uploads
from instruct_pix2pix.server.worker.folder_task import MOST_ROWS, FolderTable, Stage, TableRow
from instruct_pix2pix.settings import EditSettings
from tests.helpers.batches import contents, picture
from tools.browser import CHROMIUM, EXAMPLES, Visit, chromium, served_page, visit

in_browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

SIZES = [(96, 96), (128, 96), (96, 128)]
ENDINGS = ["png", "jpg", "webp", "bmp"]
BROKEN = ["torn.png", "Süd/kaputt.jpg"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory):
    """A server, a browser, and the folder of results."""
    outputs = tmp_path_factory.mktemp("home") / "outputs"
    with served_page(outputs) as (address, worker), chromium() as browser:
        yield browser, address, worker, outputs


@pytest.fixture
def at_page(site) -> Iterator[Visit]:
    """A first visit; whatever happens in it, nothing may leave the machine and no script may fail."""
    with visit(*site[:3]) as visited:
        yield visited
        assert visited.elsewhere == []
        assert visited.errors == []


def forty(folder: Path) -> dict[str, tuple[int, int]]:
    """Make forty pictures, two of them broken; return the names of the others and the sizes of their results."""
    made = {}
    for number in range(40):
        place = ["", "Süd/", "trip/day 1/", "日本/"][number % 4]
        ending = ENDINGS[number // 4 % 4]
        made[f"{place}{number:02} é.{ending}"] = SIZES[number % 3]
    names = [*made][38:]
    for name, broken in zip(names, BROKEN, strict=True):
        del made[name]
        (folder / broken).parent.mkdir(parents=True, exist_ok=True)
        (folder / broken).write_bytes((EXAMPLES / "house.png").read_bytes()[:900])
    for number, name in enumerate(made):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number, SIZES[number % 3]).save(folder / name)
    return made


def few(folder: Path, count: int = 3) -> Path:
    folder.mkdir(parents=True)
    for number in range(count):
        picture(number, (64, 64)).save(folder / f"p{number}.png")
    return folder


def ask(visited: Visit, folder: str, **more: float) -> None:
    """Fill in the form for a folder."""
    visited.open_tab("Batch")
    visited.locate("#img2img_batch_input_dir :is(input, textarea)").fill(folder)
    visited.write("make it winter")
    numbers = {"img2img_steps": 2, "img2img_batch_count": 1, "img2img_seed": 7, "ip2p_batch_together": 1, **more}
    for elem_id, value in numbers.items():
        visited.set(elem_id, value)


def table(visited: Visit) -> dict[str, tuple[str, str]]:
    """What the table says of each picture: its state and the reason."""
    cells = visited.locate("#ip2p_board tbody tr").evaluate_all(
        "(all) => all.map((r) => [...r.cells].map((c) => c.innerText))"
    )
    return {row[2]: (row[3], row[5]) for row in cells}


def until(visited: Visit, stage: str, least: int) -> None:
    """Wait until so many pictures are at a stage."""
    script = f"document.querySelectorAll('#ip2p_board [data-stage={stage}]').length >= {least}"
    visited.page.wait_for_function(script, timeout=60_000)


def ended(visited: Visit) -> str:
    visited.wait_for_end()
    unfinished = ", ".join(f"#ip2p_board [data-stage={stage}]" for stage in ("waiting", "working"))
    visited.page.wait_for_function(f"!document.querySelector('{unfinished}')")  # the table follows the sentence
    return visited.says()


def refused(visited: Visit, sentence: str) -> None:
    """Press Generate and be told why nothing happens; a click before the page has settled would be lost."""
    visited.page.wait_for_timeout(300)
    visited.locate("#img2img_generate").click()
    visited.locate("#img2img_progress").get_by_text(sentence).wait_for(timeout=60_000)


def outputs_of(site: tuple[Any, ...], name: str) -> Path:
    (found,) = (site[3] / "batch").glob(f"{name}-*")
    return found


@in_browser
def test_a_folder_keeps_the_rest_and_has_the_size_that_was_chosen(site, at_page: Visit, tmp_path: Path) -> None:
    ask(at_page, str(few(tmp_path / "keeping", 1)))
    at_page.locate("#ip2p_keep_rest").get_by_label("always").check()
    at_page.unfold("Size of the edit")
    at_page.locate("#ip2p_result_sizing").get_by_label("Model").check()
    at_page.generate(wait=False)
    ended(at_page)
    made = Image.open(outputs_of(site, "keeping") / "p0.png")
    assert "Keep the rest: always, Result size: model" in made.info["parameters"]
    assert made.size == (96, 96)


@in_browser
def test_forty_pictures_go_through_the_page(site, at_page: Visit, tmp_path: Path) -> None:
    good = forty(tmp_path / "photos")
    ask(at_page, str(tmp_path / "photos"))
    at_page.locate("#ip2p_batch_recursive input").check()
    at_page.generate(wait=False)

    # pause: nothing more is begun, and it goes on from there
    until(at_page, "done", 2)
    at_page.locate("#ip2p_pause").click()
    at_page.locate("#ip2p_resume").wait_for()
    at_page.locate("#img2img_progress").get_by_text("Paused after").wait_for()
    at_page.page.wait_for_function("!document.querySelector('#ip2p_board [data-stage=working]')")
    paused = table(at_page)
    done = [name for name, (state, _) in paused.items() if state == "done"]
    assert set(paused) == {*good, *BROKEN} and 2 <= len(done) < 38
    assert len(at_page.worker.queue) == 1

    # the page is loaded again in the middle
    at_page.reload()
    at_page.locate("#ip2p_resume").wait_for()
    assert at_page.locate("#img2img_batch_input_dir :is(input, textarea)").input_value() == str(tmp_path / "photos")
    until(at_page, "done", len(done))
    at_page.page.wait_for_timeout(300)
    assert table(at_page) == paused
    at_page.locate("#ip2p_resume").click()
    assert re.match(r"40 pictures: 38 done, 2 failed, in .* Saved in outputs/batch/photos-\w+\.", ended(at_page))

    # the table and the files tell the same
    until(at_page, "done", 38)
    told = table(at_page)
    assert {name: state for name, (state, _) in told.items()} == {
        **dict.fromkeys(good, "done"),
        **dict.fromkeys(BROKEN, "failed"),
    }
    assert all("kaputt.jpg" in told[name][1] or "torn.png" in told[name][1] for name in BROKEN)
    output = outputs_of(site, "photos")
    made = {name: Image.open(io.BytesIO(data)) for name, data in contents(output).items()}
    expected = {
        str(Path(name).with_suffix(".png")) if name.endswith("bmp") else name: size for name, size in good.items()
    }
    assert {name: image.size for name, image in made.items()} == expected
    assert "make it winter" in made["00 é.png"].info["parameters"]
    last = at_page.locate("#ip2p_board tbody tr").last
    last.scroll_into_view_if_needed()
    after = last.locator("img").nth(1)
    after.wait_for()
    assert max(at_page.fetch(f"{site[1]}/{after.get_attribute('src')}").size) == 96

    # one of the broken is repaired and tried again
    picture(99, (64, 64)).save(tmp_path / "photos" / BROKEN[0])
    at_page.locate("#ip2p_retry").click()
    at_page.locate("#img2img_interrupt").wait_for()
    assert ended(at_page).startswith("40 pictures: 1 done, 38 done before, 1 failed")
    assert table(at_page)[BROKEN[0]][0] == "done"
    assert Image.open(output / BROKEN[0]).size == (96, 96)
    assert {name: data for name, data in contents(output).items() if name != BROKEN[0]}.keys() == expected.keys()

    # all of it, at another machine
    with at_page.page.expect_download() as download:
        at_page.locate("#ip2p_zip a").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == contents(output)
        assert archive.testzip() is None


@in_browser
def test_how_pictures_were_read_and_what_was_passed_over_is_shown(site, at_page: Visit, tmp_path: Path) -> None:
    folder = tmp_path / "camera"
    folder.mkdir()
    picture(1, (64, 64)).save(folder / "a.jpg")
    (folder / "a.jpg").write_bytes((folder / "a.jpg").read_bytes()[:-2])
    (folder / "a.nef").write_bytes(b"")
    ask(at_page, str(folder))
    at_page.generate()
    assert "1 done" in ended(at_page) and "Passed over: 1 .nef, which cannot be read here." in at_page.says()
    assert table(at_page) == {"a.jpg": ("done", "a.jpg is cut short: next to nothing is missing.")}


@in_browser
def test_a_stop_finishes_the_picture_and_generate_goes_on_there(site, at_page: Visit, tmp_path: Path) -> None:
    few(tmp_path / "stopped", 12)
    ask(at_page, str(tmp_path / "stopped"), img2img_steps=8)
    at_page.locate("#ip2p_batch_contact_sheet input").check()
    at_page.generate(wait=False)
    until(at_page, "done", 1)
    at_page.locate("#ip2p_stop").click()
    said = ended(at_page)
    done, left = (int(re.findall(rf"(\d+) {word}", said)[0]) for word in ("done", "left"))
    assert done + left == 12 and 1 <= done < 12 and "Generate goes on" in said
    before = contents(outputs_of(site, "stopped"))

    at_page.generate()
    assert f"{left} done, {done} done before" in at_page.says()
    after = contents(outputs_of(site, "stopped"))
    assert {name: after[name] for name in before if name.endswith("png")} == {
        n: d for n, d in before.items() if n.endswith("png")
    }
    assert len([name for name in after if name.endswith("png")]) == 12 and "contact-sheet.jpg" in after


@in_browser
def test_an_interrupt_gives_up_and_who_came_second_has_waited(site, at_page: Visit, tmp_path: Path) -> None:
    ask(at_page, str(few(tmp_path / "long", 8)), img2img_steps=150)
    at_page.generate(wait=False)
    at_page.locate("#ip2p_board [data-stage=working]").first.wait_for()
    with visit(*site[:3]) as other:
        other.drop(EXAMPLES / "house.png")
        other.write("make it winter")
        other.set("img2img_steps", 2)
        other.set("img2img_batch_count", 1)
        other.generate(wait=False)
        other.locate("#img2img_progress").get_by_text("Waiting for 1 other edit").wait_for()
        answer = other.page.request.get(f"{site[1]}/sdapi/v1/progress").json()
        assert answer["state"]["job"].startswith("batch ") and answer["state"]["job_count"] == 8
        at_page.locate("#img2img_interrupt").click()
        assert "8 left" in ended(at_page) or "7 left" in at_page.says()
        assert "left" in {state for state, _ in table(at_page).values()}
        other.wait_for_end()
        assert len(other.results()) == 1


@in_browser
def test_dropped_pictures_are_edited_with_the_texts_beside_them(site, at_page: Visit, tmp_path: Path) -> None:
    few(tmp_path / "a")
    few(tmp_path / "b", 1)
    (tmp_path / "a" / "p0.txt").write_text("make it night")
    (tmp_path / "tool.exe").write_bytes(b"MZ")
    files = [*sorted((tmp_path / "a").iterdir()), tmp_path / "b" / "p0.png", tmp_path / "tool.exe"]
    ask(at_page, "")
    refused(at_page, "drop some into the field")
    at_page.locate("#ip2p_pick_files").set_input_files(files)
    at_page.locate(".ip2p-dropped").get_by_text("4 pictures ready").wait_for()
    at_page.locate(".ip2p-dropped").get_by_text("1 refused: tool.exe is not a picture").wait_for()
    at_page.locate(".ip2p-dropzone").dispatch_event("drop", {"dataTransfer": at_page.transfer(EXAMPLES / "car.png")})
    at_page.locate(".ip2p-dropped").get_by_text("5 pictures ready").wait_for()
    at_page.errors.clear()  # the browser's console names the refused one
    at_page.generate()
    assert at_page.says().startswith("5 pictures: 5 done")
    output = outputs_of(site, "dropped")
    assert {*contents(output)} == {"p0.png", "p0~2.png", "p1.png", "p2.png", "car.png"}
    infotexts = {name: Image.open(output / name).info["parameters"] for name in ("p0.png", "p1.png")}
    assert infotexts["p0.png"].startswith("make it night") and infotexts["p1.png"].startswith("make it winter")


@in_browser
def test_a_visitor_from_elsewhere_reaches_only_what_is_allowed(site, tmp_path: Path) -> None:
    few(tmp_path / "home" / "inputs" / "mine")
    few(tmp_path / "secret")
    (tmp_path / "home" / "inputs" / "link").symlink_to(tmp_path / "secret")
    outputs = tmp_path / "home" / "outputs"
    access = FolderAccess.beside(outputs, private=False)
    with served_page(outputs, folder_access=access) as (address, worker), visit(site[0], address, worker) as visited:
        for wrong in (str(tmp_path / "secret"), "inputs/link", "inputs/../../secret", str(tmp_path / "nothing")):
            ask(visited, wrong)
            refused(visited, "only folders in outputs/, inputs/")
            visited.locate("#img2img_batch_input_dir :is(input, textarea)").fill("")
            refused(visited, "drop some into the field")
        ask(visited, "inputs/gone")
        refused(visited, "The input folder inputs/gone does not exist")
        ask(visited, "inputs/mine")
        visited.generate()
        assert "Saved in outputs/batch/mine-" in visited.says()
        assert str(tmp_path) not in visited.locate("#img2img_results").inner_html()
        assert len([*outputs.glob("batch/mine-*/*.png")]) == 3


@in_browser
def test_on_a_narrow_screen_the_table_fits(site, tmp_path: Path) -> None:
    few(tmp_path / "narrow", 2)
    (
        tmp_path / "narrow" / "a-name-without-any-place-to-break-it-that-is-longer-than-the-screen-is-wide.png"
    ).write_bytes(b"x")
    with visit(*site[:3], viewport={"width": 390, "height": 800}, color_scheme="dark") as visited:
        ask(visited, str(tmp_path / "narrow"))
        visited.generate()
        until(visited, "done", 2)
        assert visited.page.evaluate("document.documentElement.scrollWidth") <= 390
        board = visited.locate("#ip2p_board")
        assert board.evaluate("(one) => one.scrollWidth <= one.clientWidth")
        assert board.get_by_role("columnheader").all_inner_texts()[:3] == ["Before", "After", "Name"]
        assert board.get_by_role("row").count() == 4


# --- without a browser ---


@pytest.mark.parametrize(
    ("client", "host", "more", "here"),
    [
        ("127.0.0.1", "127.0.0.1:7860", {}, True),
        ("::1", "[::1]:7860", {}, True),
        ("127.0.0.1", "localhost:7860", {}, True),
        ("192.168.1.5", "192.168.1.2:7860", {}, False),
        ("127.0.0.1", "my.tunnel.example", {}, False),
        ("127.0.0.1", "localhost", {"x-forwarded-for": "1.2.3.4"}, False),
        (None, "localhost", {}, False),
    ],
)
def test_who_sits_at_this_machine_is_told_by_address_and_name(tmp_path, client, host, more, here) -> None:
    headers = [(name.encode(), value.encode()) for name, value in {"host": host, **more}.items()]
    request = Request({"type": "http", "client": client and (client, 50000), "headers": headers})
    assert FolderAccess.beside(tmp_path / "outputs").is_here(request) is here
    assert not FolderAccess.beside(tmp_path / "outputs", private=False).is_here(request)


def test_folders_from_elsewhere_are_confined_with_links_followed(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    (tmp_path / "real").mkdir()
    (tmp_path / "home" / "inputs").mkdir(parents=True)
    (tmp_path / "home" / "inputs" / "out").symlink_to(tmp_path / "real")
    (tmp_path / "home" / "inputs" / "circle").symlink_to(tmp_path / "home" / "inputs" / "circle")
    (tmp_path / "allowed").symlink_to(tmp_path / "more")
    access = FolderAccess.beside(tmp_path / "home" / "outputs", (tmp_path / "allowed",), private=False)
    for text in (
        "inputs",
        "inputs/a/b",
        "outputs/x",
        str(tmp_path / "more" / "x"),
        str(tmp_path / "allowed"),
        "inputs/../inputs",
    ):
        assert access.find(text, here=False) == (tmp_path / "home" / text).resolve()
    for text in (
        "/",
        ".",
        "..",
        "/etc",
        "inputs/..",
        "inputs/../../real",
        "inputs/out",
        "inputs/out/deeper",
        "inputs-too",
        "~",
        "a\0b",
    ):
        with pytest.raises(UserError) as refused:
            access.find(text, here=False)
        assert str(tmp_path) not in str(refused.value)
    assert access.find(str(tmp_path / "real"), here=True) == tmp_path / "real"
    assert access.find("~", here=True) == Path.home().resolve()


def test_sentences_for_somebody_elsewhere_hold_no_path_and_the_pages_own_words(tmp_path: Path) -> None:
    access = FolderAccess.beside(tmp_path / "outputs", (tmp_path / "more",), private=False)
    request = BatchRequest(tmp_path / "more" / "in", tmp_path / "outputs" / "batch" / "x", EditSettings())
    names = names_for(request, access, here=False)
    problem = UserError(request.output / "a.png", " is there already", remedy=Remedy.OVERWRITE)
    assert names.said(problem) == "outputs/batch/x/a.png is there already: “Overwrite” replaces it."
    assert names.said(UserError(request.input, " is empty.")) == "more/in is empty."
    assert names.said(UserError(tmp_path / "more" / "in" / "sub" / "b.png", "!")) == "more/in/sub/b.png!"
    assert names.said(UserError("Do it", remedy=Remedy.RUN_AGAIN)) == "Do it, then press Generate again."


def test_no_sentence_shows_a_path_of_the_server_to_somebody_elsewhere(tmp_path: Path) -> None:
    access = FolderAccess.beside(tmp_path / "outputs", (tmp_path / "more",), private=False)
    request = BatchRequest(tmp_path / "more" / "in", tmp_path / "outputs" / "batch" / "x", EditSettings())
    unexpected = UserError(f"Broken: '{tmp_path}', {tmp_path}/inputs/b.png, {request.input}/c.png, {Path.home()}/d.png")
    said = names_for(request, access, here=False).said(unexpected)
    assert said == "Broken: '.', inputs/b.png, more/in/c.png, ~/d.png"


def test_sentences_for_somebody_at_this_machine_name_whole_paths_outside_its_home(tmp_path: Path) -> None:
    access = FolderAccess.beside(tmp_path / "home" / "outputs")
    table = tmp_path / "uploads" / "17" / "table.csv"
    request = BatchRequest(tmp_path / "in", tmp_path / "home" / "outputs" / "x", EditSettings(), instructions=table)
    names = names_for(request, access, here=True)
    assert names.said(UserError("The folder ", tmp_path / "in" / "a", "!")) == f"The folder {tmp_path}/in/a!"
    assert names.said(UserError(request.output / "batch.jsonl", "!")) == "outputs/x/batch.jsonl!"
    assert names.said(UserError(table, " cannot be read.")) == "table.csv cannot be read."


def journal(folder: Path, *outputs: str) -> None:
    lines = [{"run": {"seed": 1}}, *({"name": name, "state": "done", "outputs": [name]} for name in outputs)]
    (folder / "batch.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")


@pytest.mark.skipif("sys.platform == 'win32'", reason="names that Windows does not have")
def test_a_zip_holds_only_results_under_names_that_lead_nowhere_else(tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()
    (tmp_path / "outside.png").write_bytes(b"outside")
    (output / "link.png").symlink_to(tmp_path / "outside.png")
    names = ["a.png", "b:c?.png", "b_c_.png", "..\\evil.png", "é.webp", "moving.gif"]
    for name in names:
        (output / name).write_bytes(name.encode())
    (output / "notes.txt").write_text("no result")
    journal(
        output,
        *names,
        "../outside.png",
        str(tmp_path / "outside.png"),
        "link.png",
        "notes.txt",
        "gone.png",
        "batch.jsonl",
    )
    file, size = zipped(output, tmp_path / "scratch")
    data = file.read()
    file.close()
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        read = {name: archive.read(name).decode() for name in archive.namelist()}
    assert len(data) == size
    assert read == {
        "a.png": "a.png",
        "b_c_.png": "b:c?.png",
        "b_c_~.png": "b_c_.png",
        ".._evil.png": "..\\evil.png",
        "é.webp": "é.webp",
        "moving.gif": "moving.gif",
    }
    assert [*(tmp_path / "scratch").iterdir()] == []


def test_dropped_files_lie_in_their_own_folder_whatever_they_are_called(tmp_path: Path) -> None:
    (tmp_path / "drops").mkdir()
    uploads, drop = Uploads(UploadSpace(tmp_path / "drops")), "0123456789abcdef"
    for name in (
        "../../up.png",
        "/root.png",
        "..\\back.png",
        "trip/day 1/p.jpg",
        "trip/day 1/p.jpg",
        ".hidden.png",
        "ä" * 300 + ".png",
    ):
        part = uploads.begin(drop, name)
        part.write(b"12")
        part.finish()
    found = {path.relative_to(tmp_path / "drops" / drop).as_posix() for path in (tmp_path / "drops").rglob("*.*")}
    long = next(name for name in found if name.startswith("ä"))
    assert found - {long} == {"up.png", "root.png", "back.png", "trip/day 1/p.jpg", "trip/day 1/p~2.jpg", "hidden.png"}
    assert long.endswith(".png") and len(long.encode()) <= 200
    assert uploads.count(drop) == 7
    for drop_id, name in ((drop, "a.exe"), (drop, "..."), (drop, "a/" * 9 + "a.png"), ("../x", "a.png")):
        with pytest.raises(UserError):
            uploads.begin(drop_id, name)
    uploads.begin(drop, "half.png").give_up()
    assert {path.name for path in (tmp_path / "drops" / drop).iterdir()} == {
        "up.png",
        "root.png",
        "back.png",
        "trip",
        "hidden.png",
        long,
    }


def test_of_ten_thousand_pictures_the_table_keeps_the_last_and_the_failed(tmp_path: Path) -> None:
    shown = FolderTable()
    shown.counts[Stage.WAITING] = 10_000
    for place in range(9_990):
        shown.put(TableRow(place, f"{place}.png", Stage.WORKING, 0), Stage.WAITING)
        stage = Stage.FAILED if place % 1000 == 0 else Stage.DONE
        shown.put(TableRow(place, f"{place}.png", stage, 0), Stage.WORKING)
        assert len(shown.rows) <= MOST_ROWS
    assert +shown.counts == {Stage.DONE: 9_980, Stage.FAILED: 10, Stage.WAITING: 10}
    assert [*range(0, 10_000, 1000)] == [place for place, row in shown.rows.items() if row.stage is Stage.FAILED]
    assert max(shown.rows) == 9_989 and sorted(shown.rows)[-190] >= 9_799
