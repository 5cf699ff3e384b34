"""Both sides of hole punching through relays, behind simulated NATs; and what hostile or broken ones can do."""

from typing import TYPE_CHECKING

import pytest

from hyperdht.addresses import Address
from hyperdht.dht.constants import Firewall, PayloadError
from hyperdht.dht.holepunch_client import TRY_LATER_S, HolepunchFailure
from hyperdht.dht.holepunch_messages import HolepunchPayload, HolepunchSeal
from hyperdht.dht.holepunch_server import FIRST_ROUND_S, MAX_FAST_PROBES
from hyperdht.dht.payloads import HolepunchMessage, Mode, decode_holepunch
from hyperdht.dht.random_punches import INTERVAL_S
from hyperdht.dht.router import answer_holepunch
from hyperdht.rpc import RequestReceived
from hyperdht.rpc.messages import decode_reply

from .holepunch_lab import SECRET, Lab
from .simulation import NatKind
from .simulation.realm import Line

if TYPE_CHECKING:
    from collections.abc import Sequence

FIXED = (NatKind.OPEN, NatKind.BLOCKED, NatKind.CONSISTENT, NatKind.FULLCONE, NatKind.FORWARDED, NatKind.DOUBLE)
RANDOM = (NatKind.RANDOM, NatKind.SYMMETRIC)
WELCOMING = (NatKind.OPEN, NatKind.FULLCONE)
SETTLE_S = 5.0
LOSSY = Line(latency_s=0.01, loss=0.1, jitter_s=0.01, duplication=0.05)


def assert_connected(lab: Lab) -> None:
    """Each side is at the other's address, and holds nothing but the one socket."""
    lab.clock.run(SETTLE_S)
    assert lab.failed is None
    assert lab.connected is not None
    assert lab.reached is not None
    assert lab.aborted == []
    socket, sender = lab.reached
    assert sender.host == lab.client.shell.host.public_host
    assert lab.connected[1].host == lab.server.shell.host.public_host
    assert (lab.server.extra_sockets, lab.client.extra_sockets) == (1, 1)
    assert (lab.server.shell.port(socket), lab.client.shell.port(lab.connected[0])) != (0, 0)


def assert_failed(lab: Lab, failure: HolepunchFailure) -> None:
    """Both sides end, and hold nothing."""
    lab.clock.run(FIRST_ROUND_S + SETTLE_S)
    assert lab.failed is failure
    assert lab.connected is None
    assert len(lab.aborted) == 1
    assert (lab.server.extra_sockets, lab.client.extra_sockets) == (0, 0)


@pytest.mark.parametrize("client", FIXED)
@pytest.mark.parametrize("server", FIXED)
def test_two_fixed_mappings_connect_in_two_round_trips_over_the_relay(server: NatKind, client: NatKind) -> None:
    lab = Lab(server, client)
    lab.start()
    assert lab.run() < 0.1
    assert_connected(lab)
    assert len(lab.messages) == 1  # fast mode: no second round


@pytest.mark.parametrize("random", RANDOM)
@pytest.mark.parametrize("fixed", FIXED)
def test_a_random_mapping_is_met_from_either_side(fixed: NatKind, random: NatKind) -> None:
    for server, client in ((fixed, random), (random, fixed)):
        lab = Lab(server, client)
        lab.start()
        took = lab.run()
        assert_connected(lab)
        assert took < (0.3 if fixed in WELCOMING or random is NatKind.SYMMETRIC else 20)
        assert len(lab.messages) == 2


@pytest.mark.parametrize("server", RANDOM)
@pytest.mark.parametrize("client", RANDOM)
def test_two_random_mappings_give_up_at_once(server: NatKind, client: NatKind) -> None:
    lab = Lab(server, client)
    lab.start()
    assert lab.run() < 1
    assert_failed(lab, HolepunchFailure.DOUBLE_RANDOMIZED)
    assert len(lab.aborted) == 1
    assert lab.aborted[0] < lab.started + 1  # told by the client, not by its own patience


