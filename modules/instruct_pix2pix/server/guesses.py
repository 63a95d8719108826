"""Wrong passwords: who sent how many, and how long they now have to wait. It slows guessing down, not logging in."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

FREE = 5
"""Wrong passwords without a wait: everyone mistypes."""
LONGEST = 60.0
"""Seconds. The wait begins with one and doubles up to this."""
FORGOTTEN = 3600.0
"""Seconds after the last wrong password."""
MOST_GUESSERS = 1024
"""Those that are remembered, the newest."""


@dataclass
class _Guesser:
    wrong: int
    last: bytes
    """A digest of the last wrong password: a page that goes on sending an old one does not guess."""
    at: float


class Guesses:
    """Counts wrong passwords by guesser: an address, or a browser that has logged in before.

    Such a browser has a cookie, so that it is not shut out by others at its address
    (https://owasp.org/www-community/Slow_Down_Online_Guessing_Attacks_with_Device_Cookies).
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds."""
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._guessers: OrderedDict[str, _Guesser] = OrderedDict()

    def wait(self, guesser: str) -> float:
        """Return the seconds before the next password of this guesser is looked at; 0 for now."""
        known = self._guessers.get(guesser)
        if known is None or known.wrong < FREE:
            return 0.0
        seconds = min(LONGEST, 2.0 ** min(known.wrong - FREE, 16))
        return max(0.0, known.at + seconds - self._clock())

    def add(self, guesser: str, password: str) -> int:
        """Count a wrong password; return how many this guesser has sent."""
        digest, now = self._sign(password), self._clock()
        known = self._guessers.pop(guesser, None)
        if known is None or now - known.at > FORGOTTEN:
            known = _Guesser(0, b"", now)
        if digest != known.last:
            known.wrong, known.last, known.at = known.wrong + 1, digest, now
        self._guessers[guesser] = known
        while len(self._guessers) > MOST_GUESSERS:
            self._guessers.popitem(last=False)
        return known.wrong

    # --- browsers ---

    def new_cookie(self) -> str:
        """Return the cookie of a browser that has just logged in."""
        name = secrets.token_hex(8)
        return f"{name}.{self._sign(name).hex()}"

    def is_ours(self, cookie: str) -> bool:
        """Whether a browser has this cookie from here."""
        name, _, signature = cookie.partition(".")
        return hmac.compare_digest(signature.encode("utf-8", "replace"), self._sign(name).hex().encode())

    def _sign(self, text: str) -> bytes:
        return hmac.digest(self._secret, text.encode("utf-8", "replace"), hashlib.sha256)


def network_of(address: str) -> str:
    """Return what one person may have of the addresses: one of IPv4, 2^64 of IPv6; text that is none stays."""
    try:
        parsed = ipaddress.ip_address(address.strip().removeprefix("[").partition("]")[0].partition("%")[0])
    except ValueError:
        return address[:64]
    return str(parsed) if parsed.version == 4 else str(ipaddress.ip_network((parsed, 64), strict=False))
