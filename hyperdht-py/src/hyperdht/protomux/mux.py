"""All lanes of one connection, as a machine.

    mux = Mux()
    channel = mux.create_channel("chat")
    channel.open()
    channel.send(0, b"hello")
    for message in mux.messages_to_send(): ...        # one message of the stream below each
    mux.receive(message)                               # a whole message of the stream below; raises when the peer misbehaves
    while (event := mux.next_event()) is not None: ...

An open of the peer pairs with the oldest open of ours under the same protocol and id that waits for one. Without such it waits
itself, and so do the messages that follow it, until it is claimed by `create_channel` and `open`, or rejected.
Source: protomux 3.12.1 `index.js`; docs/protocol/protomux.md says where we are stricter.
"""
# ruff: noqa: A002 - `id` and `type` are the protocol's own words

from collections import Counter, deque
from dataclasses import dataclass, field

from ..buffers import Body, BytesLike
from ..encoding import Reader, encode_uint
from ..errors import LocalProtocolError, RemoteProtocolError
from .channel import Channel, Key
from .events import ChannelClosed, ChannelMessageReceived, ChannelOpened, ChannelRequested, Event
from .limits import EARLY_MESSAGE_OVERHEAD_BYTES, MAX_ID_BYTES, MAX_PROTOCOL_BYTES, PAUSE_EARLY_BYTES, MuxLimits
from .wire import BATCH, CLOSE, CONTROL, OPEN, REJECT, Item, Open, batch_message, open_body, read_open

ITEM_OVERHEAD_BYTES = (
    19  # in a batch at most: a length, an announcement and a channel id of 9 bytes each, counted in advance
)


@dataclass(slots=True)
class _RemoteOpen:
    """One id of the peer that is in use."""

    handshake: bytes
    key: Key
    channel: Channel | None = None
    early: list[tuple[int, bytes]] = field(default_factory=list[tuple[int, bytes]])
    closed: bool = False
    """The peer closed it before we opened it."""

    @property
    def early_bytes(self) -> int:
        held = sum(len(body) + EARLY_MESSAGE_OVERHEAD_BYTES for _, body in self.early)
        return held + len(self.handshake) + EARLY_MESSAGE_OVERHEAD_BYTES


