"""Each check that a request passes, alone: what it lets through, what it refuses, and how."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from instruct_pix2pix.server.app import guarded
from instruct_pix2pix.server.security import (
    SECURITY_HEADERS,
    Authentication,
    BodyLimit,
    Credentials,
    Faults,
    HostCheck,
    SameOriginCheck,
    SecurityHeaders,
)

LIMIT = 100
HERE = {"host": "localhost:7860"}


@dataclass
class Answer:
    """What an app sent, and how much it took."""

    sent: list[Message]
    received: int

    @property
    def status(self) -> int | None:
        """The status of an answer; None where there is none."""
        return next((message["status"] for message in self.sent if message["type"] == "http.response.start"), None)

    @property
    def headers(self) -> dict[str, str]:
        (start,) = (message for message in self.sent if message["type"] == "http.response.start")
        return {name.decode().lower(): value.decode() for name, value in start["headers"]}

    @property
    def detail(self) -> str:
        body = b"".join(message.get("body", b"") for message in self.sent)
        return json.loads(body)["detail"]

    @property
    def passed(self) -> bool:
        """Whether the request reached the app behind the check."""
        return any(message["type"] in ("app.reached", "websocket.accept") for message in self.sent)

    @property
    def closed(self) -> bool:
        return self.sent == [{"type": "websocket.close", "code": 1008}]


def ask(
    app: ASGIApp,
    kind: str = "http",
    method: str = "GET",
    pieces: Sequence[bytes] = (b"",),
    headers: dict[str, str] | None = None,
) -> Answer:
    """Send one request to an app."""
    sent: list[Message] = []
    left = list(pieces)

    async def receive() -> Message:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    async def send(message: Message) -> None:
        sent.append(message)

    named = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    scope: dict[str, Any] = {"type": kind, "method": method, "path": "/", "headers": named}

    async def call() -> None:
        await app(scope, receive, send)

    asyncio.run(call())
    return Answer(sent, len(pieces) - len(left))


async def reached(scope: Scope, receive: Receive, send: Send) -> None:
    """An app that says that it was reached."""
    await send({"type": "websocket.accept" if scope["type"] == "websocket" else "app.reached"})


async def reads_all(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive())["more_body"]:
        pass
    await send({"type": "app.reached"})


CHECKS = [
    HostCheck(reached),
    SameOriginCheck(reached),
    Authentication(reached, [Credentials("ann", "pw")]),
    BodyLimit(reached, LIMIT),
]
REFUSED = [
    (CHECKS[0], {"host": "evil.example"}, 403, "not called 'evil.example'"),
    (CHECKS[1], {**HERE, "origin": "https://evil.example"}, 403, "other sites"),
    (CHECKS[2], HERE, 401, "Say who you are"),
    (CHECKS[3], {**HERE, "content-length": str(LIMIT + 1)}, 413, "larger than"),
]
GOOD = {**HERE, "authorization": "Basic " + base64.b64encode(b"ann:pw").decode(), "content-length": str(LIMIT)}
NAMES = [type(check).__name__ for check in CHECKS]


# --- what all checks have in common ---


@pytest.mark.parametrize("kind", ["http", "websocket"])
@pytest.mark.parametrize("check", CHECKS, ids=NAMES)
def test_a_good_request_passes(check: ASGIApp, kind: str) -> None:
    assert ask(check, kind, headers=GOOD).passed


@pytest.mark.parametrize(("check", "headers", "status", "said"), REFUSED, ids=NAMES)
def test_another_one_is_refused_with_a_sentence_and_a_websocket_is_closed(
    check: ASGIApp, headers: dict[str, str], status: int, said: str
) -> None:
    answer = ask(check, headers=headers)
    assert (answer.status, answer.passed) == (status, False) and said in answer.detail
    assert ask(check, "websocket", headers=headers).closed


@pytest.mark.parametrize("app", [*CHECKS, SecurityHeaders(reached), Faults(reached), guarded(reached)])
def test_the_servers_own_start_and_end_pass(app: ASGIApp) -> None:
    assert ask(app, "lifespan").passed


def test_the_checks_come_in_order_and_every_answer_gets_the_headers() -> None:
    app = guarded(reached, users=[Credentials("ann", "pw")], host_names=["studio"], most_body=LIMIT)
    headers = {"host": "evil", "origin": "http://evil.example", "content-length": str(LIMIT + 1)}
    statuses = []
    for repair in ({"host": "studio"}, {"origin": "http://studio"}, {"authorization": GOOD["authorization"]}, {}):
        answer = ask(app, headers=headers)
        statuses.append((answer.status, answer.detail[:12]))
        assert answer.headers["x-frame-options"] == "SAMEORIGIN"
        headers |= repair
    assert statuses == [
        (403, "This server "),
        (403, "Requests fro"),
        (401, "Say who you "),
        (413, "The request "),
    ]
    assert ask(app, headers={**headers, "content-length": "1"}).passed


# --- one by one ---


@pytest.mark.parametrize("host", ["LOCALHOST", "localhost.:80", "10.0.0.7:7860", "[::1]:7860", "studio.local"])
def test_a_name_of_this_machine_passes(host: str) -> None:
    assert ask(HostCheck(reached, ["Studio.local"]), headers={"host": host}).passed


@pytest.mark.parametrize("host", ["", "[::1", "localhost.evil.example", "studio"])
def test_another_name_is_refused(host: str) -> None:
    assert ask(HostCheck(reached, ["Studio.local"]), headers={"host": host}).status == 403


@pytest.mark.parametrize(
    ("method", "headers", "passes"),
    [
        ("POST", {}, True),  # a program
        ("POST", {"origin": "http://localhost:7860"}, True),
        ("POST", {"origin": "http://localhost:7861"}, False),
        ("POST", {"origin": "null"}, False),
        ("GET", {"sec-fetch-site": "same-origin"}, True),
        ("GET", {"sec-fetch-site": "cross-site"}, False),
        ("GET", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, True),  # a link
        ("POST", {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}, False),
    ],
)
def test_what_a_browser_says_of_where_a_request_is_from(method: str, headers: dict[str, str], passes: bool) -> None:
    assert ask(SameOriginCheck(reached), method=method, headers={**HERE, **headers}).passed is passes


@pytest.mark.parametrize(
    ("host", "origin", "more", "told"),
    [
        ("pics.example", "https://pics.example:8443", {}, True),  # nginx, with Host $host
        ("127.0.0.1:7860", "https://pics.example", {}, True),  # nginx without a word about Host
        ("pics", "https://pics.example", {"x-forwarded-for": "10.0.0.7"}, True),
        ("studio.local:7860", "https://evil.example", {}, False),
    ],
)
def test_a_proxy_that_changes_the_name_of_the_server_is_told_what_to_set(
    host: str, origin: str, more: dict[str, str], told: bool
) -> None:
    answer = ask(SameOriginCheck(reached), method="POST", headers={"host": host, "origin": origin, **more})
    assert answer.status == 403 and ("proxy_set_header Host $http_host;" in answer.detail) is told


def test_a_port_that_is_the_schemes_own_may_be_left_out() -> None:
    for origin, host in (("http://localhost", "localhost:80"), ("https://localhost:443", "localhost")):
        assert ask(SameOriginCheck(reached), headers={"host": host, "origin": origin}).passed


def test_who_is_refused_is_asked_for_a_password() -> None:
    check = Authentication(reached, [Credentials("ann", "pw")])
    assert ask(check).headers["www-authenticate"].startswith("Basic ")
    wrong = "Basic " + base64.b64encode(b"ann:other").decode()
    assert ask(check, headers={"authorization": wrong}).status == 401


def test_a_body_that_is_refused_for_its_length_is_read_and_thrown_away_up_to_a_limit() -> None:
    headers = {"content-length": "1000"}
    assert ask(BodyLimit(reached, LIMIT), pieces=[b"x" * 50] * 5, headers=headers).received == 5
    assert ask(BodyLimit(reached, LIMIT), pieces=[b"x" * 50] * 20, headers=headers).received == 9  # beyond 4 times


@pytest.mark.parametrize("pieces", [[b"x" * LIMIT], [b"x" * (LIMIT - 1), b"x"]])
def test_a_body_of_the_limit_passes(pieces: list[bytes]) -> None:
    assert ask(BodyLimit(reads_all, LIMIT), pieces=pieces).passed


def test_reading_a_body_that_grows_too_large_is_an_error_in_the_app_that_becomes_an_answer() -> None:
    pieces = [b"x" * 60] * 3
    with pytest.raises(HTTPException) as raised:
        ask(BodyLimit(reads_all, LIMIT), pieces=pieces)
    assert raised.value.status_code == 413
    answer = ask(Faults(BodyLimit(reads_all, LIMIT)), pieces=pieces)
    assert answer.status == 413 and answer.detail == raised.value.detail and answer.received == 3


@pytest.mark.parametrize("length", ["-1", "abc"])
def test_a_length_that_is_not_a_number_is_left_to_the_server(length: str) -> None:
    assert ask(BodyLimit(reached, LIMIT), headers={"content-length": length}).passed


def test_headers_that_the_app_set_stay() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-frame-options", b"DENY")]})

    headers = ask(SecurityHeaders(app)).headers
    assert headers["x-frame-options"] == "DENY"
    assert set(headers) == {name.lower() for name in SECURITY_HEADERS}


def test_a_fault_becomes_a_sentence_without_its_details(caplog: pytest.LogCaptureFixture) -> None:
    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        raise ZeroDivisionError("secret")

    answer = ask(Faults(fails))
    assert answer.status == 500 and "went wrong" in answer.detail and "secret" not in answer.detail
    assert "ZeroDivisionError: secret" in caplog.text
    with pytest.raises(ZeroDivisionError):
        ask(Faults(fails), "websocket")


def test_a_fault_after_the_answer_has_begun_adds_nothing_to_it() -> None:
    async def fails_late(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise ZeroDivisionError

    assert len(ask(Faults(fails_late)).sent) == 1
