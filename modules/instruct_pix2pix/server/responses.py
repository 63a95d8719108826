"""What the server answers: JSON that every client can read, and errors as one sentence for a person."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from ..errors import UserError
from .budget import ServerBusy
from .upload_space import DiskFull

FAULT = "Something went wrong in this program: its log says what."
"""All that a client is told of a fault of this program."""

ErrorHandler = Callable[[Request, Exception], Response]


class Json(JSONResponse):
    """JSON in plain ASCII: what a client sent may hold halves of letters that UTF-8 cannot write."""

    def render(self, content: object) -> bytes:
        """Return the body."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()


def error_answer(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return an error in the web UI's shape; `detail` is for a person."""
    content = {"error": HTTPStatus(status).phrase, "detail": sentence, "body": "", "errors": sentence}
    return Json(content, status, headers)


def busy_answer(error: ServerBusy) -> Response:
    """Return what a client is told that shall come again later."""
    return error_answer(503, str(error), {"Retry-After": "5"})


def _on_user_error(_: Request, error: Exception) -> Response:
    if isinstance(error, ServerBusy):
        return busy_answer(error)
    return error_answer(507 if isinstance(error, DiskFull) else 422, str(error))


def _on_invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    if first["type"] == "json_invalid":
        sentence = "The body of the request is not JSON: send it whole, as JSON."
    elif not where:
        sentence = "The body of the request is not a JSON object: send one, with Content-Type: application/json."
    else:
        sentence = f"{where[:100]}: {first['msg'][:200]}."
    return error_answer(422, sentence)


def _on_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = {404: "There is nothing at this address: /docs lists what there is."}
    sentence = known.get(error.status_code, str(error.detail))
    return error_answer(error.status_code, sentence, error.headers)


def _on_hung_up(_: Request, __: Exception) -> Response:
    return error_answer(400, "The request did not come completely: send it again.")  # nobody is left to read it


def _on_fault(_: Request, __: Exception) -> Response:
    return error_answer(500, FAULT)


ERROR_HANDLERS: Mapping[type[Exception], ErrorHandler] = {
    UserError: _on_user_error,
    RequestValidationError: _on_invalid,
    HTTPException: _on_http_error,
    ClientDisconnect: _on_hung_up,
    Exception: _on_fault,  # which is raised further, for the log
}
"""How a FastAPI app answers each kind of error."""
