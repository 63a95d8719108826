"""Whether gradio still has the faults that `gradio_compat` works around; a test that fails says what can go."""

from __future__ import annotations

import asyncio
import inspect
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from fastapi import FastAPI
from gradio import image_utils, processing_utils
from gradio.analytics import analytics_enabled
from gradio.data_classes import ImageData
from gradio.queueing import Queue
from PIL import Image
from starlette.requests import ClientDisconnect
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from instruct_pix2pix.paths import DATA
from instruct_pix2pix.server.page import gradio_compat
from instruct_pix2pix.server.upload_space import UploadSpace

FRONTEND = Path(inspect.getfile(gr)).parent / "templates" / "frontend" / "assets"


def gone(workaround: str) -> str:
    """Say what to do about a fault that is no longer there."""
    return f"gradio {gr.__version__} no longer needs {workaround}: remove it, see server/page/gradio_compat.py"


@pytest.fixture
def mounted() -> tuple[FastAPI, gr.Blocks, list[object]]:
    """A page as gradio mounts it, without our workarounds; the list gets what its handler is called with."""
    called: list[object] = []
    with gr.Blocks(analytics_enabled=False) as blocks:
        picture = gr.Image(type="filepath")
        picture.change(lambda sent: called.append(sent), picture, None, preprocess=False, queue=False)
    app = FastAPI()
    gr.mount_gradio_app(app, blocks, path="/", head="<script>our_script()</script>", ssr_mode=False)
    return app, blocks, called


@pytest.fixture
def client(mounted: tuple[FastAPI, gr.Blocks, list[object]]) -> Iterator[TestClient]:
    """Who asks that page."""
    with TestClient(mounted[0]) as client:
        yield client


def call(client: TestClient, path: str) -> int:
    """Call the page's handler with a path, as a browser does; return the status."""
    sent = {"path": path, "meta": {"_type": "gradio.FileData"}}
    body = {"data": [sent], "fn_index": 0, "session_hash": "abc"}
    return client.post("/gradio_api/run/predict", json=body).status_code


# --- before the page is made ---


@pytest.mark.parametrize("what", ["analytics", "temp_dir", "temp_folder", "cache_dir", "cache_folder", "upload"])
def test_mounting_takes_neither_a_folder_nor_a_word_against_statistics(what: str) -> None:
    arguments = inspect.signature(gr.mount_gradio_app).parameters
    assert not [name for name in arguments if what in name], gone("set_environment")


def test_statistics_are_gathered_unless_the_environment_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENABLED", "MAX_EVENTS", "CACHE_FREQUENCY"):
        monkeypatch.delenv(f"GRADIO_ANALYTICS_{name}", raising=False)
    assert analytics_enabled(), gone("GRADIO_ANALYTICS_ENABLED in set_environment")
    queue = gr.Blocks(analytics_enabled=False)._queue
    assert queue.ANALYTICS_MAX_EVENTS > 100, gone("GRADIO_ANALYTICS_MAX_EVENTS in set_environment")
    source = inspect.getsource(Queue.compute_analytics_summary)
    pandas = queue.ANAYLTICS_CACHE_FREQUENCY == 1 and "_get_df" in source
    assert pandas, gone("GRADIO_ANALYTICS_CACHE_FREQUENCY in set_environment")


# --- events ---


def test_a_picture_is_opened_before_a_handler_sees_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    opened: list[object] = []
    real = image_utils.PIL.Image.open

    def watched(file: Any, *args: Any, **options: Any) -> Any:
        opened.append(file)
        return real(file, *args, **options)

    monkeypatch.setattr(image_utils.PIL.Image, "open", watched)
    gr.Image(type="filepath").preprocess(ImageData(path=str(tmp_path / "a.png"), orig_name="a.png"))
    assert opened, gone("UNREAD")


def test_the_clock_of_the_loader_asks_for_a_frame_for_ever() -> None:
    """In the words of first.js, which ends such a clock; `no_progress` begins none."""
    pattern = re.search(r"isClock = /(.*)/;", (DATA / "web" / "first.js").read_text(encoding="utf-8"))
    assert pattern
    clock = re.compile(rf"requestAnimationFrame|function (\w+)\(\)\{{\w+\(\(\)=>\{{[^{{}}]*{pattern[1]}\),\w+&&\1\(\)")
    (loader,) = FRONTEND.glob("statustracker-*.js")
    found = [match for match in clock.finditer(loader.read_text(encoding="utf-8")) if match[1]]
    assert found, gone("first.js and no_progress") + " (or its clock looks different: look at the processor's load)"


