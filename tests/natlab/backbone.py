"""The network between the namespaces: TUN devices, and a program that carries packets from one to another.

It exists because a kernel without netem cannot delay or lose packets. Routing is by destination address; every line has a
one-way delay and loses packets at random. Packets with a small TTL die here, as they would on the way through the Internet:
hole punching sends probes with TTL 5 that open the sender's NAT and must not arrive.

It runs in a process of its own (`python -m tests.natlab.backbone`), where it gets the devices' file descriptors over a socket
pair, so that what it does does not wait for the Python of a test.
"""

from __future__ import annotations

import array
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from .namespaces import Namespace

SMALLEST_TTL = 16
"""What arrives with less has no hops left. Hosts start with 64, probes that must not arrive with 5."""
BATCH = 64
"""Packets read from one device before the others have their turn."""
MAX_PACKET_BYTES = 65536
MAX_REQUEST_BYTES = 65536
ANSWER_S = 10


class Backbone:
    """The handle: starts the process, adds lines to it."""

    def __init__(self) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.settimeout(ANSWER_S)
        with other:
            command = [sys.executable, "-m", "tests.natlab.backbone", str(other.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[other.fileno()])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._socket.close()  # it ends then
        self._process.wait()

    def connect(
        self,
        namespace: Namespace,
        addresses: list[str],
        *,
        delay_s: float = 0.0,
        loss: float = 0.0,
        device: str = "wan",
    ) -> None:
        """Give a namespace a line with these addresses.

        Args:
            delay_s: One way; a packet takes the sender's and the receiver's.
            loss: The share of packets that line loses, in each direction.
        """
        tun = namespace.tun(device, addresses)
        try:
            self._ask({"add": addresses, "delay_s": delay_s, "loss": loss}, tun)
        finally:
            os.close(tun)

    def disconnect(self, addresses: list[str]) -> None:
        """Take a line away; needed before its namespace can go."""
        self._ask({"remove": addresses})

    def _ask(self, request: dict[str, object], *descriptors: int) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        self._socket.sendmsg([json.dumps(request).encode()], ancillary)
        answer = self._socket.recv(MAX_REQUEST_BYTES)
        if answer != b"ok":
            raise RuntimeError(f"the backbone: {answer.decode() or 'gone'}")


@dataclass(slots=True)
class Line:
    """One TUN device."""

    tun: int
    delay_s: float
    loss: float
    addresses: list[bytes]


class Carrier:
    """The process' work."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._poll = select.epoll()
        self._poll.register(control, select.EPOLLIN)
        self._lines: dict[int, Line] = {}
        self._by_address: dict[bytes, Line] = {}
        self._under_way: dict[float, deque[tuple[float, int, bytes]]] = {}
        """By delay; those of one delay arrive in the order they left."""

    def run(self) -> None:
        """Until the other end of the control socket is closed."""
        while True:
            for descriptor, _ in self._poll.poll(self._until_next()):
                if descriptor == self._control.fileno():
                    if not self._obey():
                        return
                elif descriptor in self._lines:
                    self._take(self._lines[descriptor])
            self._deliver(time.monotonic())

    def _until_next(self) -> float:
        due = [queue[0][0] for queue in self._under_way.values() if queue]
        return max(0.0, min(due) - time.monotonic()) if due else -1

    def _take(self, line: Line) -> None:
        now, tun, read, by_address, under_way = time.monotonic(), line.tun, os.read, self._by_address, self._under_way
        for _ in range(BATCH):
            try:
                packet = read(tun, MAX_PACKET_BYTES)
            except BlockingIOError:
                return
            to = by_address.get(packet[16:20])
            if to is None or packet[8] < SMALLEST_TTL or packet[0] >> 4 != 4:
                continue
            loss = line.loss + to.loss
            if loss and random.random() < loss:
                continue
            delay_s = line.delay_s + to.delay_s
            queue = under_way.get(delay_s)
            if queue is None:
                queue = under_way[delay_s] = deque()
            queue.append((now + delay_s, to.tun, packet))

    def _deliver(self, now: float) -> None:
        for queue in self._under_way.values():
            while queue and queue[0][0] <= now:
                _, tun, packet = queue.popleft()
                try:
                    os.write(tun, packet)
                except OSError:  # the line is gone, or its namespace
                    continue

    def _obey(self) -> bool:
        message, descriptors, _, _ = socket.recv_fds(self._control, MAX_REQUEST_BYTES, 1)
        if not message:
            return False
        request = json.loads(message)
        if "add" in request:
            line = Line(
                descriptors[0], request["delay_s"], request["loss"], list(map(socket.inet_aton, request["add"]))
            )
            self._lines[line.tun] = line
            self._by_address.update(dict.fromkeys(line.addresses, line))
            self._poll.register(line.tun, select.EPOLLIN)
        else:
            line = self._by_address[socket.inet_aton(request["remove"][0])]
            for address in line.addresses:
                del self._by_address[address]
            del self._lines[line.tun]
            self._poll.unregister(line.tun)
            for queue in self._under_way.values():
                kept = [each for each in queue if each[1] != line.tun]
                queue.clear()
                queue.extend(kept)
            os.close(line.tun)
        self._control.send(b"ok")
        return True


if __name__ == "__main__":
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C goes to all; lines are needed until the last namespace is gone
    Carrier(socket.socket(fileno=int(sys.argv[1]))).run()
