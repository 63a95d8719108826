"""Many clients at once, some of them clumsy or hostile, against a real server: does it answer all, and stay small?

    python benchmarks/soak.py [--requests 200 | --minutes 5] [--clients 8] [--seed 0] [--json FILE]

Starts the server as a program of its own on loopback, with the demo model and a temporary folder of its own. Exit
status 0 when every answer was well-formed, no good request was lost, memory did not grow by more than a tenth, threads
and open files are as many as before, the temporary folder holds what was uploaded and, in the end, nothing, and the
server still edits.
"""

from __future__ import annotations

import argparse
import base64
import io
import itertools
import json
import os
import platform
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.png"))
INSTRUCTIONS = ("make it winter", "make it night", "turn it into autumn", "make it sunset")
SAMPLERS = ("Euler a", "Euler", "DPM++ 2M", "DDIM", "Heun")
WIDTHS, BATCH_SIZES, IMAGE_CFGS = (64, 96), (1, 2), (1.0, 1.5)
MOST_GROWTH = 0.10
REQUEST_SECONDS, ALL_SECONDS = 300.0, 1500.0

# How many of each kind there are among a hundred.
MIX = {"good": 32, "masked": 8, "large picture": 4, "interrupted": 8, "hung up": 6, "bad value": 12, "malformed": 10}
MIX |= {"too large": 4, "bomb": 2, "cut connection": 2, "question": 4, "upload": 3, "cut upload": 3, "left open": 2}
MOST_THREADS_MORE, MOST_OPEN_MORE = 40, 16
"""Threads that uvicorn may start as they are needed, and keeps; files and connections that are about to be closed."""


@dataclass(frozen=True)
class Outcome:
    """What became of one request; `problem` is empty when all was as it must be."""

    kind: str
    status: int
    seconds: float
    problem: str


