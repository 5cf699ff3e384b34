"""What handshakes of strangers may cost a server (T18).

A handshake costs its sender one packet with any address in it. It costs us the Noise work (0.3 to 0.7 ms), then, if our
firewall hook takes the peer, a stream, and behind a NAT a socket for 10 s.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from ..addresses import Address
from .rate_limit import Rate, SourceLimiter, source_of


@dataclass(frozen=True, slots=True)
class HandshakeLimits:
    """The caps of one server. Whoever meets one is not answered, and asks again after 1, 2 and 3 s."""

    each_source: Rate = field(default=Rate(per_s=32, burst=128))
    """Of one host. A node that comes back after an outage dials a few dozen keys at once."""
    all_sources: Rate = field(default=Rate(per_s=512, burst=512))
    """Together: a third of a core, at most, goes to Noise."""
    max_open: int = 256
    """Handshakes that wait for our hook or for the client; each may hold a socket, of which systems give 1,024. More push out
    the oldest whose client has not been heard."""
    max_open_of_source: int = 64
    """Of one host, so that four at least are needed to fill all."""
    max_remembered: int = 4096
    """Answers kept for 10 s, to repeat them: 2 MB."""
    max_relays: int = 16
    """Blind relays chosen by clients that we dial at the same time: each is a whole connection to a key they name."""


class HandshakeGate:
    """Counts what is open, and says whether one more may be."""

    def __init__(self, limits: HandshakeLimits, *, now: float) -> None:
        self.refused = 0
        self.open = 0
        self._limits = limits
        self._rates = SourceLimiter(limits.each_source, limits.all_sources, now=now)
        self._open_of_source: dict[str | Address, int] = {}

    def admit(self, source: Address, now: float, make_room: Callable[[bool], object] | None = None) -> bool:
        """Whether to do the work for a handshake. It counts as open until `leave`.

        Args:
            make_room: Called when too many are open, of this source (True) or altogether; may call `leave`.
        """
        key = source_of(source)
        allowed = self._rates.allow(source, now)
        if allowed and make_room is not None and self._is_full(key):
            make_room(self.open < self._limits.max_open)
        if not allowed or self._is_full(key):
            self.refused += 1
            return False
        self.open += 1
        self._open_of_source[key] = self._open_of_source.get(key, 0) + 1
        return True

    def _is_full(self, key: str | Address) -> bool:
        of_source = self._open_of_source.get(key, 0)
        return self.open >= self._limits.max_open or of_source >= self._limits.max_open_of_source

    def leave(self, source: Address) -> None:
        """A handshake that was admitted is over, or connected."""
        key = source_of(source)
        self.open -= 1
        self._open_of_source[key] -= 1
        if not self._open_of_source[key]:
            del self._open_of_source[key]
