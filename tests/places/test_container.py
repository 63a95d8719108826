"""The container: what its files promise each other and the repository, and what hadolint says of the Dockerfile."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from instruct_pix2pix.server.limits import Limits

ROOT = Path(__file__).parents[2]
PLACE = ROOT / "deploy" / "container"
DOCKERFILE = (PLACE / "Dockerfile").read_text(encoding="utf-8")


def test_everything_that_is_copied_is_there_and_let_through() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    paths = [path for line in copied for path in line.split()]
    assert {"modules", "javascript", "examples", "requirements-run.txt", "setup.py"} <= set(paths)
    ignored = (PLACE / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    for path in paths:
        assert (ROOT / path).exists(), path
        assert f"!{path}" in ignored


def test_nothing_else_is_sent_to_the_builder() -> None:
    lines = (PLACE / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    assert next(line for line in lines if line and not line.startswith("#")) == "*"


def test_it_is_nobodys_root_and_waits_for_a_password() -> None:
    assert re.search(r"^USER 1000:1000$", DOCKERFILE, re.MULTILINE)
    assert 'CMD ["serve", "--listen", "--port", "7860"]' in DOCKERFILE  # which asks for one, or for --insecure


def test_the_torch_that_is_taken_is_the_one_of_the_requirements() -> None:
    lines = (ROOT / "requirements-run.txt").read_text().splitlines()
    assert len([line for line in lines if line.startswith("torch==")]) == 1


def test_compose_publishes_to_this_machine_alone_and_keeps_models_and_outputs() -> None:
    compose = OmegaConf.to_container(OmegaConf.create(_without_merges((PLACE / "compose.yaml").read_text())))
    assert isinstance(compose, dict)
    page = compose["x-page"]
    assert page["ports"] == ["127.0.0.1:7860:7860"]
    folders = {volume.split(":")[1] for volume in page["volumes"]}
    assert folders == set(re.findall(r'"(/data/\w+)"', DOCKERFILE))
    assert compose["services"]["cuda"]["build"]["args"]["TORCH"] == "cuda"


def _without_merges(text: str) -> str:
    return text.replace("    <<: *page\n", "").replace("x-page: &page", "x-page:")


class _Answers(BaseHTTPRequestHandler):
    status = 200

    def do_HEAD(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def answering() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.parametrize(("status", "ends"), [(200, 0), (401, 0), (500, 1)])
def test_it_is_healthy_where_it_answers_even_with_a_question(
    answering: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch, status: int, ends: int
) -> None:
    monkeypatch.setattr(_Answers, "status", status)
    command = [sys.executable, str(PLACE / "healthy.py"), str(answering.server_port)]
    assert subprocess.run(command, check=False).returncode == ends


def test_it_is_not_healthy_where_nobody_answers() -> None:
    assert subprocess.run([sys.executable, str(PLACE / "healthy.py"), "1"], check=False).returncode == 1


@pytest.mark.places
def test_hadolint_has_nothing_to_say() -> None:
    program = shutil.which("hadolint")
    assert program is not None, "pip install -r tests/places/requirements.txt"
    found = subprocess.run([program, str(PLACE / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_the_docs_name_the_limits_as_they_are() -> None:
    text = (ROOT / "docs" / "places.md").read_text(encoding="utf-8")
    told = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", text, re.MULTILINE))
    assert told == {name: str(value) for name, value in vars(Limits()).items()}
