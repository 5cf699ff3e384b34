"""The sockets of one hole punching, what is known about the NATs on both sides, and the probes.

Source: hyperdht 6.34.0 `lib/holepuncher.js`; docs/protocol/holepunching.md.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..addresses import Address
from ..rpc.hosts import HostKind, host_kind
from ..rpc.requests import Datagram
from .constants import Firewall
from .context import Context
from .holepunch_messages import KEPT_ADDRESSES, HolepunchPayload
from .nat_check import NatCheck
from .punch_strategies import FIRST_PORT, LOW_TTL, BirthdayProbes, ConsistentProbes, RandomPortProbes, Strategy, Target
from .reachable import may_send_to

if TYPE_CHECKING:
    from ..rpc.timers import Timer

PROBE = b"\0"
MAX_REOPENS = 3
MAX_ECHOES = 2048  # what a client's sockets send in 35 s; a flood of forged probes makes us send no more than that
MAX_ECHOES_TO_STRANGERS = (
    64  # a client may have more addresses than the relays saw, but each forged probe costs one too
)

Analyzed = Callable[[bool, float], None]
"""Called as then(usable, now): whether hole punching can work with this socket and what is known of the other side."""


class Puncher:
    """Owned by one side of the rounds, which tells it about the other side and when to punch.

    The initiator takes the first probe that arrives for a connection. The other side echoes probes, and learns from the
    first packet of the stream that a hole is open.
    """

    def __init__(
        self,
        context: Context,
        *,
        remote_firewall: int,
        now: float,
        on_connected: Callable[[int, Address, float], None] | None,
        on_exhausted: Callable[[float], None],
    ) -> None:
        """
        Args:
            on_connected: Given by the initiator; called as on_connected(socket, address, now), with all other sockets closed.
            on_exhausted: All probes were sent in vain. The sockets are still open.
        Raises:
            OSError: No socket.
        """
        self.remote_firewall = remote_firewall
        self.remote_punching = False
        self.targets: tuple[Target, ...] = ()
        self.same_network = False
        """Whether both sides sit behind the same NAT, so that probes may come from private addresses."""
        self.dropped = 0
        """Probes that nobody we know can have sent."""
        self._context = context
        self._on_connected = on_connected
        self._on_exhausted = on_exhausted
        self._sockets = [context.sockets.open()]  # the first one is used for everything but the birthday probes
        self._check = NatCheck(context, self.socket, now=now, on_done=self._settle)
        self._analyzing: list[tuple[bool, Analyzed]] = []
        self._reopens_left = MAX_REOPENS
        self._expected_hosts: set[str] = set()
        self._strategy: Strategy | None = None
        self._timer: Timer | None = None
        self._echoes_left = MAX_ECHOES
        self._echoes_left_to_strangers = MAX_ECHOES_TO_STRANGERS
        self._over = False

    @property
    def socket(self) -> int:
        return self._sockets[0]

    @property
    def sockets(self) -> tuple[int, ...]:
        """All that are open."""
        return tuple(self._sockets)

    @property
    def firewall(self) -> Firewall:
        """What is known about our NAT."""
        return self._check.nat.firewall

    @property
    def addresses(self) -> tuple[Address, ...] | None:
        """Where the other side may reach us."""
        return self._check.nat.addresses

    @property
    def punching(self) -> bool:
        return self._strategy is not None

    @property
    def is_random(self) -> bool:
        """Whether one of the two sides has another port for each destination."""
        return is_random(self.firewall) or is_random(self.remote_firewall)

    def expect(self, host: str) -> None:
        """A probe from that host may be the other side's."""
        if len(self._expected_hosts) < 2 * KEPT_ADDRESSES:
            self._expected_hosts.add(host)

    def update_remote(self, payload: HolepunchPayload, *, verified_host: str | None, named_by: Address) -> None:
        """Take in what the other side says about itself.

        Args:
            verified_host: It proved that it receives there.
            named_by: Who delivered this. Private addresses are only believed from inside a private network.
        """
        verified = {target.address.host for target in self.targets if target.verified} | {verified_host}
        self.remote_firewall = payload.firewall
        self.remote_punching = payload.punching
        named = [address for address in payload.addresses or () if _is_acceptable(address, named_by)]
        self.targets = tuple(Target(address, address.host in verified) for address in named[:KEPT_ADDRESSES])
        for address in named:
            self.expect(address.host)

    def add_sample(self, observed: Address, *, by: Address, now: float) -> None:
        """A relay of a round sees our socket at that address."""
        self._check.add(observed, by=by, now=now)

    def freeze(self) -> None:
        """The other side now knows what we think about our NAT; stay with it."""
        self._check.nat.freeze()

    def open_session(self, address: Address) -> None:
        """Let packets from `address` in, without a packet of ours arriving there."""
        self.expect(address.host)
        self._send(self.socket, address, LOW_TTL)

    def probe(self, address: Address) -> None:
        """Send one probe that is to arrive."""
        self._send(self.socket, address, None)

    def analyze(self, now: float, then: Analyzed, *, allow_reopen: bool) -> None:
        """Wait until our NAT is classified. If it cannot work, other sockets may fare better: some NATs are not alike for all.

        Args:
            then: Called once, at once or later; never after `close`.
        """
        self._analyzing.append((allow_reopen, then))
        self._settle(now)

    def punch(self, now: float, *, near_port: int) -> bool:
        """Start to send probes, if it was not done before. Returns whether there is a way.

        Args:
            near_port: The port where the other side was seen last, by whom it sent something to.
        """
        if self._over:
            return False
        if self._strategy is None:
            self._strategy = self._choose(near_port)
            if self._strategy is not None:
                self._step(now)
        return self._strategy is not None

    def receive_probe(self, socket: int, sender: Address, now: float) -> bool:
        """A probe arrived. Returns whether it came to one of our sockets."""
        if socket not in self._sockets:
            return False
        if self._on_connected is None:
            self._echo(socket, sender)
        elif self._may_be_remote(sender.host):
            self.close(keep=socket)
            self._on_connected(socket, sender, now)
        else:
            self.dropped += 1
        return True

    def close(self, *, keep: int | None = None) -> None:
        """Stop, and close all sockets but `keep`."""
        if self._over:
            return
        self._over = True
        self._check.cancel()
        self._analyzing.clear()
        if self._timer is not None:
            self._timer.cancel()
        for socket in self._sockets:
            if socket != keep:
                self._context.sockets.close(socket)
        self._sockets.clear()

    def _settle(self, now: float) -> None:
        """Tell those who wait for the classification, or try another socket for them."""
        while self._check.done and self._analyzing:
            usable = self._is_usable()
            if not usable and self._reopens_left and any(allow for allow, _ in self._analyzing) and self._reopen(now):
                continue
            waiting, self._analyzing = self._analyzing, []
            for _, then in waiting:
                if not self._over:
                    then(usable, now)

    def _is_usable(self) -> bool:
        both_random = is_random(self.firewall) and is_random(self.remote_firewall)
        return not both_random and self.firewall != Firewall.UNKNOWN

    def _reopen(self, now: float) -> bool:
        self._reopens_left -= 1
        if self.punching or not self._open_socket():
            return False
        self._check.cancel()
        self._context.sockets.close(self._sockets.pop(0))
        self._check = NatCheck(self._context, self.socket, now=now, on_done=self._settle)
        return True

    def _open_socket(self) -> bool:
        try:
            self._sockets.append(self._context.sockets.open())
        except OSError:  # fewer are less likely to be hit, but better than giving up
            return False
        return True

    def _choose(self, near_port: int) -> Strategy | None:
        if not self.targets or self.firewall == Firewall.UNKNOWN or self.remote_firewall == Firewall.UNKNOWN:
            return None
        if not self.is_random:
            return ConsistentProbes(self.socket, lambda: self.targets, self._send)
        target = next((target.address for target in self.targets if target.verified), None)
        if target is None or (is_random(self.firewall) and is_random(self.remote_firewall)):
            return None
        if is_random(self.remote_firewall):
            return RandomPortProbes(self.socket, target.host, near_port, self._send, self._context.randomness)
        if not target.port:
            return None
        return BirthdayProbes(self._sockets, self._open_socket, target, self._send)

    def _step(self, now: float) -> None:
        assert self._strategy is not None
        pause_s = self._strategy.step()
        then = self._on_exhausted if pause_s is None else self._step
        self._timer = self._context.rpc.timers.call_at(now + (pause_s or 0.0), then)

    def _may_be_remote(self, host: str) -> bool:
        return host in self._expected_hosts or (self.same_network and host_kind(host) is HostKind.PRIVATE)

    def _echo(self, socket: int, sender: Address) -> None:
        is_stranger = not self._may_be_remote(sender.host)
        if not self._echoes_left or (is_stranger and not self._echoes_left_to_strangers):
            self.dropped += 1
            return
        self._echoes_left -= 1
        self._echoes_left_to_strangers -= is_stranger
        self._send(socket, sender, None)

    def _send(self, socket: int, address: Address, ttl: int | None) -> None:
        self._context.rpc.send_datagram(Datagram(PROBE, address, socket, ttl))


def is_random(firewall: int) -> bool:
    """Whether a NAT takes another port for each destination. Kinds that are unknown to us count as the worst."""
    return firewall >= Firewall.RANDOM


def _is_acceptable(address: Address, named_by: Address) -> bool:
    """Whether we may probe there. Port 0 stands for one that is not known, behind a random NAT."""
    return may_send_to(address if address.port else Address(address.host, FIRST_PORT), named_by=named_by)
