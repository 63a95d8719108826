"""A real ComfyUI, started for the tests on loopback with folders of its own."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.hosts import checkpoints
from tests.hosts.running import DIRECT, ROOT, STARTUP_SECONDS, RefusedError, picture

FLAGS = [
    "--cpu",
    "--force-fp32",
    "--fp32-vae",
    "--fp32-text-enc",
    "--disable-auto-launch",
    "--preview-method",
    "latent2rgb",
    "--database-url",
    "sqlite:///:memory:",
]
"""What makes it run on the CPU in float32."""

JOB_SECONDS = 1500


class EndedError(Exception):
    """A workflow that did not end well: the kind of its end, and ComfyUI's sentence."""

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(f"{kind}: {sentence}")
        self.kind, self.sentence = kind, sentence


@dataclass
class Comfy:
    """One ComfyUI; `python` runs it from its `folder`, and all that it writes goes to `data`."""

    folder: Path
    python: Path
    data: Path
    xl: bool = False
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start it and wait until it answers; raises RuntimeError with the end of its log."""
        for name in ("custom_nodes", "input", "output", "user", "models/loras", "probe"):
            (self.data / name).mkdir(parents=True)
        checkpoints.link(checkpoints.folder(), self.data / "models" / "checkpoints", yaml=False, xl=self.xl)
        checkpoints.write_lora(self.data / "models" / "loras" / "tiny.safetensors")
        checkpoints.link_controlnet(checkpoints.folder(), self.data / "models" / "controlnet")
        (self.data / "custom_nodes" / "instruct-pix2pix").symlink_to(ROOT)
        (self.data / "custom_nodes" / "zz-probe").symlink_to(Path(__file__).parent / "comfy_probe")
        for name, size in (("small.png", (64, 64)), ("odd.png", (100, 75)), ("example.png", (96, 96))):
            picture(*size).save(self.data / "input" / name)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        places = ["--port", str(self.port), "--base-directory", str(self.data)]
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "IP2P_PROBE_FOLDER": str(self.data / "probe")}
        environment.pop("PYTHONPATH", None)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(self.python), "main.py", *FLAGS, *places],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        deadline = time.monotonic() + STARTUP_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError):
                self.get("system_stats")
                return
            time.sleep(1)
        self.stop()
        raise RuntimeError(f"ComfyUI did not start:\n{self.said[-3000:]}")

    def stop(self) -> None:
        """End it and all that it started."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(30)
            self.process = None

    @property
    def log(self) -> Path:
        """The file with what it prints."""
        return self.data / "log.txt"

    @property
    def said(self) -> str:
        """What it has printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    @property
    def url(self) -> str:
        """Of its page."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def version(self) -> str:
        """Its own."""
        return self.get("system_stats")["system"]["comfyui_version"]

    def get(self, path: str) -> Any:
        """Ask its API."""
        return self._ask(path, None)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Tell its API; raises RefusedError."""
        return self._ask(path, json.dumps(body or {}).encode())

    def begin(self, workflow: dict[str, Any]) -> str:
        """Queue a workflow in the API's form; return its id. Raises RefusedError."""
        return self.post("prompt", {"prompt": workflow, "client_id": "tests"})["prompt_id"]

    def end(self, number: str) -> dict[str, Any]:
        """Wait until a workflow has ended; return its entry in the history. Raises EndedError."""
        deadline = time.monotonic() + JOB_SECONDS
        while time.monotonic() < deadline:
            entry = self.get(f"history/{number}").get(number)
            if entry is not None:
                for kind, told in entry["status"]["messages"]:
                    if kind in ("execution_error", "execution_interrupted"):
                        raise EndedError(kind, told.get("exception_message", ""))
                return entry
            time.sleep(0.1)
        raise TimeoutError(f"The workflow did not end:\n{self.said[-2000:]}")

    def run(self, workflow: dict[str, Any]) -> dict[str, Any]:
        """Queue a workflow and wait for its end; see `begin` and `end`."""
        self.calls()
        return self.end(self.begin(workflow))

    def calls(self) -> list[dict[str, Any]]:
        """Return what the probe has noted since the last call."""
        file = self.data / "probe" / "calls.jsonl"
        if not file.exists():
            return []
        lines = file.read_text(encoding="utf-8").splitlines()
        file.unlink()
        return [json.loads(line) for line in lines]

    def kept(self, name: str = "kept") -> Tensor:
        """Return a tensor that the probe wrote, and remove it."""
        file = self.data / "probe" / f"{name}.pt"
        tensor = torch.load(file, weights_only=True)
        file.unlink()
        return tensor

    def _ask(self, path: str, body: bytes | None) -> Any:
        request = urllib.request.Request(f"{self.url}/{path}", body, {"Content-Type": "application/json"})
        try:
            with DIRECT.open(request, timeout=JOB_SECONDS) as answer:
                content = answer.read()
                return json.loads(content) if content else None
        except urllib.error.HTTPError as error:
            raise RefusedError(error.code, error.read().decode(errors="replace")) from None


def _end_with_parent() -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
