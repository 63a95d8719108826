"""A server on this machine that answers as the Hugging Face hub does, and wrongly where a test says so."""

import contextlib
import hashlib
import json
import random
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONV = {"first_stage_model.encoder.conv_in.weight": [8, 3, 3, 3],
        "first_stage_model.decoder.conv_in.weight": [8, 4, 3, 3],
        "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": [8, 8],
        "model.diffusion_model.input_blocks.0.0.weight": [320, 8, 3, 3],
        "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": [320, 768]}  # fmt: skip
UNET = {"conv_in.weight": [320, 8, 3, 3],
        "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": [320, 768]}  # fmt: skip


def weights(shapes: dict[str, list[int]] = CONV, extra: int = 0, seed: int = 0) -> bytes:
    """A safetensors file with random bytes, so that a piece in the wrong place cannot go unseen."""
    header, end = {}, 0
    for name, shape in {**shapes, "extra": [extra]}.items():
        size = 1
        for side in shape:
            size *= side
        header[name] = {"dtype": "U8", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + random.Random(seed).randbytes(end)


PIECE = 1 << 20


class Hub:
    """A hub with repositories of bytes. What it does wrong is set by a test."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, bytes]] = {}
        self.lies: dict[str, bytes] = {}  # path: what is sent in place of the file
        self.refuse_api: tuple[int, str] | None = None  # status and X-Error-Code
        self.refuse_file: tuple[int, str] | None = None
        self.cut_at: int | None = None  # bytes after which the next answer ends
        self.refuse_after_cut = False
        self.no_ranges = False
        self.pace: float | None = None  # seconds for each piece of PIECE bytes
        self.licence = ""
        self.page: bytes | None = None  # sent for everything, as a hotel's login does
        self.cdn = ""  # where files are, if elsewhere
        self.gets: list[tuple[str, str | None]] = []  # path and Range of each file that was asked for
        self.tokens: list[tuple[str, str | None]] = []  # path and Authorization of every question

    @property
    def asked(self) -> list[str]:
        return [path for path, _ in self.gets]

    def listing(self, repo: str) -> dict[str, object]:
        siblings = []
        for path, content in self.repos[repo].items():
            entry: dict[str, object] = {"rfilename": path, "size": len(content)}
            blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            entry["blobId"] = blob
            if path.endswith((".safetensors", ".ckpt", ".bin")):
                sha = hashlib.sha256(content).hexdigest()
                entry["blobId"] = "f" * 40  # git keeps only a pointer
                entry["lfs"] = {"size": len(content), "sha256": sha, "pointerSize": 130}
            siblings.append(entry)
        tags = [f"license:{self.licence}"] if self.licence else []
        return {"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings, "tags": tags}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def log_message(self, format, *args):
        pass

    def handle(self):
        with contextlib.suppress(ConnectionError):  # whoever asked has gone
            super().handle()

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        body = body[:cut]
        for start in range(0, len(body), PIECE):
            self.wfile.write(body[start : start + PIECE])
            if self.hub.pace:
                time.sleep(self.hub.pace)
        if cut is not None:
            self.wfile.flush()
            self.close_connection = True

    def refuse(self, refusal: tuple[int, str]):
        status, code = refusal
        self.answer(status, b"{}", {"X-Error-Code": code} if code else {})

    def do_GET(self):
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.tokens.append((path, self.headers.get("Authorization")))
        if hub.page is not None:
            return self.answer(200, hub.page, {"Content-Type": "text/html"})
        if path.startswith("/api/models/"):
            repo = path.removeprefix("/api/models/")
            if hub.refuse_api:
                return self.refuse(hub.refuse_api)
            if repo not in hub.repos:
                return self.refuse((404, "RepoNotFound"))
            return self.answer(200, json.dumps(hub.listing(repo)).encode(), {"Content-Type": "application/json"})
        if path.startswith("/cdn/"):  # the hub sends large files from another place
            return self.send_file(path.removeprefix("/cdn/"))
        return self.answer(302, b"", {"Location": f"{hub.cdn}/cdn{self.path}"})

    def send_file(self, path: str):
        hub = self.hub
        owner, name, resolve, commit, file = path.split("/", 4)
        assert (resolve, commit) == ("resolve", COMMIT)
        ranges = self.headers.get("Range")
        hub.gets.append((file, ranges))
        if hub.refuse_file:
            return self.refuse(hub.refuse_file)
        content = hub.lies.get(file, hub.repos[f"{owner}/{name}"][file])
        cut, hub.cut_at = hub.cut_at, None
        if cut is not None and hub.refuse_after_cut:
            hub.refuse_file = (503, "")
        if ranges is None or hub.no_ranges:
            return self.answer(200, content, {"ETag": '"x"', "X-Repo-Commit": COMMIT}, cut)
        start = int(ranges.removeprefix("bytes=").removesuffix("-"))
        piece = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        return self.answer(206, content[start:], piece, cut)


@contextlib.contextmanager
def asked_by_downloads(repo: str, files: dict[str, bytes]) -> Iterator[Hub]:
    """Let downloads of this process ask a hub that has one repository."""
    with pytest.MonkeyPatch.context() as patch, standing_in() as (hub, address):
        patch.setenv("NO_PROXY", "127.0.0.1,localhost")
        patch.setenv("HF_ENDPOINT", address)
        hub.repos[repo] = files
        yield hub


@contextlib.contextmanager
def standing_in() -> Iterator[tuple[Hub, str]]:
    """Run a hub without repositories; gives it and its address."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield hub, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
