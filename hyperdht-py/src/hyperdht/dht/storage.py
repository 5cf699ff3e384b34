"""What a persistent node keeps for others, and the commands that fill and read it.

Source: hyperdht 6.34.0 `lib/persistent.js`; docs/protocol/hyperdht.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ..addresses import Address
from ..crypto import blake2b
from ..errors import DecodeError
from ..rpc import ErrorCode, RequestReceived, RpcNode
from .cache import CacheLimits, GenerationCache, subnet_of
from .constants import MAX_RELAY_ADDRESSES, NS_ANNOUNCE, NS_UNANNOUNCE, Command, StorageError
from .messages import (
    MAX_REPLY_VALUE_BYTES,
    Announce,
    MutableValue,
    PeerRecord,
    decode_announce,
    decode_mutable_put,
    decode_seq,
    encode_lookup_reply,
    encode_mutable_value,
    encode_peer,
)
from .records import RECORDS_PER_REPLY, TopicRecords
from .signatures import is_signed, is_signed_mutable

MAX_BUMP_DRIFT_MS = 60_000
_MINUTE_S = 60.0
_MIB = 1 << 20

RECORD_LIMITS = CacheLimits(max_entries=65536, max_age_s=20 * _MINUTE_S)
# Values may be as large as a datagram: 32,768 of 2 KB, twice and for two commands, would be 256 MiB. These are 64.
VALUE_LIMITS = CacheLimits(max_entries=32768, max_age_s=48 * 60 * _MINUTE_S, max_bytes=16 * _MIB)


@dataclass(frozen=True, slots=True)
class StorageLimits:
    """How much to keep for others."""

    records: CacheLimits = RECORD_LIMITS
    """Records, routes, refresh tokens and bumps, each on its own."""
    values: CacheLimits = VALUE_LIMITS
    """Mutable and immutable values, each on its own."""


DEFAULT_LIMITS = StorageLimits()


@dataclass(frozen=True, slots=True)
class _Route:
    address: Address
    record: bytes


@dataclass(frozen=True, slots=True)
class _Refreshable:
    topic: bytes
    public_key: bytes
    record: bytes


class Storage:
    """Answers the commands above PEER_HOLEPUNCH.

    A node that is not persistent stores nothing and answers with error 1 and closer nodes. What is invalid is not answered,
    as by the reference: the target, token or value is missing, or a signature is wrong.
    """

    def __init__(
        self, rpc: RpcNode, *, unix_ms: Callable[[], int], now: float, limits: StorageLimits = DEFAULT_LIMITS
    ) -> None:
        """
        Args:
            unix_ms: The time of day. Bumps are compared with it.
        """
        self._rpc = rpc
        self._unix_ms = unix_ms
        self._own: dict[bytes, bytes] = {}
        self._records = TopicRecords(limits.records, now=now)
        self._routes: GenerationCache[_Route] = GenerationCache(limits.records, now=now)
        self._bumps: GenerationCache[int] = GenerationCache(limits.records, now=now)
        self._refreshes: GenerationCache[_Refreshable] = GenerationCache(limits.records, now=now)
        self._mutables: GenerationCache[MutableValue] = GenerationCache(limits.values, now=now)
        self._immutables: GenerationCache[bytes] = GenerationCache(limits.values, now=now)
        self._handlers: dict[int, Callable[[RequestReceived, bytes, float], None]] = {
            Command.FIND_PEER: self._find_peer,
            Command.LOOKUP: self._lookup,
            Command.ANNOUNCE: self._announce,
            Command.UNANNOUNCE: self._unannounce,
            Command.MUTABLE_PUT: self._mutable_put,
            Command.MUTABLE_GET: self._mutable_get,
            Command.IMMUTABLE_PUT: self._immutable_put,
            Command.IMMUTABLE_GET: self._immutable_get,
        }

    def handle(self, received: RequestReceived, now: float) -> None:
        """Answer any command but PEER_HANDSHAKE and PEER_HOLEPUNCH. PLUGIN has error 1: we have none."""
        handler = self._handlers.get(received.request.command)
        if handler is None or self._rpc.ephemeral:
            self._rpc.reply(received, error=ErrorCode.UNKNOWN_COMMAND)
            return
        if received.request.target is None:
            return
        try:
            handler(received, received.request.target, now)
        except DecodeError:
            return

    def route_to(self, target: bytes, now: float) -> Address | None:
        """Where the peer is that announced itself here as H(public key) = `target`. Asking keeps the route."""
        route = self._routes.get(target, now=now)
        return None if route is None else route.address

    def add_own(self, public_key: bytes) -> None:
        """A server of this node listens with that key: FIND_PEER shall find it here too."""
        self._own[blake2b(public_key)] = encode_peer(PeerRecord(public_key))

    def remove_own(self, public_key: bytes) -> None:
        """The server of `add_own` is closed."""
        self._own.pop(blake2b(public_key), None)

    def unannounce(self, target: bytes, public_key: bytes) -> None:
        """Forget what `public_key` announced here, without asking for a signature."""
        if blake2b(public_key) == target:
            self._routes.delete(target)
        else:
            self._records.remove(target, public_key)

    # Peers

    def _find_peer(self, received: RequestReceived, target: bytes, now: float) -> None:
        self._rpc.reply(received, value=self._self_announced(target, now))

    def _self_announced(self, target: bytes, now: float) -> bytes | None:
        if target in self._own:
            return self._own[target]
        route = self._routes.get(target, now=now)
        return None if route is None else route.record

    def _lookup(self, received: RequestReceived, target: bytes, now: float) -> None:
        records = self._records.sample(target, self._rpc.randomness, now=now)
        self_announced = self._self_announced(target, now)
        if self_announced is not None and len(records) < RECORDS_PER_REPLY:
            records.append(self_announced)
        bump = self._bumps.get(target, now=now) or 0
        self._rpc.reply(received, value=encode_lookup_reply(records, bump) if records else None)

    def _announce(self, received: RequestReceived, target: bytes, now: float) -> None:
        request = received.request
        if request.token is None or request.value is None:
            return
        announce = decode_announce(request.value)
        if announce.peer is None:
            if announce.refresh is not None and self._refresh(announce.refresh, received.sender, now):
                self._confirm(received)
        elif is_signed(NS_ANNOUNCE, announce, target=target, node_id=self._rpc.id, token=request.token):
            self._store(announce, announce.peer, target, received.sender, now)
            self._confirm(received)

    def _store(self, announce: Announce, peer: PeerRecord, target: bytes, sender: Address, now: float) -> None:
        record = encode_peer(PeerRecord(peer.public_key, peer.relay_addresses[:MAX_RELAY_ADDRESSES]))
        kept = _Refreshable(target, peer.public_key, record)
        source = subnet_of(sender.host)
        self._keep(kept, sender, now)
        if announce.bump and blake2b(peer.public_key) != target:
            self._raise_bump(target, announce.bump, source, now)
        if announce.refresh is not None:
            self._refreshes.set(announce.refresh, kept, source=source, now=now)

    def _keep(self, kept: _Refreshable, sender: Address, now: float) -> None:
        source = subnet_of(sender.host)
        if blake2b(kept.public_key) == kept.topic:
            self._routes.set(kept.topic, _Route(sender, kept.record), source=source, now=now)
        else:
            self._records.add(kept.topic, kept.public_key, kept.record, source=source, now=now)

    def _raise_bump(self, topic: bytes, bump: int, source: str, now: float) -> None:
        highest = self._bumps.get(topic, now=now) or 0
        if highest < bump <= self._unix_ms() + MAX_BUMP_DRIFT_MS:
            self._bumps.set(topic, bump, source=source, now=now)

    def _refresh(self, preimage: bytes, sender: Address, now: float) -> bool:
        """Renew what was announced with the hash of `preimage`; only the hash of a next one can do it again."""
        used = blake2b(preimage)
        kept = self._refreshes.get(used, now=now)
        if kept is None:
            return False
        self._keep(kept, sender, now)
        self._refreshes.delete(used)
        self._refreshes.set(preimage, kept, source=subnet_of(sender.host), now=now)
        return True

    def _unannounce(self, received: RequestReceived, target: bytes, now: float) -> None:
        request = received.request
        if request.token is None or request.value is None:
            return
        announce = decode_announce(request.value)
        if announce.peer is not None and is_signed(
            NS_UNANNOUNCE, announce, target=target, node_id=self._rpc.id, token=request.token
        ):
            self.unannounce(target, announce.peer.public_key)
            self._confirm(received)

    def _confirm(self, received: RequestReceived) -> None:
        self._rpc.reply(received, with_token=False, with_closer_nodes=False)

    # Values

    def _mutable_put(self, received: RequestReceived, target: bytes, now: float) -> None:
        request = received.request
        if request.token is None or request.value is None:
            return
        put = decode_mutable_put(request.value)
        if blake2b(put.public_key) != target or not is_signed_mutable(put.stored, put.public_key):
            return
        known = self._mutables.get(target, now=now)
        if known is not None and put.stored.seq < known.seq:
            self._rpc.reply(received, error=StorageError.SEQ_TOO_LOW)
        elif known is not None and put.stored.seq == known.seq and put.stored.value != known.value:
            self._rpc.reply(received, error=StorageError.SEQ_REUSED)
        else:
            source, size = subnet_of(received.sender.host), len(request.value)
            self._mutables.set(target, put.stored, source=source, size=size, now=now)
            self._rpc.reply(received)

    def _mutable_get(self, received: RequestReceived, target: bytes, now: float) -> None:
        if received.request.value is None:
            return
        lowest = decode_seq(received.request.value)
        known = self._mutables.get(target, now=now)
        wanted = known if known is not None and known.seq >= lowest else None
        self._reply_with(received, None if wanted is None else encode_mutable_value(wanted))

    def _immutable_put(self, received: RequestReceived, target: bytes, now: float) -> None:
        value = received.request.value
        if received.request.token is None or value is None or blake2b(value) != target:
            return
        self._immutables.set(target, value, source=subnet_of(received.sender.host), size=len(value), now=now)
        self._rpc.reply(received)

    def _immutable_get(self, received: RequestReceived, target: bytes, now: float) -> None:
        self._reply_with(received, self._immutables.get(target, now=now))

    def _reply_with(self, received: RequestReceived, value: bytes | None) -> None:
        """A value that leaves no room for closer nodes goes without them: a larger datagram would be lost as a whole."""
        fits = value is None or len(value) <= MAX_REPLY_VALUE_BYTES
        self._rpc.reply(received, value=value, with_closer_nodes=fits)
