"""What gradio 6.31 does wrong for this page, and what is done about it: every workaround in Python is in this file.

tests/server/test_gradio_compat.py asserts that each fault is still there. When a newer gradio makes one of its tests
fail, the workaround of that name can go, here and where it is used.

Workarounds that act in the browser lie in data/web, each with a comment:

| file                   | what gradio 6.31 does                              | it can go when                         |
|------------------------|----------------------------------------------------|----------------------------------------|
| first.js               | its loader asks for a frame for ever (a clock)     | the loader stops its clock             |
| connection.js          | after one call without an answer it calls no more  | a call that got lost may be repeated   |
| connection.js          | it waits for ever for an event whose stream ended  | such an event ends with an error       |
| focus.js               | its lists open again when Tab leaves them          | `gr.Dropdown` closes                   |
| focus.js               | its lists drop the focus after a choice            | `gr.Dropdown` keeps it                 |
| arrows.js              | its tabs and galleries know no arrow keys          | they do                                |
| before_after.js        | its slider of two pictures knows no keys           | `gr.ImageSlider` does                  |
| progress.js            | its events cost the browser far more than a fetch  | streamed progress is as cheap          |
| progress.js            | it fetches results only once it shows them         | old pictures stay until new ones come  |
| progress.js, page.css  | it makes shown and hidden components anew          | `visible` keeps their elements         |
| paint.js               | it may make the canvas anew                        | elements outlive an update             |
| strip.js               | a gallery with new pictures forgets its mark       | `selected_index` outlives them         |
| page.js                | it runs `head` before or after the page is read    | it says when `head` runs               |
| page.js                | its pictures take no drop once they hold one       | `gr.Image` takes it                    |
| page.js                | its buttons have no tooltip                        | `gr.Button` has an argument for it     |
| page.js                | its pictures are named without their captions      | the name has the caption               |
| page.css               | widths and margins inside components are fixed     | the theme has variables for them       |
| page.css               | the empty part of a slider is invisible in the dark| the default theme shows it             |

Three stay elsewhere: `text.escape` replaces '{' and '`', which mean something in the templates of `gr.HTML`; the policy
in `server.security` allows scripts inside the page, because gradio's page has some; and `panel.IN_BROWSER` serves the
hosts, whose gradio is older.
"""

from __future__ import annotations

import gzip
import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
from gradio.blocks import Block
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...text import escape
from ..allowance import Allowance
from ..responses import Json, error_answer
from ..security import drain
from ..upload_space import DiskFull, UploadSpace
from ..visitors import NOBODY, Visitor, visitor_in

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


def visitor_of(request: gr.Request) -> Visitor:
    """Return who called a handler.

    gradio 6.31 gives the scope of a request only by the request that it wraps. This can go when it gives it itself.
    """
    return NOBODY if request.request is None else visitor_in(request.request.scope)


def inform(sentence: str) -> None:
    """Show a message over the page.

    gradio shows its messages as HTML, and what they say may come from a file. These two can go when a message is text.
    """
    gr.Info(escape(sentence))


def warn(sentence: str) -> None:
    """Show a warning over the page."""
    gr.Warning(escape(sentence))


# --- after the page is mounted ---


