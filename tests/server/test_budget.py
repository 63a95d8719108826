"""Memory and disk that requests share: who waits, who is refused, and that whatever ends gives its share back."""

from __future__ import annotations

import asyncio
import contextlib
import io
import random
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fastapi import FastAPI
from PIL import Image
from starlette.types import ASGIApp

from instruct_pix2pix.batch.planning import BatchRequest
from instruct_pix2pix.errors import UserError
from instruct_pix2pix.models.registry import DEMO
from instruct_pix2pix.server import bodies, pictures, upload_space
from instruct_pix2pix.server.budget import Budget, ServerBusy
from instruct_pix2pix.server.upload_space import DiskFull, UploadSpace
from instruct_pix2pix.server.uploads import Uploads
from instruct_pix2pix.server.worker.folder_task import FolderTask
from instruct_pix2pix.server.worker.queue import TaskQueue
from instruct_pix2pix.settings import EditSettings
from tests.helpers.serving import HOUSE, Served, encoded, quick, served

SOON = 60.0
"""Seconds after which a test gives up."""


def png(width: int, height: int) -> bytes:
    """Return a transparent PNG: a thousandth of its pixels' size."""
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(1 + 4 * width)) for _ in range(height)) + packer.flush()

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


# --- a budget ---


def test_shares_are_granted_in_the_order_in_which_they_were_asked_for_as_they_fit() -> None:
    budget = Budget(10)
    first, second, large, small = (budget.ask(amount) for amount in (6, 4, 8, 1))
    assert [share.granted.done() for share in (first, second, large, small)] == [True, True, False, False]
    second.give_back()
    assert not large.granted.done() and not small.granted.done()  # nobody overtakes, or a large one might never come
    first.give_back()
    assert large.granted.done() and small.granted.done()
    for share in (large, small, small, first):  # a second time does nothing
        share.give_back()
    assert budget.used == 0


def test_an_amount_above_the_budget_is_granted_alone() -> None:
    budget = Budget(10)
    with budget.within(25):
        assert not (other := budget.ask(1)).granted.done()
    assert other.granted.done()


def test_who_waits_too_long_or_behind_too_many_is_refused_and_leaves_no_trace() -> None:
    budget = Budget(10, patience=0.01, most_waiting=1)
    with budget.within(10):
        with pytest.raises(ServerBusy, match="try again"), budget.within(1):
            pass
        with pytest.raises(ServerBusy):
            asyncio.run(budget.asked(1))
        waiting = budget.ask(1)
        with pytest.raises(ServerBusy):
            budget.ask(1)
        waiting.give_back()
    assert budget.used == 0


def test_a_request_that_is_cancelled_while_it_waits_leaves_the_line() -> None:
    budget = Budget(10)

    async def cancelled() -> None:
        waiting = asyncio.create_task(budget.asked(5))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])

    with budget.within(10):
        asyncio.run(cancelled())
    assert budget.used == 0


# --- pictures ---


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def impatient(server: Served, monkeypatch: pytest.MonkeyPatch) -> Budget:
    """The budget of pixels of a server whose requests do not wait for long."""
    monkeypatch.setattr(server.worker.decoding, "patience", 0.05)
    return server.worker.decoding


def test_a_picture_that_does_not_fit_beside_others_is_refused_with_the_time_to_come_again(
    server: Served, impatient: Budget
) -> None:
    with impatient.within(impatient.most):
        answer = server.post("img2img", **quick(width=64))
        told = server.post("png-info", image=encoded(HOUSE))  # for which no pixels are decoded
    assert answer.status_code == 503 and int(answer.headers["Retry-After"]) > 0
    assert told.status_code == 200
    assert "try again" in answer.json()["detail"]
    assert server.post("img2img", **quick(width=64)).status_code == 200


def test_the_mask_counts_beside_the_picture(server: Served, impatient: Budget) -> None:
    with Image.open(HOUSE) as house:
        pixels = house.width * house.height
    with impatient.within(impatient.most - pixels):
        assert server.post("img2img", **quick(width=64)).status_code == 200
        assert server.post("img2img", **quick(width=64, mask=encoded(HOUSE))).status_code == 503


def jpeg(width: int, height: int, **options: object) -> bytes:
    """A grey JPEG of this size by its header; what the decoder lacks it fills in."""
    data = io.BytesIO()
    Image.new("RGB", (160, 120), "gray").save(data, "JPEG", **options)
    return data.getvalue().replace(struct.pack(">HH", 120, 160), struct.pack(">HH", height, width))


