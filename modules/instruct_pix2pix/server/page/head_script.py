"""A script that runs before gradio's own: what it gives to its page as `head` runs when its modules have long begun."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEAD = b"<head>"


class HeadScript:
    """The app behind it, with a script at the beginning of its page."""

    def __init__(self, app: ASGIApp, script: str) -> None:
        self.app = app
        self.begun = HEAD + f"<script>{script}</script>".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] not in ("", "/"):
            await self.app(scope, receive, send)
            return
        plain = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]  # else compressed
        start: list[Message] = []
        body = b""

        async def hold(message: Message) -> None:
            nonlocal body
            if message["type"] == "http.response.start":
                start.append(message)
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            whole = body.replace(HEAD, self.begun, 1)
            MutableHeaders(scope=start[0])["content-length"] = str(len(whole))
            await send(start[0])
            await send({**message, "body": whole})

        await self.app({**scope, "headers": plain}, receive, hold)
