"""One connection to one peer: SecretStream below, Protomux on it, a link for each room both sides are in.

Reading, in one task: messages -> mux -> sessions -> the network. Writing, in another: what sessions want to say. Chunks
are sent by the links' own tasks, straight to the stream, so that a slow peer holds back only what is meant for it.
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Protocol

import anyio

from hyperdht.dht.link import Path
from hyperdht.errors import RemoteProtocolError
from hyperdht.io.peer_stream import PeerStream
from hyperdht.protomux import ChannelClosed, ChannelMessageReceived, ChannelOpened, ChannelRequested, Mux, MuxLimits

from .link import RoomLink
from .messages import PROTOCOL, GoodbyeReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from hyperdht import SecretStream
    from hyperdht.buffers import BytesLike
    from ollama_bridge.digests import Digest
    from sidecar.control_types import Road

    from .key import RoomKey
    from .session_events import SessionEvent

log = logging.getLogger(__name__)

MAX_OUTBOX_BYTES = 8 * 1024 * 1024
"""Answers waiting for a peer that does not read. Above it we stop reading from that peer, so its questions wait in its
own buffers instead of their answers in ours (T20). Far above what an honest exchange queues."""
MUX_LIMITS = MuxLimits(channels=256, batch_bytes=256 * 1024)
"""A channel is a room here; nobody is in hundreds of rooms with one peer. Batches must fit the frame cap."""
MAX_UNKNOWN_ROOMS = 256
"""Rooms asked for that are none of ours, until the connection is closed. Who guesses at them goes on as fast as the line is,
and each guess costs us a hash for every room we are in (T12). As many as a peer could be in with us."""

CONTROL = b"\x00"
"""How the first frame of every Protomux session begins: no channel is open before one was asked for."""


class ConnectionHandler(Protocol):
    """What a connection needs of the network."""

    def room_by_channel(self, connection: PeerConnection, channel_id: bytes) -> RoomKey | None:
        """The room of ours that has this channel id on this connection."""

    def link_event(self, link: RoomLink, event: SessionEvent) -> None:
        """Something happened in a room with this peer."""

    def link_lost(self, link: RoomLink, reason: str) -> None:
        """A room with this peer is over."""

    def may_have(self, room_id: bytes, digest: Digest) -> bool:
        """Whether a room may have a blob."""

    def is_foreign(self, connection: PeerConnection, first_message: BytesLike) -> bool:
        """Whether a message from before anything of ours shows that the peer speaks a protocol somebody here understands."""

    async def breathe(self) -> None:
        """Wait while so much is being worked on that reading more would only pile it up."""


class PeerConnection:
    """See the module docstring."""

    def __init__(
        self,
        stream: SecretStream,
        address: str,
        handler: ConnectionHandler,
        *,
        clock: Callable[[], float],
        is_lan: bool = True,
    ) -> None:
        self.stream = stream
        self.address = address
        self.is_lan = is_lan
        self.received_bytes = 0
        self.sent_bytes = 0
        self.connected_at = clock()
        self.bad_statements = 0
        """Entries with a wrong signature or content that this peer brought."""
        self.had_member = False
        """Whether the peer proved to be a member of any room."""
        self.links: dict[bytes, RoomLink] = {}
        """By room id; not all of them are proved."""
        self.foreign: list[bytearray] = []
        """The first messages of a peer that turned out to speak another protocol. The stream is left open for it."""
        self._handler = handler
        self._clock = clock
        self._mux = Mux(MUX_LIMITS)
        self._outbox: list[bytes] = []
        self._outbox_bytes = 0
        self._wake = anyio.Event()
        self._drained = anyio.Event()
        self._closing = ""
        self._unknown_rooms = 0

    @property
    def key(self) -> bytes:
        """Public key of the peer."""
        return self.stream.remote_public_key

    @property
    def road(self) -> Road:
        """How its packets travel now."""
        path = self.stream.path if isinstance(self.stream, PeerStream) else None
        if self.is_lan or path is Path.LAN:
            return "lan"
        return "relayed" if path is Path.RELAYED else "direct"

    @property
    def host(self) -> str:
        """Where it comes from, without the port."""
        return self.address.rpartition(":")[0]

    @property
    def proved(self) -> list[RoomLink]:
        """Links whose membership the peer proved."""
        return [link for link in self.links.values() if link.proved]

    def may_have(self, room_id: bytes, digest: Digest) -> bool:
        """Whether a room may have a blob."""
        return self._handler.may_have(room_id, digest)

    async def run(self) -> str:
        """Serve the connection until it ends; returns why it ended."""
        reason = "the connection was closed here"
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write)
                try:
                    await self._read()
                    reason = "the peer speaks another protocol"
                except anyio.EndOfStream:
                    reason = "the peer closed the connection"
                except RemoteProtocolError as error:
                    reason = f"the peer broke the protocol: {error}"
                except anyio.BrokenResourceError as error:
                    reason = str(error) or "the connection broke"
                except anyio.ClosedResourceError:
                    reason = self._closing or reason
                tasks.cancel_scope.cancel()
        finally:
            self._mux.connection_lost()
            for link in list(self.links.values()):
                self._lose(link, reason)
            if not self.foreign:
                with anyio.CancelScope(shield=True):
                    await self.stream.aclose()
        return reason

    def open_room(self, room: RoomKey) -> None:
        """Open our side of a room's channel, unless it is."""
        if room.room_id in self.links:
            return
        channel = self._mux.create_channel(PROTOCOL, room.channel_id(self.stream.handshake_hash))
        if channel is None:
            return
        link = RoomLink(self, room, channel)
        channel.context = link
        self.links[room.room_id] = link
        channel.open(link.session.open_handshake())
        self.flush()

    def leave_room(self, room_id: bytes, reason: GoodbyeReason = GoodbyeReason.LEFT_ROOM) -> None:
        """Say goodbye in a room and close its channel."""
        if (link := self.links.get(room_id)) is not None:
            self.end_link(link, reason, "we left the room")

    def end_link(self, link: RoomLink, reason: GoodbyeReason | None, words: str) -> None:
        """Close a room with this peer."""
        if reason is not None and link.proved:
            link.session.goodbye(reason)
        self._collect()
        link.channel.close()
        self._lose(link, words)
        self.flush()

    def flush(self) -> None:
        """Let the writing task send what sessions want to say."""
        self._wake.set()

    async def send_now(self) -> None:
        """Send what sessions want to say, and return when the connection took it."""
        self._collect()
        await self._send_outbox()

    async def close(self, reason: str) -> None:
        """End the connection: `run` returns."""
        self._closing = reason
        with anyio.move_on_after(1.0), contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
            await self.send_now()  # the other side, or another task of ours, may have ended it already
        await self.stream.aclose()

    async def give_up(self, reason: str) -> None:
        """The same at once, with whatever was not sent yet."""
        self._closing = reason
        await anyio.aclose_forcefully(self.stream)

    # --- inside ------------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Read until the connection ends, which raises, or until it is found not to be ours, which returns."""
        undecided = True
        while True:
            messages = await self.stream.receive_many()
            if undecided:
                undecided = self._is_undecided(messages)
                if self.foreign:
                    return
            now = self._clock()
            for message in messages:
                self._mux.receive(message)
                while (event := self._mux.next_event()) is not None:
                    self._handle(event, now)
            if self._mux.has_messages or any(link.session.has_messages for link in self.links.values()):
                self.flush()
            await self._handler.breathe()
            while self._outbox_bytes > MAX_OUTBOX_BYTES or self._mux.should_pause:
                self._drained = anyio.Event()
                await self._drained.wait()

    def _is_undecided(self, messages: list[bytearray]) -> bool:
        """Whether nothing of ours has come yet; sets `foreign` when something of another protocol has."""
        for position, message in enumerate(messages):
            if bytes(message[:1]) == CONTROL:
                return False
            if self._handler.is_foreign(self, message):
                self.foreign = messages[position:]
                return True
        return True

    def _handle(
        self, event: ChannelOpened | ChannelMessageReceived | ChannelClosed | ChannelRequested, now: float
    ) -> None:
        if isinstance(event, ChannelRequested):
            self._requested(event)
            return
        link = event.channel.context
        if isinstance(event, ChannelMessageReceived):
            link.session.receive(event.type, event.body, now)
        elif isinstance(event, ChannelOpened):
            link.session.opened(event.handshake, now)
        else:
            self._lose(link, "the peer left the room")
            return
        while (happened := link.session.next_event()) is not None:
            self._handler.link_event(link, happened)

    def _requested(self, event: ChannelRequested) -> None:
        room = None
        if event.protocol == PROTOCOL and event.id is not None:
            room = self._handler.room_by_channel(self, event.id)
        if room is None or room.room_id in self.links:
            self._mux.reject(event.protocol, event.id)
            self._unknown_rooms += 1
            if self._unknown_rooms > MAX_UNKNOWN_ROOMS:
                raise RemoteProtocolError(f"it asked for {self._unknown_rooms} rooms that are none of ours")
        else:
            self.open_room(room)

    def _lose(self, link: RoomLink, reason: str) -> None:
        if self.links.get(link.room_id) is link:
            del self.links[link.room_id]
            link.lose()
            self._handler.link_lost(link, reason)

    async def _write(self) -> None:
        try:
            while True:
                with anyio.move_on_after(self._pause()):
                    await self._wake.wait()
                self._wake = anyio.Event()
                self._collect()
                await self._send_outbox()
        except (anyio.ClosedResourceError, anyio.BrokenResourceError):
            return  # the reading task learns the reason

    def _pause(self) -> float | None:
        """Seconds until held-back messages may go; None when nothing waits for the time."""
        timers = [at for link in self.links.values() if (at := link.session.next_timer()) is not None]
        return max(0.0, min(timers) - self._clock()) if timers else None

    def _collect(self) -> None:
        """Move what sessions want to say into the outbox."""
        now = self._clock()
        for link in self.links.values():
            for message_type, body in link.session.messages_to_send(now):
                link.channel.send(message_type, body)
        messages = self._mux.messages_to_send()
        self._outbox += messages
        self._outbox_bytes += sum(map(len, messages))

    async def _send_outbox(self) -> None:
        """Send the outbox; several tasks may, and the stream keeps their order."""
        messages, self._outbox = self._outbox, []
        if not messages:
            return
        size = sum(map(len, messages))
        await self.stream.send_many(messages)
        self._outbox_bytes -= size
        self.sent_bytes += size
        self._drained.set()