@pytest.mark.parametrize(("size", "read"), [((9280, 6944), (9280, 6944)), ((16_320, 12_240), (8160, 6120))])
def test_a_camera_s_jpeg_of_200_megapixels_is_read_over_the_network(
    size: tuple[int, int], read: tuple[int, int], tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_bytes(jpeg(*size))
    for sent in (
        pictures.SentPicture.in_file(str(tmp_path / "photo.jpg"), deep=True),
        pictures.SentPicture.in_base64(encoded(jpeg(*size)), "The picture"),
    ):
        assert sent.room <= pictures.MOST_PIXELS
    picture = sent.decode()
    assert picture.image.size == read
    assert any("read at half size" in note for note in picture.notes) == (read != size)


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (jpeg(16_320, 12_240, progressive=True), "16320 x 12240"),  # all of it is held in memory
        (jpeg(10_000, 9000, progressive=True, subsampling=0), "10000 x 9000"),
        (png(8000, 6500), "8000 x 6500"),
    ],
    ids=["progressive", "progressive of full colour", "transparent"],
)
def test_a_picture_that_takes_too_much_memory_is_refused_with_the_way_out(data: bytes, size: str) -> None:
    with pytest.raises(UserError, match=f"is {size} pixels, but at most 50 megapixels are read here, 200 of a JPEG"):
        pictures.SentPicture.in_base64(encoded(data), "The picture")


BROKEN = [
    HOUSE.read_bytes()[:-2000],  # cut short
    b"\x89PNG\r\n\x1a\n" + bytes(1000),
    png(300, 200).replace(b"IDAT", b"IDAT\0\0\0\0", 1),
]


@pytest.mark.parametrize("data", BROKEN)
def test_a_picture_that_fails_half_way_gives_its_share_back(server: Served, data: bytes) -> None:
    for _ in range(2):
        assert server.post("img2img", **quick(init_images=[encoded(data)])).status_code == 422
        assert server.post("img2img", **quick(mask=encoded(data))).status_code == 422
    assert server.post("img2img", **quick(cfg_scale=99)).status_code == 422  # after it was decoded
    assert server.worker.decoding.used == 0


def test_twelve_of_the_worst_pictures_at_once_are_decoded_one_after_the_other(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, most, now, lock = encoded(png(7000, 7000)), 0, 0, threading.Lock()
    real = pictures.open_picture

    def counted(*args: object, **options: object) -> object:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        try:
            return real(*args, **options)  # type: ignore[arg-type]
        finally:
            with lock:
                now -= 1

    monkeypatch.setattr(pictures, "open_picture", counted)
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: server.post("png-info", image=picture), range(12)))
    assert most <= 1 and {answer.status_code for answer in answers} <= {200, 503}
    assert server.worker.decoding.used == 0


# --- bodies ---


def test_a_body_of_too_many_parts_is_refused_before_it_is_parsed(server: Served) -> None:
    for content in (b"[" + b"{}," * 200_000 + b"{}]", b'{"a":' * 150_000, b"[" * 150_000, b'{"x": [' + b"1," * 150_000):
        for path in ("img2img", "options", "png-info"):
            answer = server.client.post(
                f"/sdapi/v1/{path}", content=content, headers={"Content-Type": "application/json"}
            )
            assert answer.status_code == 413 and "parts" in answer.json()["detail"]


def body_server(most: int, patience: float, app: ASGIApp) -> bodies.BodyBudget:
    budget = bodies.BodyBudget(app, most_body=most, most=most)
    budget.budget.patience = patience
    return budget


async def talk(app: ASGIApp, length: int, pieces: list[bytes | None]) -> int:
    """Send a body that says it has `length` bytes in pieces, of which None is a hang-up; return the status."""
    sent: list[int] = []
    left = list(pieces)

    async def receive() -> dict[str, object]:
        piece = left.pop(0) if left else await asyncio.sleep(SOON)
        if piece is None:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece, "more_body": bool(left)}

    async def send(message: dict[str, object]) -> None:
        if message["type"] == "http.response.start":
            sent.append(int(str(message["status"])))

    headers = [(b"content-length", str(length).encode())]
    scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
    await app(scope, receive, send)  # type: ignore[arg-type]
    return sent[0] if sent else 0


def test_bodies_together_have_a_bound_and_wait_for_each_other() -> None:
    at_once = most = 0

    async def app(scope: object, receive: object, send: object) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.01)
        at_once -= 1

    async def ask() -> None:
        guarded = body_server(200_000, SOON, app)  # type: ignore[arg-type]
        await asyncio.gather(*(talk(guarded, 100_000, [b"x"]) for _ in range(6)))
        assert guarded.budget.used == 0

    asyncio.run(ask())
    assert most == 2


def test_a_body_without_room_is_refused_and_a_small_one_needs_none() -> None:
    reached: list[int] = []

    async def app(scope: dict[str, list[tuple[bytes, bytes]]], receive: object, send: object) -> None:
        reached.append(int(scope["headers"][0][1]))

    async def ask() -> None:
        guarded = body_server(200_000, 0.01, app)  # type: ignore[arg-type]
        with guarded.budget.within(150_000):
            assert await talk(guarded, 100_000, [b"x" * 100_000]) == 503
            await talk(guarded, 1000, [b"x" * 1000])

    asyncio.run(ask())
    assert reached == [1000]


