"""What every request passes before anything else sees it: who asks, from where, with how much. One job a middleware.

A page of another site can make a browser send requests to a server on the same machine. It cannot choose the Origin
and Host headers that the browser writes, so the server can trust them: another Origin is a request forged by a page
(CSRF), and a Host of some foreign domain is a page whose domain was made to point here (DNS rebinding).

Each check refuses a request with one sentence, and closes a websocket; `app.guarded` puts them in order.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import ipaddress
import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .folder_access import FORWARDED, is_loopback
from .guesses import FREE, Guesses
from .responses import FAULT, error_answer
from .visitors import Proxies

MOST_BODY = 64 * 2**20
"""Bytes of a request's body."""

DRAINED = 4
"""A body too large is read up to this many times the limit, and thrown away, so that its sender hears why."""

POLICY_VIOLATION = 1008
"""The code of RFC 6455 with which a refused websocket is closed."""

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

CHECKED = ("http", "websocket")
"""The kinds of ASGI connections that are requests; the other one is the server's own start and end."""

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
        known = f"{self.user}:{self.password}".encode()
        return hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(known).digest())


class SecurityHeaders:
    """Adds headers to every answer that tell the browser to be careful; those that the app set stay."""

    def __init__(self, app: ASGIApp, frames: Collection[str] = ()) -> None:
        """`frames` are other sites that may show the page in a frame."""
        self.app, self.headers = app, dict(SECURITY_HEADERS)
        if frames:
            ours = "frame-ancestors 'self'"
            self.headers["Content-Security-Policy"] = POLICY.replace(ours, " ".join((ours, *frames)))
            del self.headers["X-Frame-Options"]  # which knows no other site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_on)


class Faults:
    """Turns what an app raises into an answer of one sentence, unless its answer has begun. Websockets pass."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = False

        async def send_on(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self.app(scope, receive, send_on)
        except HTTPException as error:
            if not started:
                await error_answer(error.status_code, error.detail)(scope, receive, send)
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
                await error_answer(500, FAULT)(scope, receive, send)


class HostCheck:
    """Refuses requests to other names than those of this machine."""

    def __init__(self, app: ASGIApp, host_names: Collection[str] = ()) -> None:
        """`host_names` are names by which it may be called, besides localhost and any IP address."""
        self.app = app
        self.host_names = frozenset({"localhost", *(name.lower() for name in host_names)})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        host = Headers(scope=scope).get("host", "") if scope["type"] in CHECKED else "localhost"
        if self._is_here(host):
            await self.app(scope, receive, send)
            return
        sentence = f"This server is not called {host[:100]!a}: use its address, or start it with --allow-host NAME."
        await _refuse(scope, receive, send, 403, sentence)

    def _is_here(self, host: str) -> bool:
        name = _name_in(host)
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.rstrip(".") in self.host_names
        return True


class SameOriginCheck:
    """Refuses requests that the page of another site made a browser send. Programs, which send no Origin, pass."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] not in CHECKED or _is_same_origin(scope):
            await self.app(scope, receive, send)
            return
        sentence = "Requests from the pages of other sites are refused: use this server's own page, or a program."
        if _may_be_renamed(Headers(scope=scope)):
            sentence += (
                " If this is its own page, the proxy in front of it must pass on the header Host as it came: in nginx, "
                "proxy_set_header Host $http_host;"
            )
        await _refuse(scope, receive, send, 403, sentence)


def _is_same_origin(scope: Scope) -> bool:
    """Whether no page of another origin is behind the request, as far as the browser tells; programs tell nothing."""
    headers = Headers(scope=scope)
    origin, host = headers.get("origin"), headers.get("host", "")
    if origin is not None:
        scheme, _, place = origin.partition("://")
        standard = {"http": ":80", "https": ":443"}.get(scheme, "")
        return bool(place) and place.lower().removesuffix(standard) == host.lower().removesuffix(standard)
    if headers.get("sec-fetch-site", "none") in ("none", "same-origin"):
        return True
    # Following a link from elsewhere to the page is no harm.
    return scope.get("method") == "GET" and headers.get("sec-fetch-mode") == "navigate"


USER = "ip2p_user"
"""Where a request's scope has the name of the user who sent it, if it was asked for."""
COOKIE = "ip2p_browser"
"""The name of the cookie of `guesses.Guesses`."""


