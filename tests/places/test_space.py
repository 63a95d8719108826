"""The Space: its front matter, how it serves, and edits on a GPU that is lent to another process, as ZeroGPU does."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from instruct_pix2pix.engine.precision import choose_machine
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.images import open_picture
from instruct_pix2pix.models.registry import DEMO
from instruct_pix2pix.server.limits import Limits
from instruct_pix2pix.server.visitors import Visitor
from instruct_pix2pix.server.worker.borrowed_gpu import BorrowedGpu, Statuses
from instruct_pix2pix.server.worker.edit_task import EditRequest, EditTask
from instruct_pix2pix.server.worker.matrix_task import MatrixRequest
from instruct_pix2pix.server.worker.task import Order, TaskState, TaskStatus
from instruct_pix2pix.server.worker.worker import Worker
from instruct_pix2pix.settings import EditSettings
from tests.helpers.stranger import Stranger

ROOT = Path(__file__).parents[2]
PLACE = ROOT / "deploy" / "space"
HOUSE = ROOT / "examples" / "house.png"
QUICK = EditSettings("make it winter", steps=2, seed=5)


def test_the_front_matter_names_the_gradio_that_the_page_is_made_for() -> None:
    _, matter, text = (PLACE / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    found = OmegaConf.to_container(OmegaConf.create(matter))
    assert isinstance(found, dict)
    assert f"gradio=={found['sdk_version']}" in (ROOT / "requirements-run.txt").read_text()
    assert (found["sdk"], found["app_file"], found["license"]) == ("gradio", "app.py", "mit")
    limits = Limits()
    assert f"of {limits.steps} steps and {limits.seconds} seconds" in " ".join(text.split())


@pytest.fixture(scope="module")
def app() -> ModuleType:
    spec = spec_from_file_location("space_app", PLACE / "app.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_space_serves_strangers_by_its_name_in_the_hubs_frame(app: ModuleType) -> None:
    environment = {"SPACE_HOST": "ann-edit.hf.space", "IP2P_MODEL": "demo", "IP2P_LIMITS": "steps=30, each=1"}
    options = app.options_of(environment)
    assert options.listen and options.users == () and options.limits == Limits(steps=30, each=1)
    assert options.host_names == ("ann-edit.hf.space",)
    assert "https://huggingface.co" in options.frames


def test_limits_that_are_none_are_told(app: ModuleType) -> None:
    for text in ("steps", "steps=many", "stepz=3"):
        with pytest.raises(UserError, match="step"):
            app.limits_of(text)


# --- a GPU that is lent ---


def forked(work: Statuses) -> Statuses:
    """Lend as ZeroGPU does: in a fork, to which orders go, and from which statuses come, as pickles."""
    context = get_context("fork")

    def lent(order: Order) -> Iterator[TaskStatus]:
        orders, statuses, stop = context.SimpleQueue(), context.SimpleQueue(), context.Event()

        def child() -> None:
            torch.set_num_threads(1)
            going = work(orders.get())
            for status in going:
                statuses.put(status)
                if stop.is_set():
                    going.close()  # pyright: ignore[reportAttributeAccessIssue]
                    break
            statuses.put(None)

        process = context.Process(target=child, daemon=True)
        process.start()
        orders.put(order)
        try:
            while (status := statuses.get()) is not None:
                yield status
        finally:
            stop.set()
            process.join(60)

    return lent


def edit_request(settings: EditSettings, **more: Any) -> EditRequest:
    return EditRequest(DEMO, open_picture(HOUSE), settings, **more)


@pytest.fixture(scope="module", params=[forked, lambda work: work], ids=["in a fork", "in this process"])
def worker(request: pytest.FixtureRequest) -> Iterator[Worker]:
    lend: Callable[[Statuses], Statuses] = request.param
    with Worker(choose_machine("cpu", "fp32"), borrowed=BorrowedGpu(lend, device="cpu")) as one:
        yield one


def test_an_edit_on_a_lent_gpu_is_the_same_edit(worker: Worker) -> None:
    with Worker(choose_machine("cpu")) as here:
        expected = here.submit(edit_request(QUICK)).wait(10**9).results[0]
    task = worker.submit(edit_request(QUICK))
    status = task.wait(10**9)
    assert (status.state, status.error) == (TaskState.FINISHED, "")
    assert status.results[0].png == expected.png
    assert (status.model, status.step, status.steps) == ("demo", 2, 2)
    assert task.last_status.result().results == status.results


def test_a_matrix_and_a_map_come_from_there_too(worker: Worker) -> None:
    matrix = worker.submit_matrix(MatrixRequest(edit_request(QUICK), (3.0, 7.5), (1.0, 1.5))).wait(10**9)
    assert len(matrix.results) == 4
    assert worker.submit_map(edit_request(QUICK)).wait(10**9).relevance is not None


def test_what_is_wrong_there_is_told_here(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise UserError("Not like this: choose another.")

    monkeypatch.setattr(EditTask, "carry_out", refuse)
    status = worker.submit(edit_request(QUICK)).wait(10**9)
    assert (status.state, status.error) == (TaskState.FAILED, "Not like this: choose another.")


def test_an_interrupt_goes_there_and_what_is_finished_stays(worker: Worker) -> None:
    task = worker.submit(edit_request(EditSettings("make it winter", steps=2, seed=5, count=500)))
    status = task.status()
    while not status.results:
        status = task.wait(status.version, 60)
    task.interrupt()
    status = task.wait(10**9)
    assert status.state is TaskState.INTERRUPTED
    assert 1 <= len(status.results) < 500


def test_who_asks_is_charged(app: ModuleType) -> None:
    from gradio.context import LocalContext

    app.charge(Visitor("192.0.2.1", "a token"))
    request = LocalContext.request.get()
    assert request is not None and request.headers.get("x-ip-token") == "a token"
    app.charge(Visitor("192.0.2.1"))
    assert LocalContext.request.get().headers.get("x-ip-token") is None  # pyright: ignore[reportOptionalMemberAccess]


# --- the whole of it ---


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(log: Path, command: list[str], **environment: str) -> tuple[subprocess.Popen[bytes], str]:
    """Start a Space on a free port; return it and its address once it answers."""
    port = free_port()
    known = {**os.environ, "IP2P_MODEL": "demo", "GRADIO_SERVER_PORT": str(port), **environment}
    with log.open("wb") as out:
        process = subprocess.Popen(command, cwd=log.parent, env=known, stdout=out, stderr=out, start_new_session=True)
    server, until = f"http://127.0.0.1:{port}", time.monotonic() + 600
    while time.monotonic() < until and process.poll() is None:
        with suppress(httpx.HTTPError):
            httpx.get(server + "/config", trust_env=False, timeout=60)
            return process, server
        time.sleep(0.5)
    process.kill()
    raise AssertionError(log.read_text())


@pytest.mark.places
def test_the_app_runs_and_edits(tmp_path: Path) -> None:
    process, server = start(tmp_path / "log", [sys.executable, str(PLACE / "app.py")])
    try:
        with Stranger(server, "192.0.2.1") as one:
            last = one.wait(one.generate(one.upload(Image.new("RGB", (96, 64), "red"))))
            assert one.picture(last["results"][0]).size == (96, 64)
    finally:
        process.terminate()
        process.wait(60)


class DeviceApi(BaseHTTPRequestHandler):
    """What lends GPUs in a ZeroGPU Space, as far as its client asks."""

    asked: list[str] = []  # noqa: RUF012 - one for all

    def do_POST(self) -> None:
        DeviceApi.asked.append(self.path)
        body = b'{"idle": true, "nvidiaIndex": 0, "nvidiaUUID": "GPU-0", "allowToken": "t"}'
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


WITHOUT_CUDA = """
import runpy, sys
import torch
if torch.version.cuda is None:  # the package takes it for one with CUDA
    torch.version.cuda = "13.0"
    torch._C._cuda_init = lambda: None
    torch.cuda._is_in_bad_fork = bool  # it asks another process, and torch's own lambda cannot be sent there