@pytest.mark.parametrize("pieces", [[b"{", None], [b"{", b"}"], [b"{"]], ids=["hung up", "whole", "fails"])
def test_however_a_request_ends_its_body_gives_its_share_back(pieces: list[bytes | None]) -> None:
    async def app(scope: object, receive: object, send: object) -> None:
        await receive()  # type: ignore[operator]
        if len(pieces) == 1:
            raise ValueError

    async def ask() -> None:
        guarded = body_server(200_000, SOON, app)  # type: ignore[arg-type]
        with contextlib.suppress(ValueError):
            await talk(guarded, 100_000, list(pieces))
        assert guarded.budget.used == 0

    asyncio.run(ask())


def test_a_body_that_comes_too_slowly_is_given_up(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "PAUSE_SECONDS", 0.2)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        head = "POST /sdapi/v1/img2img HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
        connection.sendall(head.encode() + b'{"init_images": ["')
        connection.settimeout(SOON)
        answer = connection.recv(10_000)
        assert answer.startswith(b"HTTP/1.1 408") and b"in time" in answer + connection.recv(10_000)


def test_while_an_edit_is_made_its_body_takes_no_room(tmp_path: Path) -> None:
    made: list[bodies.BodyBudget] = []

    def watched(api: FastAPI) -> ASGIApp:
        made.append(bodies.BodyBudget(api, most_body=1_000_000))
        return made[0]

    noise = Image.frombytes("RGB", (300, 300), random.Random(0).randbytes(270_000))
    body = quick(init_images=[encoded(noise)], width=64, steps=150, n_iter=50, force_task_id="long")
    with served(tmp_path, page=watched) as server, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(server.post, "img2img", **body)
        server.wait_until(lambda: server.get("progress")["progress"] > 0)
        assert made[0].budget.used == 0
        server.client.post("/sdapi/v1/interrupt", params={"task": "long"})
        assert answer.result().json()["parameters"]["init_images"] is None


# --- the disk ---


@pytest.fixture
def space(tmp_path: Path) -> UploadSpace:
    (tmp_path / "cache").mkdir()
    return UploadSpace(tmp_path / "cache", most_bytes=1000, most_files=10)


def test_visitors_files_have_a_bound_together(space: UploadSpace) -> None:
    space.admit(900)
    with pytest.raises(DiskFull, match="no room"):
        space.admit(101)
    space.admit(100)
    with pytest.raises(DiskFull):
        space.admit(0, files=11)


def test_a_disk_that_is_nearly_full_takes_nothing_more(space: UploadSpace, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = upload_space.shutil.disk_usage(space.folder)
    monkeypatch.setattr(upload_space.shutil, "disk_usage", lambda _: usage._replace(free=upload_space.ROOM))
    with pytest.raises(DiskFull):
        space.admit(1)


def test_what_is_a_day_old_goes_but_what_a_folder_in_the_queue_reads_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    queue = TaskQueue()
    space = UploadSpace(cache, in_use=queue.files)
    uploads = Uploads(space)
    for drop in ("a" * 16, "b" * 16):
        part = uploads.begin(drop, "day 1/a.png")
        part.write(HOUSE.read_bytes())
        part.finish()
    (cache / "tmpx1y2z3").write_bytes(b"half an upload")
    request = BatchRequest(cache / ("b" * 16), tmp_path / "out", EditSettings("make it winter"))
    task = FolderTask(queue, DEMO, request)
    queue.enqueue(task)

    def left_after(seconds: float) -> list[str]:
        with monkeypatch.context() as later:
            now = time.time() + seconds
            later.setattr(upload_space.time, "time", lambda: now)
            space.sweep()
        return sorted(path.name[0] for path in cache.iterdir())

    assert left_after(0) == ["a", "b", "t"]
    assert left_after(upload_space.SHORT_SECONDS + 10) == ["a", "b"]
    assert left_after(upload_space.KEPT_SECONDS + 10) == ["b"]
    task.interrupt()
    assert left_after(upload_space.KEPT_SECONDS + 10) == []


def test_a_picture_too_large_for_a_visitor_is_refused_as_it_is_dropped(tmp_path: Path) -> None:
    uploads, drop = Uploads(UploadSpace(tmp_path)), "a" * 16
    part = uploads.begin(drop, "big.png")
    part.write(png(14_000, 14_000))
    with pytest.raises(UserError, match=r"big\.png has more than 50 megapixels"):
        part.finish()
    assert not [path for path in (tmp_path / drop).rglob("*") if path.is_file()] and uploads.count(drop) == 0
