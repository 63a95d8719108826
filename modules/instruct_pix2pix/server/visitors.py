"""Who sends a request, as far as can be told: the address of its network, also behind proxies that are known."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import UserError
from .guesses import network_of

LOOPBACK = ("127.0.0.0/8", "::1/128")
"""The proxies that are known unless others are named: those on this machine."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

VISITOR = "ip2p_visitor"
"""Where a request's scope has its Visitor."""


@dataclass(frozen=True)
class Visitor:
    """Somebody whose tasks are counted together."""

    name: str = ""
    """An address, or the network that one person may have; empty where nobody counts."""
    token: str = ""
    """By which a host that lends GPUs knows whom to charge; empty elsewhere."""


NOBODY = Visitor()


class Proxies:
    """The networks whose proxies are believed when they say for whom they forward."""

    def __init__(self, networks: Collection[str] = LOOPBACK) -> None:
        """Raises UserError for what is no network, such as '10.0.0.0/8'."""
        self.networks = tuple(_network(text) for text in networks)

    def address(self, scope: Scope) -> str:
        """Return where a request comes from, as `network_of` gives it.

        Each proxy adds the address that it got the request from to X-Forwarded-For, so the last one there that is no
        proxy's is the visitor's; what stands before it anybody may have written.
        """
        address = (scope.get("client") or ("",))[0]
        written = ",".join(Headers(scope=scope).getlist("x-forwarded-for"))
        for told in [one.strip() for one in reversed(written.split(",")) if one.strip()]:
            if not self._has(address):
                break
            address = told
        return network_of(address)

    def _has(self, address: str) -> bool:
        try:
            found: Any = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        found = getattr(found, "ipv4_mapped", None) or found
        return any(found in network for network in self.networks)


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text.strip(), strict=False)
    except ValueError as error:
        raise UserError(f"{text[:60]!r} is not a network: write it as 10.0.0.0/8, or as one address.") from error


class KnowsVisitors:
    """Middleware: puts the Visitor of each request into its scope, under VISITOR."""

    def __init__(self, app: ASGIApp, proxies: Proxies, token_header: str = "") -> None:
        """`token_header` is the one with a visitor's token, where there is such a thing."""
        self.app, self.proxies, self.token_header = app, proxies, token_header

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on one request."""
        if scope["type"] == "http":
            token = Headers(scope=scope).get(self.token_header, "") if self.token_header else ""
            scope = {**scope, VISITOR: Visitor(self.proxies.address(scope), token)}
        await self.app(scope, receive, send)


def visitor_in(scope: Scope) -> Visitor:
    """Return the visitor who sent a request; NOBODY where the app is served without `KnowsVisitors`."""
    found = scope.get(VISITOR)
    return found if isinstance(found, Visitor) else NOBODY
