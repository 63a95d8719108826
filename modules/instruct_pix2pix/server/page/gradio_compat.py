"""What gradio 6.31 does wrong for this page, and what is done about it: every workaround in Python is in this file.

tests/server/test_gradio_compat.py asserts that each fault is still there. When a newer gradio makes one of its tests
fail, the workaround of that name can go, here and where it is used.

Workarounds that act in the browser lie in data/web, each with a comment:

| file                   | what gradio 6.31 does                              | it can go when                         |
|------------------------|----------------------------------------------------|----------------------------------------|
| first.js               | its loader asks for a frame for ever (a clock)     | the loader stops its clock             |
| progress.js            | its events cost the browser far more than a fetch  | streamed progress is as cheap          |
| progress.js            | it fetches results only once it shows them         | old pictures stay until new ones come  |
| progress.js, page.css  | it makes shown and hidden components anew          | `visible` keeps their elements         |
| paint.js               | it may make the canvas anew                        | elements outlive an update             |
| page.js                | it runs `head` before or after the page is read    | it says when `head` runs               |
| page.js                | its pictures take no drop once they hold one       | `gr.Image` takes it                    |
| page.js                | its buttons have no tooltip                        | `gr.Button` has an argument for it     |
| page.css               | widths and margins inside components are fixed     | the theme has variables for them       |
| page.css               | the empty part of a slider is invisible in the dark| the default theme shows it             |

Three stay elsewhere: `html.escape` replaces '{' and '`', which mean something in the templates of `gr.HTML`; the policy
in `server.security` allows scripts inside the page, because gradio's page has some; and `panel.IN_BROWSER` serves the
hosts, whose gradio is older.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.blocks import Block
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..security import drain
from ..upload_space import DiskFull, UploadSpace

# --- before the page is made ---


def set_environment(folder: Path) -> None:
    """Set what gradio reads from the environment only; `folder` becomes the one for its uploads and results.

    gradio 6.31 has no argument for that folder when a page is mounted: by default it is one that every user of the
    machine can read, and that outlives the program. Nor has it one against its statistics: it sends some to its makers,
    and computes a table with pandas after each event. Each variable can go when `mount_gradio_app` has an argument.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_ANALYTICS_MAX_EVENTS"] = "100"
    os.environ["GRADIO_ANALYTICS_CACHE_FREQUENCY"] = "1000000000"  # events between two tables


# --- events ---

UNREAD: dict[str, Any] = {"preprocess": False}
"""For an event with a picture among its inputs: the handler gets the path alone.

gradio 6.31 opens every picture before a handler sees it, even for `type="filepath"`, so that our limits on size and
content would come too late. This can go when `gr.Image(type="filepath")` leaves the file alone.
"""


def no_progress(state: gr.State) -> dict[str, Any]:
    """Return the arguments of an event that shows no progress; `state` is any state of the page.

    Where gradio 6.31 shows an event's progress, even `show_progress="hidden"`, a clock may run at every frame of the
    browser from then on. A state has no element on which to run. This can go when the loader stops its clock.
    """
    return {"show_progress": "hidden", "show_progress_on": state}


def unordered(*components: Block) -> Any:  # noqa: ANN401
    """Return outputs of an event whose handler returns a dictionary, in which order no longer matters.

    gradio 6.31 takes a set, and puts it into the order in which the components were made, but its types allow a set for
    inputs alone. This can go when the type of `outputs` allows one.
    """
    return set(components)


# --- after the page is mounted ---


def make_safe_and_quiet(blocks: gr.Blocks) -> None:
    """Make a mounted page check paths as a launched one does, and wake less often.

    gradio 6.31 compares a path that a browser sends with the upload folder only on pages that it launched itself. This
    can go when `mount_gradio_app` sets `has_launched`, or `_check_allowed` no longer asks for it.

    While nothing is under way its queue wakes 1000 times a second, and 100 times more for progress, which takes time
    from an edit. These can go when the queue waits for an event instead, or the times are arguments of `Blocks.queue`.
    """
    blocks.has_launched = True
    blocks._queue.sleep_when_free = 0.03  # seconds
    blocks._queue.progress_update_sleep_when_free = 1.0  # nothing here reports progress to gradio


def forget_removed(blocks: gr.Blocks) -> None:
    """Forget files that are no longer there.

    gradio 6.31 keeps the path of every upload, for good where it does not remove the file itself. This can go when it
    forgets them.
    """
    for files in blocks.temp_file_sets:
        files -= {file for file in tuple(files) if not Path(file).exists()}


# --- in front of the page ---

CALLS = re.compile(r"/gradio_api/(queue/join|run/predict)")
"""Requests that call a handler: their bodies may hold paths."""
UPLOAD = "/gradio_api/upload"
STREAMS = re.compile(r"/gradio_api/(queue/data|upload_progress|heartbeat/.+)")
"""Requests that are answered bit by bit, for as long as the page is open."""
OTHERS = re.compile(r"/gradio_api/(cancel|file=.+)")
MOST_STREAMS = 128
"""Half of the connections that the server takes: a page has one or two such requests open."""


