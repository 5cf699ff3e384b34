"""Meeting a peer at a blind relay, beside the other ways to it."""

from collections.abc import Callable

from ..addresses import Address
from ..rpc.timers import Timers
from .link import RelayWanted
from .payloads import RelayThrough

RELAY_TIMEOUT_S = 15.0


class RelayAttempt:
    """Has a relay dialled and waits until it carries the stream. One of the callbacks is called, unless cancelled."""

    def __init__(
        self,
        timers: Timers,
        relay: RelayThrough,
        *,
        is_initiator: bool,
        stream_id: int,
        now: float,
        on_relay: Callable[[RelayWanted, float], None],
        on_opened: Callable[[int, Address, int, float], None],
        on_failed: Callable[[float], None],
    ) -> None:
        """
        Args:
            is_initiator: Whether our side chose the relay.
            on_relay: Dials.
            on_opened: Called as on_opened(socket, address of the relay, remote stream id, now).
        """
        self.relayed = False
        """Whether the stream runs through the relay."""
        self.over = False
        """Whether nothing more will happen."""
        self._at: tuple[int, Address] | None = None
        self._on_opened = on_opened
        self._on_failed = on_failed
        self._timeout = timers.call_at(now + RELAY_TIMEOUT_S, self._fail)
        wanted = RelayWanted(
            relay_public_key=relay.public_key,
            token=relay.token,
            is_initiator=is_initiator,
            stream_id=stream_id,
            connected=self._handle_connected,
            opened=self._handle_opened,
            failed=self._fail,
        )
        on_relay(wanted, now)

    def comes_from_relay(self, socket: int, sender: Address) -> bool:
        """Whether a packet was forwarded by the relay, and says nothing about where the peer is."""
        return self._at == (socket, sender)

    def cancel(self) -> None:
        """No callback will be called."""
        self.over = True
        self._timeout.cancel()

    def _handle_connected(self, socket: int, address: Address, now: float) -> None:
        self._at = (socket, address)

    def _handle_opened(self, socket: int, address: Address, remote_stream_id: int, now: float) -> None:
        if not self.over:
            self.cancel()
            self._at = (socket, address)
            self.relayed = True
            self._on_opened(socket, address, remote_stream_id, now)

    def _fail(self, now: float) -> None:
        if not self.over:
            self.cancel()
            self._on_failed(now)
