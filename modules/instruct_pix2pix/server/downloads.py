"""Downloads that the page asks for: one at a time in a thread of their own, so that edits go on meanwhile."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from ..errors import Interrupted, UserError
from ..models.download import discard, download, left_over, look_up
from ..models.hub import show_no_bars
from ..models.known import KNOWN, Offer

SPEED_SECONDS = 10.0
"""Over which a speed is measured."""

MOST_LOOKED_UP = 16
"""Offers that somebody looked up; of more, the oldest are forgotten."""

log = logging.getLogger(__name__)


class DownloadState(str, Enum):
    """How a download stands."""

    WAITING = "waiting"
    RUNNING = "running"
    PAUSED = "paused"
    FAILED = "failed"
    FINISHED = "finished"

    @property
    def going(self) -> bool:
        """Whether it will change by itself."""
        return self in (DownloadState.WAITING, DownloadState.RUNNING)


class _Stop(Enum):
    PAUSE = "pause"
    CANCEL = "cancel"


@dataclass(frozen=True)
class DownloadStatus:
    """A download of an offer."""

    name: str
    state: DownloadState = DownloadState.WAITING
    done: int = 0
    """Bytes that are here."""
    total: int = 0
    """Bytes in all; 0 as long as the hub has not said."""
    speed: float | None = None
    """Bytes a second; None as long as that is not known."""
    heard_at: float = 0.0
    """`time.monotonic()` of the last piece."""
    stopping: bool = False
    """Whether it was asked to pause or to end, and will in a moment."""
    problem: UserError | None = None
    """Why it failed."""
    path: Path | None = None
    """Where it is, once it is finished."""

    @property
    def left(self) -> float | None:
        """Seconds until all is here; None as long as that is not known."""
        return (self.total - self.done) / self.speed if self.speed and self.total else None


class Downloads:
    """The downloads into one models folder. Every method may be called from any thread, and none waits for the hub."""

    def __init__(self, folder: Path | None, landed: Callable[[], object]) -> None:
        """`folder` is None where there is no models folder; `landed` is called when a download has come whole."""
        self.folder = folder
        self._landed = landed
        self._lock = threading.Lock()
        self._looked_up: dict[str, Offer] = {}
        self._statuses: dict[str, DownloadStatus] = {}  # in the order in which they were asked for
        self._stops: dict[str, _Stop] = {}
        self._thread: threading.Thread | None = None
        self._closed = False

    @property
    def offers(self) -> dict[str, Offer]:
        """What can be downloaded, by name."""
        with self._lock:
            return {**KNOWN, **self._looked_up}

    def look_up(self, name: str) -> str:
        """Ask the hub what OWNER/REPO or OWNER/REPO/FILE is, and return the name of its offer. Raises UserError."""
        offer = look_up(name, self._require_folder())
        known = next((name for name, one in KNOWN.items() if one == offer), None)
        name = known or f"{offer.repo}/{offer.file}"
        with self._lock:
            if known is None:
                self._looked_up[name] = offer
            idle = [one for one in self._looked_up if one not in self._statuses]
            for old in idle[: max(0, len(self._looked_up) - MOST_LOOKED_UP)]:
                del self._looked_up[old]
        return name

    def status(self, name: str) -> DownloadStatus | None:
        """Return how the download of a name stands, or None; one that an earlier run of the program left is paused."""
        with self._lock:
            status = self._statuses.get(name)
        offer = self.offers.get(name)
        if status is None and offer and self.folder and (here := left_over(offer, self.folder)):
            return DownloadStatus(name, DownloadState.PAUSED, here)
        return status

    def start(self, name: str) -> None:
        """Begin or go on with a download, behind those that were asked for before. Raises UserError."""
        if name not in self.offers:
            raise UserError(f"There is no download {name[:80]!r}: choose one of {', '.join(KNOWN)}, or look it up.")
        folder = self._require_folder()
        with self._lock:
            if self._closed:
                raise UserError("The program is about to stop: start it again.")
            self._stops.pop(name, None)
            before = self._statuses.get(name, DownloadStatus(name))
            if before.state is DownloadState.RUNNING:
                self._statuses[name] = replace(before, stopping=False)
                return
            self._statuses.pop(name, None)  # behind the others
            self._statuses[name] = replace(before, state=DownloadState.WAITING, problem=None)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, args=(folder,), name="downloads", daemon=True)
                self._thread.start()

    def pause(self, name: str) -> None:
        """Stop a download in a moment, so that it can be gone on with."""
        with self._lock:
            status = self._statuses.get(name)
            if status is None or not status.state.going:
                return
            if status.state is DownloadState.RUNNING:
                self._stops[name] = _Stop.PAUSE
                self._statuses[name] = replace(status, stopping=True)
            else:
                self._statuses[name] = replace(status, state=DownloadState.PAUSED)

    def cancel(self, name: str) -> None:
        """Stop a download, and throw away what came of it."""
        offer = self.offers.get(name)
        if offer is None or self.folder is None:
            return
        with self._lock:
            status = self._statuses.get(name)
            if status is not None and status.state is DownloadState.RUNNING:
                self._stops[name] = _Stop.CANCEL
                self._statuses[name] = replace(status, stopping=True)
                return
            self._statuses.pop(name, None)
            discard(offer, self.folder)

    def close(self) -> None:
        """Stop all in a moment: the next run of the program can go on with them."""
        with self._lock:
            self._closed = True
            names = list(self._statuses)
        for name in names:
            self.pause(name)

    def _require_folder(self) -> Path:
        if self.folder is None:
            raise UserError("This server has no models folder: start it with --models-dir.")
        return self.folder

    # --- the thread ---

    def _work(self, folder: Path) -> None:
        show_no_bars()
        while (name := self._next()) is not None:
            try:
                path = download(name, folder, report=log.info, follow=self._follower(name))
                self._landed()
            except Interrupted:
                self._stopped(name, folder)
            except UserError as error:
                self._change(name, state=DownloadState.FAILED, problem=error.bare())
            except Exception as error:
                log.error("A download failed: %s: %s", type(error).__name__, error, exc_info=True)
                said = UserError("Something went wrong in this program: its log says what.")
                self._change(name, state=DownloadState.FAILED, problem=said)
            else:
                self._change(name, state=DownloadState.FINISHED, path=path)

    def _next(self) -> str | None:
        """Take the next that waits; where there is none, the thread ends."""
        with self._lock:
            waiting = [one for one in self._statuses.values() if one.state is DownloadState.WAITING]
            if not waiting:
                self._thread = None
                return None
            self._statuses[waiting[0].name] = replace(waiting[0], state=DownloadState.RUNNING, total=0)
            return waiting[0].name

    def _follower(self, name: str) -> Callable[[int, int], None]:
        came: deque[tuple[float, int]] = deque()

        def follow(done: int, total: int) -> None:
            now = time.monotonic()
            if came and done < came[-1][1]:
                came.clear()  # a hub that cannot go on in the middle begins anew
            came.append((now, done))
            while now - came[0][0] > SPEED_SECONDS:
                came.popleft()
            seconds = now - came[0][0]
            speed = (done - came[0][1]) / seconds if seconds > 0.5 and done < total else None
            with self._lock:
                status = self._statuses[name]
                self._statuses[name] = replace(status, done=done, total=total, speed=speed, heard_at=now)
                if name in self._stops:
                    raise Interrupted

        return follow

    def _stopped(self, name: str, folder: Path) -> None:
        with self._lock:
            if self._stops.pop(name, _Stop.PAUSE) is _Stop.CANCEL:
                del self._statuses[name]
                discard({**KNOWN, **self._looked_up}[name], folder)
            else:
                status = self._statuses[name]
                self._statuses[name] = replace(status, state=DownloadState.PAUSED, stopping=False, speed=None)

    def _change(self, name: str, **values: object) -> None:
        """It ended: change its status, and forget what it was asked meanwhile."""
        with self._lock:
            self._stops.pop(name, None)
            self._statuses[name] = replace(self._statuses[name], stopping=False, speed=None, **values)
