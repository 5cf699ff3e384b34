"""What a node says about the peers under a topic, cut to what an honest one would say."""

from dataclasses import dataclass, replace

from ..addresses import Address
from ..errors import DecodeError
from ..rpc import Reply
from .constants import MAX_RELAY_ADDRESSES
from .messages import PeerRecord, decode_lookup_reply
from .reachable import may_send_to
from .records import RECORDS_PER_REPLY


@dataclass(frozen=True, slots=True)
class PeersFound:
    """A node knows peers under a topic. It may have made them up: only a handshake proves a key."""

    node: Address
    peers: tuple[PeerRecord, ...]
    """Up to 20, each with up to three relays. Honest nodes send no more; a liar would fill the caller's lists."""
    bump: int
    """The highest one announced, in Unix milliseconds; 0 for none."""


def peers_in(node: Address, reply: Reply) -> PeersFound | None:
    """The peers in a reply to LOOKUP; None when it has none or cannot be read."""
    if reply.value is None:
        return None
    try:
        decoded = decode_lookup_reply(reply.value)
    except DecodeError:
        return None
    peers = tuple(credible_relays(peer, node) for peer in decoded.peers[:RECORDS_PER_REPLY])
    return PeersFound(node, peers, decoded.bump) if peers else None


def credible_relays(peer: PeerRecord, node: Address) -> PeerRecord:
    """Without relays that `node` may not send us to, private addresses told by a public node for instance, and surplus ones."""
    credible = [address for address in peer.relay_addresses if may_send_to(address, named_by=node)]
    return replace(peer, relay_addresses=tuple(credible[:MAX_RELAY_ADDRESSES]))
