"""One side of a secret stream, as a machine that is fed bytes and asked for bytes.

    machine = SecretStreamMachine(is_initiator, key_pair)
    send(machine.data_to_send())                 # as long as it returns any
    machine.receive(bytes_from_the_peer)         # raises when the peer breaks the protocol
    while (event := machine.next_event()) is not None: ...
    send(machine.encrypt([b"one", b"two"]))      # once the handshake is complete

    state       takes                            then
    HANDSHAKE   Noise XX messages in frames      HEADER; skipped when the handshake was done elsewhere (IK, in the DHT)
    HEADER      id and secretstream header       OPEN
    OPEN        encrypted messages               OPEN
    FAILED      nothing                          -

Source: @hyperswarm/secret-stream 6.9.2 `index.js`; docs/protocol/secret-stream.md.
"""

from collections import deque
from collections.abc import Sequence
from enum import Enum, auto

from ..buffers import BytesLike
from ..crypto import (
    SECRETSTREAM_HEADER_BYTES,
    SECRETSTREAM_OVERHEAD_BYTES,
    SECRETSTREAM_ROOM_BYTES,
    KeyPair,
    SecretStreamPull,
    SecretStreamPush,
    blake2b,
    equal,
    namespace,
)
from ..errors import HandshakeError, LocalProtocolError, RemoteProtocolError
from ..noise import HandshakeKeys, NoiseHandshake
from .events import DataReceived, Event, HandshakeCompleted, StreamClosed
from .framing import FRAME_OVERHEAD_BYTES, LENGTH_BYTES, MAX_MESSAGE_BYTES, FrameReader, write_length

INITIATOR, RESPONDER, SEND = namespace("hyperswarm/secret-stream", 0, 1, 2)
ID_BYTES = 32
HEADER_BODY_BYTES = ID_BYTES + SECRETSTREAM_HEADER_BYTES
# Our own handshake messages carry no payload and are at most 96 bytes; JavaScript ignores payloads, so a peer may have one.
# A stranger is not given more buffer than this before it has shown a key.
MAX_HANDSHAKE_BODY_BYTES = 4096


class State(Enum):
    """Where a stream is; see the table above."""

    HANDSHAKE = auto()
    HEADER = auto()
    OPEN = auto()
    FAILED = auto()


def stream_id(handshake_hash: bytes, *, is_initiator: bool) -> bytes:
    """The 32 bytes that begin the header of that role."""
    return blake2b(INITIATOR if is_initiator else RESPONDER, key=handshake_hash)


