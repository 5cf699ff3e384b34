"""A small HTTP/1.1 server for talking with Ollama on loopback: h11 for the protocol, anyio for the socket.

A general server would not do. Ollama writes whatever it is sent into a model, an error page too, so the registry must be
able to answer with exactly one status and length or to drop the connection in the middle (facts 6.2); and the stand-in
must leave an upload unread, as Ollama does. Both need the connection itself in hand.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self
from urllib.parse import parse_qsl, unquote, urlsplit

import anyio
import h11
from anyio.abc import SocketAttribute

if TYPE_CHECKING:
    from types import TracebackType

    from anyio.abc import SocketStream, TaskGroup

MAX_HEAD_BYTES = 16 * 1024  # h11's own default; Ollama's request heads stay under 1 KiB
MAX_CONNECTIONS = 64  # Ollama opens at most 16 at once (numDownloadParts); a local process must not eat descriptors
MAX_UNREAD_BYTES = 256 * 1024  # what Go's server reads of an unwanted body before it closes (maxPostHandlerReadBytes)
ACCEPT_AGAIN_S = 1.0  # as long as the accept loop of Go waits at most (net/http Server.Serve)
IDLE_S = 90.0  # Go's client keeps idle connections for 90 s
RECEIVE_BYTES = 64 * 1024
LINGER_S = 0.5  # Go's rstAvoidanceDelay: time for the other side to read our answer before the reset

logger = logging.getLogger(__name__)

SendBytes = Callable[[bytes], Awaitable[None]]
BodyWriter = Callable[[SendBytes], Awaitable[None]]


class DropConnection(Exception):
    """Raised by a handler or body writer: close the connection now, without a further byte."""


class BodyTooLarge(Exception):
    """The request body is longer than the handler takes."""


@dataclass(slots=True)
class Request:
    """One request; its body is still on the wire."""

    method: str
    path: str
    """Percent-decoded path, without the query."""
    query: dict[str, str]
    headers: dict[str, str]
    """Names in lower case; of a repeated one the last value."""
    _connection: _Connection

    def body(self) -> AsyncIterator[bytes]:
        """The body as it arrives. Raises `DropConnection` when the client goes away in the middle."""
        return self._connection.request_body()

    async def read(self, max_bytes: int) -> bytes:
        """The whole body.

        Raises:
            BodyTooLarge: It has more than `max_bytes`.
        """
        data = bytearray()
        async for piece in self.body():
            data += piece
            if len(data) > max_bytes:
                raise BodyTooLarge(f"The request body has more than {max_bytes} bytes.")
        return bytes(data)


@dataclass(slots=True)
class Response:
    """An answer. With a writer as body, give `content-length` in the headers or it goes out chunked."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | BodyWriter = b""


Handler = Callable[[Request], Awaitable[Response]]


class HttpServer:
    """Serves one handler on one loopback port; stops and starts again at will on the same port."""

    def __init__(self, handler: Handler, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._handler = handler
        self.host = host
        self.port = port
        """The real port once started."""
        self._tasks: TaskGroup | None = None
        self._serving: anyio.CancelScope | None = None
        self._stopped = anyio.Event()
        self._places = anyio.Semaphore(MAX_CONNECTIONS)

    async def __aenter__(self) -> Self:
        listener = await self._listen()  # before the task group, which would wrap the error of a taken port
        self._tasks = await anyio.create_task_group().__aenter__()
        self._begin(listener)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._tasks is not None
        self._tasks.cancel_scope.cancel()
        await self._tasks.__aexit__(kind, error, traceback)

    async def start(self) -> None:
        """Listen. The port given (or chosen the first time) is kept over restarts.

        Raises:
            OSError: The port is taken or not ours to take.
        """
        self._begin(await self._listen())

    async def _listen(self) -> anyio.abc.Listener[SocketStream]:
        listener = await anyio.create_tcp_listener(local_host=self.host, local_port=self.port)
        self.port = listener.extra(SocketAttribute.local_port)  # noqa: S610  # anyio, not Django
        return listener

    def _begin(self, listener: anyio.abc.Listener[SocketStream]) -> None:
        assert self._tasks is not None
        self._serving = anyio.CancelScope()
        self._stopped = anyio.Event()
        self._tasks.start_soon(self._serve, listener, self._serving, self._stopped)

    async def stop(self) -> None:
        """Close the port and every connection, at once."""
        if self._serving is not None:
            self._serving.cancel()
            await self._stopped.wait()

    def restart_after(self, down_s: float) -> None:
        """Stop now and listen again `down_s` later; returns at once, so that a handler can call it on itself."""
        assert self._tasks is not None
        self._tasks.start_soon(self._restart, down_s)

    async def _restart(self, down_s: float) -> None:
        await self.stop()
        await anyio.sleep(down_s)
        await self.start()

    async def _serve(
        self, listener: anyio.abc.Listener[SocketStream], scope: anyio.CancelScope, stopped: anyio.Event
    ) -> None:
        try:
            with scope:
                async with listener, anyio.create_task_group() as connections:
                    while True:
                        await self._accept(listener, connections)
        finally:
            stopped.set()

    async def _accept(self, listener: anyio.abc.Listener[SocketStream], connections: TaskGroup) -> None:
        """Take connections until that fails, for want of descriptors say, which must not end the whole program."""
        try:
            await listener.serve(self._serve_connection, connections)
        except* OSError as errors:
            logger.warning("no connections are taken for a moment: %s", errors.exceptions[0])
            await anyio.sleep(ACCEPT_AGAIN_S)

    async def _serve_connection(self, stream: SocketStream) -> None:
        try:
            self._places.acquire_nowait()
        except anyio.WouldBlock:  # waiting, it would hold a descriptor that the cap is there to save
            await stream.aclose()
            return
        try:
            await self._talk(stream)
        finally:
            self._places.release()

    async def _talk(self, stream: SocketStream) -> None:
        async with stream:
            with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, DropConnection):
                await _Connection(stream).serve(self._handler)