class Client:
    """Sends requests of every kind and judges the answers."""

    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.draw = random.Random(seed)
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=REQUEST_SECONDS, trust_env=False)

    def run(self, kind: str, more: dict[str, Any] | None = None) -> Outcome:
        """Send one request of this kind, with `more` fields in it."""
        began = time.monotonic()
        try:
            status, problem = getattr(self, "_" + kind.replace(" ", "_"))(**more or {})
        except Exception as error:
            status, problem = 0, f"{type(error).__name__}: {error}"
        return Outcome(kind, status, time.monotonic() - began, problem)

    def _good(self, **more: Any) -> tuple[int, str]:  # noqa: ANN401 - fields of a request
        body = self._body(**more)
        return _edited(self._post(body), body)

    def _masked(self) -> tuple[int, str]:
        mask = Image.new("L", (96, 96))
        mask.paste(255, (0, 0, 48, 96))
        return self._good(mask=_base64(mask), inpainting_mask_invert=self.draw.choice((0, 1)))

    def _large_picture(self) -> tuple[int, str]:
        side = self.draw.choice((3000, 5000, 7000))
        return self._good(init_images=[_base64(Image.new("RGB", (side, side), (90, 160, 220)))])

    def _interrupted(self) -> tuple[int, str]:
        task = f"soak-{self.draw.getrandbits(60):x}"
        body = self._body(steps=150, n_iter=8, force_task_id=task)
        with ThreadPoolExecutor(1) as other:
            waiting = other.submit(self._post, body)
            time.sleep(self.draw.uniform(0.5, 4))
            while not waiting.done():  # it may not have arrived yet
                self.http.post("/sdapi/v1/interrupt", params={"task": task})
                time.sleep(0.2)
            answer = waiting.result()
        if answer.status_code != 200:
            return answer.status_code, f"not 200: {answer.text[:200]}"
        info = json.loads(answer.json()["info"])
        right = info["interrupted"] and len(answer.json()["images"]) == len(info["all_seeds"]) < 8
        return 200, "" if right else "not interrupted, or pictures without seeds"

    def _hung_up(self) -> tuple[int, str]:
        try:
            self.http.post("/sdapi/v1/img2img", json=self._body(steps=150, n_iter=20), timeout=1.0)
        except httpx.TimeoutException:
            return 0, ""
        return 200, "a long edit was over at once"

    def _bad_value(self) -> tuple[int, str]:
        change: dict[str, Any] = self.draw.choice(
            [
                {"cfg_scale": 99},
                {"image_cfg_scale": -1},
                {"steps": 0},
                {"steps": "many"},
                {"n_iter": 10_000},
                {"width": 100_000},
                {"sampler_name": "none"},
                {"prompt": ""},
                {"init_images": None},
                {"init_images": ["%%%"]},
                {"init_images": [_base64(EXAMPLES[0])[:1001]]},
                {"init_images": ["http://127.0.0.1/x.png"]},
                {"mask": _base64(b"no picture")},
                {"script_name": "X/Y/Z plot"},
                {"override_settings": {"sd_model_checkpoint": "/etc/passwd"}},
            ]
        )
        return _refused(self._post(self._body(**change)), 422)

    def _malformed(self) -> tuple[int, str]:
        whole = json.dumps(self._body()).encode()
        content = self.draw.choice([whole[: len(whole) // 2], b"", b"[]", b"[" * 50_000, self.draw.randbytes(5000)])
        headers = {"Content-Type": "application/json"}
        return _refused(self.http.post("/sdapi/v1/img2img", content=content, headers=headers), 400, 422)

    def _too_large(self) -> tuple[int, str]:
        def pieces() -> Iterator[bytes]:
            for _ in range(70):
                yield bytes(2**20)

        content = self.draw.choice([bytes(70 * 2**20), pieces()])
        return _refused(self.http.post("/sdapi/v1/img2img", content=content), 413)

    def _bomb(self) -> tuple[int, str]:
        def chunk(kind: bytes, data: bytes) -> bytes:
            return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

        size = (20_000).to_bytes(4, "big") * 2
        head, rest = chunk(b"IHDR", size + bytes((8, 2, 0, 0, 0))), chunk(b"IDAT", zlib.compress(bytes(10**7)))
        return _refused(self._post(self._body(init_images=[_base64(b"\x89PNG\r\n\x1a\n" + head + rest)])), 422)

    def _cut_connection(self) -> tuple[int, str]:
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            head = "POST /sdapi/v1/img2img HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
            connection.sendall(head.encode() + b'{"init_images": ["')
        return 0, ""

    def _upload(self) -> tuple[int, str]:
        answer = self.http.post("/gradio_api/upload", files={"files": ("a.png", EXAMPLES[0].read_bytes())})
        return answer.status_code, "" if answer.status_code == 200 else answer.text[:200]

    def _cut_upload(self) -> tuple[int, str]:
        path = self.draw.choice(["/gradio_api/upload", f"/drops/{self.draw.getrandbits(64):016x}?name=a.png"])
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
            part = '--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
            connection.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n{part}".encode())
            connection.sendall(bytes(100_000))
        return 0, ""

    def _left_open(self) -> tuple[int, str]:
        path = f"/gradio_api/heartbeat/{self.draw.getrandbits(40):x}"
        with self.http.stream("GET", path) as answer:
            time.sleep(self.draw.uniform(0, 2))
            return answer.status_code, "" if answer.status_code == 200 else "no heartbeat"

    def _question(self) -> tuple[int, str]:
        path = self.draw.choice(["progress", "options", "sd-models", "samplers", "memory", "cmd-flags"])
        answer = self.http.get(f"/sdapi/v1/{path}")
        return answer.status_code, "" if answer.status_code == 200 and answer.json() is not None else answer.text[:200]

    def _post(self, body: dict[str, Any]) -> httpx.Response:
        while True:  # as a well-behaved client does
            answer = self.http.post("/sdapi/v1/img2img", json=body)
            if answer.status_code != 503:
                return answer
            time.sleep(float(answer.headers["Retry-After"]))

    def _body(self, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - fields of a request
        body = {
            "init_images": [_base64(self.draw.choice(EXAMPLES))],
            "prompt": self.draw.choice(INSTRUCTIONS),
            "steps": self.draw.randint(1, 8),
            "cfg_scale": self.draw.choice((3, 7.5, 10)),
            "image_cfg_scale": self.draw.choice(IMAGE_CFGS),
            "sampler_name": self.draw.choice(SAMPLERS),
            "batch_size": self.draw.choice(BATCH_SIZES),
            "n_iter": self.draw.choice((1, 1, 2)),
            "seed": self.draw.randint(0, 10**6),
            "width": self.draw.choice(WIDTHS),
        }
        return {**body, **more}


def _base64(picture: Image.Image | Path | bytes) -> str:
    if isinstance(picture, Image.Image):
        data = io.BytesIO()
        picture.save(data, "PNG")
        picture = data.getvalue()
    return base64.b64encode(picture if isinstance(picture, bytes) else picture.read_bytes()).decode()


def _edited(answer: httpx.Response, body: dict[str, Any]) -> tuple[int, str]:
    """Judge the answer to a good request: all pictures, whole, of the right width, each with its own seed."""
    if answer.status_code != 200:
        return answer.status_code, f"a good request was lost: {answer.text[:200]}"
    content = answer.json()
    count, info = body["batch_size"] * body["n_iter"], json.loads(content["info"])
    for text in content["images"]:
        with Image.open(io.BytesIO(base64.b64decode(text))) as picture:
            picture.load()
            if picture.width != body["width"] or not picture.info.get("parameters"):
                return 200, f"a picture of {picture.size} or without its settings"
    right = info["all_seeds"] == [body["seed"] + i for i in range(count)] and len(content["images"]) == count
    return 200, "" if right else f"{len(content['images'])} pictures instead of {count}, seeds {info['all_seeds']}"


def _refused(answer: httpx.Response, *expected: int) -> tuple[int, str]:
    """Judge a refusal: its status, and one sentence without a path or a traceback."""
    detail = answer.json()["detail"]
    right = answer.status_code in expected and isinstance(detail, str) and 10 < len(detail) < 500
    clean = "Traceback" not in answer.text and str(ROOT) not in answer.text
    return answer.status_code, "" if right and clean else f"not a refusal: {answer.text[:200]}"


@contextmanager
def serving(model: str | Path = "demo", temporary: Path | None = None) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run the server as a program, with a temporary folder of its own if one is given; yields its port and process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = ["-m", "instruct_pix2pix.cli.main", "--port", str(port), "--model", str(model)]
    environ = {**os.environ, "PYTHONPATH": str(ROOT / "modules")}
    environ |= {} if temporary is None else {"TMPDIR": str(temporary), "TEMP": str(temporary)}
    process = subprocess.Popen([sys.executable, *words], cwd=ROOT, env=environ, stderr=subprocess.DEVNULL)
    try:
        _wait(lambda: httpx.get(f"http://127.0.0.1:{port}/sdapi/v1/progress", trust_env=False).status_code == 200)
        yield port, process
    finally:
        process.terminate()
        process.wait(30)


def _wait(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit("The server did not become ready.")


def first_ten() -> list[tuple[str, dict[str, Any]]]:
    """Requests after which memory is measured first: every shape of a batch once, and the two largest kinds.

    What the library of matrix products prepares for a shape it keeps for the next time; it is no leak.
    """
    shapes = itertools.product(WIDTHS, BATCH_SIZES, IMAGE_CFGS)
    good = [("good", {"width": w, "batch_size": b, "image_cfg_scale": c, "n_iter": 1}) for w, b, c in shapes]
    return [*good, ("large picture", {}), ("too large", {})]


@dataclass(frozen=True)
class Held:
    """What a server holds of the machine."""

    memory: int
    threads: int
    open_files: int
    """Connections too; 0 where the system does not tell."""
    temporary_files: int


def held_by(process: subprocess.Popen[bytes], temporary: Path, memory: int) -> Held:
    """Count it; `memory` is what the server says itself, in bytes."""
    system = Path(f"/proc/{process.pid}")
    known = system.is_dir()
    threads = len([*(system / "task").iterdir()]) if known else 0
    open_files = len([*(system / "fd").iterdir()]) if known else 0
    return Held(memory, threads, open_files, _files_in(temporary))


def _files_in(folder: Path) -> int:
    return sum(path.is_file() for path in folder.rglob("*"))


def soak(requests: int, clients: int, seed: int, minutes: float | None = None) -> dict[str, Any]:
    """Run it and return the figures; with `minutes`, as many requests as fit into them."""
    with tempfile.TemporaryDirectory() as temporary:
        report = _soak(requests, clients, seed, minutes, Path(temporary))
        report["files_in_the_end"] = _files_in(Path(temporary))
    return report


def _soak(requests: int, clients: int, seed: int, minutes: float | None, temporary: Path) -> dict[str, Any]:
    first_requests = first_ten()
    left = max(len(MIX), requests - len(first_requests))
    kinds = [kind for kind, share in MIX.items() for _ in range(max(1, round(share * left / 100)))]
    kinds = (kinds + ["good"] * left)[:left]
    random.Random(seed).shuffle(kinds)
    with serving(temporary=temporary) as (port, process):
        asker = Client(port, seed)
        fixed = asker._body(seed=1, steps=4, width=96)  # to be asked before and after
        before = asker._post(fixed).json()["images"]

        def held() -> Held:
            _wait(lambda: asker.http.get("/sdapi/v1/progress").json()["state"]["job_count"] == 0)
            time.sleep(5)  # the server gives memory back when it has had nothing to do for a while
            return held_by(process, temporary, asker.http.get("/sdapi/v1/memory").json()["ram"]["used"])

        here = threading.local()
        numbers = itertools.count(seed + 1)

        def one(request: tuple[str, dict[str, Any]]) -> Outcome:
            if not hasattr(here, "client"):
                here.client = Client(port, next(numbers))
            return here.client.run(*request)

        began = time.monotonic()
        with ThreadPoolExecutor(clients) as pool:
            outcomes = list(pool.map(one, first_requests))
            first = held()
            if minutes is None:
                outcomes += pool.map(one, [(kind, {}) for kind in kinds], timeout=ALL_SECONDS)
            else:
                turns = itertools.cycle(kinds)  # one `next` of it is whole, in whatever thread
                end = time.monotonic() + 60 * minutes

                def until_the_end(_: int) -> list[Outcome]:
                    return [one((next(turns), {})) for _ in iter(lambda: time.monotonic() < end, False)]

                outcomes += itertools.chain.from_iterable(pool.map(until_the_end, range(clients)))
        seconds = time.monotonic() - began
        last = held()
        after = asker._post(fixed).json()["images"]
        alive = process.poll() is None
    return {
        "requests": len(outcomes),
        "clients": clients,
        "seconds": round(seconds, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "mb_after_first": round(first.memory / 1e6, 1),
        "mb_after_all": round(last.memory / 1e6, 1),
        "growth": round(last.memory / first.memory - 1, 4),
        "held_after_first": asdict(first),
        "held_after_all": asdict(last),
        "left_behind": _left_behind(first, last, sum(one.kind == "upload" for one in outcomes)),
        "still_edits": alive and before == after,
        "kinds": {
            kind: _figures([o for o in outcomes if o.kind == kind])
            for kind in MIX
            if kind in {o.kind for o in outcomes}
        },
        "problems": [f"{o.kind}: {o.problem}" for o in outcomes if o.problem],
    }


def _left_behind(first: Held, last: Held, uploads: int) -> list[str]:
    """Return what there is too much of after all; `uploads` were complete, of one file which gradio keeps once."""
    limits = {
        "threads": first.threads + MOST_THREADS_MORE,
        "open_files": first.open_files + MOST_OPEN_MORE,
        "temporary_files": first.temporary_files + min(uploads, 1),
    }
    held = {name: getattr(last, name) for name in limits}
    return [f"{held[name]} {name}, but at most {most}" for name, most in limits.items() if held[name] > most]


def _figures(outcomes: list[Outcome]) -> dict[str, Any]:
    seconds = sorted(outcome.seconds for outcome in outcomes)
    return {
        "count": len(outcomes),
        "as_it_must_be": sum(not outcome.problem for outcome in outcomes),
        "statuses": sorted({outcome.status for outcome in outcomes}),
        "median_seconds": round(statistics.median(seconds), 2),
        "longest_seconds": round(seconds[-1], 2),
    }


def table(report: dict[str, Any]) -> str:
    """The figures for a person."""
    lines = [
        "{requests} requests from {clients} clients at once in {seconds} s; {machine}",
        "memory: {mb_after_first} MB after the first ten, {mb_after_all} MB after all ({growth:+.1%})",
        "after the first ten: {held_after_first}",
        "after all: {held_after_all}; {files_in_the_end} files when the server had ended",
        "the same edit before and after is the same picture: {still_edits}",
        "",
        "| request | count | as it must be | status | median s | longest s |",
        "|---|---:|---:|---|---:|---:|",
    ]
    lines = [line.format_map(report) for line in lines]
    for kind, one in report["kinds"].items():
        status = ", ".join(str(status or "none") for status in one["statuses"])
        figures = f"{one['count']} | {one['as_it_must_be']} | {status}"
        lines.append(f"| {kind} | {figures} | {one['median_seconds']:.2f} | {one['longest_seconds']:.2f} |")
    return "\n".join([*lines, "", *report["problems"], *report["left_behind"]]).rstrip()


def main() -> int:
    """Run, print, and return 0 when all is as it must be."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--minutes", type=float, help="go on for so long, instead of a number of requests")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here too")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the server is ended too
    report = soak(max(11, args.requests), args.clients, args.seed, args.minutes)
    print(table(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + "\n")
    small = report["growth"] <= MOST_GROWTH and not report["left_behind"] and not report["files_in_the_end"]
    return 0 if not report["problems"] and report["still_edits"] and small else 1


if __name__ == "__main__":
    sys.exit(main())