class SecretStreamMachine:
    """Encrypts and decrypts one connection. Two of these, joined by their bytes, are a whole one."""

    def __init__(
        self,
        is_initiator: bool,
        key_pair: KeyPair,
        *,
        remote_public_key: bytes | None = None,
        handshake: HandshakeKeys | None = None,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
        drop_empty: bool = False,
        ephemeral: KeyPair | None = None,
        header: bytes | None = None,
    ) -> None:
        """
        Args:
            remote_public_key: Whom we mean to talk to; another key ends the handshake with `HandshakeError`.
            handshake: The result of a handshake done elsewhere; the stream then starts with the headers.
            max_message_bytes: Longer messages of the peer are refused before they are buffered.
            drop_empty: Swallow empty messages, by which the peer keeps the connection alive.
            ephemeral, header: For replaying recorded sessions. Never reuse one.
        """
        self.is_initiator = is_initiator
        self.public_key = key_pair.public_key
        self.remote_public_key = remote_public_key
        self.handshake_hash: bytes | None = None
        self.state = State.HANDSHAKE
        self._expected_key = remote_public_key
        self._max_body_bytes = max_message_bytes + SECRETSTREAM_OVERHEAD_BYTES
        self._frames = FrameReader(MAX_HANDSHAKE_BODY_BYTES)
        self._drop_empty = drop_empty
        self._chosen_header = header
        self._events: deque[Event] = deque()
        self._outgoing = bytearray()
        self._push: SecretStreamPush | None = None
        self._pull: SecretStreamPull | None = None
        self._rx = b""
        self._ended = False
        self._noise = NoiseHandshake("XX", is_initiator=is_initiator, static=key_pair, ephemeral=ephemeral)
        if handshake is not None:
            self._start_encryption(handshake)
        elif is_initiator:
            self._send_frame(self._noise.write_message())

    @property
    def handshake_complete(self) -> bool:
        """Whether messages can be encrypted. The peer's header may still be on its way."""
        return self._push is not None

    def data_to_send(self) -> bytes:
        """Handshake bytes for the peer; empty when there are none. Send them before anything encrypted."""
        out = bytes(self._outgoing)
        self._outgoing.clear()
        return out

    def next_event(self) -> Event | None:
        """The oldest event not taken yet."""
        return self._events.popleft() if self._events else None

    def encrypt(self, messages: Sequence[BytesLike]) -> bytearray:
        """The frames of `messages` in one buffer, to be sent in the order of the calls.

        Raises:
            LocalProtocolError: The handshake is not complete, or a message is over 16,777,198 bytes. Nothing was
                encrypted then.
        """
        push = self._push
        if push is None or self.state is State.FAILED:
            raise LocalProtocolError("the stream cannot send yet, or has failed")
        sizes = [len(message) for message in messages]
        if sizes and max(sizes) > MAX_MESSAGE_BYTES:
            raise LocalProtocolError(f"a message holds at most {MAX_MESSAGE_BYTES} bytes, this one has {max(sizes)}")
        out = bytearray(SECRETSTREAM_ROOM_BYTES + sum(sizes) + FRAME_OVERHEAD_BYTES * len(sizes))
        position = SECRETSTREAM_ROOM_BYTES
        with memoryview(out) as view:
            for message, size in zip(messages, sizes, strict=True):
                write_length(view, position, size + SECRETSTREAM_OVERHEAD_BYTES)
                push.seal_into(view, position + LENGTH_BYTES, message)
                position += size + FRAME_OVERHEAD_BYTES
        del out[:SECRETSTREAM_ROOM_BYTES]  # moves nothing: a bytearray remembers where it starts
        return out

    def receive(self, data: BytesLike) -> None:
        """Take bytes of the peer in. `data` may be reused afterwards.

        Raises:
            HandshakeError: The handshake failed.
            RemoteProtocolError: A frame is too long, too short or forged. Events of earlier bytes can still be taken, and
                the stream is of no more use.
            LocalProtocolError: The stream has failed or ended before.
        """
        if self.state is State.FAILED or self._ended:
            raise LocalProtocolError("the stream has failed or ended")
        messages: list[bytearray] = []
        try:
            for body in self._frames.bodies(data):
                if self._pull is not None:
                    message = self._pull.open(body)
                    if message or not self._drop_empty:
                        messages.append(message)
                else:
                    self._set_up(bytes(body))
        except RemoteProtocolError:
            self.state = State.FAILED
            raise
        finally:
            if messages:
                self._events.append(DataReceived(messages))

    def receive_eof(self) -> None:
        """The peer ended its side.

        Raises:
            HandshakeError: Before the handshake was complete.
            RemoteProtocolError: In the middle of a message.
        """
        if self.state is State.FAILED or self._ended:
            raise LocalProtocolError("the stream has failed or ended")
        if self.state is State.HANDSHAKE:
            self.state = State.FAILED
            raise HandshakeError("the peer hung up during the handshake")
        if self._frames.in_frame:
            self.state = State.FAILED
            raise RemoteProtocolError("the connection ended in the middle of a message")
        self._ended = True
        self._events.append(StreamClosed())

    def _set_up(self, body: bytes) -> None:
        if self.state is State.HANDSHAKE:
            self._receive_handshake(body)
        else:
            self._receive_header(body)

    def _receive_handshake(self, body: bytes) -> None:
        self._noise.read_message(body)
        remote = self._noise.remote_static
        if remote is not None and self._expected_key is not None and not equal(remote, self._expected_key):
            raise HandshakeError("the peer has another key than expected")  # before our own key is sent
        if not self._noise.complete:
            self._send_frame(self._noise.write_message())
        if self._noise.complete:
            self._start_encryption(self._noise.keys())

    def _receive_header(self, body: bytes) -> None:
        assert self.handshake_hash is not None
        expected_id = stream_id(self.handshake_hash, is_initiator=not self.is_initiator)
        if len(body) != HEADER_BODY_BYTES or not equal(body[:ID_BYTES], expected_id):
            raise HandshakeError("the peer's header does not belong to this handshake")
        self._pull = SecretStreamPull(self._rx, body[ID_BYTES:])
        self._frames.max_body_bytes = self._max_body_bytes
        self.state = State.OPEN

    def _start_encryption(self, keys: HandshakeKeys) -> None:
        self.handshake_hash = keys.hash
        self.remote_public_key = keys.remote_public_key
        self._rx = keys.rx
        self._push = SecretStreamPush(keys.tx, self._chosen_header)
        self.state = State.HEADER
        self._send_frame(stream_id(keys.hash, is_initiator=self.is_initiator) + self._push.header)
        self._events.append(HandshakeCompleted(keys.remote_public_key, keys.hash))

    def _send_frame(self, body: bytes) -> None:
        self._outgoing += len(body).to_bytes(LENGTH_BYTES, "little") + body
