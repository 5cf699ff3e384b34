"""TCP for connections on the local network, fast enough that encryption is what limits it.

A socket is read when it is readable, straight into one shared buffer, with no transport, protocol or queue in between.
"""

import socket
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

import anyio
from anyio.abc import Listener, SocketAttribute, TaskGroup
from anyio.lowlevel import checkpoint

from ..addresses import Address
from ..buffers import BytesLike
from .direct import READ_BYTES, DirectByteStream, shared_read_buffer
from .readiness import Readiness, readiness_of

ACCEPT_RETRY_S = 0.1  # out of file descriptors: the ones in use must be closed first, and retrying at once would spin

DISCARD_READS = 16  # a peer that keeps sending must not keep us from closing


class TcpStream(DirectByteStream):
    """One TCP connection. One task may send while another receives; two of the same kind raise `BusyResourceError`."""

    def __init__(self, sock: socket.socket) -> None:
        """Take over a connected socket. Call it inside the event loop that will use the stream."""
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock = sock
        self._readiness: Readiness = readiness_of(sock)
        self._receiving = False
        self._sending = False
        self._closed = False
        self.local_address = Address(*sock.getsockname()[:2])
        self.remote_address = Address(*sock.getpeername()[:2])

    async def receive_to(self, consume: Callable[[memoryview], object]) -> None:
        buffer = shared_read_buffer()
        size = await self._receive_into(buffer)
        if not size:
            raise anyio.EndOfStream
        consume(buffer[:size])

    async def receive(self, max_bytes: int = 65536) -> bytes:
        buffer = shared_read_buffer()[: min(max_bytes, READ_BYTES)]
        size = await self._receive_into(buffer)
        if not size:
            raise anyio.EndOfStream
        return bytes(buffer[:size])

    async def _receive_into(self, buffer: memoryview) -> int:
        if self._receiving:
            raise anyio.BusyResourceError("receiving from")
        self._receiving = True
        try:
            await checkpoint()  # a peer that is always ahead of us must not keep the other tasks from running
            while not self._closed:
                try:
                    return self._sock.recv_into(buffer)
                except (BlockingIOError, InterruptedError):
                    await self._readiness.readable()
                except OSError as error:
                    raise anyio.BrokenResourceError(f"the connection failed: {error}") from error
            raise anyio.ClosedResourceError
        finally:
            self._receiving = False

    async def send(self, item: BytesLike) -> None:
        """Send all of `item`. It may be changed again when this returns.

        When cancelled, part of it may have been sent: the stream is of no more use for framed data then.
        """
        if self._sending:
            raise anyio.BusyResourceError("sending to")
        self._sending = True
        try:
            view = memoryview(item)
            while not self._closed:
                try:
                    view = view[self._sock.send(view) :]
                except (BlockingIOError, InterruptedError):
                    pass
                except OSError as error:
                    raise anyio.BrokenResourceError(f"the connection failed: {error}") from error
                if not view:
                    return
                await self._readiness.writable()
            raise anyio.ClosedResourceError
        finally:
            self._sending = False

    async def send_eof(self) -> None:
        """End our side; the peer sees the end of the stream and can go on sending."""
        if self._closed:
            raise anyio.ClosedResourceError
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise anyio.BrokenResourceError(f"the connection failed: {error}") from error
        await checkpoint()

    async def aclose(self) -> None:
        """Close at once, without waiting for the peer.

        What we sent still reaches the peer, unless more of its bytes arrive after this: the system answers those with a
        reset. To be sure, `send_eof` and receive until `EndOfStream` first.
        """
        if not self._closed:
            self._closed = True
            self._readiness.close()
            self._discard_unread()
            self._sock.close()
        await checkpoint()

    def _discard_unread(self) -> None:
        """Closing a socket with unread bytes resets the connection, and the reset destroys what the peer has not read yet."""
        try:
            self._sock.shutdown(socket.SHUT_WR)
            for _ in range(DISCARD_READS):
                if not self._sock.recv_into(shared_read_buffer()):
                    return
        except OSError:
            pass  # nothing is left, or nothing can be saved

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {
            SocketAttribute.local_address: lambda: tuple(self.local_address),
            SocketAttribute.remote_address: lambda: tuple(self.remote_address),
            SocketAttribute.local_port: lambda: self.local_address.port,
            SocketAttribute.remote_port: lambda: self.remote_address.port,
            SocketAttribute.raw_socket: lambda: self._sock,
        }


async def connect_tcp(host: str, port: int) -> TcpStream:
    """Connect to the first address of `host` that answers. No time limit: put `anyio.fail_after` around it.

    Raises:
        OSError: The name is unknown, or every address refused; the last reason.
    """
    failure: OSError | None = None
    for family, kind, protocol, _, address in await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            await _connect(sock, address)
            return TcpStream(sock)
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
    raise failure or OSError(f"{host} has no address")


async def _connect(sock: socket.socket, address: tuple[Any, ...]) -> None:
    try:
        sock.connect(address)
    except (BlockingIOError, InterruptedError):
        await anyio.wait_writable(sock)
        if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(code, f"cannot connect to {address[0]} port {address[1]}") from None


class TcpListener(Listener[TcpStream]):
    """A listening socket. `await accept()` one connection at a time, or `serve` them all."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._closed = False
        self.local_address = Address(*sock.getsockname()[:2])

    @property
    def port(self) -> int:
        """The port we listen on, also when the system chose it."""
        return self.local_address.port

    async def accept(self) -> TcpStream:
        """The next connection.

        Raises:
            ClosedResourceError: The listener was closed, also while waiting.
        """
        while not self._closed:
            try:
                sock, _ = self._sock.accept()
                return TcpStream(sock)
            except (BlockingIOError, InterruptedError):
                await anyio.wait_readable(self._sock)
            except OSError:
                # The caller hung up before we took the connection, or no file descriptor is free.
                await anyio.sleep(ACCEPT_RETRY_S)
        raise anyio.ClosedResourceError

    async def serve(
        self, handler: Callable[[TcpStream], Coroutine[Any, Any, object]], task_group: TaskGroup | None = None
    ) -> None:
        """Run `handler(stream)` in a task of its own for every connection; returns when the listener is closed."""
        if task_group is None:
            async with anyio.create_task_group() as own_group:
                await self.serve(handler, own_group)
            return
        while True:
            try:
                stream = await self.accept()
            except anyio.ClosedResourceError:
                return
            task_group.start_soon(handler, stream)

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            anyio.notify_closing(self._sock)
            self._sock.close()
        await checkpoint()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        return {
            SocketAttribute.local_address: lambda: tuple(self.local_address),
            SocketAttribute.local_port: lambda: self.local_address.port,
            SocketAttribute.raw_socket: lambda: self._sock,
        }


async def listen_tcp(host: str | None = None, port: int = 0, *, backlog: int = 128) -> TcpListener:
    """Listen on one address, or with `None` on all of them, IPv4 and IPv6.

    Raises:
        OSError: The port is taken or the address is not ours.
    """
    if host is None:
        if socket.has_dualstack_ipv6():
            sock = socket.create_server(("", port), family=socket.AF_INET6, backlog=backlog, dualstack_ipv6=True)
        else:
            sock = socket.create_server(("", port), backlog=backlog)
    else:
        found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        sock = socket.create_server(address[:2], family=family, backlog=backlog)
    return TcpListener(sock)
