"""The rounds of hole punching, at the side that called."""

from collections.abc import Callable, Sequence
from enum import Enum

from ..addresses import Address
from .context import Context
from .payloads import RelayInfo
from .random_punches import RandomPunchLimiter

PunchHook = Callable[[int, int, tuple[Address, ...], tuple[Address, ...]], bool]
"""Called as hook(remote firewall, local firewall, remote addresses, local addresses) before punching; False forbids it."""


class HolepunchFailure(Enum):
    """Why there is no hole. The values are the codes of the official package."""

    ABORTED = "HOLEPUNCH_ABORTED"
    """Nothing came through, our hook said no, or too many random punches are running."""
    INVALID = "HOLEPUNCH_INVALID"
    """Answers came, but none that the server can have written."""
    PROBE_TIMEOUT = "HOLEPUNCH_PROBE_TIMEOUT"
    """Nobody answered, or one side could not find out about its NAT."""
    DOUBLE_RANDOMIZED = "HOLEPUNCH_DOUBLE_RANDOMIZED_NATS"
    """Both sides have another port for each destination."""
    REMOTE_ABORTED = "REMOTE_ABORTED"
    REMOTE_NOT_HOLEPUNCHING = "REMOTE_NOT_HOLEPUNCHING"
    REMOTE_NOT_HOLEPUNCHABLE = "REMOTE_NOT_HOLEPUNCHABLE"
    """The server named no address that may be probed."""


class HolepunchClient:
    """One attempt to reach a server whose handshake came through relays. Starts at once, and always ends:

    - `on_connected(socket, address, now)`: a probe of the server arrived. All other sockets are closed by then; this one
      belongs to the receiver of the call, who closes it with `context.sockets.close` once the stream uses it.
    - `on_failed(failure, now)`: all sockets are closed.
    - `cancel`: neither is called.

    Neither is called from inside the constructor.
    """

    def __init__(
        self,
        context: Context,
        *,
        secret: bytes,
        target: bytes,
        remote_id: int,
        relays: Sequence[RelayInfo],
        remote_firewall: int,
        server_address: Address,
        client_address: Address,
        client_relay: Address,
        limiter: RandomPunchLimiter,
        has_relay: bool = False,
        fast_open: bool = True,
        hook: PunchHook | None = None,
        now: float,
        on_connected: Callable[[int, Address, float], None],
        on_failed: Callable[[HolepunchFailure, float], None],
    ) -> None:
        """
        Args:
            secret: The hole punch secret of the handshake, 32 bytes.
            target: The hash of the server's public key.
            remote_id: The `id` in the server's holepunch info.
            relays: The `relays` there; at least one.
            remote_firewall: The `firewall` of the server's noise payload.
            server_address: Where the relay of the handshake sees the server.
            client_address: Where that relay sees us.
            client_relay: That relay.
            limiter: The node's.
            has_relay: Whether a blind relay carries the connection meanwhile: then waiting is better than giving up.
            fast_open: Open our NAT for the server before it answers.
        Raises:
            OSError: No socket to punch with.
        """

    def receive_probe(self, socket: int, sender: Address, now: float) -> bool:
        """A datagram of one byte arrived. Returns whether it came to a socket of this attempt."""
        raise NotImplementedError

    def cancel(self, now: float, *, keep: int | None = None) -> None:
        """Stop, and close all sockets but `keep`, which then is the caller's: the stream got through on it another way.

        May be called at any time, also when everything is over.
        """
