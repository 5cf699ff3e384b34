"""What is remembered of connections that are over, and of dials on the local network."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.abc
import pytest

from hyperdht import KeyPair
from sidecar.rooms.lan import MAX_DIALS, LanNetwork
from sidecar.rooms.meetings import MAX_MEETINGS, Meeting, Meetings

if TYPE_CHECKING:
    from sidecar.diagnosis.facts import LanOutcome
    from sidecar.rooms.peer import PeerConnection

pytestmark = pytest.mark.anyio


def connection(key: bytes, *, had_member: bool = False, road: str = "direct") -> PeerConnection:
    return cast("PeerConnection", SimpleNamespace(key=key, had_member=had_member, road=road))


def test_the_newest_meeting_counts() -> None:
    meetings = Meetings(lambda: 5.0)
    meetings.end(connection(b"a", had_member=True, road="relayed"), "the peer said goodbye")
    assert meetings.get(b"a") == Meeting("relayed", True, "", "the peer said goodbye", 5.0)
    meetings.refuse(connection(b"a"), "blocked")
    assert meetings.get(b"a") == Meeting("direct", False, "blocked", "", 5.0)
    meetings.end(connection(b"b"), "the peer closed the connection")
    assert (meetings.unproved, dict(meetings.refused)) == (1, {"blocked": 1})


def test_t18_strangers_do_not_fill_the_memory() -> None:
    meetings = Meetings(lambda: 0.0)
    for number in range(MAX_MEETINGS + 5):
        meetings.refuse(connection(number.to_bytes(2, "big")), "full")
    assert len(meetings) == MAX_MEETINGS
    assert meetings.get(bytes(2)) is None
    assert meetings.refused["full"] == MAX_MEETINGS + 5


async def never(*_: Any) -> bool:
    raise AssertionError("nobody connects")


async def dialled(port: int) -> LanOutcome:
    """How one dial of a port of loopback ends."""
    lan = LanNetwork(KeyPair.generate(), never)
    assert await lan._try(("127.0.0.1", port)) is None
    return lan.dials[f"127.0.0.1:{port}"]


async def test_nothing_listens() -> None:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        port = listener.extra(anyio.abc.SocketAttribute.local_port)
    assert await dialled(port) == "refused"


async def test_another_program_listens() -> None:
    async def talk(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.send(b"220 mail.example ESMTP\r\n" * 100)

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, talk)
        assert await dialled(listener.extra(anyio.abc.SocketAttribute.local_port)) == "handshake"
        tasks.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (TimeoutError(), "timeout"),
        (OSError(113, "No route to host"), "unreachable"),
        (ConnectionRefusedError(), "refused"),
    ],
)
async def test_nobody_answers(error: OSError, outcome: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(host: str, port: int) -> None:
        raise error

    monkeypatch.setattr("sidecar.rooms.lan.connect_tcp", fails)
    assert await dialled(9) == outcome


async def test_t18_addresses_that_anybody_announced_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(host: str, port: int) -> None:
        raise TimeoutError

    monkeypatch.setattr("sidecar.rooms.lan.connect_tcp", fails)
    lan = LanNetwork(KeyPair.generate(), never)
    for port in range(1, MAX_DIALS + 10):
        await lan._try(("127.0.0.1", port))
    assert len(lan.dials) == MAX_DIALS
