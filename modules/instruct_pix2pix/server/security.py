"""What every request passes before anything else sees it: who asks, from where, with how much.

A page of another site can make a browser send requests to a server on the same machine. It cannot choose the Origin
and Host headers that the browser writes, so those tell: another Origin is a request forged by a page (CSRF), and a Host
that is some domain is a page whose domain was made to point here (DNS rebinding).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import logging
from collections.abc import Collection
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .api.routes import error_answer

MOST_BODY = 64 * 2**20
"""Bytes of a request's body."""

DRAINED = 4
"""A body too large is read up to this many times the limit, and thrown away, so that its sender hears why."""

# The browser itself is told to load nothing from elsewhere. Scripts in the page, because gradio's page has them.
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)
SECURITY_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Credentials:
    """A user's name and password."""

    user: str
    password: str

    def match(self, header: str) -> bool:
        """Whether an Authorization header holds them; takes the same time wherever they differ."""
        kind, _, encoded = header.partition(" ")
        try:
            given = base64.b64decode(encoded.strip(), validate=True) if kind.lower() == "basic" else b""
        except (binascii.Error, ValueError):
            given = b""
        return hmac.compare_digest(given, f"{self.user}:{self.password}".encode())


class Guard:
    """The outermost ASGI app: checks requests, adds headers to answers, and turns any error into one sentence."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        credentials: Credentials | None = None,
        host_names: Collection[str] = (),
        most_body: int = MOST_BODY,
    ) -> None:
        """`host_names` are names of this machine by which it may be called, besides localhost and any IP address."""
        self.app = app
        self.credentials = credentials
        self.host_names = frozenset({"localhost", *(name.lower() for name in host_names)})
        self.most_body = most_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if scope["type"] == "websocket":
            if refusal is None:
                await self.app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008})
            return
        started = False

        async def send_on(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                answer = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    answer.setdefault(name, value)
            await send(message)

        if refusal is not None:
            status, sentence = refusal
            if status == 413:
                await _drain(receive, DRAINED * self.most_body)
            more = {"WWW-Authenticate": 'Basic realm="instruct-pix2pix", charset="UTF-8"'} if status == 401 else None
            await error_answer(status, sentence, more)(scope, receive, send_on)
            return
        try:
            await self.app(scope, _limited(receive, self.most_body), send_on)
        except HTTPException as error:
            if not started:
                await error_answer(error.status_code, error.detail)(scope, receive, send_on)
        except Exception as error:
            log.error(
                "%s %s failed: %s: %s",
                scope["method"],
                scope["path"],
                type(error).__name__,
                error,
                exc_info=log.isEnabledFor(logging.DEBUG),
            )
            if not started:
                sentence = "Something went wrong in this program: its log says what."
                await error_answer(500, sentence)(scope, receive, send_on)

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        """The status and sentence for a request that goes no further."""
        host = headers.get("host", "")
        if not self._is_here(host):
            name = ascii(host[:100])
            return 403, f"This server is not called {name}: use its address, or start it with --allow-host NAME."
        if not _is_same_origin(scope, headers, host):
            return 403, "Requests from the pages of other sites are refused: use this server's own page, or a program."
        if self.credentials is not None and not self.credentials.match(headers.get("authorization", "")):
            return 401, "Say who you are: send the user name and password of --auth (HTTP basic)."
        length = headers.get("content-length", "0")
        if len(length) > 15 or (length.isdecimal() and int(length) > self.most_body):
            return 413, _too_large(self.most_body)
        return None

    def _is_here(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.rstrip(".") in self.host_names
        return True


def _is_same_origin(scope: Scope, headers: Headers, host: str) -> bool:
    """Whether no page of another origin is behind the request, as far as the browser tells; programs tell nothing."""
    origin = headers.get("origin")
    if origin is not None:
        scheme, _, place = origin.partition("://")
        standard = {"http": ":80", "https": ":443"}.get(scheme, "")
        return bool(place) and place.lower().removesuffix(standard) == host.lower().removesuffix(standard)
    if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return True
    # Following a link from elsewhere to the page is no harm.
    return scope.get("method") == "GET" and headers.get("sec-fetch-mode") == "navigate"


def _limited(receive: Receive, most: int) -> Receive:
    """Pass the body on and raise 413 when it grows beyond `most`: not every body says its length beforehand."""
    came = 0

    async def receive_some() -> Message:
        nonlocal came
        message = await receive()
        came += len(message.get("body", b""))
        if came > most:
            if message.get("more_body"):  # after the last piece there is nothing to wait for but a client that hangs up
                await _drain(receive, DRAINED * most)
            raise HTTPException(413, _too_large(most))
        return message

    return receive_some


async def _drain(receive: Receive, most: int) -> None:
    """Throw the rest of a body away, up to `most` bytes."""
    came = 0
    while came <= most:
        message = await receive()
        came += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return


def _too_large(most: int) -> str:
    return f"The request is larger than {most / 2**20:.3g} MB: send a smaller picture."
