"""What the two sides of hole punching tell each other: the payload of PEER_HOLEPUNCH, sealed so that relays read nothing.

Source: hyperdht 6.34.0 `lib/messages.js` and `lib/secure-payload.js`; docs/protocol/holepunching.md.
"""

from dataclasses import dataclass

from ..addresses import Address
from ..buffers import BytesLike
from ..crypto import blake2b, secretbox_open, secretbox_seal
from ..encoding import Reader, Writer
from ..errors import DecodeError
from ..rpc.randomness import Randomness
from .constants import Firewall, PayloadError

TOKEN_BYTES = 32
NONCE_BYTES = 24
MAC_BYTES = 16
# What is kept will be probed, and a hostile peer would name the addresses of others. The reference never names more than
# four: those that at least two of a handful of nodes saw, or the first two.
KEPT_ADDRESSES = 8

_CONNECTED, _PUNCHING, _HAS_ADDRESSES, _HAS_REMOTE_ADDRESS, _HAS_TOKEN, _HAS_REMOTE_TOKEN = 1, 2, 4, 8, 16, 32


@dataclass(frozen=True, slots=True)
class HolepunchPayload:
    """One side of one round. The peer's key vouches for it, but the addresses are only what it claims."""

    error: int = PayloadError.NONE
    firewall: int = Firewall.UNKNOWN
    """What the sender knows about its NAT: a `Firewall`; values unknown to us are kept."""
    round: int = 0
    """Counts up; answers carry the highest one seen."""
    connected: bool = False
    punching: bool = False
    """The sender punches, or will once the other side does."""
    addresses: tuple[Address, ...] | None = None
    """Where the sender can be reached; port 0 when its NAT uses another one for each destination."""
    remote_address: Address | None = None
    """The address of the receiver for which the sender has opened its own NAT."""
    token: bytes | None = None
    """32 bytes to send back: who does receives what is sent to its address."""
    remote_token: bytes | None = None
    """The token of the other side, sent back."""


def encode_holepunch_payload(payload: HolepunchPayload) -> bytes:
    """See `decode_holepunch_payload` for the layout."""
    flags = (_CONNECTED if payload.connected else 0) | (_PUNCHING if payload.punching else 0)
    flags |= _HAS_ADDRESSES if payload.addresses is not None else 0
    flags |= _HAS_REMOTE_ADDRESS if payload.remote_address is not None else 0
    flags |= _HAS_TOKEN if payload.token is not None else 0
    flags |= _HAS_REMOTE_TOKEN if payload.remote_token is not None else 0
    writer = Writer()
    for number in (flags, payload.error, payload.firewall, payload.round):
        writer.push_uint(number)
    if payload.addresses is not None:
        writer.push_array(payload.addresses, Writer.push_ipv4_address)
    if payload.remote_address is not None:
        writer.push_ipv4_address(payload.remote_address)
    if payload.token is not None:
        writer.push_fixed(payload.token)
    if payload.remote_token is not None:
        writer.push_fixed(payload.remote_token)
    return writer.finish()


def decode_holepunch_payload(data: BytesLike) -> HolepunchPayload:
    """The opened payload of a PEER_HOLEPUNCH.

    Layout: flags (uint: 1 connected, 2 punching, 4 addresses, 8 remote address, 16 token, 32 remote token), error (uint),
    firewall (uint), round (uint); then, each only if flagged: addresses (count and 6 bytes each), remote address
    (6 bytes), token (32 bytes), remote token (32 bytes).

    Returns:
        The payload, with the first `KEPT_ADDRESSES` addresses.
    Raises:
        DecodeError: Truncated.
    """
    reader = Reader(data)
    flags = reader.pull_uint()
    return HolepunchPayload(
        connected=bool(flags & _CONNECTED),
        punching=bool(flags & _PUNCHING),
        error=reader.pull_uint(),
        firewall=reader.pull_uint(),
        round=reader.pull_uint(),
        addresses=tuple(reader.pull_array(Reader.pull_ipv4_address)[:KEPT_ADDRESSES])
        if flags & _HAS_ADDRESSES
        else None,
        remote_address=reader.pull_ipv4_address() if flags & _HAS_REMOTE_ADDRESS else None,
        token=reader.pull_fixed(TOKEN_BYTES) if flags & _HAS_TOKEN else None,
        remote_token=reader.pull_fixed(TOKEN_BYTES) if flags & _HAS_REMOTE_TOKEN else None,
    )


class HolepunchSeal:
    """Seals and opens the payloads of one handshake, and makes the tokens of one side."""

    def __init__(self, secret: bytes, randomness: Randomness) -> None:
        """`secret` is the hole punch secret of the handshake: 32 bytes that both sides have."""
        self._secret = secret
        self._randomness = randomness
        self._token_key = randomness.randbytes(32)

    def seal(self, payload: HolepunchPayload) -> bytes:
        """A random nonce of 24 bytes, a MAC of 16 bytes and the encrypted payload."""
        nonce = self._randomness.randbytes(NONCE_BYTES)
        return nonce + secretbox_seal(encode_holepunch_payload(payload), nonce, self._secret)

    def open(self, sealed: bytes) -> HolepunchPayload | None:
        """Reverse `seal`; None for what the other side cannot have sent."""
        if len(sealed) < NONCE_BYTES + MAC_BYTES:
            return None
        opened = secretbox_open(sealed[NONCE_BYTES:], sealed[:NONCE_BYTES], self._secret)
        try:
            return None if opened is None else decode_holepunch_payload(opened)
        except DecodeError:
            return None

    def token(self, host: str) -> bytes:
        """32 bytes for whoever receives at `host`. The port is not covered: behind some NATs it changes."""
        return blake2b(host.encode(), key=self._token_key)
