"""What all of the stand-in's operations share: errors and progress lines as Ollama words them (facts 3)."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from ollama_bridge.errors import NameInvalid
from ollama_bridge.loopback_http import Response
from ollama_bridge.names import ModelName

if TYPE_CHECKING:
    from ollama_bridge.loopback_http import Request, SendBytes

MAX_JSON_BYTES = 16 << 20  # templates and messages can be long; nobody sends more to a stand-in

Line = dict[str, Any]
Lines = AsyncGenerator[Line, None]


class ApiError(Exception):
    """An error answer."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


def json_response(document: object, status: int = 200) -> Response:
    body = json.dumps(document, separators=(",", ":")).encode()
    return Response(status, {"content-type": "application/json; charset=utf-8"}, body)


def error_response(error: ApiError) -> Response:
    return json_response({"error": error.message}, error.status)


def text_response(status: int, text: str) -> Response:
    return Response(status, {"content-type": "text/plain"}, text.encode())


async def read_json(request: Request) -> dict[str, Any]:
    """The body as an object, whatever the Content-Type says."""
    body = await request.read(MAX_JSON_BYTES)
    if not body:
        raise ApiError(400, "missing request body")
    try:
        document = json.loads(body)
    except ValueError as error:
        raise ApiError(400, f"invalid character in JSON: {error}") from None
    if not isinstance(document, dict):
        raise ApiError(400, "json: cannot unmarshal the value into an object")
    return document


def parse_name(text: object) -> ModelName | None:
    """None for what Ollama calls an invalid name."""
    try:
        return ModelName.parse(text) if isinstance(text, str) else None
    except NameInvalid:
        return None


async def stream_response(lines: Lines, *, stream: bool) -> Response:
    """Answer with progress lines.

    An error before the first line is an error status; after it, the status is out and the error is one more line.
    Without streaming the last line or the error is all there is.
    """
    if not stream:
        return await _last_line(lines)
    try:
        first = await anext(lines)
    except ApiError as error:
        return error_response(error)

    async def write(send: SendBytes) -> None:
        async with aclosing(lines):
            await send(_encode(first))
            try:
                async for line in lines:
                    await send(_encode(line))
            except ApiError as error:
                await send(_encode({"error": error.message}))

    return Response(200, {"content-type": "application/x-ndjson"}, write)


async def _last_line(lines: Lines) -> Response:
    last: Line = {}
    try:
        async for line in lines:
            last = line
    except ApiError as error:
        return error_response(error)
    return json_response(last)


def _encode(line: Line) -> bytes:
    return json.dumps(line, separators=(",", ":")).encode() + b"\n"
