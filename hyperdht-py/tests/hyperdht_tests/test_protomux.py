"""Protomux machines: recorded scenes, the state table, rules of ids and batches, caps, and any bytes at all."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperdht import LocalProtocolError, RemoteProtocolError
from hyperdht.encoding import Writer
from hyperdht.protomux import (
    Channel,
    ChannelClosed,
    ChannelMessageReceived,
    ChannelOpened,
    ChannelRequested,
    Event,
    Mux,
    MuxLimits,
)
from hyperdht.protomux.limits import PAUSE_EARLY_BYTES
from hyperdht.protomux.wire import Item, batch_message, open_body

from .vectors import transport


class Side:
    """A mux with the habits of the recorded JavaScript side: it knows two message types and what each open carries."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name = name
        self.mux = Mux()
        self.log = log
        self.pairs: dict[str, Callable[[], Channel]] = {}

    def create(self, name: str, protocol: str, **options: Any) -> Channel:
        channel = self.mux.create_channel(protocol, **options)
        assert channel is not None
        channel.context = name
        return channel

    def take_events(self) -> None:
        for event in iter(self.mux.next_event, None):
            match event:
                case ChannelRequested(protocol, id_):
                    if protocol in self.pairs:
                        self.log.append(f"{self.name} notify id={'null' if id_ is None else id_.hex()}")
                        self.pairs[protocol]().open()
                    else:
                        self.mux.reject(protocol, id_)
                case ChannelOpened(channel, handshake):
                    self.log.append(f"{channel.context} open handshake={uint_or_null(handshake)}")
                case ChannelMessageReceived(channel, 0, body):
                    self.log.append(f"{channel.context} m0 {str(body[1:], 'utf-8')}")
                case ChannelMessageReceived(channel, 1, body):
                    self.log.append(f"{channel.context} m1 {body[1:].hex()}")
                case ChannelClosed(channel, remote):
                    self.log += [f"{channel.context} close remote={str(remote).lower()}", f"{channel.context} destroy"]


def uint_or_null(handshake: bytes) -> str:
    return (
        "null"
        if not handshake
        else str(handshake[0] if len(handshake) == 1 else int.from_bytes(handshake[1:], "little"))
    )


def text(value: str) -> bytes:
    return bytes([len(value)]) + value.encode()


