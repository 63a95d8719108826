"""Bodies of requests in memory: how many bytes and parts of them at once, and how long they may take to come."""

from __future__ import annotations

import asyncio
import json
import time
from email.message import Message as MimeHeaders
from typing import Any, TypeVar

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .budget import Budget, ServerBusy, Share
from .responses import busy_answer
from .security import drain

MOST_BODIES = 96 << 20
"""Bytes of bodies in memory at once. Reading one takes four times its size for a moment."""
SMALL = 64 << 10
"""A body of so few bytes need not wait: the page's own are smaller."""
MOST_PARTS = 100_000
"""Lists, objects and their parts in a body: a part takes up to 100 times its size as a Python object."""
STREAMED = ("/drops/", "/gradio_api/upload")
"""Addresses whose bodies are written to the disk as they come."""
PAUSE_SECONDS = 60.0
"""A body whose next piece does not come in this time is given up."""
ALL_SECONDS = 900.0
"""And so is one that is not complete after this time."""

_SHARE = "instruct_pix2pix.share_of_body"

M = TypeVar("M", bound=BaseModel)


class BodyBudget:
    """Lets bodies come in only while there is room for them in memory; each has its room until it is answered.

    What is wrong with a body is raised in the app that reads it, as HTTPException.
    """

    def __init__(self, app: ASGIApp, most_body: int, most: int = MOST_BODIES) -> None:
        """A body that does not say its length may become `most_body` bytes."""
        self.app, self.most_body = app, most_body
        self.budget = Budget(most, most_waiting=128)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        length = _length(scope, self.most_body) if scope["type"] == "http" else 0
        if not length:
            await self.app(scope, receive, send)
            return
        receive = _in_time(receive)
        if scope["path"].startswith(STREAMED):
            await self.app(scope, receive, send)
            return
        receive = _of_few_parts(receive)
        if length <= SMALL:
            await self.app(scope, receive, send)
            return
        try:
            share = await self.budget.asked(length)
        except ServerBusy as error:
            await drain(receive, self.most_body)
            await busy_answer(error)(scope, receive, send)
            return
        try:
            await self.app({**scope, _SHARE: share}, receive, send)
        finally:
            share.give_back()


def _length(scope: Scope, most_body: int) -> int:
    """Return the bytes of a body, at most; 0 for a request without one."""
    headers = Headers(scope=scope)
    length = headers.get("content-length", "")
    if length.isdecimal():
        return int(length)
    return most_body if length or "transfer-encoding" in headers else 0


def _in_time(receive: Receive) -> Receive:
    """Return a `receive` that gives up a body that comes too slowly."""
    complete, until = False, time.monotonic() + ALL_SECONDS

    async def receive_some() -> Message:
        nonlocal complete
        if complete:  # what comes now is the end of the connection
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), min(PAUSE_SECONDS, until - time.monotonic()))
        except asyncio.TimeoutError as error:
            raise HTTPException(408, "The request did not come completely in time: send it again.") from error
        complete = not message.get("more_body")
        return message

    return receive_some


def _of_few_parts(receive: Receive) -> Receive:
    """Return a `receive` that counts what begins a part of JSON, in texts too; base64 has none of it."""
    parts = 0

    async def receive_some() -> Message:
        nonlocal parts
        message = await receive()
        body = message.get("body", b"")
        parts += body.count(b"[") + body.count(b"{") + body.count(b",")
        if parts > MOST_PARTS:
            raise HTTPException(413, f"The request has more than {MOST_PARTS} parts: send little beside the picture.")
        return message

    return receive_some


async def read_body(request: Request) -> bytearray:
    """Return the body of a request, of which then nothing else holds a copy."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
    return data


def forget_body(request: Request) -> None:
    """Give back the room of a body: nothing is left of it in memory, though it is not answered yet."""
    share = request.scope.get(_SHARE)
    if isinstance(share, Share):
        share.give_back()


def parse_body(request: Request, data: bytearray, kind: type[M]) -> M:
    """Return a JSON body as a model, and empty `data`. Raises what FastAPI does of a body that is not right."""
    sent: Any = bytes(data[:100])
    if _is_json(request.headers.get("content-type", "")) and data:
        try:
            sent = json.loads(data)
        except json.JSONDecodeError as error:
            problem = {"type": "json_invalid", "loc": ("body", error.pos), "msg": "JSON decode error", "input": {}}
            raise RequestValidationError([problem]) from None
        except Exception as error:  # too deep, or not UTF-8
            raise HTTPException(400, "There was an error parsing the body") from error
    data.clear()
    try:
        return kind.model_validate(sent)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False, include_context=False)
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in problems]) from None


def body_schema(kind: type[BaseModel]) -> dict[str, Any]:
    """Return what OpenAPI says of a body that is read by `parse_body`."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": kind.model_json_schema()}}}}


def _is_json(content_type: str) -> bool:
    headers = MimeHeaders()
    headers["content-type"] = content_type
    subtype = headers.get_content_subtype()
    return headers.get_content_maintype() == "application" and (subtype == "json" or subtype.endswith("+json"))
