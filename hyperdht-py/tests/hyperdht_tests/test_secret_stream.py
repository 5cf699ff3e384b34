"""SecretStream machines: recorded sessions, every state, caps, and any bytes at all."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdht import DecodeError, HandshakeError, KeyPair, LocalProtocolError, RemoteProtocolError
from hyperdht.noise import HandshakeKeys
from hyperdht.secret_stream import (
    MAX_MESSAGE_BYTES,
    DataReceived,
    Event,
    HandshakeCompleted,
    SecretStreamMachine,
    State,
    StreamClosed,
    UnorderedBox,
)
from hyperdht.secret_stream.stream import stream_id

from .vectors import assert_bytes, pattern, transport

KEYS = {
    name: KeyPair.from_seed(bytes.fromhex(recorded["seed"])) for name, recorded in transport()["dh"]["keyPairs"].items()
}


def events(machine: SecretStreamMachine) -> list[Event]:
    return list(iter(machine.next_event, None))


def messages(machine: SecretStreamMachine) -> list[bytes]:
    return [bytes(m) for event in events(machine) if isinstance(event, DataReceived) for m in event.messages]


def shake_hands(left: SecretStreamMachine, right: SecretStreamMachine) -> None:
    while True:
        from_left, from_right = left.data_to_send(), right.data_to_send()
        if not from_left and not from_right:
            return
        if from_left:
            right.receive(from_left)
        if from_right:
            left.receive(from_right)


def machine_pair(**options: Any) -> tuple[SecretStreamMachine, SecretStreamMachine]:
    left = SecretStreamMachine(True, KeyPair.generate(), **options)
    right = SecretStreamMachine(False, KeyPair.generate(), **options)
    shake_hands(left, right)
    assert isinstance(left.next_event(), HandshakeCompleted)
    assert isinstance(right.next_event(), HandshakeCompleted)
    return left, right


def test_recorded_xx_session_byte_for_byte() -> None:
    recorded = transport()["secretStreamXX"]
    headers = [bytes.fromhex(header) for header in recorded["randomness"]["headersInOrder"]]
    left = SecretStreamMachine(True, KEYS["initiatorStatic"], ephemeral=KEYS["initiatorEphemeral"], header=headers[0])
    right = SecretStreamMachine(False, KEYS["responderStatic"], ephemeral=KEYS["responderEphemeral"], header=headers[1])
    wire = recorded["wire"]

    def expect(data: bytes, rows: list[dict[str, Any]]) -> None:
        assert len(data) == sum(row["length"] for row in rows)
        for row in rows:
            assert_bytes(data[: row["length"]], row)
            data = data[row["length"] :]

    def carry(sender: SecretStreamMachine, receiver: SecretStreamMachine, rows: list[dict[str, Any]]) -> None:
        data = sender.data_to_send()
        expect(data, rows)
        receiver.receive(data)

    carry(left, right, wire[0:1])
    carry(right, left, wire[1:2])
    carry(left, right, wire[2:4])
    carry(right, left, wire[4:5])
    info = recorded["info"]
    for machine, role in ((left, "I"), (right, "R")):
        completed = events(machine)[0]
        assert isinstance(completed, HandshakeCompleted)
        assert completed.handshake_hash.hex() == info["handshakeHash"]
        assert machine.public_key.hex() == info[role]["publicKey"]
        assert completed.remote_public_key.hex() == info[role]["remotePublicKey"]

    received: list[tuple[str, bytes]] = []
    script: list[tuple[SecretStreamMachine, SecretStreamMachine, str, list[bytes]]] = [
        (left, right, "R", [b"hello"]),
        (right, left, "I", [b"world"]),
        (left, right, "R", [b""]),
        (left, right, "R", [pattern(65536)]),
        (left, right, "R", [b"a", b"b"]),
    ]
    row = 5
    for sender, receiver, at, sent in script:
        frames = bytes(sender.encrypt(sent))
        expect(frames, wire[row : row + len(sent)])
        row += len(sent)
        receiver.receive(frames)
        received += [(at, message) for message in messages(receiver)]
    for (at, message), event in zip(received, recorded["events"], strict=False):
        assert at == event["at"]
        assert_bytes(message, event["data"])
    assert len(received) == len([event for event in recorded["events"] if "data" in event])
    right.receive_eof()
    assert events(right) == [StreamClosed()]


def recorded_ik_keys(role: str, peer: str) -> HandshakeKeys:
    noise = transport()["noise"]["IK_hyperdht"]
    return HandshakeKeys(
        tx=bytes.fromhex(noise[role]["tx"]),
        rx=bytes.fromhex(noise[role]["rx"]),
        hash=bytes.fromhex(noise["handshakeHash"]),
        remote_public_key=KEYS[f"{peer}Static"].public_key,
    )


def test_recorded_ik_session_byte_for_byte() -> None:
    recorded = transport()["secretStreamIK"]
    headers = [bytes.fromhex(header) for header in recorded["randomness"]["headersInOrder"]]
    left = SecretStreamMachine(
        True, KEYS["initiatorStatic"], handshake=recorded_ik_keys("initiator", "responder"), header=headers[0]
    )
    right = SecretStreamMachine(
        False, KEYS["responderStatic"], handshake=recorded_ik_keys("responder", "initiator"), header=headers[1]
    )
    rows = [row["hex"] for row in recorded["wire"]]
    # Data may follow our header before the peer's header has come.
    from_left = left.data_to_send() + left.encrypt([b"hello"])
    from_right = right.data_to_send() + right.encrypt([b"world"])
    assert from_left.hex() == rows[0] + rows[2]
    assert from_right.hex() == rows[1] + rows[3]
    right.receive(from_left)
    left.receive(from_right)
    assert messages(right) == [b"hello"]
    assert messages(left) == [b"world"]
    hash_ = transport()["noise"]["IK_hyperdht"]["handshakeHash"]
    assert stream_id(bytes.fromhex(hash_), is_initiator=True).hex() == recorded["initiatorId"]
    assert stream_id(bytes.fromhex(hash_), is_initiator=False).hex() == recorded["responderId"]


def test_recorded_unordered_messages() -> None:
    recorded = transport()["secretStreamIK"]
    hash_ = bytes.fromhex(transport()["noise"]["IK_hyperdht"]["handshakeHash"])
    counters = [bytes.fromhex(counter) for counter in recorded["randomness"]["sendCountersInOrder"]]
    boxes = {
        "I": UnorderedBox(hash_, is_initiator=True, counter=counters[0]),
        "R": UnorderedBox(hash_, is_initiator=False, counter=counters[1]),
    }
    for box in recorded["send"]["boxes"]:
        envelope = boxes[box["from"]].seal(bytes.fromhex(box["plaintext"]))
        assert envelope.hex() == box["envelope"]
        other = boxes["R" if box["from"] == "I" else "I"]
        assert other.open(envelope) == bytes.fromhex(box["plaintext"])
        assert other.open(envelope[:-1]) is None
        assert other.open(envelope[:23]) is None


def test_unordered_counter_is_never_used_twice() -> None:
    box = UnorderedBox(bytes(64), is_initiator=True, counter=bytes(8))
    box._counter = b"\xff" * 8
    with pytest.raises(LocalProtocolError):
        box.seal(b"one too many")


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(1, 400), min_size=1))
def test_messages_keep_their_boundaries_however_the_bytes_are_cut(sent: list[bytes], cuts: list[int]) -> None:
    left, right = machine_pair()
    data = bytes(left.encrypt(sent))
    position = 0
    for step in range(10_000):
        if position >= len(data):
            break
        cut = cuts[step % len(cuts)]
        right.receive(data[position : position + cut])
        position += cut
    assert messages(right) == sent


def test_one_receive_is_one_event_with_all_messages() -> None:
    left, right = machine_pair()
    right.receive(left.encrypt([b"a", b"bb", b"ccc"]))
    assert events(right) == [DataReceived([bytearray(b"a"), bytearray(b"bb"), bytearray(b"ccc")])]


def test_empty_messages_are_dropped_on_request() -> None:
    left, right = machine_pair(drop_empty=True)
    right.receive(left.encrypt([b"", b"data", b""]))
    assert messages(right) == [b"data"]


def test_message_over_the_cap_is_refused_by_its_length_alone() -> None:
    left, right = machine_pair(max_message_bytes=1000)
    right.receive(left.encrypt([bytes(1000)]))
    with pytest.raises(DecodeError, match="at most 1017"):
        right.receive(bytes(left.encrypt([bytes(1001)]))[:3])
    assert messages(right) == [bytes(1000)]


def test_t06_a_stranger_cannot_make_us_buffer_before_the_handshake() -> None:
    machine = SecretStreamMachine(False, KeyPair.generate())
    with pytest.raises(DecodeError):
        machine.receive(b"\xff\xff\xff")


def test_message_of_the_largest_size_and_one_more() -> None:
    left, right = machine_pair()
    with pytest.raises(LocalProtocolError):
        left.encrypt([bytes(MAX_MESSAGE_BYTES + 1)])
    right.receive(left.encrypt([bytes(MAX_MESSAGE_BYTES)]))
    assert [len(m) for m in messages(right)] == [MAX_MESSAGE_BYTES]


def test_messages_before_a_forged_one_are_delivered() -> None:
    left, right = machine_pair()
    data = left.encrypt([b"good", b"bad"])
    data[-1] ^= 1
    with pytest.raises(DecodeError):
        right.receive(data)
    assert messages(right) == [b"good"]
    assert right.state is State.FAILED


@pytest.mark.parametrize("expects", ["initiator", "responder"])
def test_another_key_than_expected_ends_the_handshake(expects: str) -> None:
    other = KeyPair.generate().public_key
    left = SecretStreamMachine(True, KeyPair.generate(), remote_public_key=other if expects == "initiator" else None)
    right = SecretStreamMachine(False, KeyPair.generate(), remote_public_key=other if expects == "responder" else None)
    with pytest.raises(HandshakeError, match="another key"):
        shake_hands(left, right)


def test_expected_key_passes() -> None:
    key_pair = KeyPair.generate()
    left = SecretStreamMachine(True, KeyPair.generate(), remote_public_key=key_pair.public_key)
    shake_hands(left, SecretStreamMachine(False, key_pair))
    assert left.state is State.OPEN


def machine_in(state: State) -> SecretStreamMachine:
    if state is State.OPEN:
        return machine_pair()[0]
    machine = SecretStreamMachine(True, KeyPair.generate())
    if state is State.HEADER:
        machine = SecretStreamMachine(True, KeyPair.generate(), handshake=recorded_ik_keys("initiator", "responder"))
    elif state is State.FAILED:
        with pytest.raises(RemoteProtocolError):
            machine.receive(b"\xff\xff\xff")
    assert machine.state is state
    return machine


ILLEGAL_FRAME = {State.HANDSHAKE: HandshakeError, State.HEADER: HandshakeError, State.OPEN: DecodeError}
END = {State.HANDSHAKE: HandshakeError, State.HEADER: None, State.OPEN: None, State.FAILED: LocalProtocolError}


@pytest.mark.parametrize("state", State)
def test_frame_that_does_not_fit_the_state(state: State) -> None:
    machine = machine_in(state)
    for body in (b"", b"x" * 16, b"x" * 56, b"x" * 200):
        machine = machine_in(state)
        with pytest.raises(ILLEGAL_FRAME.get(state, LocalProtocolError)):
            machine.receive(len(body).to_bytes(3, "little") + body)
        assert machine.state is State.FAILED


@pytest.mark.parametrize("state", State)
def test_end_in_every_state(state: State) -> None:
    machine, error = machine_in(state), END[state]
    if error is None:
        machine.receive_eof()
        assert events(machine)[-1] == StreamClosed()
        with pytest.raises(LocalProtocolError):
            machine.receive(b"")
        with pytest.raises(LocalProtocolError):
            machine.receive_eof()
    else:
        with pytest.raises(error):
            machine.receive_eof()


@pytest.mark.parametrize("state", State)
def test_encrypt_in_every_state(state: State) -> None:
    machine = machine_in(state)
    if state in (State.HEADER, State.OPEN):
        assert len(machine.encrypt([b"x"])) == 21
        assert machine.encrypt([]) == b""
    else:
        with pytest.raises(LocalProtocolError):
            machine.encrypt([b"x"])


def test_end_in_the_middle_of_a_message() -> None:
    left, right = machine_pair()
    right.receive(bytes(left.encrypt([b"hello"]))[:10])
    with pytest.raises(RemoteProtocolError, match="middle"):
        right.receive_eof()


@given(st.lists(st.binary(max_size=120), max_size=6), st.sampled_from([State.HANDSHAKE, State.HEADER, State.OPEN]))
def test_any_bytes_are_taken_or_raise_remote_protocol_error(pieces: list[bytes], state: State) -> None:
    machine = machine_in(state)
    try:
        for piece in pieces:
            machine.receive(piece)
        machine.receive_eof()
    except RemoteProtocolError:
        assert machine.state is State.FAILED
    assert not messages(machine)
