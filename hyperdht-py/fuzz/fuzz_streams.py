"""Fuzz targets for what lies on top of a stream: encodings, SecretStream and Protomux."""

from collections.abc import Callable

from hyperdht.crypto import KeyPair
from hyperdht.encoding import Reader
from hyperdht.errors import DecodeError, RemoteProtocolError
from hyperdht.noise import HandshakeKeys
from hyperdht.protomux import ChannelRequested, Mux, MuxLimits
from hyperdht.secret_stream import DataReceived, SecretStreamMachine

KEY_PAIR = KeyPair.from_seed(bytes(32))
HANDSHAKE = HandshakeKeys(tx=bytes(32), rx=bytes(32), hash=bytes(64), remote_public_key=KEY_PAIR.public_key)
LIMITS = MuxLimits(pending_opens=8, channels=64, early_bytes=16384, batch_items=256)
PULLS: tuple[Callable[[Reader], object], ...] = (
    Reader.pull_uint,
    Reader.pull_int,
    Reader.pull_uint64,
    Reader.pull_bool,
    Reader.pull_buffer,
    Reader.pull_optional_buffer,
    Reader.pull_string,
    Reader.pull_ip_address,
    lambda reader: reader.pull_array(Reader.pull_uint, max_items=1000),
    lambda reader: reader.pull_frame().pull_string(),
)


def fuzz_encoding(data: bytes) -> None:
    """Pairs of bytes pick what to read next."""
    picks, _, message = data.partition(b"\xff")
    reader = Reader(message)
    try:
        for pick in picks:
            PULLS[pick % len(PULLS)](reader)
    except DecodeError:
        return


def fuzz_secret_stream(data: bytes) -> None:
    """The first byte picks role and start, the second how the rest is cut."""
    if len(data) < 2:
        return
    handshake = HANDSHAKE if data[0] & 2 else None
    machine = SecretStreamMachine(bool(data[0] & 1), KEY_PAIR, handshake=handshake, max_message_bytes=4096)
    cut = data[1] or 1
    try:
        for at in range(2, len(data), cut):
            machine.receive(data[at : at + cut])
        machine.receive_eof()
    except RemoteProtocolError:
        pass
    if any(isinstance(event, DataReceived) for event in iter(machine.next_event, None)):
        raise AssertionError("a message without a valid MAC was delivered")


def fuzz_protomux(data: bytes) -> None:
    """Messages of the peer, each behind a length byte whose lowest bits also say how its channels are answered."""
    mux = Mux(LIMITS)
    channel = mux.create_channel("p")
    assert channel is not None
    channel.open()
    at = 0
    try:
        while at < len(data):
            length = data[at]
            mux.receive(data[at + 1 : at + 1 + length])
            at += 1 + length
            for event in iter(mux.next_event, None):
                if isinstance(event, ChannelRequested):
                    answer(mux, event, length % 3)
            mux.messages_to_send()
    except RemoteProtocolError:
        pass
    if mux.held_bytes > LIMITS.early_bytes + 2048:
        raise AssertionError("more early bytes are held than the limit")
    mux.connection_lost()


def answer(mux: Mux, event: ChannelRequested, how: int) -> None:
    """Reject, accept or leave it waiting."""
    if how == 0:
        mux.reject(event.protocol, event.id)
    elif how == 1 and (channel := mux.create_channel(event.protocol, event.id, unique=False)) is not None:
        channel.open()


TARGETS = {"encoding": fuzz_encoding, "secret-stream": fuzz_secret_stream, "protomux": fuzz_protomux}
