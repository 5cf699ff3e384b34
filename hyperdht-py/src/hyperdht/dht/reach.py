"""The ways to a peer whose handshake came through a relay.

Several may be open at once: a blind relay, hole punching, the local network, waiting for the peer. The first that gets
through directly wins; a relay carries the stream until then. It fails when the last way has.

Source: hyperdht 6.34.0 `lib/connect.js`; docs/protocol/connections.md.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from ..addresses import Address
from ..errors import ConnectError, HolepunchError, RelayFailed
from ..rpc.caller import Answer
from ..rpc.endpoint import SERVER_SOCKET
from .constants import Firewall
from .context import Context
from .handshake_search import HandshakeAnswer
from .holepunch_client import HolepunchClient, HolepunchFailure, PunchHook
from .lan import best_match, lan_addresses
from .link import Path, RelayWanted
from .payloads import NoisePayload, RelayInfo, RelayThrough
from .random_punches import RandomPunchLimiter
from .reachable import is_public, may_send_to
from .relay_attempt import RelayAttempt

if TYPE_CHECKING:
    from ..rpc.timers import Timer

WAIT_FOR_PEER_S = 10.0


class Way(Enum):
    """One of the ways that may still lead to the peer."""

    PEER = auto()
    """It can reach us, so it is its turn."""
    LAN = auto()
    PUNCH = auto()
    RELAY = auto()


@dataclass(frozen=True, slots=True)
class ReachOptions:
    """What the caller of `connect` allows."""

    relay_through: RelayThrough | None = None
    on_relay: Callable[[RelayWanted, float], None] | None = None
    local_connection: bool = True
    fast_open: bool = True
    hook: PunchHook | None = None


class Reach:
    """Looks for a direct way to one peer. Its callbacks may be called from inside `start`, and never after `stop`."""

    def __init__(
        self,
        context: Context,
        *,
        answer: HandshakeAnswer,
        payload: NoisePayload,
        secret: bytes,
        target: bytes,
        stream_id: int,
        options: ReachOptions,
        limiter: RandomPunchLimiter,
        on_open: Callable[[int, Address, Path, float], None],
        on_relayed: Callable[[int, Address, int, float], None],
        on_failed: Callable[[ConnectError, float], None],
    ) -> None:
        """
        Args:
            payload: What the peer says about itself.
            secret: The hole punch secret of the handshake.
            target: The hash of the peer's public key.
            on_open: Called as on_open(socket, address, path, now) with a direct way. Ends everything else.
            on_relayed: Called as on_relayed(socket, address of the relay, remote stream id, now). The search goes on.
            on_failed: There is no way, or none beside the relay.
        """
        self._context = context
        self._rpc = context.rpc
        self._answer = answer
        self._payload = payload
        self._secret = secret
        self._target = target
        self._stream_id = stream_id
        self._options = options
        self._limiter = limiter
        self._on_open = on_open
        self._on_relayed = on_relayed
        self._on_failed = on_failed
        self._ways: set[Way] = set()
        self._stopped = False
        self._relay: RelayAttempt | None = None
        self._punch: HolepunchClient | None = None
        self._lan_ping: int | None = None
        self._waiting: Timer | None = None

    def start(self, now: float) -> None:
        """Begin. The order is the reference's: what needs no luck comes first."""
        relays = self._punching_relays()
        is_open = self._payload.firewall == Firewall.OPEN or not relays
        if is_open and self._open_address_of_peer(now):
            return
        self._start_relay(now)
        if is_open:
            if not self._ways:
                self._on_failed(HolepunchError("CANNOT_HOLEPUNCH"), now)
        elif self._rpc.remote_address() is not None:
            self._wait_for_peer(now)
        else:
            self._try_lan(now)
            self._start_punching(relays, now)

    def stop(self, now: float, *, keep: int | None = None) -> None:
        """End everything, and close all sockets opened for it but `keep`."""
        self._stopped = True
        if self._relay is not None:
            self._relay.cancel()
        if self._waiting is not None:
            self._waiting.cancel()
        if self._lan_ping is not None:
            self._rpc.cancel(self._lan_ping)
        if self._punch is not None:
            self._punch.cancel(now, keep=keep)

    def comes_from_relay(self, socket: int, sender: Address) -> bool:
        """Whether a packet was forwarded by the blind relay, and says nothing about where the peer is."""
        return self._relay is not None and self._relay.comes_from_relay(socket, sender)

    def receive_probe(self, socket: int, sender: Address, now: float) -> bool:
        """A datagram of one byte arrived. Returns whether it was for this peer."""
        return self._punch is not None and self._punch.receive_probe(socket, sender, now)

    def path_from(self, socket: int, sender: Address) -> Path:
        """How a packet came that the peer sent us by itself."""
        if self._punch is not None and socket > SERVER_SOCKET:
            return Path.PUNCHED
        return path_of(sender, self._payload)

    def _open(self, socket: int, address: Address, path: Path, now: float) -> None:
        if not self._stopped:
            self._on_open(socket, address, path, now)

    def _open_address_of_peer(self, now: float) -> bool:
        address = next(filter(is_public, self._payload.addresses4), self._answer.server_address)
        if not may_send_to(address, named_by=self._answer.asked):
            return False
        self._open(self._rpc.endpoint.main_socket, address, Path.DIRECT, now)
        return True

    def _wait_for_peer(self, now: float) -> None:
        self._ways.add(Way.PEER)
        error = HolepunchError("HOLEPUNCH_ABORTED", "The peer was to call back, as we can be reached, and did not.")
        self._waiting = self._rpc.timers.call_at(
            now + WAIT_FOR_PEER_S, lambda at: self._way_failed(Way.PEER, error, at)
        )

    def _try_lan(self, now: float) -> None:
        answer = self._answer
        if not self._options.local_connection or answer.client_address.host != answer.server_address.host:
            return
        own = self._context.local_addresses()
        theirs = lan_addresses(self._payload.addresses4, own)
        if not theirs:
            return
        address = best_match(own, theirs) or theirs[0]

        def handle(pong: Answer) -> None:
            self._lan_ping = None
            if pong.sender == address:
                self._open(SERVER_SOCKET, address, Path.LAN, pong.now)
            else:
                self._way_failed(Way.LAN, HolepunchError(), pong.now)

        self._ways.add(Way.LAN)
        self._lan_ping = self._rpc.ping(address, now=now, then=handle)

    def _punching_relays(self) -> list[RelayInfo]:
        """Nodes the peer named, where they are ones it may send us to."""
        holepunch = self._payload.holepunch
        named = () if holepunch is None else holepunch.relays
        return [relay for relay in named if may_send_to(relay.relay_address, named_by=self._answer.asked)]

    def _start_punching(self, relays: list[RelayInfo], now: float) -> None:
        assert self._payload.holepunch is not None
        self._ways.add(Way.PUNCH)
        try:
            self._punch = HolepunchClient(
                self._context,
                secret=self._secret,
                target=self._target,
                remote_id=self._payload.holepunch.id,
                relays=relays,
                remote_firewall=self._payload.firewall,
                server_address=self._answer.server_address,
                client_address=self._answer.client_address,
                client_relay=self._answer.asked,
                limiter=self._limiter,
                has_relay=Way.RELAY in self._ways,
                fast_open=self._options.fast_open,
                hook=self._options.hook,
                now=now,
                on_connected=lambda socket, address, at: self._open(socket, address, Path.PUNCHED, at),
                on_failed=self._handle_punch_failed,
            )
        except OSError as error:
            self._way_failed(Way.PUNCH, HolepunchError(detail=f"No socket to punch with: {error}"), now)

    def _handle_punch_failed(self, failure: HolepunchFailure, now: float) -> None:
        assert self._punch is not None, "never called from its constructor"
        error = HolepunchError(
            failure.value,
            local_firewall=self._punch.local_firewall,
            remote_firewall=self._punch.remote_firewall,
        )
        self._way_failed(Way.PUNCH, error, now)

    def _start_relay(self, now: float) -> None:
        chosen = self._payload.relay_through or self._options.relay_through  # if both chose one, the server's counts
        if chosen is None or self._options.on_relay is None:
            return
        self._ways.add(Way.RELAY)
        self._relay = RelayAttempt(
            self._rpc.timers,
            chosen,
            is_initiator=self._payload.relay_through is None,
            stream_id=self._stream_id,
            now=now,
            on_relay=self._options.on_relay,
            on_opened=self._handle_relayed,
            on_failed=lambda at: self._way_failed(Way.RELAY, RelayFailed(), at),
        )

    def _handle_relayed(self, socket: int, address: Address, remote_stream_id: int, now: float) -> None:
        self._ways.discard(Way.RELAY)
        self._on_relayed(socket, address, remote_stream_id, now)
        if not self._ways and not self._stopped:
            self._on_failed(RelayFailed("Only the relay leads to the peer."), now)

    def _way_failed(self, way: Way, error: ConnectError, now: float) -> None:
        self._ways.discard(way)
        if not self._ways and not self._stopped:
            self._on_failed(error, now)


def path_of(sender: Address, payload: NoisePayload) -> Path:
    """How a packet came that a peer with these addresses sent to one of our main sockets."""
    return Path.LAN if sender in payload.addresses4 and not is_public(sender) else Path.DIRECT
