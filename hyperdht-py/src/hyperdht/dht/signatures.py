"""What is signed when announcing and when storing mutable values, and checking it.

An announce is signed for one node and one of its tokens, so nobody can replay it elsewhere or later.
Source: hyperdht 6.34.0 `lib/persistent.js`; docs/protocol/hyperdht.md.
"""

from dataclasses import replace

from ..crypto import KeyPair, blake2b, sign, verify
from ..encoding import Writer
from .constants import NS_ANNOUNCE, NS_MUTABLE_PUT, NS_UNANNOUNCE
from .messages import Announce, MutablePut, MutableValue, PeerRecord, encode_peer


def announce_signable(namespace: bytes, announce: Announce, *, target: bytes, node_id: bytes, token: bytes) -> bytes:
    """namespace | H(target | node id | token | peer | refresh or nothing). The bump is not covered.

    Args:
        namespace: `NS_ANNOUNCE` or `NS_UNANNOUNCE`.
        node_id: Of the node that is to store it, from its own reply.
        token: From the same reply.
    Raises:
        ValueError: The announce is without a peer.
    """
    if announce.peer is None:
        raise ValueError("an announce without a peer is not signed")
    parts = (target, node_id, token, encode_peer(announce.peer), announce.refresh or b"")
    return namespace + blake2b(b"".join(parts))


def sign_announce(announce: Announce, key_pair: KeyPair, *, target: bytes, node_id: bytes, token: bytes) -> Announce:
    """The same announce with its signature, for the value of ANNOUNCE."""
    signable = announce_signable(NS_ANNOUNCE, announce, target=target, node_id=node_id, token=token)
    return replace(announce, signature=sign(signable, key_pair))


def sign_unannounce(key_pair: KeyPair, *, target: bytes, node_id: bytes, token: bytes) -> Announce:
    """The value of UNANNOUNCE."""
    announce = Announce(PeerRecord(key_pair.public_key))
    signable = announce_signable(NS_UNANNOUNCE, announce, target=target, node_id=node_id, token=token)
    return replace(announce, signature=sign(signable, key_pair))


def is_signed(namespace: bytes, announce: Announce, *, target: bytes, node_id: bytes, token: bytes) -> bool:
    """Whether the peer in it signed the announce for this target, node and token."""
    if announce.peer is None or announce.signature is None:
        return False
    signable = announce_signable(namespace, announce, target=target, node_id=node_id, token=token)
    return verify(announce.signature, signable, announce.peer.public_key)


def sign_mutable(seq: int, value: bytes, key_pair: KeyPair) -> MutablePut:
    """A value to put under the key."""
    return MutablePut(key_pair.public_key, MutableValue(seq, value, sign(_mutable_signable(seq, value), key_pair)))


def is_signed_mutable(stored: MutableValue, public_key: bytes) -> bool:
    """Whether the key signed that value with that seq."""
    return verify(stored.signature, _mutable_signable(stored.seq, stored.value), public_key)


def _mutable_signable(seq: int, value: bytes) -> bytes:
    writer = Writer()
    writer.push_uint(seq)
    writer.push_buffer(value)
    return NS_MUTABLE_PUT + blake2b(writer.finish())