@pytest.mark.parametrize("same_relay", [True, False])
@pytest.mark.parametrize("fast_open", [True, False])
@pytest.mark.parametrize(
    ("server", "client"),
    [
        (NatKind.CONSISTENT, NatKind.CONSISTENT),
        (NatKind.BLOCKED, NatKind.RANDOM),
        (NatKind.RANDOM, NatKind.BLOCKED),
    ],
)
def test_other_relays_and_no_fast_open(server: NatKind, client: NatKind, *, same_relay: bool, fast_open: bool) -> None:
    lab = Lab(server, client)
    lab.start(same_relay=same_relay, fast_open=fast_open)
    lab.run()
    assert_connected(lab)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize(
    ("server", "client"),
    [
        (NatKind.CONSISTENT, NatKind.CONSISTENT),
        (NatKind.CONSISTENT, NatKind.SYMMETRIC),
        (NatKind.RANDOM, NatKind.FULLCONE),
        (NatKind.BLOCKED, NatKind.RANDOM),
    ],
)
def test_lost_repeated_and_overtaking_packets(server: NatKind, client: NatKind, seed: int) -> None:
    lab = Lab(server, client, seed=seed, line=LOSSY)
    lab.start()
    lab.run()
    assert_connected(lab)


def test_a_relay_that_is_gone_is_not_the_end() -> None:
    lab = Lab(NatKind.CONSISTENT, NatKind.CONSISTENT)
    lab.start(dead_relays=1)
    assert lab.run() < 6
    assert_connected(lab)


def test_without_any_relay_the_client_gives_up() -> None:
    lab = Lab(NatKind.CONSISTENT, NatKind.CONSISTENT)
    lab.start(dead_relays=4)
    lab.run()
    assert_failed(lab, HolepunchFailure.PROBE_TIMEOUT)


def test_a_server_that_nobody_asks_frees_its_socket() -> None:
    lab = Lab(NatKind.CONSISTENT, NatKind.CONSISTENT)
    lab.start()
    assert lab.punching_client is not None
    lab.punching_client.cancel(lab.clock.now)
    lab.clock.run(FIRST_ROUND_S + 1)
    assert (lab.server.extra_sockets, lab.client.extra_sockets) == (0, 0)
    assert len(lab.aborted) == 1
    assert (lab.connected, lab.failed) == (None, None)


@pytest.mark.parametrize("after_s", [0.0, 0.03, 0.15, 0.25, 1.0])
def test_cancelling_and_closing_at_any_time_frees_all_sockets(after_s: float) -> None:
    lab = Lab(NatKind.BLOCKED, NatKind.RANDOM)
    lab.start()
    lab.clock.run(after_s)
    assert lab.punching_client is not None
    assert lab.punching_server is not None
    for _ in range(2):
        lab.punching_client.cancel(lab.clock.now)
        lab.punching_server.close(lab.clock.now)
    assert (lab.server.extra_sockets, lab.client.extra_sockets) == (0, 0)
    sent = lab.client.shell.host.sent
    lab.clock.run(40)
    assert (lab.connected, lab.failed, lab.aborted) == (None, None, [])
    assert lab.client.shell.host.sent - sent < 100
    assert lab.client.limiter.take(lab.clock.now)
    assert lab.server.limiter.take(lab.clock.now)


def refuse(*_: object) -> bool:
    return False


@pytest.mark.parametrize("side", ["server", "client"])
def test_either_side_may_refuse(side: str) -> None:
    asked: list[tuple[int, int, Sequence[Address], Sequence[Address]]] = []

    def hook(remote: int, local: int, theirs: tuple[Address, ...], ours: tuple[Address, ...]) -> bool:
        asked.append((remote, local, theirs, ours))
        return False

    lab = Lab(NatKind.RANDOM, NatKind.CONSISTENT)
    lab.start(server_hook=hook if side == "server" else None, client_hook=hook if side == "client" else None)
    lab.run()
    if side == "server":
        assert_failed(lab, HolepunchFailure.REMOTE_ABORTED)
    else:
        assert_failed(lab, HolepunchFailure.ABORTED)
    random, fixed = lab.server.shell.host.public_host, lab.client.shell.host.public_host
    (remote, local, theirs, ours) = asked[0]
    if side == "client":
        assert (remote, local) == (Firewall.RANDOM, Firewall.CONSISTENT)
        assert theirs == (Address(random, 0),)
        assert [address.host for address in ours] == [fixed]
    else:
        assert (remote, local) == (Firewall.CONSISTENT, Firewall.RANDOM)
        assert ours == (Address(random, 0),)


