"""Callbacks for sockets and for time, without a task per packet.

The one difference between event loops for UDP, as `readiness.py` is for byte streams. asyncio's selector loops and uvloop
watch sockets and the clock themselves; on the Proactor loop (Windows) and on trio tasks of a task group do it, which costs
a tenth more CPU per byte.
"""

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import Protocol

import anyio
from anyio.abc import TaskGroup

Callback = Callable[[], object]


class Reactor(Protocol):
    """Callbacks are called one at a time, never from within a call of theirs to the reactor."""

    def now(self) -> float:
        """Monotonic seconds."""
        ...

    def watch(self, sock: socket.socket, callback: Callback) -> None:
        """Call `callback` again and again while `sock` can be read."""
        ...

    def unwatch(self, sock: socket.socket) -> None:
        """Stop that, and waiting for writing; call it before `sock` is closed."""
        ...

    def when_writable(self, sock: socket.socket, callback: Callback) -> None:
        """Call `callback` once `sock` takes datagrams again."""
        ...

    def call_soon(self, callback: Callback) -> None:
        """Call `callback` in the next turn of the loop."""
        ...

    def wake_at(self, when: float, callback: Callback) -> None:
        """Call `callback` at `when`. A reactor has one such alarm; setting it again moves it."""
        ...

    def close(self) -> None:
        """Call nothing any more."""
        ...


class SelectorReactor:
    """On the event loop itself."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._alarm: asyncio.TimerHandle | None = None
        self._writing: set[int] = set()
        self._closed = False

    def now(self) -> float:
        return self._loop.time()

    def watch(self, sock: socket.socket, callback: Callback) -> None:
        self._loop.add_reader(sock.fileno(), callback)

    def unwatch(self, sock: socket.socket) -> None:
        self._loop.remove_reader(sock.fileno())
        self._stop_writing(sock.fileno())

    def when_writable(self, sock: socket.socket, callback: Callback) -> None:
        number = sock.fileno()
        self._writing.add(number)
        self._loop.add_writer(number, self._writable, number, callback)

    def _writable(self, number: int, callback: Callback) -> None:
        self._stop_writing(number)
        callback()

    def _stop_writing(self, number: int) -> None:
        if number in self._writing:
            self._writing.discard(number)
            self._loop.remove_writer(number)

    def call_soon(self, callback: Callback) -> None:
        self._loop.call_soon(self._call, callback)

    def _call(self, callback: Callback) -> None:
        if not self._closed:
            callback()

    def wake_at(self, when: float, callback: Callback) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_at(when, self._call, callback)

    def close(self) -> None:
        self._closed = True
        if self._alarm is not None:
            self._alarm.cancel()


class TaskReactor:
    """Works everywhere. Its tasks live in a task group of the owner, which cancels them in the end."""

    def __init__(self, task_group: TaskGroup) -> None:
        self._task_group = task_group
        self._scopes: dict[socket.socket, list[anyio.CancelScope]] = {}
        self._alarm: anyio.CancelScope | None = None
        self._closed = False

    def now(self) -> float:
        return anyio.current_time()

    def watch(self, sock: socket.socket, callback: Callback) -> None:
        self._task_group.start_soon(self._watch, sock, callback, self._scope(sock))

    async def _watch(self, sock: socket.socket, callback: Callback, scope: anyio.CancelScope) -> None:
        with scope:
            while True:
                await anyio.wait_readable(sock)
                callback()

    def _scope(self, sock: socket.socket) -> anyio.CancelScope:
        scope = anyio.CancelScope()
        self._scopes.setdefault(sock, []).append(scope)
        return scope

    def unwatch(self, sock: socket.socket) -> None:
        for scope in self._scopes.pop(sock, []):
            scope.cancel()

    def when_writable(self, sock: socket.socket, callback: Callback) -> None:
        self._task_group.start_soon(self._when_writable, sock, callback, self._scope(sock))

    async def _when_writable(self, sock: socket.socket, callback: Callback, scope: anyio.CancelScope) -> None:
        with scope:
            await anyio.wait_writable(sock)
            self._scopes[sock].remove(scope)
            callback()

    def call_soon(self, callback: Callback) -> None:
        self._task_group.start_soon(self._call, callback)

    async def _call(self, callback: Callback) -> None:
        if not self._closed:
            callback()

    def wake_at(self, when: float, callback: Callback) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = anyio.CancelScope()
        self._task_group.start_soon(self._wake, when, callback, self._alarm)

    async def _wake(self, when: float, callback: Callback, scope: anyio.CancelScope) -> None:
        with scope:
            await anyio.sleep_until(when)
            if self._alarm is scope:
                self._alarm = None
            callback()

    def close(self) -> None:
        self._closed = True
        if self._alarm is not None:
            self._alarm.cancel()
        for sock in tuple(self._scopes):
            self.unwatch(sock)


def reactor_for(task_group: TaskGroup) -> Reactor:
    """The cheapest one for the running event loop."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:  # trio
        return TaskReactor(task_group)
    if sys.platform != "win32":
        return SelectorReactor(loop)
    return SelectorReactor(loop) if isinstance(loop, asyncio.SelectorEventLoop) else TaskReactor(task_group)
