"""Peers and publishers as a user has them: who is here, who is trusted, who is blocked, whose block lists count."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from .catalogue.rows import Standing
from .control_types import BlockListInfo, PeerInfo, PublisherInfo
from .errors import UsageError
from .identity import read_aloud
from .room_verbs import MAX_LABEL_CHARS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from .catalogue.entry import SignedEntry
    from .catalogue.journal import Journal
    from .catalogue.rows import FollowedListRow, PublisherRow
    from .control_types import Trust
    from .parts import Parts
    from .rooms.network import JoinedRoom

SHOWN_TRUST: dict[Standing, Trust] = {
    Standing.UNKNOWN: "unknown",
    Standing.TRUSTED: "trusted",
    Standing.BLOCKED: "blocked",
}


class PeopleVerbs:
    """See the module docstring."""

    def __init__(self, parts: Parts, *, entries: Callable[[], Iterable[SignedEntry]]) -> None:
        """
        Args:
            entries: What is offered now.
        """
        self._parts = parts
        self._entries = entries
        self._orch_mind = parts.orch_mind

    async def peers(self) -> tuple[PeerInfo, ...]:
        """See `Control.peers`."""
        parts = self._parts
        now = time.monotonic()
        found = []
        for connection in parts.network.connections.values():
            rooms = [parts.network.rooms[link.room_id].label for link in connection.proved]
            entries = {short_id for link in connection.proved for short_id in link.offers}
            found.append(
                PeerInfo(
                    key=connection.key.hex(),
                    words=" ".join(read_aloud(connection.key)),
                    address=connection.address,
                    rooms=tuple(sorted(rooms)),
                    trust=SHOWN_TRUST[parts.keyring.standing(connection.key)],
                    entries=len(entries),
                    received_bytes=connection.received_bytes,
                    sent_bytes=connection.sent_bytes,
                    connected_s=now - connection.connected_at,
                    road=connection.road,
                )
            )
        return tuple(found + self._orch_mind.peers(parts.keyring.standing))

    async def trust(self, key: str, *, label: str | None = None, replace_label: bool = False) -> PublisherInfo:
        """See `Control.trust`."""
        if label is not None:
            await self._pin_label(self.key_of(key), label, replace_label=replace_label)
        return await self._decide(key, self._parts.keyring.trust)

    async def forget(self, key: str) -> PublisherInfo:
        """See `Control.forget_publisher`."""
        return await self._decide(key, self._parts.keyring.forget_decision)

    async def block(self, key: str) -> PublisherInfo:
        """See `Control.block`."""
        info = await self._decide(key, self._parts.keyring.block)
        connection = self._parts.network.connections.get(bytes.fromhex(info.key))
        if connection is not None:
            await connection.close("the peer is blocked")
        await self._orch_mind.drop(bytes.fromhex(info.key))
        return info

    async def _pin_label(self, key: bytes, label: str, *, replace_label: bool) -> None:
        keyring = self._parts.keyring
        if not label.strip() or len(label) > MAX_LABEL_CHARS or not label.isprintable():
            raise UsageError(f"A name has 1 to {MAX_LABEL_CHARS} printable characters.")

        def work(_: Journal) -> None:
            if replace_label and any(row.label == label for row in keyring.rows()):
                keyring.unpin(label)
            keyring.pin(label, key, time.time())

        await self._parts.journal.run(work)

    async def block_lists(self) -> tuple[BlockListInfo, ...]:
        """See `Control.block_lists`."""
        return tuple(_list_info(row) for row in self._parts.keyring.lists())

    async def publish_blocks(self, room: JoinedRoom) -> BlockListInfo:
        """See `Control.publish_blocks`."""
        parts = self._parts
        blocked = [row.key for row in parts.keyring.rows() if row.standing is Standing.BLOCKED]
        signed = await parts.publisher.publish_blocks(blocked, room)
        keys = tuple(key.hex() for key in signed.block_list.blocked)
        return BlockListInfo(signed.publisher.hex(), signed.version, keys)

    async def follow_blocks(self, key: str, *, on: bool) -> BlockListInfo:
        """See `Control.follow_blocks`."""
        parts, publisher = self._parts, self.key_of(key)
        if not on:
            await parts.journal.run(lambda _: parts.keyring.unfollow(publisher))
            return BlockListInfo(publisher.hex(), 0, ())
        await parts.journal.run(lambda _: parts.keyring.follow(publisher))
        await parts.alarms.look_at_list(publisher)
        return next(_list_info(row) for row in parts.keyring.lists() if row.key == publisher)

    def key_of(self, text: str) -> bytes:
        """The key of a publisher or peer. Raises NotFound."""
        known = {entry.publisher for entry in self._entries()} | set(self._parts.network.connections)
        known |= self._orch_mind.peer_keys
        return self._parts.keyring.find(text, known)

    async def _decide(self, text: str, decide: Callable[[bytes, float], PublisherRow]) -> PublisherInfo:
        parts, key = self._parts, self.key_of(text)

        def work(_: Journal) -> None:
            decide(key, time.time())

        await parts.journal.run(work)
        parts.sync.wake()
        keyring = parts.keyring
        return PublisherInfo(
            key.hex(), " ".join(read_aloud(key)), SHOWN_TRUST[keyring.standing(key)], keyring.label(key)
        )


def _list_info(row: FollowedListRow) -> BlockListInfo:
    return BlockListInfo(row.key.hex(), row.version, tuple(sorted(key.hex() for key in row.blocked)))
