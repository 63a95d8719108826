"""Downloads of the server, from a hub on this machine: one after the other, paused, gone on with, thrown away."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from instruct_pix2pix.errors import UserError
from instruct_pix2pix.models.catalog import Catalog
from instruct_pix2pix.models.download import left_over
from instruct_pix2pix.models.known import KNOWN
from instruct_pix2pix.server.app import guarded
from instruct_pix2pix.server.downloads import MOST_LOOKED_UP, Downloads, DownloadState, DownloadStatus
from instruct_pix2pix.server.folder_access import FolderAccess
from instruct_pix2pix.server.page.models_tab import markup
from instruct_pix2pix.server.page.models_tab.routes import add_routes
from instruct_pix2pix.server.responses import ERROR_HANDLERS
from instruct_pix2pix.server.security import Credentials
from tests.helpers.hub import Hub, standing_in, weights

FP16, FILE = "instruct-pix2pix-fp16", "instruct-pix2pix-00-22000-pruned-fp16.safetensors"
BRUSH = "magicbrush"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with standing_in() as (found, address):
        monkeypatch.setenv("HF_ENDPOINT", address)
        found.repos[KNOWN[FP16].repo] = {FILE: weights(extra=6_000_000)}
        found.repos[KNOWN[BRUSH].repo] = {KNOWN[BRUSH].file: weights(seed=1)}
        yield found


@pytest.fixture
def downloads(tmp_path: Path) -> Iterator[Downloads]:
    made = Downloads(tmp_path, lambda: None)
    yield made
    made.close()


def wait_for(downloads: Downloads, name: str, what: Callable[[DownloadStatus], bool]) -> DownloadStatus:
    """Wait until the status of a download is as asked for, and return it."""
    end = time.monotonic() + 60
    while (status := downloads.status(name)) is None or not what(status):
        assert time.monotonic() < end, status
        time.sleep(0.01)
    return status


def is_in(state: DownloadState) -> Callable[[DownloadStatus], bool]:
    return lambda status: status.state is state


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def paused_midway(hub: Hub, downloads: Downloads) -> DownloadStatus:
    hub.pace = 0.1
    downloads.start(FP16)
    wait_for(downloads, FP16, lambda status: status.done > 2_000_000)
    downloads.pause(FP16)
    return wait_for(downloads, FP16, is_in(DownloadState.PAUSED))


def test_a_paused_download_keeps_what_came_and_asks_for_the_rest_when_it_goes_on(
    hub: Hub, downloads: Downloads, tmp_path: Path
) -> None:
    paused = paused_midway(hub, downloads)
    assert 2_000_000 < paused.done < paused.total == len(hub.repos[KNOWN[FP16].repo][FILE])
    assert not paused.stopping and KNOWN[FP16].found_in(tmp_path) is None
    downloads.start(FP16)
    wait_for(downloads, FP16, is_in(DownloadState.FINISHED))
    assert [ranges for _, ranges in hub.gets] == [None, f"bytes={paused.done}-"]
    assert (tmp_path / FILE).read_bytes() == hub.repos[KNOWN[FP16].repo][FILE]


def test_what_an_earlier_run_of_the_program_left_is_a_paused_download(hub: Hub, tmp_path: Path) -> None:
    before = paused_midway(hub, Downloads(tmp_path, lambda: None))
    downloads = Downloads(tmp_path, lambda: None)
    status = downloads.status(FP16)
    assert status is not None and (status.state, status.done) == (DownloadState.PAUSED, before.done)
    assert downloads.status(BRUSH) is None
    downloads.start(FP16)
    wait_for(downloads, FP16, is_in(DownloadState.FINISHED))
    assert hub.gets[-1][1] == f"bytes={before.done}-"


def test_a_program_that_ends_stops_its_download_so_that_the_next_can_go_on(hub: Hub, tmp_path: Path) -> None:
    downloads = Downloads(tmp_path, lambda: None)
    hub.pace = 0.1
    downloads.start(FP16)
    wait_for(downloads, FP16, lambda status: status.done > 1_000_000)
    downloads.close()
    wait_for(downloads, FP16, is_in(DownloadState.PAUSED))
    with pytest.raises(UserError, match="about to stop"):
        downloads.start(FP16)


def test_of_a_cancelled_download_nothing_is_left(hub: Hub, downloads: Downloads, tmp_path: Path) -> None:
    paused_midway(hub, downloads)
    downloads.cancel(FP16)
    assert downloads.status(FP16) is None and files_in(tmp_path) == set()
    downloads.start(FP16)
    wait_for(downloads, FP16, lambda status: status.done > 1_000_000)
    downloads.cancel(FP16)
    end = time.monotonic() + 60
    while downloads.status(FP16) is not None:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert files_in(tmp_path) == set()


def test_one_comes_after_the_other_and_each_is_told_when_it_is_here(hub: Hub, tmp_path: Path) -> None:
    landed: list[set[str]] = []
    downloads = Downloads(tmp_path, lambda: landed.append(files_in(tmp_path)))
    hub.pace = 0.05
    downloads.start(FP16)
    downloads.start(BRUSH)
    wait_for(downloads, FP16, is_in(DownloadState.RUNNING))
    status = downloads.status(BRUSH)
    assert status is not None and status.state is DownloadState.WAITING
    wait_for(downloads, BRUSH, is_in(DownloadState.FINISHED))
    assert landed == [{FILE}, {FILE, KNOWN[BRUSH].file}]


def test_one_that_waits_can_be_called_off_before_it_begins(hub: Hub, downloads: Downloads) -> None:
    hub.pace = 0.1
    downloads.start(FP16)
    downloads.start(BRUSH)
    downloads.cancel(BRUSH)
    wait_for(downloads, FP16, is_in(DownloadState.FINISHED))
    assert downloads.status(BRUSH) is None and hub.asked == [FILE]


def test_a_wrong_hash_is_a_failure_with_its_sentence_and_leaves_nothing(
    hub: Hub, downloads: Downloads, tmp_path: Path
) -> None:
    content = hub.repos[KNOWN[FP16].repo][FILE]
    hub.lies[FILE] = content[:-1] + bytes([content[-1] ^ 1])
    downloads.start(FP16)
    failed = wait_for(downloads, FP16, is_in(DownloadState.FAILED))
    assert "without the size and hash" in str(failed.problem)
    assert files_in(tmp_path) == set()
    del hub.lies[FILE]
    downloads.start(FP16)
    wait_for(downloads, FP16, is_in(DownloadState.FINISHED))


def test_a_disk_without_room_is_told_before_anything_comes(
    hub: Hub, downloads: Downloads, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1_000_000))
    downloads.start(FP16)
    failed = wait_for(downloads, FP16, is_in(DownloadState.FAILED))
    assert "has 1.0 MB free and 6.3 MB are to come" in str(failed.problem)
    assert hub.gets == [] and files_in(tmp_path) == set()


def test_a_file_that_has_another_name_by_now_is_here_where_it_landed(
    hub: Hub, downloads: Downloads, tmp_path: Path
) -> None:
    hub.repos[KNOWN[BRUSH].repo] = {"renamed.safetensors": weights()}
    downloads.start(BRUSH)
    status = wait_for(downloads, BRUSH, is_in(DownloadState.FINISHED))
    assert status.path == tmp_path / "renamed.safetensors"
    catalog = Catalog([tmp_path])
    shown = markup.offers(downloads, catalog.entries, str, may=True)
    assert 'data-use="renamed"' in shown
    assert status.path
    status.path.unlink()
    assert 'data-use="renamed"' not in markup.offers(downloads, catalog.entries, str, may=True)


def test_a_download_that_failed_does_not_hold_up_the_next(hub: Hub, downloads: Downloads) -> None:
    downloads.start("hq-edit")  # this hub has no such repository
    downloads.start(BRUSH)
    wait_for(downloads, BRUSH, is_in(DownloadState.FINISHED))
    failed = wait_for(downloads, "hq-edit", is_in(DownloadState.FAILED))
    assert "check the name" in str(failed.problem)


@pytest.mark.parametrize("name", ["", "../x", "a/b", "osunlp/InstructPix2Pix-MagicBrush"])
def test_only_known_names_can_be_asked_for(name: str, downloads: Downloads) -> None:
    with pytest.raises(UserError, match="There is no download"):
        downloads.start(name)


def test_without_a_models_folder_nothing_begins() -> None:
    with pytest.raises(UserError, match="--models-dir"):
        Downloads(None, lambda: None).start(FP16)


# --- looked up by its name on the hub ---


def test_what_is_looked_up_is_offered_with_size_and_licence_and_can_be_downloaded(
    hub: Hub, downloads: Downloads, tmp_path: Path
) -> None:
    content = weights(extra=1_000_000)
    hub.repos["me/mine"] = {"mine.safetensors": content, "README.md": b"x"}
    hub.licence = "cc-by-nc-4.0"
    name = downloads.look_up("https://huggingface.co/me/mine")
    offer = downloads.offers[name]
    assert (name, offer.size, offer.licence) == ("me/mine/mine.safetensors", len(content), "cc-by-nc-4.0")
    assert hub.gets == []
    downloads.start(name)
    status = wait_for(downloads, name, is_in(DownloadState.FINISHED))
    assert status.path == offer.found_in(tmp_path) == tmp_path / "mine.safetensors"


def test_two_files_of_one_repository_are_two_downloads(hub: Hub, downloads: Downloads, tmp_path: Path) -> None:
    hub.repos["me/mine"] = {"a.safetensors": weights(extra=6_000_000), "b.safetensors": weights(seed=1)}
    hub.pace = 0.1
    first, second = downloads.look_up("me/mine/a.safetensors"), downloads.look_up("me/mine/b.safetensors")
    downloads.start(first)
    wait_for(downloads, first, lambda status: status.done > 1_000_000)
    downloads.pause(first)
    wait_for(downloads, first, is_in(DownloadState.PAUSED))
    assert downloads.status(second) is None
    downloads.cancel(second)
    assert left_over(downloads.offers[first], tmp_path) > 1_000_000


def test_a_short_name_means_what_it_means_elsewhere(hub: Hub, downloads: Downloads) -> None:
    assert downloads.look_up("  MagicBrush ") == BRUSH and downloads.offers == KNOWN
    assert hub.tokens == []


def test_only_so_many_are_remembered_that_were_looked_up(hub: Hub, downloads: Downloads) -> None:
    names = []
    for number in range(MOST_LOOKED_UP + 3):
        hub.repos[f"me/{number}"] = {"x.safetensors": weights()}
        names.append(downloads.look_up(f"me/{number}"))
    assert set(downloads.offers) - set(KNOWN) == set(names[3:])


@pytest.mark.parametrize("name", ["../x", "a/b/../c.ckpt", "http://evil.example/a/b", "a/none"])
def test_a_name_that_means_nothing_is_a_sentence(name: str, hub: Hub, downloads: Downloads) -> None:
    with pytest.raises(UserError):
        downloads.look_up(name)
    assert downloads.offers == KNOWN


# --- who may ---


@contextmanager
def client_of(
    folder: Path, client: str, *, private: bool, users: bool, home: Path | None = None
) -> Iterator[tuple[httpx.Client, Downloads]]:
    """Give what a visitor from an address of the network sees of the routes, behind the server's checks."""
    app = FastAPI()
    for kind, handler in ERROR_HANDLERS.items():
        app.add_exception_handler(kind, handler)
    downloads = Downloads(folder, lambda: None)
    access = FolderAccess.beside((home or folder) / "outputs", private=private)
    add_routes(app, Catalog([folder]), downloads, access)
    known = [Credentials("ann", "pass")] if users else []
    auth = ("ann", "pass") if users else None
    with TestClient(guarded(app, users=known), base_url="http://127.0.0.1:7860", client=(client, 5000)) as visitor:
        visitor.auth = auth
        yield visitor, downloads
    downloads.close()


