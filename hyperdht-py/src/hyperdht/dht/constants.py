"""Numbers of HyperDHT that several of its parts share.

Source: hyperdht 6.34.0 `lib/constants.js`.
"""

from enum import IntEnum

from ..crypto import namespace

_PROTOCOL = "hyperswarm/dht"


class Command(IntEnum):
    """External commands, next to the internal ones of dht-rpc."""

    PEER_HANDSHAKE = 0
    PEER_HOLEPUNCH = 1
    FIND_PEER = 2
    LOOKUP = 3
    ANNOUNCE = 4
    UNANNOUNCE = 5
    MUTABLE_PUT = 6
    MUTABLE_GET = 7
    IMMUTABLE_PUT = 8
    IMMUTABLE_GET = 9
    PLUGIN = 10


class Firewall(IntEnum):
    """What a peer knows about the network it sits in."""

    UNKNOWN = 0
    OPEN = 1
    CONSISTENT = 2
    """One mapping for all destinations."""
    RANDOM = 3
    """Another port for each destination."""


class PayloadError(IntEnum):
    """Errors inside handshakes and hole punching."""

    NONE = 0
    ABORTED = 1
    VERSION_MISMATCH = 2
    TRY_LATER = 3


class StorageError(IntEnum):
    """Error codes in replies to MUTABLE_PUT."""

    SEQ_REUSED = 16
    SEQ_TOO_LOW = 17


NS_PEER_HANDSHAKE, NS_PEER_HOLEPUNCH, NS_ANNOUNCE, NS_UNANNOUNCE, NS_MUTABLE_PUT = namespace(
    _PROTOCOL,
    Command.PEER_HANDSHAKE,
    Command.PEER_HOLEPUNCH,
    Command.ANNOUNCE,
    Command.UNANNOUNCE,
    Command.MUTABLE_PUT,
)

MAX_RELAY_ADDRESSES = 3
