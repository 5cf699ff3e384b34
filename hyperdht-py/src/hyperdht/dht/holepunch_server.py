"""The rounds of hole punching, at the side that was called."""

from collections.abc import Callable

from ..addresses import Address
from ..rpc.events import RequestReceived
from .context import Context
from .holepunch_client import PunchHook
from .payloads import HolepunchMessage
from .random_punches import RandomPunchLimiter


class HolepunchServer:
    """One client that shook hands through relays and may want to punch. Opens its socket and looks at the NAT at once.

    The server learns that a hole is open from the first packet of the stream (the hook given to `Streams.reserve`), and
    then calls `close`. If the client does not begin within 10 s, or punching fails, `on_aborted(now)` is called once, with
    all sockets closed; later messages are still answered, with an error. It is not called from inside the constructor, and
    not after `close`.
    """

    def __init__(
        self,
        context: Context,
        *,
        secret: bytes,
        client_address: Address,
        client_firewall: int,
        is_own_relay: Callable[[Address], bool],
        limiter: RandomPunchLimiter,
        has_relay: bool = False,
        hook: PunchHook | None = None,
        now: float,
        on_aborted: Callable[[float], None],
    ) -> None:
        """
        Args:
            secret: The hole punch secret of the handshake, 32 bytes.
            client_address: Where the relay of the handshake sees the client (`peer_address` of its message).
            client_firewall: The `firewall` of the client's noise payload.
            is_own_relay: Whether we announced through a node lately: such a node is believed about the client's address.
            limiter: The node's.
            has_relay: Whether a blind relay carries the connection meanwhile: then too many punches are no reason to end.
        Raises:
            OSError: No socket to punch with.
        """

    @property
    def socket(self) -> int:
        """Answer the handshake from here (FROM_SERVER), so that the relay tells the client this socket's address."""
        raise NotImplementedError

    def receive(self, message: HolepunchMessage, received: RequestReceived, now: float) -> None:
        """A PEER_HOLEPUNCH with mode FROM_RELAY and the id of this handshake arrived in `received`.

        Answers by itself (FROM_SERVER, to the relay, from `socket`), perhaps later; never if the payload is forged.
        """

    def receive_probe(self, socket: int, sender: Address, now: float) -> bool:
        """A datagram of one byte arrived. Returns whether it came to a socket of this session."""
        raise NotImplementedError

    def close(self, now: float, *, keep: int | None = None) -> None:
        """Stop, and close all sockets but `keep`, which then is the caller's: the stream came through on it.

        May be called at any time, also when everything is over.
        """