class GradioGate:
    """Middleware: passes on only those requests to gradio's API that the page makes, with no path outside of `folder`.

    gradio 6.31 serves a whole API beside each page (its schema, recordings, other ways to call a handler), takes the
    path of a file from what the browser sends, and downloads what looks like an address. This can go when a page can be
    mounted without that API, and a handler's input can be nothing but a file that was uploaded.
    """

    def __init__(self, app: ASGIApp, space: UploadSpace) -> None:
        """`space` has the folder where gradio puts uploads and results."""
        self.app = app
        self.space, self.folder = space, space.folder.resolve()
        self._streams = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope.get("path", "")
        if path.rstrip("/") == "/login":  # of gradio, which would put its form onto the disk
            await PlainTextResponse("Not Found", status_code=404)(scope, receive, send)
            return
        if scope["type"] != "http" or not path.startswith("/gradio_api") or OTHERS.fullmatch(path):
            await self.app(scope, receive, send)
            return
        if path == UPLOAD:
            await self._upload(scope, receive, send)
            return
        if STREAMS.fullmatch(path):
            await self._stream(scope, receive, send)
            return
        if scope["method"] != "POST" or not CALLS.fullmatch(path):
            await PlainTextResponse("Not Found", status_code=404)(scope, receive, send)
            return
        body = await _body(receive)
        try:
            sound = all(self.is_uploaded(sent) for sent in _paths(json.loads(body)))
        except (ValueError, RecursionError):
            sound = False
        if not sound:
            await PlainTextResponse("Files are uploaded, not named.", status_code=403)(scope, receive, send)
            return
        pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> Message:
            return pending.pop() if pending else await receive()

        await self.app(scope, receive_again, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request that stays open, unless too many are: the server would have no connection left for others.

        gradio 6.31 has no limit. This can go when it has.
        """
        if self._streams >= MOST_STREAMS:
            busy = "Too many pages of this server are open: close some."
            await PlainTextResponse(busy, status_code=503, headers={"Retry-After": "5"})(scope, receive, send)
            return
        self._streams += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._streams -= 1

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on an upload as long as there is room for it.

        gradio 6.31 writes to the disk whatever comes, and removes the file of an upload that ends early only where that
        is a MultiPartException. This can go when it asks first, and removes such a file however the upload ends.
        """
        refused: tuple[int, str] | None = None
        more = False

        async def receive_some() -> Message:
            nonlocal refused, more
            try:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise HTTPException(400, "The upload was broken off.")
                more = bool(message.get("more_body"))
                await run_in_threadpool(self.space.admit, len(message.get("body", b"")))
            except HTTPException as error:
                refused = error.status_code, error.detail
            except DiskFull as error:
                refused = 507, str(error)
            else:
                return message
            raise MultiPartException(refused[1])

        async def send_on(message: Message) -> None:
            if refused is None:
                await send(message)

        await self.app(scope, receive_some, send_on)
        if refused is not None:
            if refused[0] == 507 and more:  # its sender hears nothing as long as it sends
                await drain(receive, 1 << 30)
            await PlainTextResponse(refused[1], status_code=refused[0])(scope, receive, send)

    def is_uploaded(self, path: object) -> bool:
        """Whether what was sent as a path lies in the folder, links followed, or is none at all."""
        if path is None:
            return True
        return isinstance(path, str) and Path(path).resolve().is_relative_to(self.folder)


async def _body(receive: Receive) -> bytes:
    """Return the whole body; its size has been limited before."""
    parts: list[bytes] = []
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            return b"".join(parts)


def _paths(value: object) -> Iterator[object]:
    """Every 'path' in what was sent, however deep."""
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, dict):
            if "path" in one:
                yield one["path"]
            todo.extend(one.values())
        elif isinstance(one, list):
            todo.extend(one)


HEAD = b"<head>"


class HeadScript:
    """Middleware: puts a script at the beginning of the page.

    gradio 6.31 sends its argument `head` as text inside its configuration, and adds it to the page when its own modules
    have long begun. This can go when `head` is part of the HTML, before the first module.
    """

    def __init__(self, app: ASGIApp, script: str) -> None:
        self.app = app
        self.head = HEAD + f"<script>{script}</script>".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] not in ("", "/"):
            await self.app(scope, receive, send)
            return
        # The page must not come compressed.
        headers = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        start: list[Message] = []
        body = b""

        async def hold(message: Message) -> None:
            nonlocal body
            if message["type"] == "http.response.start":
                start.append(message)
                return
            if message["type"] != "http.response.body":
                await send(message)
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            whole = body.replace(HEAD, self.head, 1)
            MutableHeaders(scope=start[0])["content-length"] = str(len(whole))
            await send(start[0])
            await send({**message, "body": whole})

        await self.app({**scope, "headers": headers}, receive, hold)
