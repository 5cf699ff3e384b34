"""What a node asks of the DHT: who is under a topic, where a peer is, values to get and to put.

Each call starts a walk towards the target and returns at once; callbacks run later. Nobody's word is taken for more than it
is: values are checked, and what cannot be is cut to what an honest node would say.
Source: hyperdht 6.34.0 `index.js`; docs/protocol/hyperdht.md.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..addresses import Address
from ..crypto import KeyPair, blake2b
from ..errors import DecodeError
from ..rpc import QUERY_RETRIES, BestReply, QueryOutcome, Reply, RpcNode, RunningQuery, Write
from .constants import Command
from .messages import (
    MAX_MUTABLE_VALUE_BYTES,
    MAX_REPLY_VALUE_BYTES,
    Announce,
    MutableValue,
    PeerRecord,
    decode_mutable_value,
    decode_peer,
    encode_announce,
    encode_mutable_put,
    encode_seq,
)
from .peers_found import PeersFound, credible_relays, peers_in
from .signatures import is_signed_mutable, sign_announce, sign_mutable
from .unannouncing import Unannouncing

OnPeers = Callable[[PeersFound, float], None]


@dataclass(frozen=True, slots=True)
class PeerFound:
    """A node has a route to a peer: it can pass on a handshake."""

    node: Address
    peer: PeerRecord


@dataclass(frozen=True, slots=True)
class ImmutableFound:
    """A value whose hash is the one asked for."""

    node: Address
    value: bytes


@dataclass(frozen=True, slots=True)
class MutableFound:
    """A value that the key asked for has signed."""

    node: Address
    stored: MutableValue


@dataclass(frozen=True, slots=True)
class PutOutcome:
    """Who keeps a value now."""

    target: bytes
    """What to ask for: the hash of an immutable value, or of the key of a mutable one."""
    stored: tuple[Address, ...]
    refused: tuple[tuple[Address, int], ...]
    """Nodes and the error they answered with; see `StorageError`."""
    now: float


def closest_nodes(outcome: QueryOutcome) -> tuple[Address, ...]:
    """Where the next walk to the same target may start."""
    return tuple(best.address for best in outcome.best)


def lookup(
    rpc: RpcNode,
    topic: bytes,
    *,
    now: float,
    seeds: Sequence[Address] = (),
    on_peers: OnPeers | None = None,
    then: Callable[[QueryOutcome], None] | None = None,
) -> RunningQuery:
    """Ask who announced itself for a topic.

    Args:
        seeds: The closest nodes of an earlier walk.
        on_peers: Gets the peers of each reply; the same ones come from several nodes.
    """
    return rpc.query(topic, Command.LOOKUP, seeds=seeds, on_reply=_tell_peers(on_peers), then=then, now=now)


def find_peer(
    rpc: RpcNode,
    public_key: bytes,
    *,
    now: float,
    seeds: Sequence[Address] = (),
    retries: int = QUERY_RETRIES,
    on_peer: Callable[[PeerFound, float], None] | None = None,
    then: Callable[[QueryOutcome], None] | None = None,
) -> RunningQuery:
    """Ask which nodes have a route to a peer that listens."""

    def receive(node: Address, reply: Reply, now: float) -> None:
        peer = _decoded_peer(reply)
        if on_peer is not None and peer is not None and peer.public_key == public_key:
            on_peer(PeerFound(node, credible_relays(peer, node)), now)

    target = blake2b(public_key)
    return rpc.query(target, Command.FIND_PEER, seeds=seeds, retries=retries, on_reply=receive, then=then, now=now)


def announce(
    rpc: RpcNode,
    topic: bytes,
    key_pair: KeyPair,
    *,
    now: float,
    relay_addresses: Sequence[Address] = (),
    bump: int = 0,
    clear: bool = False,
    seeds: Sequence[Address] = (),
    on_peers: OnPeers | None = None,
    then: Callable[[QueryOutcome], None] | None = None,
) -> RunningQuery | Unannouncing:
    """Store under a topic that `key_pair` is there. The outcome's `committed` says who took it.

    Args:
        relay_addresses: Nodes with a route to us; three are kept.
        bump: Unix milliseconds, told to everybody who looks the topic up.
        clear: Withdraw older announces of ours on the way. Nodes keep a record as it came first for up to 13 minutes, so the
            first announce of a process needs this, or its relays would be those of the process before.
        seeds: The closest nodes of an earlier walk.
        on_peers: Gets the peers met on the way, as in `lookup`.
    """
    unsigned = Announce(PeerRecord(key_pair.public_key, tuple(relay_addresses)), bump=bump)

    def write(best: BestReply) -> Write | None:
        token = best.reply.token
        if token is None:
            return None
        signed = sign_announce(unsigned, key_pair, target=topic, node_id=best.node_id, token=token)
        return Write(Command.ANNOUNCE, topic, encode_announce(signed))

    if clear:
        return Unannouncing(rpc, topic, key_pair, seeds=seeds, on_peers=on_peers, write=write, then=then, now=now)
    return rpc.query(
        topic, Command.LOOKUP, seeds=seeds, on_reply=_tell_peers(on_peers), write=write, then=then, now=now
    )


def unannounce(
    rpc: RpcNode,
    topic: bytes,
    key_pair: KeyPair,
    *,
    now: float,
    seeds: Sequence[Address] = (),
    only_closest_nodes: bool = False,
    on_peers: OnPeers | None = None,
    then: Callable[[QueryOutcome], None] | None = None,
) -> Unannouncing:
    """Withdraw what was announced under a topic, from the nodes on the way that list us.

    Args:
        seeds: The closest nodes of the last announce.
        only_closest_nodes: Ask the seeds and nobody else, once and at once: for leaving in a hurry.
        on_peers: Gets the peers met on the way, as in `lookup`.
        then: Called when all nodes have confirmed or are given up.
    """
    return Unannouncing(
        rpc,
        topic,
        key_pair,
        seeds=seeds,
        in_a_hurry=only_closest_nodes,
        on_peers=on_peers,
        then=then,
        now=now,
    )


def immutable_get(
    rpc: RpcNode,
    target: bytes,
    *,
    now: float,
    seeds: Sequence[Address] = (),
    then: Callable[[ImmutableFound | None, float], None],
) -> RunningQuery:
    """Get the value whose hash is `target`. `then` gets the first that is, or None when nobody has it."""

    def receive(node: Address, reply: Reply, now: float) -> None:
        if reply.value is not None and blake2b(reply.value) == target:
            running.cancel()
            then(ImmutableFound(node, reply.value), now)

    def end(outcome: QueryOutcome) -> None:
        then(None, outcome.now)

    running = rpc.query(target, Command.IMMUTABLE_GET, seeds=seeds, on_reply=receive, then=end, now=now)
    return running


def immutable_put(
    rpc: RpcNode,
    value: bytes,
    *,
    now: float,
    seeds: Sequence[Address] = (),
    then: Callable[[PutOutcome], None],
) -> RunningQuery:
    """Store a value under its hash.

    Raises:
        ValueError: Above 1,850 bytes, with which an answer outgrows what its readers can receive.
    """
    _check_size(value, MAX_REPLY_VALUE_BYTES)
    target = blake2b(value)
    return _put(rpc, target, Command.IMMUTABLE_GET, None, Write(Command.IMMUTABLE_PUT, target, value), seeds, then, now)


def mutable_get(
    rpc: RpcNode,
    public_key: bytes,
    *,
    now: float,
    seq: int = 0,
    latest: bool = True,
    seeds: Sequence[Address] = (),
    then: Callable[[MutableFound | None, float], None],
) -> RunningQuery:
    """Get what `public_key` has signed. `then` gets None when nobody has it.

    Args:
        seq: The lowest of interest.
        latest: Ask everybody and take the highest seq, instead of the first reply.
    """
    highest: MutableFound | None = None

    def receive(node: Address, reply: Reply, now: float) -> None:
        nonlocal highest
        stored = _decoded_value(reply)
        if stored is None or stored.seq < (seq if highest is None else highest.stored.seq + 1):
            return
        if is_signed_mutable(stored, public_key):
            highest = MutableFound(node, stored)
            if not latest:
                running.cancel()
                then(highest, now)

    def end(outcome: QueryOutcome) -> None:
        then(highest, outcome.now)

    target = blake2b(public_key)
    running = rpc.query(
        target, Command.MUTABLE_GET, value=encode_seq(seq), seeds=seeds, on_reply=receive, then=end, now=now
    )
    return running


def mutable_put(
    rpc: RpcNode,
    key_pair: KeyPair,
    value: bytes,
    *,
    now: float,
    seq: int = 0,
    seeds: Sequence[Address] = (),
    then: Callable[[PutOutcome], None],
) -> RunningQuery:
    """Store a value under a key. Nodes that have a higher seq, or another value with the same, refuse it.

    Raises:
        ValueError: Above 1,774 bytes, with which an answer outgrows what its readers can receive.
    """
    _check_size(value, MAX_MUTABLE_VALUE_BYTES)
    target = blake2b(key_pair.public_key)
    write = Write(Command.MUTABLE_PUT, target, encode_mutable_put(sign_mutable(seq, value, key_pair)))
    return _put(rpc, target, Command.MUTABLE_GET, encode_seq(0), write, seeds, then, now)


def _put(
    rpc: RpcNode,
    target: bytes,
    command: Command,
    question: bytes | None,
    write: Write,
    seeds: Sequence[Address],
    then: Callable[[PutOutcome], None],
    now: float,
) -> RunningQuery:
    """Walk to the target with a get, for the tokens, and put the value there."""

    def end(outcome: QueryOutcome) -> None:
        stored = tuple(node for node, reply in outcome.committed if not reply.error)
        refused = tuple((node, reply.error) for node, reply in outcome.committed if reply.error)
        then(PutOutcome(target, stored, refused, outcome.now))

    def write_with_token(best: BestReply) -> Write | None:
        return None if best.reply.token is None else write

    return rpc.query(target, command, value=question, seeds=seeds, write=write_with_token, then=end, now=now)


def _tell_peers(on_peers: OnPeers | None) -> Callable[[Address, Reply, float], None] | None:
    if on_peers is None:
        return None

    def receive(node: Address, reply: Reply, now: float) -> None:
        found = peers_in(node, reply)
        if found is not None:
            on_peers(found, now)

    return receive


def _decoded_peer(reply: Reply) -> PeerRecord | None:
    try:
        return None if reply.value is None else decode_peer(reply.value)
    except DecodeError:
        return None


def _decoded_value(reply: Reply) -> MutableValue | None:
    try:
        return None if reply.value is None else decode_mutable_value(reply.value)
    except DecodeError:
        return None


def _check_size(value: bytes, limit: int) -> None:
    if len(value) > limit:
        raise ValueError(f"a value of {len(value)} bytes; the DHT passes on at most {limit}")