import spaces
from spaces.zero import torch as zero_torch, wrappers, client, utils
zero_torch.init = lambda *args, **words: None      # there is no GPU here to begin with
zero_torch.move = lambda *args, **words: None
utils.self_cgroup_device_path = lambda: ""
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.places
def test_with_the_real_package_an_edit_borrows_a_gpu_and_gives_it_back(tmp_path: Path) -> None:
    assert find_spec("spaces") is not None, "pip install -r tests/places/requirements.txt"
    with ThreadingHTTPServer(("127.0.0.1", 0), DeviceApi) as api, tempfile.TemporaryDirectory() as home:
        threading.Thread(target=api.serve_forever, daemon=True).start()
        start_file = tmp_path / "start.py"
        start_file.write_text(WITHOUT_CUDA)
        process, server = start(
            tmp_path / "log",
            [sys.executable, str(start_file), str(PLACE / "app.py")],
            SPACES_ZERO_GPU="true",
            SPACES_ZERO_DEVICE_API_URL=f"http://127.0.0.1:{api.server_port}",
            ZEROGPU_OFFLOAD_DIR=home,
            IP2P_DEVICE="cpu",
            PYTHONPATH=os.pathsep.join(filter(None, sys.path)),
        )
        try:
            with Stranger(server, "192.0.2.1") as one:
                one.client.headers["X-IP-Token"] = "a.b.c"
                last = one.wait(one.generate(one.upload(Image.new("RGB", (96, 64), "red"))))
                assert last["results"], (last["html"], (tmp_path / "log").read_text()[-4000:])
                assert one.picture(last["results"][0]).size == (96, 64)
        finally:
            process.terminate()
            process.wait(60)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # the process that the package began for the GPU
            api.shutdown()
    asked = [path.partition("?")[0] for path in DeviceApi.asked]
    assert asked[0] == "/startup-report" and asked[1] == "/schedule" and asked[-1] == "/release"
    assert "token=a.b.c" in DeviceApi.asked[1] and "durationSeconds=" in DeviceApi.asked[1]
