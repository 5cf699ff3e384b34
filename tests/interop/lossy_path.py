"""A UDP path that loses, reorders and repeats packets, between a port of its own and one behind it."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random

from hyperdht.io.offload import bind_udp

DATAGRAM_BYTES = 2048
LATE_S = 0.004


class LossyPath:
    """Forwards in the running asyncio loop. Whoever sends to `port` first is the one on this side."""

    def __init__(self, port: int, *, loss: float, seed: int) -> None:
        self.loss = loss
        self.lost = self.forwarded = 0
        self._random = Random(seed)
        self._loop = asyncio.get_running_loop()
        self._near, self._far = bind_udp("127.0.0.1", 0), bind_udp("127.0.0.1", 0)
        self._to_near: tuple[str, int] | None = None
        self._to_far = ("127.0.0.1", port)
        self.port: int = self._near.getsockname()[1]
        self._loop.add_reader(self._near, self._read, self._near)
        self._loop.add_reader(self._far, self._read, self._far)

    def _read(self, sock: socket.socket) -> None:
        for _ in range(64):
            try:
                data, sender = sock.recvfrom(DATAGRAM_BYTES)
            except OSError:
                return
            if sock is self._near:
                self._to_near = sender
            chance = self._random.random()
            if chance < self.loss:
                self.lost += 1
            elif chance < 2 * self.loss:  # as many are late, and as many come twice
                self._loop.call_later(LATE_S * self._random.random(), self._forward, sock, data)
            else:
                self._forward(sock, data)
                if chance < 3 * self.loss:
                    self._forward(sock, data)

    def _forward(self, sock: socket.socket, data: bytes) -> None:
        if sock.fileno() < 0:
            return
        out, to = (self._far, self._to_far) if sock is self._near else (self._near, self._to_near)
        if to is not None:
            self.forwarded += 1
            try:
                out.sendto(data, to)
            except OSError:
                self.lost += 1

    def close(self) -> None:
        for sock in (self._near, self._far):
            self._loop.remove_reader(sock)
            sock.close()


@contextmanager
def lossy_path(port: int, *, loss: float = 0.0, seed: int = 1) -> Iterator[LossyPath]:
    """A path to `port` on loopback."""
    path = LossyPath(port, loss=loss, seed=seed)
    try:
        yield path
    finally:
        path.close()
