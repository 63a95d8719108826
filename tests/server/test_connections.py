"""Connections that say nothing: they are cut, and shut nobody out. With real sockets on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from instruct_pix2pix.server import connections
from tests.helpers.serving import Served, served

GUARD = 60.0
"""Seconds after which a test that waits has failed."""
HEAD = b"GET /sdapi/v1/samplers HTTP/1.1\r\nHost: localhost\r\n"
linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems have one loopback address")


def page(api: FastAPI) -> FastAPI:
    """Addresses whose answers take long: to begin, to read, to be sent."""

    @api.get("/waits", include_in_schema=False)
    async def waits() -> StreamingResponse:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"one"
            await asyncio.sleep(GUARD)

        return StreamingResponse(pieces())

    @api.post("/reads", include_in_schema=False)
    async def reads(request: Request) -> int:
        return len(await request.body())

    return api


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with served(tmp_path_factory.mktemp("served"), page=page) as running:
        yield running


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SILENCE", 0.3)
    monkeypatch.setattr(connections, "PERIOD", 0.05)
    monkeypatch.setattr(connections, "UNREAD", 0.3)


@contextlib.contextmanager
def many(
    server: Served, count: int, said: bytes, *, answered: bool = False, source: str = "127.0.0.1"
) -> Iterator[list[socket.socket]]:
    """Open connections, and say something on each, and wait for an answer."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            one = socket.create_connection(("127.0.0.1", server.port), GUARD, (source, 0))
            opened.append(stack.enter_context(one))
            with contextlib.suppress(OSError):
                one.sendall(said)
                if answered:
                    one.recv(100)
        yield opened


def asked(server: Served) -> int:
    """Ask on a connection of its own."""
    return httpx.get(f"http://127.0.0.1:{server.port}/sdapi/v1/samplers", timeout=GUARD, trust_env=False).status_code


def is_cut(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("said", [b"", HEAD, HEAD + b"\r\n"], ids=["silence", "half a head", "idle after an answer"])
def test_hundreds_of_connections_without_a_request_shut_nobody_out(server: Served, said: bytes) -> None:
    with many(server, 300, said, answered=said.endswith(b"\r\n\r\n")):
        assert asked(server) == 200


@linux
def test_hundreds_of_requests_from_one_address_leave_places_for_others(server: Served) -> None:
    with many(server, 300, b"GET /waits HTTP/1.1\r\nHost: localhost\r\n\r\n", answered=True, source="127.0.0.2"):
        assert asked(server) == 200


@pytest.mark.parametrize("begun", [b"", HEAD])
def test_a_head_that_does_not_come_is_not_waited_for(server: Served, impatient: None, begun: bytes) -> None:
    with many(server, 1, begun) as (one,):
        assert is_cut(one)


def test_a_head_that_trickles_is_not_waited_for_either(server: Served, impatient: None) -> None:
    with many(server, 1, HEAD + b"X-Long: ") as (one,):
        one.settimeout(0.05)
        for _ in range(int(GUARD / 0.05)):
            with contextlib.suppress(TimeoutError):
                if is_cut(one):
                    return
            with contextlib.suppress(OSError):
                one.sendall(b"x")
        raise AssertionError("it is still open")


def test_a_body_that_does_not_come_is_not_waited_for(server: Served, impatient: None) -> None:
    head = b"POST /reads HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
    with many(server, 1, head + b"x" * 10) as (one,):
        assert is_cut(one)


def test_a_client_that_does_not_take_its_answer_is_left(tmp_path: Path, impatient: None) -> None:
    over: list[bool] = []

    def large(api: FastAPI) -> FastAPI:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"x" * 1_000_000
                    await asyncio.sleep(0)
            finally:
                over.append(True)

        api.add_api_route("/endless", lambda: StreamingResponse(pieces()), include_in_schema=False)
        return api

    request = b"GET /endless HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with served(tmp_path, page=large) as server, many(server, 1, request):
        server.wait_until(lambda: over)


def test_a_request_whose_answer_takes_long_is_left_alone(server: Served, impatient: None) -> None:
    with many(server, 1, b"GET /waits HTTP/1.1\r\nHost: localhost\r\n\r\n") as (one,):
        one.settimeout(2.0)
        with pytest.raises(TimeoutError):
            while one.recv(100):
                pass