def test_the_types_allow_no_set_as_outputs() -> None:
    stub = Path(inspect.getfile(gr.Button)).with_suffix(".pyi").read_text(encoding="utf-8")
    (outputs,) = set(re.findall(r"\boutputs: (.*?) = None", stub))
    assert "set[" not in outputs.lower(), gone("unordered")


def test_outputs_are_put_into_the_order_of_the_page() -> None:
    with gr.Blocks(analytics_enabled=False) as blocks:
        first, second = gr.Textbox(), gr.Textbox()
        blocks.load(lambda: {second: "2"}, None, gradio_compat.unordered(second, first, second))
    (event,) = blocks.fns.values()
    assert event.outputs == [first, second]


def test_messages_are_html() -> None:
    (toasts,) = FRONTEND.glob("statustracker-*.js")
    shown = re.search(r"toast-text.{0,4000}", toasts.read_text(encoding="utf-8"))
    assert shown and "Can be HTML" in (gr.Warning.__doc__ or ""), gone("inform and warn")


# --- after the page is mounted ---


def test_a_mounted_page_does_not_check_paths(
    mounted: tuple[FastAPI, gr.Blocks, list[object]], client: TestClient, tmp_path: Path
) -> None:
    _, blocks, called = mounted
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    taken = call(client, str(secret)) == 200 and called
    assert taken and not blocks.has_launched, gone("has_launched in make_safe_and_quiet")
    called.clear()
    gradio_compat.make_safe_and_quiet(blocks)
    assert call(client, str(secret)) != 200
    assert called == []


def test_an_idle_queue_wakes_often(mounted: tuple[FastAPI, gr.Blocks, list[object]]) -> None:
    queue = mounted[1]._queue
    often = queue.sleep_when_free < 0.03 and "sleep_when_free" in inspect.getsource(Queue.start_processing)
    assert often, gone("sleep_when_free in make_safe_and_quiet")
    often = queue.progress_update_sleep_when_free < 1
    often &= "progress_update_sleep_when_free" in inspect.getsource(Queue.start_progress_updates)
    assert often, gone("progress_update_sleep_when_free in make_safe_and_quiet")


# --- in front of the page ---


def test_a_page_comes_with_a_whole_api(client: TestClient) -> None:
    served = [client.get(f"/gradio_api/{path}").status_code for path in ("info", "openapi.json")]
    assert 200 in served, gone("the list of paths in GradioGate")


def upload_ends(app: ASGIApp, folder: Path, end: Message) -> tuple[int | None, list[Path]]:
    """Begin an upload that ends with this message; return the status and the files that are left."""
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
    messages = [{"type": "http.request", "body": head + bytes(1000), "more_body": True}, end]
    statuses: list[int] = []

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    headers = [(b"host", b"localhost"), (b"content-type", b"multipart/form-data; boundary=x")]
    url = {"path": "/gradio_api/upload", "query_string": b"", "root_path": "", "scheme": "http"}
    scope = {"type": "http", "method": "POST", "http_version": "1.1", "headers": headers, **url}

    async def answer() -> None:
        await app(scope, receive, send)

    with suppress(ClientDisconnect):
        asyncio.run(answer())
    return (statuses or [None])[0], [path for path in folder.rglob("*") if path.is_file()]


HANG_UP: Message = {"type": "http.disconnect"}


def test_an_upload_that_breaks_off_leaves_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    app = FastAPI()
    blocks = gr.Blocks(analytics_enabled=False)
    gr.mount_gradio_app(app, blocks, path="/", ssr_mode=False)
    _, left = upload_ends(app, tmp_path, HANG_UP)
    assert left, gone("MultiPartException in GradioGate")
    left[0].unlink()
    gate = gradio_compat.GradioGate(app, UploadSpace(tmp_path), blocks)
    assert upload_ends(gate, tmp_path, HANG_UP) == (400, [])


