"""What visitors sent is gone when the server has ended, however it ended; and nothing else is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from instruct_pix2pix.server.temp_folder import LOCK, PREFIX, YOUNG_SECONDS, sweep, temporary_folder

ROOT = Path(__file__).parents[2]
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


@contextmanager
def not_ignored(name: str) -> Iterator[None]:
    """Let a signal, where there is one of this name, do in the block what it does by itself."""
    number = getattr(signal, name, None)
    if number is None:
        yield
        return
    before = signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def running(temporary: Path, seconds: float = 120) -> Iterator[tuple[subprocess.Popen[bytes], httpx.Client]]:
    """Run the server as a program with this temporary folder."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "modules"), "TMPDIR": str(temporary)}
    environ.pop("GRADIO_TEMP_DIR", None)
    words = ["-m", "instruct_pix2pix.cli.main", "--port", str(port), "--device", "cpu", "--precision", "fp32"]
    with not_ignored("SIGHUP"):  # as by nohup, which a program inherits
        process = subprocess.Popen([sys.executable, *words], cwd=temporary, env=environ, stderr=subprocess.DEVNULL)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=60) as client:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                try:
                    client.get("/sdapi/v1/progress")
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
            yield process, client
    finally:
        process.kill()
        process.wait()


@POSIX
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_server_that_is_ended_by_a_signal_leaves_no_pictures(tmp_path: Path, name: str) -> None:
    number = signal.Signals[name]
    with running(tmp_path) as (process, client):
        client.post("/gradio_api/upload", files={"files": ("mine.png", b"my picture")}).raise_for_status()
        client.post("/drops/0123456789abcdef?name=dropped.png", content=b"my picture").raise_for_status()
        assert {"mine.png", "dropped.png"} <= set(files_in(tmp_path))
        process.send_signal(number)
        assert process.wait(60) == -number  # as whoever sent it expects
    assert files_in(tmp_path) == []


@POSIX
def test_what_a_killed_server_left_is_swept_up_by_the_next_and_a_running_one_keeps_its_own(tmp_path: Path) -> None:
    with running(tmp_path) as (process, client):
        client.post("/gradio_api/upload", files={"files": ("killed.png", b"my picture")}).raise_for_status()
        process.kill()
        process.wait()
    assert "killed.png" in files_in(tmp_path)
    with temporary_folder(tmp_path) as running_folder:
        (running_folder / "running.png").touch()
        for lock in tmp_path.rglob(LOCK):
            made_old(lock)
        with temporary_folder(tmp_path):
            assert "killed.png" not in files_in(tmp_path) and "running.png" in files_in(tmp_path)
    assert files_in(tmp_path) == []


def made_old(lock: Path) -> None:
    old = time.time() - YOUNG_SECONDS - 10
    os.utime(lock, (old, old))


@POSIX
def test_only_folders_of_dead_servers_of_this_user_are_removed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "picture.png").touch()

    def folder(letter: str, mode: int = 0o700, *, lock: bool = True, name: str = "") -> Path:
        made = tmp_path / (name or PREFIX + letter * 8)
        made.mkdir(mode)
        made.chmod(mode)
        if lock:
            (made / LOCK).touch()
            made_old(made / LOCK)
        return made

    dead = folder("a")
    (dead / "link").symlink_to(precious)
    young = folder("b")
    (young / LOCK).touch()
    (tmp_path / f"{PREFIX}{'c' * 8}").symlink_to(precious)
    linked = folder("d", lock=False)
    (linked / LOCK).symlink_to(precious / "picture.png")
    kept = [young, linked, folder("e", 0o777), folder("f", lock=False), folder("", name=f"{PREFIX}studio")]
    sweep(tmp_path)
    assert not dead.exists() and (precious / "picture.png").exists()
    assert all(one.exists() for one in kept)


def test_the_folder_is_this_users_alone(tmp_path: Path) -> None:
    with temporary_folder(tmp_path / "new") as folder:
        assert sys.platform == "win32" or folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(ZeroDivisionError), temporary_folder(tmp_path) as folder:
        raise ZeroDivisionError
    assert not folder.exists()
