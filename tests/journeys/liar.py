"""A member of the room that lies: our own protocol library, driven by someone else."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from hyperdht import KeyPair, SecretStream
from hyperdht.io.tcp import connect_tcp
from hyperdht.protomux import Channel, ChannelClosed, ChannelMessageReceived, ChannelOpened, Mux
from sidecar.rooms import session_events as events
from sidecar.rooms.messages import PROTOCOL, MessageType, Offer, RefuseReason, encode_chunks
from sidecar.rooms.session import RoomSession
from sidecar.transfer.chunks import CHUNK_BYTES, HASH_BYTES, ChunkSet, chunk_count

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from hyperdht.buffers import Parts
    from sidecar.catalogue.entry import SignedEntry
    from sidecar.catalogue.withdrawal import Statement
    from sidecar.rooms.key import RoomKey

EPOCH = b"L" * 16


@dataclass
class Lies:
    """What it does wrong. By default it is honest about a file of zeros, whatever the entry says."""

    chunk: bytes | None = None
    """Sent instead of every chunk."""
    silent: bool = False
    """Requests for chunks are never answered."""
    short_by: int = 0
    """Bytes missing at the end of each chunk."""
    table: bytes | None = None
    """Sent instead of the chunk table."""
    count: int | None = None
    """Chunks it claims the blob has."""
    unasked: int = 0
    """Chunks sent with request ids that nobody used."""
    index_shift: int = 0
    refuse_table: bool = False
    deny: bool = False
    """Requests for chunks are refused: it says that it holds nothing of what it says it holds."""


@dataclass(eq=False)
class Liar:
    """One connection of the liar's to one sidecar, in one room."""

    stream: SecretStream
    room: RoomKey
    blob: bytes
    hashes: bytes
    lies: Lies
    mux: Mux = field(default_factory=Mux)
    happened: list[events.SessionEvent] = field(default_factory=list)
    ended: anyio.Event = field(default_factory=anyio.Event)
    proved: anyio.Event = field(default_factory=anyio.Event)
    asked_for_changes: anyio.Event = field(default_factory=anyio.Event)
    """Before that nothing can be offered."""
    asked_for_chunks: anyio.Event = field(default_factory=anyio.Event)
    silent_from: anyio.Event = field(default_factory=anyio.Event)
    """Set it to read nothing any more."""
    sequence: int = 0

    def __post_init__(self) -> None:
        channel = self.mux.create_channel(PROTOCOL, self.room.channel_id(self.stream.handshake_hash))
        assert channel is not None
        self.channel: Channel = channel
        self.session = RoomSession(
            self.room,
            is_initiator=self.stream.is_initiator,
            handshake_hash=self.stream.handshake_hash,
            public_key=self.stream.public_key,
            remote_public_key=self.stream.remote_public_key,
        )
        self.channel.open(self.session.open_handshake())

    @property
    def key(self) -> bytes:
        return self.stream.public_key

    async def flush(self) -> None:
        for message_type, body in self.session.messages_to_send(anyio.current_time()):
            self.channel.send(message_type, body)
        if messages := self.mux.messages_to_send():
            await self.stream.send_many(messages)

    async def run(self) -> None:
        """Talk until the other side has enough."""
        try:
            await self.flush()
            while True:
                for message in await self.stream.receive_many():
                    self.mux.receive(message)
                    while (event := self.mux.next_event()) is not None:
                        self._hear(event)
                await self.flush()
                if self.silent_from.is_set():
                    await anyio.sleep_forever()
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            self.ended.set()

    def _hear(self, event: object) -> None:
        now = anyio.current_time()
        if isinstance(event, ChannelOpened):
            self.session.opened(event.handshake, now)
        elif isinstance(event, ChannelMessageReceived):
            self.session.receive(event.type, event.body, now)
        elif isinstance(event, ChannelClosed):
            self.ended.set()
        while (told := self.session.next_event()) is not None:
            self.happened.append(told)
            self._answer(told)

    def _answer(self, event: events.SessionEvent) -> None:
        match event:
            case events.MembershipProved():
                self.session.ask_since()
                self.proved.set()
            case events.ChangesAsked():
                self.session.answer_since(EPOCH, self.sequence, [], more=False)
                self.asked_for_changes.set()
            case events.BlobQueried(digest):
                total = chunk_count(len(self.blob)) if self.lies.count is None else self.lies.count
                self.session.tell_blob(digest, ChunkSet.full(total))
            case events.TableRequested(digest, first, count):
                if self.lies.refuse_table:
                    self.session.refuse_table(digest, first, RefuseReason.NOT_HERE)
                hashes = self.hashes if self.lies.table is None else self.lies.table
                self.session.send_table(digest, first, hashes[first * HASH_BYTES : (first + count) * HASH_BYTES])
            case events.ChunksRequested(request_id, _, first, count):
                self.asked_for_chunks.set()
                if self.lies.deny:
                    self.session.refuse_chunks(request_id, RefuseReason.NOT_HERE)
                elif not self.lies.silent:
                    self._send_chunks(request_id, first, count)
            case _:
                pass

    def _send_chunks(self, request_id: int, first: int, count: int) -> None:
        for index in range(first, first + count):
            start = index * CHUNK_BYTES
            data = self.blob[start : start + CHUNK_BYTES] if self.lies.chunk is None else self.lies.chunk
            data = data[: len(data) - self.lies.short_by]
            if self.lies.index_shift:
                self.raw(MessageType.CHUNKS, encode_chunks(request_id, index + self.lies.index_shift, data))
            else:
                self.session.send_chunks(request_id, index, data)
        for number in range(self.lies.unasked):
            self.raw(MessageType.CHUNKS, encode_chunks(900_000 + number, 0, b"z" * CHUNK_BYTES))

    def raw(self, message_type: int, body: bytes | Parts) -> None:
        """Any message at all; the session is not asked."""
        self.channel.send(message_type, body)

    async def say(self, *statements: Statement) -> None:
        """Claim to hold entries, and push them."""
        await self.offer_all([each.short_id for each in statements])
        self.session.send_entries(statements)
        await self.flush()

    async def offer(self, entry: SignedEntry) -> None:
        """Claim to hold what somebody else published."""
        await self.offer_all([entry.short_id])
        await self.flush()

    async def offer_all(self, short_ids: Sequence[bytes]) -> None:
        """Claim to hold entries, as soon as the peer asked for changes."""
        with anyio.fail_after(10):
            await self.asked_for_changes.wait()
        self.sequence += 1
        self.session.offer(EPOCH, self.sequence, [Offer(each, True) for each in short_ids])

    def saw(self, kind: type[events.SessionEvent]) -> bool:
        return any(isinstance(event, kind) for event in self.happened)