class Mux:
    """One side of a Protomux connection."""

    def __init__(self, limits: MuxLimits | None = None) -> None:
        self._limits = limits or MuxLimits()
        self._events: deque[Event] = deque()
        self._messages: list[bytes] = []
        self._batch: list[Item] = []
        self._batch_bytes = 0
        self._corked = 0
        self._answering_batch = False
        self._local: list[Channel | None] = []
        self._free: list[int] = []  # indexes into _local; the one freed last is used first, as peers in JavaScript do
        self._remote: list[_RemoteOpen | None] = []
        self._waiting: dict[
            int, tuple[Key, ...]
        ] = {}  # our opens the peer has not answered, by local id, closed ones too
        self._unclaimed: dict[Key, deque[int]] = {}  # the peer's opens we have not answered, oldest first
        self._unclaimed_count = 0
        self._open_keys: Counter[Key] = Counter()
        self._early_bytes = 0
        self._over = False

    @property
    def held_bytes(self) -> int:
        """What is kept for channels that are not open here yet."""
        return self._early_bytes

    @property
    def should_pause(self) -> bool:
        """Whether so much waits for channels to be opened here that the owner should stop reading until it has done so."""
        return self._early_bytes > PAUSE_EARLY_BYTES

    @property
    def over(self) -> bool:
        """Whether the peer broke the protocol or the connection was lost."""
        return self._over

    @property
    def has_messages(self) -> bool:
        """Whether `messages_to_send` would return any."""
        return bool(self._messages)

    def next_event(self) -> Event | None:
        """The oldest event not taken yet. What is sent between a batch of several messages and the None that ends its events
        goes out as one batch too."""
        if self._events:
            return self._events.popleft()
        if self._answering_batch:
            self._answering_batch = False
            self.uncork()
        return None

    def messages_to_send(self) -> list[bytes]:
        """What the peer must get, in order, each as one message of the stream below. Take the events first: while corked
        there is nothing here."""
        messages, self._messages = self._messages, []
        return messages

    def cork(self) -> None:
        """Collect what is sent into one batch, until the matching `uncork`."""
        self._corked += 1

    def uncork(self) -> None:
        """Undo one `cork`; the last one sends the batch.

        Raises:
            LocalProtocolError: Not corked.
        """
        if not self._corked:
            raise LocalProtocolError("uncork without cork")
        self._corked -= 1
        if not self._corked:
            self._flush_batch()

    def create_channel(
        self, protocol: str, id: bytes | None = None, *, unique: bool = True, aliases: tuple[str, ...] = ()
    ) -> Channel | None:
        """A channel to be opened. It claims the oldest open of the peer that waits under one of its names.

        Args:
            unique: Give None when a channel of that protocol and id is open already.
            aliases: Other protocol names of the peer to pair with. Both sides need them, else the peer's mux fails.

        Returns:
            None when it would not be unique or the connection is over.

        Raises:
            LocalProtocolError: A name or id is too long for the wire.
        """
        if (
            max(len(name.encode()) for name in (protocol, *aliases)) > MAX_PROTOCOL_BYTES
            or len(id or b"") > MAX_ID_BYTES
        ):
            raise LocalProtocolError(f"names hold at most {MAX_PROTOCOL_BYTES} bytes and ids {MAX_ID_BYTES}")
        channel = Channel(self, protocol, id or None, aliases)
        if self._over or (unique and any(self._open_keys[key] for key in channel.keys)):
            return None
        channel.remote_id = next((self._take_unclaimed(key) for key in channel.keys if key in self._unclaimed), 0)
        if channel.remote_id:
            self._remote_open(channel.remote_id).channel = channel
        return channel

    def reject(self, protocol: str, id: bytes | None = None) -> bool:
        """Refuse the oldest open of the peer under that name that waits. False when none does."""
        if self._over or (protocol, id) not in self._unclaimed:
            return False
        self._reject(self._take_unclaimed((protocol, id)))
        return True

    def receive(self, message: BytesLike) -> None:
        """Take one message of the peer in. Events hold views into it.

        Raises:
            RemoteProtocolError: The peer broke the protocol; events of earlier messages remain. Close the stream.
            LocalProtocolError: That happened before, or the connection is over.
        """
        if self._over:
            raise LocalProtocolError("the connection is over")
        if not message:
            return  # a keep-alive
        reader = Reader(message)
        try:
            channel_id = reader.pull_uint()
            message_type = reader.pull_uint()
            if (channel_id, message_type) == (CONTROL, BATCH):
                self._receive_batch(reader)
            else:
                self._receive_item(channel_id, message_type, reader)
        except RemoteProtocolError:
            self._over = True
            raise

    def connection_lost(self) -> None:
        """The stream below is closed: every channel closes as if the peer had closed it."""
        self._over = True
        for channel in [channel for channel in self._local if channel is not None]:
            self._close(channel, remote=True)
        self._remote.clear()
        self._unclaimed.clear()
        self._messages.clear()
        self._batch.clear()

    def open_channel(self, channel: Channel, handshake: BytesLike) -> None:
        """`Channel.open`."""
        if channel.open_sent or channel.closed:
            raise LocalProtocolError(f"{channel} cannot be opened again")
        if self._over:
            channel.closed = True
            self._events.append(ChannelClosed(channel, remote=True))
            return
        channel.local_id = self._take_local_id(channel)
        channel.open_sent = True
        self._open_keys.update(channel.keys)
        self._send(CONTROL, OPEN, open_body(channel.local_id, channel.protocol, channel.id, handshake))
        if channel.remote_id:
            self._fully_open(channel)
        else:
            self._waiting[channel.local_id] = channel.keys

    def send_message(self, channel: Channel, type: int, body: Body) -> None:
        """`Channel.send`."""
        if not (channel.open_sent or channel.closed):
            raise LocalProtocolError(f"{channel} must be opened before anything is sent")
        if not channel.closed and not self._over:
            self._send(channel.local_id, type, body)

    def close_channel(self, channel: Channel) -> None:
        """`Channel.close`."""
        if channel.closed:
            return
        if channel.open_sent:
            if not self._over:
                self._send(CONTROL, CLOSE, encode_uint(channel.local_id))
            self._close(channel, remote=False)
            return
        channel.closed = True
        if channel.remote_id and not self._over:
            self._reject(channel.remote_id)  # claimed, never opened: the peer waits for an answer
        self._events.append(ChannelClosed(channel, remote=False))

    def _receive_batch(self, reader: Reader) -> None:
        channel_id = reader.pull_uint()
        items = 0
        while reader.remaining:
            length = reader.pull_uint()
            if not length:
                channel_id = reader.pull_uint()
                continue
            items += 1
            if items > self._limits.batch_items:
                raise RemoteProtocolError(f"a batch of more than {self._limits.batch_items} messages")
            item = Reader(reader.pull_view(min(length, reader.remaining)))  # a longer item ends with the message
            if reader.remaining and not self._answering_batch:
                self._answering_batch = True
                self.cork()
            self._receive_item(channel_id, item.pull_uint(), item)

    def _receive_item(self, channel_id: int, type: int, reader: Reader) -> None:
        if channel_id == CONTROL:
            self._receive_control(type, reader)
            return
        remote = self._remote[channel_id - 1] if channel_id <= len(self._remote) else None
        if remote is None or remote.closed:
            return  # sent before the peer knew that the channel is closed
        body = reader.pull_rest_view()
        if remote.channel is not None and remote.channel.opened:
            self._events.append(ChannelMessageReceived(remote.channel, type, body))
        else:
            self._hold(len(body))
            remote.early.append((type, bytes(body)))  # copied: a view would keep the whole batch it came in

    def _receive_control(self, type: int, reader: Reader) -> None:
        if type == OPEN:
            self._receive_open(read_open(reader))
        elif type == REJECT:
            self._receive_reject(reader.pull_uint())
        elif type == CLOSE:
            self._receive_close(reader.pull_uint())
        elif type == BATCH:
            raise RemoteProtocolError("a batch inside a batch")
        # other control types are of newer versions

    def _receive_open(self, open: Open) -> None:
        index = open.remote_id - 1
        if not 0 <= index <= len(self._remote) or (index < len(self._remote) and self._remote[index] is not None):
            raise RemoteProtocolError("the peer opened a channel id that is in use or out of turn")
        if index >= self._limits.channels:
            raise RemoteProtocolError(f"the peer uses more than {self._limits.channels} channel ids")
        if index == len(self._remote):
            self._remote.append(None)
        key = (open.protocol, open.id)
        local_id = next((waiting for waiting, keys in self._waiting.items() if key in keys), 0)
        if not local_id:
            self._receive_request(open, key)
            return
        del self._waiting[local_id]
        channel = self._local[local_id - 1]
        if channel is None:  # closed while its open was on the way; the peer learns that from our close
            self._free.append(local_id - 1)
            return
        self._hold(len(open.handshake))
        self._remote[index] = _RemoteOpen(open.handshake, key, channel)
        channel.remote_id = open.remote_id
        self._fully_open(channel)

    def _receive_request(self, open: Open, key: Key) -> None:
        if self._unclaimed_count >= self._limits.pending_opens:
            raise RemoteProtocolError(f"the peer has more than {self._limits.pending_opens} opens waiting")
        self._hold(len(open.handshake))
        self._remote[open.remote_id - 1] = _RemoteOpen(open.handshake, key)
        self._unclaimed.setdefault(key, deque()).append(open.remote_id)
        self._unclaimed_count += 1
        self._events.append(ChannelRequested(open.protocol, open.id))

    def _receive_reject(self, local_id: int) -> None:
        if self._waiting.pop(local_id, None) is None:
            raise RemoteProtocolError("the peer rejected a channel that does not wait for an answer")
        self._free.append(local_id - 1)
        channel = self._local[local_id - 1]
        if channel is not None:
            self._close(channel, remote=True)

    def _receive_close(self, remote_id: int) -> None:
        remote = self._remote[remote_id - 1] if 0 < remote_id <= len(self._remote) else None
        if remote is None:
            return
        if remote.channel is not None and remote.channel.opened:
            self._close(remote.channel, remote=True)
        else:
            remote.closed = True  # answered when the open is: a message sent in passing still reaches its reader

    def _fully_open(self, channel: Channel) -> None:
        remote = self._remote_open(channel.remote_id)
        channel.opened = True
        self._early_bytes -= remote.early_bytes
        self._events.append(ChannelOpened(channel, remote.handshake))
        for message_type, body in remote.early:
            self._events.append(ChannelMessageReceived(channel, message_type, memoryview(body)))
        remote.early.clear()
        if remote.closed:
            self._close(channel, remote=True)

    def _close(self, channel: Channel, *, remote: bool) -> None:
        channel.closed = True
        for key in channel.keys:
            self._open_keys[key] -= 1
            if not self._open_keys[key]:
                del self._open_keys[key]
        self._local[channel.local_id - 1] = None
        if channel.remote_id:
            self._remote[channel.remote_id - 1] = None
            self._free.append(channel.local_id - 1)
        # else the id stays taken until the peer answers our open, see _waiting
        channel.local_id = channel.remote_id = 0
        self._events.append(ChannelClosed(channel, remote=remote))

    def _reject(self, remote_id: int) -> None:
        self._early_bytes -= self._remote_open(remote_id).early_bytes
        self._remote[remote_id - 1] = None
        self._send(CONTROL, REJECT, encode_uint(remote_id))

    def _remote_open(self, remote_id: int) -> _RemoteOpen:
        remote = self._remote[remote_id - 1]
        assert remote is not None
        return remote

    def _take_unclaimed(self, key: Key) -> int:
        ids = self._unclaimed[key]
        remote_id = ids.popleft()
        if not ids:
            del self._unclaimed[key]
        self._unclaimed_count -= 1
        return remote_id

    def _take_local_id(self, channel: Channel) -> int:
        if self._free:
            index = self._free.pop()
            self._local[index] = channel
        else:
            index = len(self._local)
            self._local.append(channel)
        return index + 1

    def _hold(self, size: int) -> None:
        self._early_bytes += size + EARLY_MESSAGE_OVERHEAD_BYTES
        if self._early_bytes > self._limits.early_bytes:
            raise RemoteProtocolError(f"more than {self._limits.early_bytes} bytes for channels that are not open here")

    def _send(self, channel_id: int, type: int, body: Body) -> None:
        item = Item(channel_id, encode_uint(type), body)
        if not self._corked:
            self._messages.append(item.message())
            return
        if self._batch and self._batch_bytes + item.size > self._limits.batch_bytes:
            self._flush_batch()
        self._batch.append(item)
        self._batch_bytes += item.size + ITEM_OVERHEAD_BYTES

    def _flush_batch(self) -> None:
        if self._batch:
            self._messages.append(batch_message(self._batch))
        self._batch = []
        self._batch_bytes = 0
