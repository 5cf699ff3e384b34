"""Which probes to send, and when: one class per pairing of NATs.

Each is driven by `step`, which sends what is due and returns the seconds until the next step, or None when all is sent.
Source: hyperdht 6.34.0 `lib/holepuncher.js`; where and why we differ: docs/protocol/holepunching.md.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from ..addresses import Address
from ..rpc.randomness import Randomness

LOW_TTL = 5  # leaves our own NAT and opens it, but dies before the other one
FIRST_PORT, LAST_PORT = 1024, 65535

SendProbe = Callable[[int, Address, int | None], None]
"""Called as send(socket, address, ttl); without a ttl the probe is to arrive."""


class Target(NamedTuple):
    """One address of the other side."""

    address: Address
    verified: bool
    """Whether the other side proved that it receives at this host."""


class Strategy(Protocol):
    """What the puncher runs."""

    def step(self) -> float | None: ...


class ConsistentProbes:
    """Both mappings are known: probe until one packet has opened each NAT.

    The reference probes once a second. That the first packet is lost, or comes too early, is the usual case of failure,
    so the first seconds have more.
    """

    PAUSES_S = (0.1, 0.2, 0.7, *[1.0] * 9)
    UNVERIFIED_EVERY = 4  # the other side may have made them up to have us send to somebody

    def __init__(self, socket: int, targets: Callable[[], Sequence[Target]], send: SendProbe) -> None:
        """`targets` is asked each time: a later round may name others."""
        self._socket = socket
        self._targets = targets
        self._send = send
        self._round = 0

    def step(self) -> float | None:
        if self._round == len(self.PAUSES_S):
            return None
        self._round += 1
        for address, verified in self._targets():
            if address.port and (verified or self._round % self.UNVERIFIED_EVERY == 0):
                self._send(self._socket, address, None)
        return self.PAUSES_S[self._round - 1]


class RandomPortProbes:
    """The other side opened up to 256 ports we do not know: try ports until one is hit.

    With 256 of 64,512 open, half of all attempts hit within 174 probes and 99.9 % within 1,750. The reference needs twice
    the time: it sends one each 20 ms, and may try a port again.
    """

    PROBES = 1750
    PAUSE_S = 0.01
    NEARBY = 512
    LAST_CHANCE_S = 2.0

    def __init__(self, socket: int, host: str, near_port: int, send: SendProbe, randomness: Randomness) -> None:
        """
        Args:
            near_port: The last port seen of the other side. NATs that count up, or give each customer a range, open the
                next ones close to it; for all others these are as good as any.
        """
        self._socket = socket
        self._host = host
        self._send = send
        self._ports = choose_ports(near_port, self.PROBES, self.NEARBY, randomness)
        self._next = 0

    def step(self) -> float | None:
        if self._next == len(self._ports):
            return None
        self._send(self._socket, Address(self._host, self._ports[self._next]), None)
        self._next += 1
        return self.PAUSE_S if self._next < len(self._ports) else self.LAST_CHANCE_S


class BirthdayProbes:
    """Our NAT takes another port for each socket: open many, so that the other side's guesses hit one of them.

    The probes are only to keep our NAT open, so at first they die on the way: a NAT that sees them arrive too early may
    take the port for used. One socket's do arrive from the start, because the other side may let strangers in; the
    reference finds that out after a lap of all sockets, 5.1 s.
    """

    SOCKETS = 256
    OPENED_AT_ONCE = 32  # so that other work of the process goes on in between
    OPENING_PAUSE_S = 0.01
    FIRST_PAUSE_S = 0.1
    PROBES = 1750
    PAUSE_S = 0.02
    KNOCK_EVERY = 50

    def __init__(
        self, sockets: Sequence[int], open_socket: Callable[[], bool], address: Address, send: SendProbe
    ) -> None:
        """
        Args:
            sockets: The open ones. Seen to grow when `open_socket` is called.
            open_socket: Returns whether there is one more.
        """
        self._sockets = sockets
        self._open_socket = open_socket
        self._address = address
        self._send = send
        self._opening = True
        self._sent = 0

    def step(self) -> float | None:
        if self._opening:
            return self._open_some()
        if self._sent == self.PROBES:
            return None
        lap, index = divmod(self._sent, len(self._sockets))
        self._send(self._sockets[index], self._address, None if lap else LOW_TTL)
        self._sent += 1
        if not lap and self._sent % self.KNOCK_EVERY == 0:
            self._knock()
        return self.PAUSE_S

    def _open_some(self) -> float:
        if len(self._sockets) == 1:
            self._knock()
        for _ in range(self.OPENED_AT_ONCE):
            self._opening = len(self._sockets) < self.SOCKETS and self._open_socket()
            if not self._opening:
                return self.FIRST_PAUSE_S
            self._send(self._sockets[-1], self._address, LOW_TTL)
        return self.OPENING_PAUSE_S

    def _knock(self) -> None:
        self._send(self._sockets[0], self._address, None)


def choose_ports(near_port: int, count: int, nearby: int, randomness: Randomness) -> list[int]:
    """Distinct ports in the order to try: every other one close to `near_port`, going up first, the rest random."""
    offsets = [offset for step in range(1, nearby) for offset in (step, -step)][:nearby]
    close = [port for port in (near_port + offset for offset in offsets) if FIRST_PORT <= port <= LAST_PORT]
    if not FIRST_PORT <= near_port <= LAST_PORT:
        close = []
    anywhere = randomness.sample(range(FIRST_PORT, LAST_PORT + 1), count)
    paired = [port for pair in zip(anywhere, close, strict=False) for port in pair]
    return list(dict.fromkeys([near_port, *paired, *anywhere] if close else anywhere))[:count]