class _Connection:
    """One keep-alive connection."""

    def __init__(self, stream: SocketStream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD_BYTES)

    async def serve(self, handler: Handler) -> None:
        while True:
            try:
                request = await self._next_request()
                if request is None:
                    return
                response = await self._answer(handler, request)
                await self._send_response(response)
                await self._finish_request()
            except h11.RemoteProtocolError as error:
                await self._refuse(error)
                return
            if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
                return
            self._http.start_next_cycle()

    async def _answer(self, handler: Handler, request: Request) -> Response:
        try:
            return await handler(request)
        except (DropConnection, h11.RemoteProtocolError):
            raise
        except BodyTooLarge as error:
            return Response(413, {"content-type": "text/plain"}, str(error).encode())
        except Exception:
            logger.exception("a request handler failed: %s %s", request.method, request.path)
            return Response(500)

    async def request_body(self) -> AsyncIterator[bytes]:
        while self._http.their_state is h11.SEND_BODY:
            if self._http.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            event = await self._next_event()
            if isinstance(event, h11.Data):
                yield bytes(event.data)

    async def _next_request(self) -> Request | None:
        with anyio.move_on_after(IDLE_S):
            event = await self._next_event()
            if not isinstance(event, h11.Request):
                return None
            target = urlsplit(event.target.decode("ascii", "replace"))
            headers = {name.decode("ascii"): value.decode("latin-1") for name, value in event.headers}
            if headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers:
                self._http.next_event()  # the end of a body that is not there; from here on a hang-up can be seen
            return Request(
                method=event.method.decode("ascii"),
                path=unquote(target.path),
                query=dict(parse_qsl(target.query, keep_blank_values=True)),
                headers=headers,
                _connection=self,
            )
        return None

    async def _next_event(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]  # NEED_DATA is excluded above
            try:
                data = await self._stream.receive(RECEIVE_BYTES)
            except anyio.EndOfStream:
                data = b""
            self._http.receive_data(data)

    async def _send_response(self, response: Response) -> None:
        headers = {name.lower(): value for name, value in response.headers.items()}
        if isinstance(response.body, bytes):
            headers.setdefault("content-length", str(len(response.body)))
        head = h11.Response(status_code=response.status, headers=list(headers.items()))
        if isinstance(response.body, bytes):
            await self._send(head, h11.Data(data=response.body), h11.EndOfMessage())
            return
        await self._send(head)
        await self._write_body(response.body)
        await self._send(h11.EndOfMessage())

    async def _write_body(self, write: BodyWriter) -> None:
        """Run the writer; a client that hangs up in the middle cancels it, as in Go."""

        async def send(data: bytes) -> None:
            await self._send(h11.Data(data=data))

        finished = False
        async with anyio.create_task_group() as tasks:
            if self._http.their_state is h11.DONE:
                tasks.start_soon(self._watch_for_hang_up, tasks.cancel_scope)
            try:
                await write(send)
                finished = True
            except DropConnection:
                pass
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                pass
            except Exception:
                logger.exception("a response body failed")
            tasks.cancel_scope.cancel()
        if not finished:
            raise DropConnection

    async def _watch_for_hang_up(self, scope: anyio.CancelScope) -> None:
        try:
            while data := await self._stream.receive(RECEIVE_BYTES):
                self._http.receive_data(data)  # the next request, pipelined; h11 holds it back
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            scope.cancel()

    async def _finish_request(self) -> None:
        """Read a little of an unread body, so that the client sees our answer before the connection closes."""
        unread = 0
        with anyio.move_on_after(LINGER_S):
            while self._http.their_state is h11.SEND_BODY and unread <= MAX_UNREAD_BYTES:
                event = await self._next_event()
                unread += len(event.data) if isinstance(event, h11.Data) else 0

    async def _refuse(self, error: h11.RemoteProtocolError) -> None:
        if self._http.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            body = b"Bad Request"
            headers = [("content-length", str(len(body))), ("connection", "close")]
            head = h11.Response(status_code=error.error_status_hint, headers=headers)
            await self._send(head, h11.Data(data=body), h11.EndOfMessage())

    async def _send(self, *events: h11.Event) -> None:
        data = b"".join(piece for event in events if (piece := self._http.send(event)))
        if data:
            await self._stream.send(data)