def test_an_upload_without_room_is_refused_with_a_sentence_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    app = FastAPI()
    blocks = gr.Blocks(analytics_enabled=False)
    gr.mount_gradio_app(app, blocks, path="/", ssr_mode=False)
    gate = gradio_compat.GradioGate(app, UploadSpace(tmp_path, most_bytes=5000), blocks)
    for size, status in ((1000, 200), (6000, 507)):
        with TestClient(gate) as client:
            answer = client.post("/gradio_api/upload", files={"files": ("a.png", bytes(size))})
        assert answer.status_code == status, answer.text
    assert "no room" in answer.text and len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_pages_left_open_leave_connections_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradio_compat, "MOST_STREAMS", 2)
    statuses: list[int] = []

    async def stays_open(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(60)

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    async def receive() -> Message:
        return HANG_UP

    async def ask() -> None:
        gate = gradio_compat.GradioGate(stays_open, UploadSpace(tmp_path), gr.Blocks(analytics_enabled=False))
        path = "/gradio_api/heartbeat/abc"
        scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}
        streams = [asyncio.create_task(gate(scope, receive, send)) for _ in range(3)]
        await asyncio.wait(streams, return_when=asyncio.FIRST_COMPLETED)
        assert statuses == [503]
        streams[0].cancel()  # a page was closed
        await asyncio.wait(streams[:1])
        again = asyncio.create_task(gate(scope, receive, send))
        await asyncio.sleep(0)
        assert not again.done() and statuses == [503]
        for stream in (*streams, again):
            stream.cancel()
        await asyncio.wait([*streams, again])

    asyncio.run(ask())


def test_what_looks_like_an_address_is_downloaded(
    mounted: tuple[FastAPI, gr.Blocks, list[object]], client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    async def download(url: str, cache_dir: str) -> str:
        asked.append(url)
        raise ValueError(cache_dir)

    monkeypatch.setattr(processing_utils, "async_ssrf_protected_download", download)
    gradio_compat.make_safe_and_quiet(mounted[1])  # does not help here
    call(client, "http://127.0.0.1:1/a.png")
    assert asked, gone("the check of paths in GradioGate")


def test_the_argument_head_is_text_for_a_script(client: TestClient) -> None:
    page = client.get("/").text
    begins, modules = page.find("<script>our_script()"), page.find('<script type="module"')
    assert "our_script()" in page and modules > 0
    assert begins < 0 or begins > modules, gone("HeadScript")


def test_the_head_script_is_the_first_on_the_page(mounted: tuple[FastAPI, gr.Blocks, list[object]]) -> None:
    with TestClient(gradio_compat.HeadScript(mounted[0], "ours()", lambda scope: "")) as client:
        page = client.get("/").text
    assert page.find("<script>ours()</script>") == page.find("<head>") + len("<head>")
    assert page.index("<script") == page.index("<script>ours()")


def test_a_link_to_a_page_shows_gradio(client: TestClient) -> None:
    shown = re.findall(r'<meta property="og:(?:title|image)" content="([^"]*)"', client.get("/").text)
    assert any("gradio" in text.lower() for text in shown), gone("PREVIEW in HeadScript")


def test_a_link_to_a_page_shows_what_we_say_and_nothing_of_gradios(
    mounted: tuple[FastAPI, gr.Blocks, list[object]],
) -> None:
    ours = '<meta property="og:title" content="ours">'
    with TestClient(gradio_compat.HeadScript(mounted[0], "", lambda scope: ours)) as client:
        page = client.get("/").text
    assert re.findall(r'<meta\s+(?:property|name)="(?:og|twitter):[^>]*>', page) == [ours]
    assert '<meta charset="utf-8"' in page and 'name="viewport"' in page and "</gradio-app>" in page


# --- in the browser ---


def test_one_lost_call_ends_all_events_for_good() -> None:
    scripts = (file.read_text(encoding="utf-8") for file in FRONTEND.glob("Blocks-*.js"))
    assert any("if(this.connection_lost)return" in text for text in scripts), gone("what connection.js does")


def test_components_lack_what_the_scripts_add() -> None:
    tooltips = {"title", "tooltip"} & set(inspect.signature(gr.Button).parameters)
    assert not tooltips, gone("the tooltips of page.js")