def _may_be_renamed(headers: Headers) -> bool:
    """Whether a proxy may have changed the header Host: it took the port off, or wrote its own name for this server."""
    origin, host = (_name_in(headers.get("origin", "").partition("://")[2]), _name_in(headers.get("host", "")))
    return origin == host or is_loopback(host) or any(name in headers for name in FORWARDED)


def _name_in(place: str) -> str:
    """Return the name in NAME or NAME:PORT; empty where there is none."""
    try:
        return urlsplit(f"//{place}").hostname or ""
    except ValueError:
        return ""


class Authentication:
    """Refuses requests without a user's name and password (HTTP basic), and makes those who guess wait."""

    def __init__(self, app: ASGIApp, users: Collection[Credentials], proxies: Proxies | None = None) -> None:
        """`proxies` are those that say for whom they forward, by default those on this machine."""
        self.app, self.users, self.proxies = app, tuple(users), proxies or Proxies()
        self._guesses = Guesses()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] not in CHECKED:
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("authorization", "")
        cookie = HTTPConnection(scope).cookies.get(COOKIE, "")
        known = self._guesses.is_ours(cookie)
        address = self.proxies.address(scope)
        guesser = cookie if known else address
        wait = self._guesses.wait(guesser) if given else 0.0
        matches = [user.match(given) for user in self.users]  # all are compared, whichever it is
        if wait:
            seconds = math.ceil(wait)
            sentence = f"Too many wrong passwords came from your address: try again in {seconds} s."
            await _refuse(scope, receive, send, 429, sentence, {"Retry-After": str(seconds)})
        elif any(matches):
            user = self.users[matches.index(True)].user
            await self.app({**scope, USER: user}, receive, send if known else self._marked(send))
        else:
            if given and self._guesses.add(guesser, given) == FREE:
                log.warning("%d wrong passwords came from %s: it has to wait now.", FREE, address)
            sentence = "Say who you are: send your user name and password (HTTP basic)."
            ask = {"WWW-Authenticate": 'Basic realm="instruct-pix2pix", charset="UTF-8"'}
            await _refuse(scope, receive, send, 401, sentence, ask)

    def _marked(self, send: Send) -> Send:
        """Return a `send` that gives a browser the cookie of those who have logged in."""

        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                cookie = f"{COOKIE}={self._guesses.new_cookie()}; Path=/; HttpOnly; SameSite=Strict"
                MutableHeaders(scope=message).append("Set-Cookie", cookie)
            await send(message)

        return send_on


class BodyLimit:
    """Refuses a body of more than `most` bytes.

    One that says its length is refused at once. Reading one that grows too large raises HTTPException 413 in the app:
    what the app does not answer itself, `Faults` does.
    """

    def __init__(self, app: ASGIApp, most: int = MOST_BODY) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] not in CHECKED:
            await self.app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        if len(length) > 15 or (length.isdecimal() and int(length) > self.most):
            if scope["type"] == "http":
                await drain(receive, DRAINED * self.most)
            await _refuse(scope, receive, send, 413, self._sentence())
        elif scope["type"] == "http":
            await self.app(scope, self._limited(receive), send)
        else:
            await self.app(scope, receive, send)

    def _limited(self, receive: Receive) -> Receive:
        """Return a `receive` that counts: not every body says its length beforehand."""
        came = 0

        async def receive_some() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > self.most:
                if message.get("more_body"):  # after the last piece nothing comes but the end of the connection
                    await drain(receive, DRAINED * self.most)
                raise HTTPException(413, self._sentence())
            return message

        return receive_some

    def _sentence(self) -> str:
        return f"The request is larger than {self.most / 2**20:.3g} MB: send a smaller picture."


async def _refuse(
    scope: Scope, receive: Receive, send: Send, status: int, sentence: str, headers: Mapping[str, str] | None = None
) -> None:
    """Answer with an error, or close a websocket, which has no room for a sentence."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": POLICY_VIOLATION})
    else:
        await error_answer(status, sentence, headers)(scope, receive, send)


async def drain(receive: Receive, most: int) -> None:
    """Throw the rest of a body away, up to `most` bytes."""
    came = 0
    while came <= most:
        message = await receive()
        came += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return
