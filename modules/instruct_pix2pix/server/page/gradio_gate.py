"""What stands before gradio's own API: only what the page uses is let through, and only files that gradio was given."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CALLS = re.compile(r"/gradio_api/(queue/join|run/predict)")
OTHERS = re.compile(r"/gradio_api/(queue/data|cancel|upload|upload_progress|heartbeat/.+|file=.+)")


class GradioGate:
    """The app behind it gets no other requests to gradio's API, and no path that names a file outside of `folder`.

    gradio takes the path of a file from what the browser sends. A mounted page's path it does not check, and what
    looks like an address it fetches.
    """

    def __init__(self, app: ASGIApp, folder: Path) -> None:
        """`folder` is where gradio puts uploads and results."""
        self.app = app
        self.folder = folder.resolve()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope.get("path", "")
        if scope["type"] != "http" or not path.startswith("/gradio_api") or OTHERS.fullmatch(path):
            await self.app(scope, receive, send)
            return
        if scope["method"] != "POST" or not CALLS.fullmatch(path):
            await PlainTextResponse("Not Found", status_code=404)(scope, receive, send)
            return
        body = await _body(receive)
        try:
            sound = all(self._is_ours(sent) for sent in _paths(json.loads(body)))
        except (ValueError, RecursionError):
            sound = False
        if not sound:
            await PlainTextResponse("Files are uploaded, not named.", status_code=403)(scope, receive, send)
            return
        pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive_again() -> Message:
            return pending.pop() if pending else await receive()

        await self.app(scope, receive_again, send)

    def _is_ours(self, path: object) -> bool:
        if path is None:
            return True
        return isinstance(path, str) and Path(path).resolve().is_relative_to(self.folder)


async def _body(receive: Receive) -> bytes:
    """Return the whole body; the guard in front limits its size."""
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
