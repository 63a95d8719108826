"""The connections of the server: none is held open by saying nothing, and none shuts the others out.

A connection costs its client next to nothing, and the server has a fixed number of places for them. So whoever opens
hundreds and never finishes a request (the attack called Slowloris) would take them all. Three rules prevent that:

- A request arrives, and its answer is taken, at a pace that every network has; else the connection is cut. The limits
  are those of Apache's mod_reqtimeout (https://httpd.apache.org/docs/2.4/mod/mod_reqtimeout.html).
- Where places are short, the connection that has waited longest without a request gives up its own.
- One address never has all the places. A proxy in front of the server is one address, for all its visitors: it may
  have the greater part of them, and since it passes on whole requests, it loses none but idle connections.
"""

from __future__ import annotations

import asyncio

import h11
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from .responses import error_answer

PLACES = 256
"""Connections at a time."""
PLACES_EACH = 192
"""Connections at a time from one address."""
SILENCE = 20.0
"""Seconds for the head of a request, and for its body before `PACE` counts."""
PACE = 500
"""Bytes a second of a body."""
UNREAD = 60.0
"""Seconds in which a client may take nothing of its answer."""
PERIOD = 2.0
"""Seconds between two looks at a connection."""

CROWDED: ASGIApp = error_answer(
    503,
    "Too many connections are open from your address: close some, or try again in a moment.",
    {"Retry-After": "5", "Connection": "close"},
)


class BoundedConnection(H11Protocol):
    """One connection, as uvicorn serves it, within the limits above."""

    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A client has connected: find a place for it."""
        super().connection_made(transport)
        self._since = self.loop.time()  # when it began to wait for a request, or the body of one began
        self._came = 0  # bytes of the body
        self._unsent, self._unread = 0, 0.0
        self._find_place()
        self._next_look = self.loop.call_later(PERIOD, self._look)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is closed."""
        self._next_look.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        waited = self.waits
        super().data_received(data)
        if waited and not self.waits:
            self._since, self._came = self.loop.time(), 0
        self._came += len(data)

    def on_response_complete(self) -> None:
        """An answer was sent: the wait for the next request begins."""
        if self.conn.their_state is not h11.SEND_BODY:
            self._since = self.loop.time()
        super().on_response_complete()

    @property
    def waits(self) -> bool:
        """Whether there is no request to answer."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def address(self) -> str:
        """The client's address."""
        return self.client[0] if self.client else ""

    def _find_place(self) -> None:
        connections = [one for one in self.connections if isinstance(one, BoundedConnection)]
        own = [one for one in connections if one.address == self.address]
        crowded = len(own) > PLACES_EACH
        if not crowded and len(connections) < PLACES:
            return
        waiting = [one for one in (own if crowded else connections) if one is not self and one.waits]
        if waiting:
            min(waiting, key=lambda one: one._since)._cut()
        elif crowded:
            self.app = CROWDED

    def _look(self) -> None:
        """Cut the connection if nothing moves, else look again."""
        if self._is_late() or self._is_unread():
            self._cut()
        else:
            self._next_look = self.loop.call_later(PERIOD, self._look)

    def _is_late(self) -> bool:
        """Whether a request arrives too slowly."""
        if self.conn.their_state is h11.SEND_BODY:
            if self.flow.read_paused:  # the server does not read: this time is not the client's
                self._since += PERIOD
            return self.loop.time() - self._since > SILENCE + self._came / PACE
        return self.waits and self.loop.time() - self._since > SILENCE

    def _is_unread(self) -> bool:
        """Whether a client has taken nothing of its answer for too long."""
        unsent = self.transport.get_write_buffer_size()
        self._unread = self._unread + PERIOD if unsent and unsent == self._unsent else 0.0
        self._unsent = unsent
        return self._unread > UNREAD

    def _cut(self) -> None:
        self.connections.discard(self)  # its place is free at once
        self.transport.abort()