def make_safe_and_quiet(blocks: gr.Blocks) -> None:
    """Make a mounted page check paths as a launched one does, and wake less often.

    gradio 6.31 compares a path that a browser sends with the upload folder only on pages that it launched itself. This
    can go when `mount_gradio_app` sets `has_launched`, or `_check_allowed` no longer asks for it.

    While nothing is under way its queue wakes 1000 times a second, and 100 times more for progress, which takes time
    from an edit. These can go when the queue waits for an event instead, or the times are arguments of `Blocks.queue`.
    """
    blocks.has_launched = True
    preprocess = blocks.preprocess_data

    async def preprocess_quietly(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as gradio's own
        """What cannot be taken is the sender's mistake: it is told so, and no traceback is printed."""
        try:
            return await preprocess(*args, **kwargs)
        except Exception as error:
            raise gr.Error(MISTAKE, print_exception=False) from error

    blocks.preprocess_data = preprocess_quietly
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
CANCEL, STREAM, UPLOAD = "/gradio_api/cancel", "/gradio_api/queue/data", "/gradio_api/upload"
START = "/gradio_api/app_id"
"""Tells which start of the server answers; the page asks when it got no answer."""
STREAMS = re.compile(r"/gradio_api/(queue/data|upload_progress|heartbeat/\w{1,64})")
"""Requests that are answered bit by bit, for as long as the page is open."""
MOST_STREAMS = 128
"""Half of the connections that the server takes: a page has one or two such requests open."""
FILES = re.compile(r"/gradio_api/file=.+")

MISTAKE = "This is not what the page sends: load it again."
MUCH = "You have sent as much as this server takes from one visitor: try again later."
NO_FILE = "The server no longer has this file: choose it again."
MOST_NAME = 255
"""Bytes of a part of a path; no file system has longer names."""

SENT: tuple[tuple[tuple[type[Block], ...], tuple[type, ...]], ...] = (
    ((gr.Checkbox,), (bool,)),
    ((gr.Slider, gr.Number), (int, float)),
    ((gr.Textbox, gr.Dropdown, gr.Radio, gr.HTML), (str,)),
    ((gr.Image, gr.File), (dict,)),
)
"""What the components of the page send, besides nothing; others send anything."""


class GradioGate:
    """Middleware: passes on only those requests to gradio's API that the page makes, with no path outside of `folder`.

    gradio 6.31 serves a whole API beside each page (its schema, recordings, other ways to call a handler), takes the
    path of a file from what the browser sends, and downloads what looks like an address. What it does not expect, such
    as a handler that is not there, ends in status 500 and a traceback. This can go when a page can be mounted without
    that API, a handler's input can be nothing but a file that was uploaded, and every malformed call is answered.
    """

    def __init__(
        self, app: ASGIApp, space: UploadSpace, blocks: gr.Blocks, allowance: Allowance | None = None
    ) -> None:
        """`space` has the folder where gradio puts uploads and results; `blocks` is the page.

        `allowance` is how much each visitor may send, where that is bounded.
        """
        self.app, self.blocks, self.allowance = app, blocks, allowance
        self.space, self.folder = space, space.folder.resolve()
        self._streams = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope.get("path", "")
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if not self._is_there(scope["method"], path, scope["query_string"]):
            await error_answer(404, "There is nothing at this address.")(scope, receive, send)
            return
        if path == UPLOAD:
            await self._upload(scope, receive, send)
            return
        if STREAMS.fullmatch(path):
            await self._stream(scope, receive, send)
            return
        if not CALLS.fullmatch(path) and path != CANCEL:
            await self.app(scope, receive, send)
            return
        body = await _body(receive)
        try:
            sent = json.loads(body)
            named = not all(self.is_uploaded(one) for one in _paths(sent))
            sound = self._is_cancel(sent) if path == CANCEL else self._is_call(sent)
        except (ValueError, RecursionError):
            named, sound = False, False
        if named or not sound:
            status, sentence = (403, NO_FILE) if named else (422, MISTAKE)
            told = {"error": sentence, "detail": sentence}  # gradio's script shows the one or the other
            await Json(told, status)(scope, receive, send)
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
                size = len(message.get("body", b""))
                if self.allowance is not None and not self.allowance.take(visitor_in(scope).name, size):
                    raise HTTPException(429, MUCH)
                await run_in_threadpool(self.space.admit, size)
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
            if refused[0] in (429, 507) and more:  # its sender hears nothing as long as it sends
                await drain(receive, 1 << 30)
            await PlainTextResponse(refused[1], status_code=refused[0])(scope, receive, send)

    def is_uploaded(self, path: object) -> bool:
        """Whether what was sent as a path lies in the folder, links followed, or is none at all."""
        if path is None:
            return True
        if not isinstance(path, str):
            return False
        try:
            found = Path(path).resolve()
            return found.is_relative_to(self.folder) and not found.is_dir()
        except (OSError, ValueError):  # a circle of links, a NUL, too long
            return False

    def _is_there(self, method: str, path: str, query: bytes) -> bool:
        """Whether the page asks for such an address, in this way."""
        if any(len(part.encode("utf-8", "replace")) > MOST_NAME for part in path.split("/")):
            return False
        if path.rstrip("/") == "/login":  # of gradio, which would put its form onto the disk
            return False
        if not path.startswith("/gradio_api") or FILES.fullmatch(path):
            return True
        if path == STREAM:
            (session,) = parse_qs(query.decode("latin-1")).get("session_hash", [""])[:1]
            return session in self.blocks._queue.pending_messages_per_session
        if STREAMS.fullmatch(path) or (method == "GET" and path == START):
            return True
        return method == "POST" and (path in (CANCEL, UPLOAD) or CALLS.fullmatch(path) is not None)

    def _is_call(self, sent: object) -> bool:
        """Whether this calls a handler of the page, with what its components send."""
        if not isinstance(sent, dict) or not _is_name(sent.get("session_hash")):
            return False
        index, data, event = sent.get("fn_index"), sent.get("data"), sent.get("event_data")
        fn = self.blocks.fns.get(index) if type(index) is int else None
        if fn is None or not isinstance(data, list) or len(data) != len(fn.inputs):
            return False
        selects = any(kind == "select" for _, kind in fn.targets)
        if selects and not (isinstance(event, dict) and type(event.get("index")) is int):
            return False
        return type(sent.get("trigger_id")) in (int, type(None)) and all(map(_can_send, fn.inputs, data))

    def _is_cancel(self, sent: object) -> bool:
        if not isinstance(sent, dict):
            return False
        names = _is_name(sent.get("session_hash")) and _is_name(sent.get("event_id"))
        return names and type(sent.get("fn_index")) is int


def _is_name(value: object) -> bool:
    """Whether this can be the name that gradio's script gives a visit or an event."""
    return isinstance(value, str) and re.fullmatch(r"\w{1,64}", value, re.ASCII) is not None


def _can_send(component: Block, value: object) -> bool:
    """Whether a component of the page can send this."""
    kinds = next((kinds for components, kinds in SENT if isinstance(component, components)), (object,))
    if isinstance(component, (gr.Image, gr.File)) and isinstance(value, dict):
        return isinstance(value.get("path"), str)
    return value is None or isinstance(value, kinds)


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
PREVIEW = re.compile(rb'<meta\s+(?:property|name)="(?:og|twitter):[^>]*>\s*')
"""Tags by which others show a link to the page."""


class HeadScript:
    """Middleware: puts a script at the beginning of the page, then tags of our own in place of gradio's link preview.

    gradio 6.31 sends its argument `head` as text inside its configuration, and adds it to the page when its own modules
    have long begun, and no link preview ever sees it: that shows gradio's name, and a picture from another server. This
    can go when `head` is part of the HTML, before the first module, and such tags are arguments.
    """

    def __init__(self, app: ASGIApp, script: str, tags: Callable[[Scope], str]) -> None:
        """`tags` returns HTML for a request."""
        self.app, self.tags = app, tags
        self.head = HEAD + f"<script>{script}</script>".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] not in ("", "/"):
            await self.app(scope, receive, send)
            return
        # The page must not come compressed; it is by far the largest part of the first view, so it goes on so.
        packs = any(name == b"accept-encoding" and b"gzip" in value for name, value in scope["headers"])
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
            whole = PREVIEW.sub(b"", body).replace(HEAD, self.head + self.tags(scope).encode(), 1)
            told = MutableHeaders(scope=start[0])
            told.add_vary_header("accept-encoding")
            if packs:
                whole = gzip.compress(whole, 6, mtime=0)
                told["content-encoding"] = "gzip"
            told["content-length"] = str(len(whole))
            await send(start[0])
            await send({**message, "body": whole})

        await self.app({**scope, "headers": headers}, receive, hold)