@pytest.mark.parametrize(
    ("client", "private", "users", "headers", "may"),
    [
        ("127.0.0.1", True, False, {}, True),
        ("127.0.0.1", True, False, {"X-Forwarded-For": "192.0.2.1"}, False),  # through a tunnel, known to nobody
        ("192.0.2.1", False, False, {}, False),  # --listen --insecure
        ("192.0.2.1", False, True, {}, True),
    ],
)
def test_who_is_neither_known_nor_here_may_look_and_begin_nothing(
    client: str, private: bool, users: bool, headers: dict[str, str], may: bool, hub: Hub, tmp_path: Path
) -> None:
    with client_of(tmp_path, client, private=private, users=users) as (visitor, downloads):
        shown = visitor.get("/models/downloads", headers=headers).json()["html"]
        assert ("the server knows who asks" in shown) is not may
        assert ("disabled" in shown) is not may
        answer = visitor.post(f"/models/downloads/start?name={BRUSH}", headers=headers)
        assert answer.status_code == (200 if may else 403)
        if may:
            wait_for(downloads, BRUSH, is_in(DownloadState.FINISHED))
        else:
            assert "--auth-file" in answer.json()["detail"]
            assert hub.tokens == [] and downloads.status(BRUSH) is None


def test_a_page_of_another_site_begins_nothing(hub: Hub, tmp_path: Path) -> None:
    with client_of(tmp_path, "127.0.0.1", private=True, users=False) as (visitor, _):
        answer = visitor.post(f"/models/downloads/start?name={BRUSH}", headers={"Origin": "https://evil.example"})
        assert answer.status_code == 403 and hub.tokens == []