def test_a_second_random_punch_has_to_wait() -> None:
    lab = Lab(NatKind.BLOCKED, NatKind.RANDOM)
    assert lab.client.limiter.take(lab.clock.now)
    lab.start()
    lab.run()
    assert_failed(lab, HolepunchFailure.ABORTED)


def test_a_server_that_punches_already_sends_the_client_away() -> None:
    lab = Lab(NatKind.BLOCKED, NatKind.RANDOM)
    assert lab.server.limiter.take(lab.clock.now)
    lab.start()
    lab.run()
    assert_failed(lab, HolepunchFailure.REMOTE_ABORTED)
    assert lab.client.limiter.take(lab.clock.now)  # nothing was punched


@pytest.mark.parametrize("busy", ["server", "client"])
def test_with_a_blind_relay_they_try_later(busy: str) -> None:
    lab = Lab(NatKind.BLOCKED, NatKind.SYMMETRIC)
    limiter = lab.server.limiter if busy == "server" else lab.client.limiter
    assert limiter.take(lab.clock.now)
    lab.start(has_relay=True)
    lab.clock.run(2)
    assert (lab.failed, lab.aborted) == (None, [])
    limiter.give_back(lab.clock.now, used=False)
    took = lab.run(60)
    assert TRY_LATER_S < took < 2 * TRY_LATER_S + 1
    assert_connected(lab)


def test_the_pause_after_a_random_punch_is_kept() -> None:
    lab = Lab(NatKind.BLOCKED, NatKind.SYMMETRIC)
    lab.start()
    lab.run()
    assert lab.connected is not None
    for participant in (lab.client, lab.server):
        assert not participant.limiter.take(lab.clock.now)
        assert participant.limiter.take(lab.clock.now + INTERVAL_S)


def test_forged_rounds_are_met_with_silence_and_counted() -> None:
    lab = Lab(NatKind.CONSISTENT, NatKind.CONSISTENT)
    lab.start(fast_open=False)
    assert lab.run() < 1
    lab2 = Lab(NatKind.CONSISTENT, NatKind.CONSISTENT)
    lab2.start()
    assert lab2.punching_server is not None
    assert lab2.punching_client is not None
    lab2.punching_client.cancel(lab2.clock.now)
    _, received = lab.messages[0]
    stranger = HolepunchSeal(b"\x66" * 32, lab2.clock.random)
    sent = lab2.server.shell.host.sent
    forged = [stranger.seal(HolepunchPayload(punching=True)), b"", bytes(100)]
    for payload in forged:
        message = HolepunchMessage(Mode.FROM_RELAY, 0, payload, Address("11.99.0.1", 5000))
        lab2.punching_server.receive(message, received, lab2.clock.now)
    lab2.server.shell.wake()
    assert lab2.punching_server.dropped == len(forged)
    assert lab2.server.shell.host.sent == sent
    assert lab2.server.extra_sockets == 1


def test_a_replayed_round_changes_nothing_and_costs_little() -> None:
    """A relay can repeat what it forwarded, and claim any address for it."""
    lab = Lab(NatKind.CONSISTENT, NatKind.CONSISTENT)
    lab.start(client_hook=refuse)
    assert lab.clock.run_until(lambda: bool(lab.messages), seconds=5)
    assert lab.punching_server is not None
    assert lab.punching_client is not None
    lab.punching_client.cancel(lab.clock.now)
    message, received = lab.messages[0]
    victim = lab.network.host()
    heard: list[bytes] = []
    port = victim.bind(lambda data, sender, now: heard.append(data))
    replayed = HolepunchMessage(message.mode, message.id, message.payload, Address(victim.address, port))
    for _ in range(500):
        lab.punching_server.receive(replayed, received, lab.clock.now)
        lab.server.shell.wake()
        lab.clock.run(0.01)
    assert heard.count(b"\0") <= MAX_FAST_PROBES
    assert lab.server.extra_sockets == 1