class Scenes:
    """The recorded scenes in Python, in their order, on two muxes that live through all of them."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.a, self.b = Side("A", self.log), Side("B", self.log)

    def script(self) -> Iterator[None]:
        a, b = self.a, self.b
        foo = a.create("A", "foo", id=b"\1\2")
        foo.open(b"\7")
        foo.send(0, text("pre"))
        yield
        foo, foo_b = a.create("A", "foo", id=b"\1\2"), b.create("B", "foo", id=b"\1\2")
        foo.open(b"\1")
        foo_b.open(b"\xfd\xfd\x00")
        yield
        foo.send(0, text("hi"))
        foo_b.send(1, b"\2\xff\0")
        yield
        b.pairs["bar"] = lambda: b.create("B2", "bar")
        bar = a.create("A2", "bar")
        bar.open()
        bar.send(0, text("early"))
        yield
        a.mux.cork()
        bar.send(0, text("one"))
        bar.send(0, text("two"))
        foo.send(0, text("x"))
        a.mux.uncork()
        yield
        a.mux.cork()
        foo.send(0, text("solo"))
        a.mux.uncork()
        yield
        a.mux.cork()
        baz = a.create("A3", "baz")
        baz.open()
        baz.send(0, text("q"))
        bar.close()
        a.mux.uncork()
        yield
        a.create("A4", "oldname", aliases=("newname",)).open()
        b.create("B4", "newname", aliases=("oldname",)).open()
        yield
        b.mux.receive(bytes.fromhex("0109ff"))
        b.mux.receive(bytes.fromhex("630000"))
        yield
        foo.close()
        yield
        a.create("A5", "qux").open()
        yield

    def deliver(self) -> list[dict[str, str]]:
        """Carry messages back and forth until both sides are silent; what went over the wire."""
        wire = []
        while True:
            carried = [("A>B", m, self.b) for m in self.a.mux.messages_to_send()]
            carried += [("B>A", m, self.a) for m in self.b.mux.messages_to_send()]
            for direction, message, receiver in carried:
                wire.append({"dir": direction, "hex": message.hex()})
                receiver.mux.receive(message)
            self.a.take_events()
            self.b.take_events()
            if not carried:
                return wire


def test_recorded_scenes_byte_for_byte() -> None:
    scenes = Scenes()
    recorded = transport()["protomux"]["scenes"]
    played = 0
    for scene, _ in zip(recorded, scenes.script(), strict=True):
        wire = scenes.deliver()
        assert wire == [row for row in scene["wire"] if not row.get("injected")], scene["title"]
        for side in "AB":  # the order between the two sides is the scheduler's
            actual = [line for line in scenes.log if line.startswith(side)]
            assert actual == [line for line in scene["events"] if line.startswith(side)], scene["title"]
        scenes.log.clear()
        played += 1
    assert played == len(recorded) == 11


def events(mux: Mux) -> list[Event]:
    return list(iter(mux.next_event, None))


def deliver(sender: Mux, receiver: Mux) -> None:
    for message in sender.messages_to_send():
        receiver.receive(message)


def created(mux: Mux, protocol: str = "p", **options: Any) -> Channel:
    channel = mux.create_channel(protocol, **options)
    assert channel is not None
    return channel


def opened(mux: Mux, protocol: str = "p", **options: Any) -> Channel:
    channel = created(mux, protocol, **options)
    channel.open()
    return channel


def open_pair() -> tuple[Mux, Mux, Channel, Channel]:
    left, right = Mux(), Mux()
    pair = opened(left), opened(right)
    deliver(left, right)
    deliver(right, left)
    events(left), events(right)
    return left, right, *pair


def remote_open(remote_id: int = 1, protocol: str = "p", handshake: bytes = b"") -> bytes:
    return b"\0\1" + open_body(remote_id, protocol, None, handshake)


# --- the state table: every state of a channel with every input --------------------------------------------------------------


def created_state(mux: Mux) -> Channel:
    return created(mux)


def claimed_state(mux: Mux) -> Channel:
    mux.receive(remote_open())
    return created(mux)


def waiting_state(mux: Mux) -> Channel:
    return opened(mux)


def open_state(mux: Mux) -> Channel:
    channel = opened(mux)
    mux.receive(remote_open())
    return channel


def closed_state(mux: Mux) -> Channel:
    channel = open_state(mux)
    mux.receive(b"\0\3\1")
    return channel


def closed_unanswered_state(mux: Mux) -> Channel:
    channel = opened(mux)
    channel.close()
    return channel


INPUTS: dict[str, Callable[[Mux, Channel], None]] = {
    "open()": lambda mux, channel: channel.open(),
    "send()": lambda mux, channel: channel.send(0, b"x"),
    "close()": lambda mux, channel: channel.close(),
    "peer opens": lambda mux, channel: mux.receive(remote_open()),
    "peer sends": lambda mux, channel: mux.receive(b"\1\0x"),
    "peer rejects": lambda mux, channel: mux.receive(b"\0\2\1"),
    "peer closes": lambda mux, channel: mux.receive(b"\0\3\1"),
    "lost": lambda mux, channel: mux.connection_lost(),
}
LOCAL, REMOTE = LocalProtocolError, RemoteProtocolError
OPEN_MESSAGE = "0001010170" + "00"
TABLE: dict[Callable[[Mux], Channel], dict[str, Any]] = {
    # per input: an error, or (names of the events, messages sent)
    created_state: {
        "open()": ([], [OPEN_MESSAGE]),
        "send()": LOCAL,
        "close()": (["ChannelClosed"], []),
        "peer opens": (["ChannelRequested"], []),
        "peer sends": ([], []),
        "peer rejects": REMOTE,
        "peer closes": ([], []),
        "lost": ([], []),
    },
    claimed_state: {
        "open()": (["ChannelOpened"], [OPEN_MESSAGE]),
        "send()": LOCAL,
        "close()": (["ChannelClosed"], ["000201"]),
        "peer opens": REMOTE,
        "peer sends": ([], []),
        "peer rejects": REMOTE,
        "peer closes": ([], []),
        "lost": ([], []),
    },
    waiting_state: {
        "open()": LOCAL,
        "send()": ([], ["010078"]),
        "close()": (["ChannelClosed"], ["000301"]),
        "peer opens": (["ChannelOpened"], []),
        "peer sends": ([], []),
        "peer rejects": (["ChannelClosed"], []),
        "peer closes": ([], []),
        "lost": (["ChannelClosed"], []),
    },
    open_state: {
        "open()": LOCAL,
        "send()": ([], ["010078"]),
        "close()": (["ChannelClosed"], ["000301"]),
        "peer opens": REMOTE,
        "peer sends": (["ChannelMessageReceived"], []),
        "peer rejects": REMOTE,
        "peer closes": (["ChannelClosed"], []),
        "lost": (["ChannelClosed"], []),
    },
    closed_state: {
        "open()": LOCAL,
        "send()": ([], []),
        "close()": ([], []),
        "peer opens": (["ChannelRequested"], []),
        "peer sends": ([], []),
        "peer rejects": REMOTE,
        "peer closes": ([], []),
        "lost": ([], []),
    },
    closed_unanswered_state: {
        "open()": LOCAL,
        "send()": ([], []),
        "close()": ([], []),
        "peer opens": ([], []),
        "peer sends": ([], []),
        "peer rejects": ([], []),
        "peer closes": ([], []),
        "lost": ([], []),
    },
}


@pytest.mark.parametrize("input_name", INPUTS)
@pytest.mark.parametrize("state", TABLE, ids=lambda state: state.__name__)
def test_state_table(state: Callable[[Mux], Channel], input_name: str) -> None:
    mux = Mux()
    channel = state(mux)
    events(mux), mux.messages_to_send()
    expected = TABLE[state][input_name]
    if isinstance(expected, type):
        with pytest.raises(expected):
            INPUTS[input_name](mux, channel)
        return
    INPUTS[input_name](mux, channel)
    assert [type(event).__name__ for event in events(mux)] == expected[0]
    assert [message.hex() for message in mux.messages_to_send()] == expected[1]


# --- rules -------------------------------------------------------------------------------------------------------------------


def test_ids_are_reused_last_freed_first() -> None:
    left, right = Mux(), Mux()
    channels = [opened(left, name) for name in "abc"]
    for name in "abc":
        opened(right, name)
    deliver(left, right)
    deliver(right, left)
    channels[0].close()
    channels[2].close()
    assert [opened(left, name).local_id for name in "xyz"] == [3, 1, 4]


def test_id_of_a_closed_channel_stays_taken_until_the_peer_answers() -> None:
    left, right = Mux(), Mux()
    opened(left).close()
    assert opened(left, "q").local_id == 2
    deliver(left, right)
    right.reject("p")
    deliver(right, left)
    assert opened(left, "r").local_id == 1


def test_message_sent_in_passing_reaches_a_later_reader() -> None:
    left, right = Mux(), Mux()
    channel = opened(left)
    channel.send(5, b"bye")
    channel.close()
    deliver(left, right)
    assert events(right) == [ChannelRequested("p", None)]
    late = opened(right)
    assert [type(event).__name__ for event in events(right)] == [
        "ChannelOpened",
        "ChannelMessageReceived",
        "ChannelClosed",
    ]
    assert late.closed
    deliver(right, left)
    assert opened(left, "q").local_id == 1  # the peer's late open was the answer that frees it


def test_requests_are_answered_one_by_one_oldest_first() -> None:
    left, right = Mux(), Mux()
    first, second = opened(left, unique=False), opened(left, unique=False)
    deliver(left, right)
    assert events(right) == [ChannelRequested("p", None), ChannelRequested("p", None)]
    opened(right)
    right.reject("p")
    right.reject("p")  # nothing is left to reject
    deliver(right, left)
    assert first.opened
    assert not first.closed
    assert second.closed


def test_unique() -> None:
    mux = Mux()
    channel = opened(mux)
    assert mux.create_channel("p") is None
    assert mux.create_channel("other", aliases=("p",)) is None
    assert mux.create_channel("p", b"id") is not None
    assert mux.create_channel("p", unique=False) is not None
    channel.close()
    assert mux.create_channel("p") is not None


def test_alias_claims_a_waiting_open_of_the_other_name() -> None:
    left, right = Mux(), Mux()
    old = opened(left, "old", aliases=("new",))
    deliver(left, right)
    new = opened(right, "new", aliases=("old",))
    deliver(right, left)
    assert old.opened
    assert new.opened


def test_batch_is_cut_at_its_limit() -> None:
    mux = Mux(MuxLimits(batch_bytes=100))
    channel = opened(mux)
    mux.messages_to_send()
    mux.cork()
    mux.cork()
    for _ in range(5):
        channel.send(0, bytes(60))
    mux.uncork()
    mux.uncork()
    messages = mux.messages_to_send()
    assert len(messages) == 5
    assert all(len(message) <= 100 for message in messages)
    with pytest.raises(LocalProtocolError):
        mux.uncork()


def test_answers_to_a_batch_are_one_batch_once_its_events_are_taken() -> None:
    mux = Mux()
    channel = open_state(mux)
    events(mux), mux.messages_to_send()
    mux.receive(batch_message([Item(1, b"\0", b"a"), Item(1, b"\0", b"b")]))
    while mux.next_event():
        channel.send(0, b"!")
    assert mux.messages_to_send() == [batch_message([Item(1, b"\0", b"!"), Item(1, b"\0", b"!")])]
    mux.receive(batch_message([Item(1, b"\0", b"alone")]))
    channel.send(0, b"!")
    assert mux.messages_to_send() == [b"\1\0!"]


def test_item_longer_than_its_batch_is_clipped() -> None:
    mux = Mux()
    open_state(mux)
    events(mux)
    mux.receive(bytes.fromhex("0000016400616263"))
    (event,) = events(mux)
    assert isinstance(event, ChannelMessageReceived)
    assert bytes(event.body) == b"abc"


def test_empty_message_is_a_keep_alive() -> None:
    mux = Mux()
    mux.receive(b"")
    assert events(mux) == []


@pytest.mark.parametrize(
    "message",
    [
        "00",
        "0001",
        "000101ff",
        "000100017000",
        "000102017000",
        "000201",
        "0000",
        "00000003000001",
        "01",
        "fd01",
    ],
)
def test_messages_that_end_the_connection(message: str) -> None:
    mux = Mux()
    with pytest.raises(RemoteProtocolError):
        mux.receive(bytes.fromhex(message))
    with pytest.raises(LocalProtocolError):
        mux.receive(b"")


@pytest.mark.parametrize("message", ["000001", "0009", "0004ffff", "630000", "000300", "000363"])
def test_messages_that_are_ignored(message: str) -> None:
    mux = Mux()
    mux.receive(bytes.fromhex(message))
    assert events(mux) == []
    assert mux.messages_to_send() == []


def test_names_too_long_for_the_wire_are_our_bug() -> None:
    for options in ({"protocol": "x" * 256}, {"protocol": "x", "id": bytes(256)}):
        with pytest.raises(LocalProtocolError):
            Mux().create_channel(**options)


def test_after_the_connection_is_lost() -> None:
    mux = Mux()
    mux.connection_lost()
    assert mux.create_channel("p") is None
    mux.reject("p")
    with pytest.raises(LocalProtocolError):
        mux.receive(b"\0")
    mux = Mux()
    channel = created(mux)
    mux.connection_lost()
    channel.open()
    channel.send(0, b"")
    assert events(mux) == [ChannelClosed(channel, remote=True)]
    assert mux.messages_to_send() == []


# --- caps --------------------------------------------------------------------------------------------------------------------


def test_t06_pending_opens_are_capped() -> None:
    mux = Mux(MuxLimits(pending_opens=3))
    for remote_id in (1, 2, 3):
        mux.receive(remote_open(remote_id))
    with pytest.raises(RemoteProtocolError, match="3 opens"):
        mux.receive(remote_open(4))


def test_t06_answered_opens_do_not_count() -> None:
    mux = Mux(MuxLimits(pending_opens=1))
    for _ in range(10):
        mux.receive(remote_open(1))
        mux.reject("p")
    assert len(mux.messages_to_send()) == 10


def test_t06_channel_ids_are_capped_even_when_every_open_is_rejected() -> None:
    mux = Mux(MuxLimits(channels=5))
    for remote_id in range(1, 6):
        mux.receive(remote_open(remote_id))
        mux.reject("p")
    with pytest.raises(RemoteProtocolError, match="5 channel ids"):
        mux.receive(remote_open(6))


def test_t06_early_messages_pause_then_end_the_connection() -> None:
    mux = Mux(MuxLimits(early_bytes=2 * PAUSE_EARLY_BYTES))
    mux.receive(remote_open())
    assert not mux.should_pause
    mux.receive(b"\1\0" + bytes(PAUSE_EARLY_BYTES))
    assert mux.should_pause
    with pytest.raises(RemoteProtocolError, match="not open here"):
        mux.receive(b"\1\0" + bytes(PAUSE_EARLY_BYTES))


@pytest.mark.parametrize("answer", ["open", "reject", "claim and close"])
def test_t06_answering_releases_what_was_held(answer: str) -> None:
    mux = Mux(MuxLimits(early_bytes=2 * PAUSE_EARLY_BYTES))
    for _ in range(10):
        mux.receive(remote_open(handshake=bytes(100)))
        mux.receive(b"\1\0" + bytes(PAUSE_EARLY_BYTES))
        if answer == "open":
            opened(mux).close()
        elif answer == "reject":
            mux.reject("p")
        else:
            created(mux).close()
        assert not mux.should_pause
        assert mux.held_bytes == 0


def test_t06_names_ids_and_batches_are_capped() -> None:
    for protocol, id_ in (("x" * 256, b""), ("x", bytes(256))):
        writer = Writer()
        writer.push_fixed(b"\0\1\1")
        writer.push_string(protocol)
        writer.push_buffer(id_)
        with pytest.raises(RemoteProtocolError, match="at most 255"):
            Mux().receive(writer.finish())
    with pytest.raises(RemoteProtocolError, match="batch of more"):
        Mux(MuxLimits(batch_items=10)).receive(batch_message([Item(1, b"\0", b"")] * 11))


# --- any bytes ---------------------------------------------------------------------------------------------------------------

uints = st.sampled_from([0, 1, 2, 3, 63, 253, 70000])
control = st.builds(
    lambda kind, number, rest: bytes([0, kind, number]) + rest,
    st.integers(0, 5),
    st.integers(0, 4),
    st.binary(max_size=20),
)
opens = st.builds(
    lambda number, name, hs: remote_open(number, name, hs),
    st.integers(0, 4),
    st.sampled_from(["p", "q"]),
    st.binary(max_size=4),
)
lane = st.builds(lambda number, rest: bytes([number]) + rest, st.integers(0, 4), st.binary(max_size=20))
batches = st.lists(st.builds(Item, uints, st.binary(min_size=1, max_size=1), st.binary(max_size=9)), max_size=5).map(
    batch_message
)


@given(st.lists(st.one_of(control, opens, lane, batches, st.binary(max_size=40)), max_size=30))
def test_any_messages_are_taken_or_raise_remote_protocol_error(messages: list[bytes]) -> None:
    mux = Mux(MuxLimits(pending_opens=4, early_bytes=8192))
    opened(mux, "p")
    created(mux, "q")
    try:
        for number, message in enumerate(messages):
            mux.receive(message)
            for event in events(mux):
                if isinstance(event, ChannelRequested):
                    if number % 3 == 0:
                        mux.reject(event.protocol, event.id)
                    elif number % 3 == 1 and (channel := mux.create_channel(event.protocol, event.id)):
                        channel.open()
    except RemoteProtocolError:
        pass
    assert mux.held_bytes <= 8192 + 1024
    mux.connection_lost()


@given(
    st.lists(
        st.tuples(st.booleans(), st.sampled_from(["open", "send", "close", "deliver"]), st.sampled_from("pqr")),
        max_size=60,
    )
)
def test_two_honest_sides_never_fail_and_agree(steps: list[tuple[bool, str, str]]) -> None:
    """Opens, messages and closes in any order, crossing on the wire in any way."""
    muxes = Mux(), Mux()
    live: list[dict[str, Channel]] = [{}, {}]

    def take(side: int) -> None:
        deliver(muxes[1 - side], muxes[side])
        for event in events(muxes[side]):
            if isinstance(event, ChannelRequested):
                muxes[side].reject(event.protocol, event.id)

    for on_left, action, name in steps:
        side = 0 if on_left else 1
        channel = live[side].get(name)
        if action == "deliver":
            take(side)
        elif action == "open":
            if new := muxes[side].create_channel(name):
                new.open()
                live[side][name] = new
        elif channel is not None and action == "send":
            channel.send(0, name.encode())
        elif channel is not None:
            channel.close()
    for _ in range(4):
        take(0)
        take(1)
    for name in "pqr":
        is_open = [name in channels and channels[name].opened and not channels[name].closed for channels in live]
        assert is_open[0] == is_open[1]
    assert not muxes[0]._waiting
    assert not muxes[1]._waiting
    assert muxes[0].held_bytes == muxes[1].held_bytes == 0