@pytest.mark.parametrize(("asked", "status"), [("start?name=a/b", 422), (f"close?name={BRUSH}", 404), ("start", 422)])
def test_nothing_else_can_be_asked_of_downloads(asked: str, status: int, tmp_path: Path) -> None:
    with client_of(tmp_path, "127.0.0.1", private=True, users=False) as (visitor, _):
        assert visitor.post(f"/models/downloads/{asked}").status_code == status


@pytest.mark.parametrize("here", [True, False])
def test_only_a_visitor_at_the_machine_reads_a_path_of_the_server(here: bool, hub: Hub, tmp_path: Path) -> None:
    models = tmp_path / "secret" / "models"
    models.mkdir(parents=True)
    (models / KNOWN[BRUSH].file).write_bytes(b"another")
    client = "127.0.0.1" if here else "192.0.2.1"
    with client_of(models, client, private=here, users=not here, home=tmp_path / "home") as (visitor, downloads):
        visitor.post(f"/models/downloads/start?name={BRUSH}")
        wait_for(downloads, BRUSH, is_in(DownloadState.FAILED))
        shown = visitor.get("/models/downloads").json()["html"]
        assert "is here already, but it is another file" in shown and "press Download again" in shown
        assert ("secret" in shown) is here


# --- hashes ---


def test_the_hash_of_a_model_is_that_of_the_web_ui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    content = weights()
    (tmp_path / "mine.safetensors").write_bytes(content)
    with client_of(tmp_path, "127.0.0.1", private=True, users=False) as (visitor, _):
        told = visitor.get("/models/hash", params={"name": "mine"}).json()
        assert told == {"hash": hashlib.sha256(content).hexdigest()[:10]}
        assert visitor.get("/models/hash", params={"name": "/etc/passwd"}).status_code == 422