def test_t19_a_hostile_client_cannot_have_the_server_punch_somewhere_else() -> None:
    """Without proof that it receives there, an address gets no random probes, and a private one none at all."""
    lab = Lab(NatKind.CONSISTENT, NatKind.CONSISTENT)
    lab.start()
    assert lab.clock.run_until(lambda: bool(lab.messages), seconds=5)
    assert lab.punching_server is not None
    assert lab.punching_client is not None
    lab.punching_client.cancel(lab.clock.now)
    _, received = lab.messages[0]
    victim = lab.network.host()
    client = HolepunchSeal(SECRET, lab.clock.random)
    sent = lab.server.shell.host.sent
    for named in (Address(victim.address, 0), Address("192.168.1.2", 8080), Address("127.0.0.1", 8080)):
        payload = HolepunchPayload(
            firewall=Firewall.RANDOM, round=9, punching=True, addresses=(named,), remote_token=b"?" * 32
        )
        message = HolepunchMessage(Mode.FROM_RELAY, 0, client.seal(payload), Address(victim.address, 5000))
        lab.punching_server.receive(message, received, lab.clock.now)
        lab.server.shell.wake()
    lab.clock.run(20)
    assert lab.server.shell.host.sent - sent <= 10
    assert victim.received == 0
    assert len(lab.aborted) == 1
    assert lab.server.extra_sockets == 0


def test_t19_only_own_relays_prove_where_a_client_is() -> None:
    """Any other node may be the client's friend, and say that it is somebody else."""
    lab = Lab(NatKind.BLOCKED, NatKind.RANDOM)
    lab.start()
    assert lab.clock.run_until(lambda: bool(lab.messages), seconds=5)
    lab.own_relays.clear()
    lab.run()
    assert_failed(lab, HolepunchFailure.REMOTE_ABORTED)


def test_who_comes_after_the_end_is_told_so() -> None:
    lab = Lab(NatKind.CONSISTENT, NatKind.CONSISTENT)
    lab.start()
    assert lab.clock.run_until(lambda: bool(lab.messages), seconds=5)
    assert lab.punching_server is not None
    assert lab.punching_client is not None
    lab.punching_client.cancel(lab.clock.now)
    lab.clock.run(FIRST_ROUND_S + 1)
    assert len(lab.aborted) == 1
    answered: list[bytes] = []
    message, received = lab.messages[0]
    client = lab.network.host()
    port = client.bind(lambda data, sender, now: answered.append(data))
    late = HolepunchMessage(message.mode, message.id, message.payload, Address(client.address, port))
    lab.punching_server.receive(late, received, lab.clock.now)
    lab.server.shell.wake()
    lab.clock.run(1)
    (datagram,) = answered
    reply = decode_holepunch(decode_reply(datagram, sender=received.sender).value or b"")
    opened = HolepunchSeal(SECRET, lab.clock.random).open(reply.payload)
    assert opened == HolepunchPayload(error=PayloadError.ABORTED)
    assert len(lab.aborted) == 1


def test_a_forged_answer_does_not_end_the_attempt() -> None:
    """Somebody guesses the number of the request, but cannot seal."""
    lab = Lab(NatKind.CONSISTENT, NatKind.CONSISTENT)
    lab.start()
    assert lab.punching_server is not None
    genuine, socket = lab.punching_server.receive, lab.punching_server.socket

    def deliver(message: HolepunchMessage, received: RequestReceived, now: float) -> None:
        if len(lab.messages) == 1:
            answer_holepunch(lab.server.rpc, message, received, bytes(60), socket=socket)
        else:
            genuine(message, received, now)

    lab.deliver = deliver
    lab.run()
    assert_connected(lab)
    assert lab.punching_client is not None
    assert lab.punching_client.dropped == 1


def test_a_forged_probe_does_not_connect() -> None:
    lab = Lab(NatKind.CONSISTENT, NatKind.OPEN)
    lab.start()
    assert lab.punching_client is not None
    attacker = lab.network.host()
    port = attacker.bind(lambda *_: None)
    for socket in lab.punching_client.sockets:
        attacker.send(b"\0", Address(lab.client.shell.host.address, lab.client.shell.port(socket)), port=port)
    lab.run()
    assert_connected(lab)
    assert lab.punching_client.dropped_probes == 1
