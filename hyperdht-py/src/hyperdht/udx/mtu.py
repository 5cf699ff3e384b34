"""How large a packet the path takes. Sizes include the IP and UDP headers, as in libudx."""

from .packet import HEADER_BYTES, MAX_PADDING_BYTES

BASE_MTU = 1200
DEFAULT_MAX_MTU = 1500
STEP = 32
TRIES = 3
IPV4_OVERHEAD = 20 + 8 + HEADER_BYTES
IPV6_OVERHEAD = 40 + 8 + HEADER_BYTES


class MtuSearch:
    """Asks for ever larger probes until one is lost three times. A probe is a DATA packet with padding."""

    def __init__(self, max_mtu: int = DEFAULT_MAX_MTU, *, ipv6: bool = False) -> None:
        """
        Args:
            max_mtu: Of the route, as the kernel knows it. 1200 or less turns the search off.
        """
        self.mtu = BASE_MTU
        self._overhead = IPV6_OVERHEAD if ipv6 else IPV4_OVERHEAD
        self._max_mtu = min(max_mtu, DEFAULT_MAX_MTU)
        self._wanted: int | None = None
        self._in_flight = False
        self._losses = 0

    @property
    def payload_bytes(self) -> int:
        """Of a full packet."""
        return self.mtu - self._overhead

    def restart(self, *, ipv6: bool) -> None:
        """Packets go another way from now on, over IPv4 or IPv6: nothing is known about it."""
        self.mtu = BASE_MTU
        self._overhead = IPV6_OVERHEAD if ipv6 else IPV4_OVERHEAD
        self._in_flight = False
        self._losses = 0

    def start(self) -> None:
        """The first acknowledgement came: the path works."""
        if self._max_mtu > BASE_MTU:
            self._wanted = BASE_MTU

    def padding_for(self, payload_bytes: int) -> int | None:
        """With how much padding a new packet of that size makes the wanted probe; None if no probe is wanted or it cannot."""
        if self._wanted is None or self._in_flight:
            return None
        padding = self._wanted - self._overhead - payload_bytes
        return padding if 0 <= padding <= MAX_PADDING_BYTES else None

    def sent(self) -> None:
        """The probe is on its way."""
        self._in_flight = True

    def succeeded(self) -> None:
        """The probe arrived."""
        assert self._wanted is not None
        self.mtu = self._wanted
        self._wanted = min(self.mtu + STEP, self._max_mtu) if self.mtu < self._max_mtu else None
        self._in_flight = False
        self._losses = 0

    def lost(self) -> None:
        """The probe was lost."""
        self._in_flight = False
        self._losses += 1
        if self._losses >= TRIES:
            self._wanted = None
