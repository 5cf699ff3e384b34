"""Waiting until a socket can be read or written.

The one difference between event loops. Selector loops (Linux, macOS) watch the socket themselves, which costs a third less
than going through anyio; on the Proactor loop (Windows) and on trio anyio does it. Waiting for readiness, instead of for a
read to finish, is what makes a cancelled receive lose nothing: bytes leave the kernel only when a task is there to take them.
"""

import asyncio
import socket
from typing import Protocol

import anyio


class Readiness(Protocol):
    """Waits for one socket. `close` wakes waiters with `ClosedResourceError`; call it before closing the socket."""

    async def readable(self) -> None: ...

    async def writable(self) -> None: ...

    def close(self) -> None: ...


class AnyioReadiness:
    """Works everywhere."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    async def readable(self) -> None:
        await anyio.wait_readable(self._sock)

    async def writable(self) -> None:
        await anyio.wait_writable(self._sock)

    def close(self) -> None:
        anyio.notify_closing(self._sock)


class SelectorReadiness:
    """Registers with an asyncio selector loop; at most one reader and one writer at a time."""

    def __init__(self, sock: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        self._fd = sock.fileno()
        self._loop = loop
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None

    async def readable(self) -> None:
        self._reader = future = self._loop.create_future()
        self._loop.add_reader(self._fd, _wake, future)
        try:
            await future
        finally:
            if self._reader is future:  # else closed, and the number may belong to another socket by now
                self._loop.remove_reader(self._fd)
                self._reader = None

    async def writable(self) -> None:
        self._writer = future = self._loop.create_future()
        self._loop.add_writer(self._fd, _wake, future)
        try:
            await future
        finally:
            if self._writer is future:
                self._loop.remove_writer(self._fd)
                self._writer = None

    def close(self) -> None:
        reader, self._reader = self._reader, None
        writer, self._writer = self._writer, None
        if reader is not None:
            self._loop.remove_reader(self._fd)
        if writer is not None:
            self._loop.remove_writer(self._fd)
        for waiter in (reader, writer):
            if waiter is not None and not waiter.done():
                waiter.set_exception(anyio.ClosedResourceError())


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def readiness_of(sock: socket.socket) -> Readiness:
    """The cheapest way to wait for `sock` in the running event loop."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # trio
        return AnyioReadiness(sock)
    return SelectorReadiness(sock, loop) if isinstance(loop, asyncio.SelectorEventLoop) else AnyioReadiness(sock)