async def dial(address: str, key_pair: KeyPair | None = None) -> SecretStream:
    """A connection to a sidecar by whoever wants one."""
    host, _, port = address.rpartition(":")
    stream = await connect_tcp(host, int(port))
    return await SecretStream.establish(stream, is_initiator=True, key_pair=key_pair or KeyPair.generate())


@asynccontextmanager
async def liar(
    address: str,
    room: RoomKey,
    *,
    blob: bytes = b"",
    hashes: bytes = b"",
    lies: Lies | None = None,
    key_pair: KeyPair | None = None,
) -> AsyncIterator[Liar]:
    """A liar that is a proved member of the room of the sidecar at `address`."""
    stream = await dial(address, key_pair)
    async with lying(stream, room, blob=blob, hashes=hashes, lies=lies) as made:
        yield made


@asynccontextmanager
async def lying(
    stream: SecretStream, room: RoomKey, *, blob: bytes = b"", hashes: bytes = b"", lies: Lies | None = None
) -> AsyncIterator[Liar]:
    """The same over any connection."""
    made = Liar(stream, room, blob, hashes, lies or Lies())
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(made.run)
            with anyio.fail_after(10):
                await made.proved.wait()
            yield made
            tasks.cancel_scope.cancel()
    finally:
        with anyio.CancelScope(shield=True):
            await stream.aclose()
