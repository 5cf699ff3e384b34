"""What goes wrong without anybody meaning harm, or with: full rooms, wrong clocks, an absent Ollama, a laptop that slept."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import httpx
import psutil
import pytest
from anyio import to_thread

from hyperdht import HyperDHT, KeyPair, testnet
from hyperdht.errors import HyperDHTError
from hyperdht.protomux import ChannelClosed, ChannelMessageReceived, ChannelOpened, ChannelRequested, Mux
from sidecar import local_models
from sidecar.control_types import RuleOptions
from sidecar.events import OllamaLost
from sidecar.paths import DaemonRecord, DataPaths
from sidecar.rooms.key import derive_room_key
from sidecar.rooms.messages import PROTOCOL
from sidecar.rooms.peer import MAX_UNKNOWN_ROOMS
from sidecar.sync import runner
from tests.interop.dht_peers import Peer
from tests.journeys.api import Api
from tests.journeys.crowd import made_entries, made_entry, member
from tests.journeys.inside import IN_PROCESS, running, team, until
from tests.journeys.liar import dial
from tests.journeys.ollama import listed, run_adapter, run_base
from tests.journeys.test_internet_rooms import over_dht
from tests.journeys.test_liars import room_key
from tests.natlab.namespaces import Namespace, why_not
from tests.support.processes import Sidecar, standin, wait_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path
    from typing import Any

    from tests.journeys.crowd import Member

pytestmark = IN_PROCESS

LONGEST_WAIT_S = 2.0
"""For an answer of the API that needs no work, whatever else the daemon does, on a busy machine. With 50,000 entries half a
second of it is Python's collector; before listings were made in pieces it was 4 s."""


@contextmanager
def daemon(folder: Path) -> Iterator[tuple[Sidecar, Api]]:
    """A daemon as a process, with an empty Ollama."""
    with standin(folder / "store") as ollama, Sidecar(folder / "daemon", ollama, folder / "store") as side:
        yield side, Api(side)


@asynccontextmanager
async def connected(made: Member, address: str) -> AsyncIterator[None]:
    """The member connected to the sidecar at `address`."""
    stream = await dial(address, made.key_pair)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(made.network.run_connection, stream, address)
        yield
        tasks.cancel_scope.cancel()


@dataclass
class Prober:
    """Asks a daemon small questions without end, and notes how long an answer took at most."""

    side: Sidecar
    worst_s: float = 0.0

    def take(self) -> float:
        """The worst since the last call."""
        worst, self.worst_s = self.worst_s, 0.0
        return worst

    async def run(self) -> None:
        paths = DataPaths(self.side.data_dir)
        record = DaemonRecord.read(paths)
        assert record is not None
        headers = {"Authorization": f"Bearer {paths.token.read_text().strip()}"}
        async with httpx.AsyncClient(base_url=f"http://{record.api}", headers=headers, timeout=60) as client:
            while True:
                asked = time.perf_counter()
                assert (await client.get("/api/v1/rooms")).status_code == 200
                self.worst_s = max(self.worst_s, time.perf_counter() - asked)
                await anyio.sleep(0.01)


@pytest.mark.parametrize("count", [1000, pytest.param(50_000, marks=pytest.mark.soak)])
async def test_t20_room_full_of_entries_is_taken_in_listed_and_planned_without_making_anybody_wait(
    tmp_path: Path, count: int
) -> None:
    with daemon(tmp_path) as (side, ask):
        room = derive_room_key(ask.post("/rooms", label="team")["code"])
        assert side.process is not None
        process = psutil.Process(side.process.pid)
        empty = process.memory_info().rss
        entries = made_entries(count)
        prober, listening = Prober(side), side.listening
        async with member(tmp_path / "member", room, entries) as made, anyio.create_task_group() as tasks:
            begun = time.perf_counter()
            async with connected(made, listening):
                tasks.start_soon(prober.run)

                def taken_in() -> int:
                    return int(ask.get("/rooms")[0]["adapters"])

                with anyio.fail_after(30 + count / 100):
                    while await to_thread.run_sync(taken_in) < count:  # noqa: ASYNC110
                        await anyio.sleep(0.1)
                figures = {"caught up": (time.perf_counter() - begun, prober.take())}
                key = entries[0].publisher.hex()
                for what, work in {
                    "adapters": lambda: ask.get("/adapters"),
                    "adapters that fit": lambda: ask.get("/adapters?fits=true"),
                    "rule for a publisher": lambda: ask.post(
                        "/sync/rules", direction="fetch", room="team", publisher=key
                    ),
                    "rule for the room": lambda: ask.post("/sync/rules", direction="fetch", room="team"),
                    "dry run": lambda: ask.post("/sync/run", dry_run=True),
                    "get of a wrong name": lambda: ask.request("POST", "/api/v1/transfers", json={"ref": "nothing"}),
                }.items():
                    begun = time.perf_counter()
                    answer = await to_thread.run_sync(work)
                    if what == "adapters":
                        assert len(answer) == count
                    figures[what] = time.perf_counter() - begun, prober.take()
                await anyio.sleep(1.0)
                figures["after it"] = 1.0, prober.take()
            tasks.cancel_scope.cancel()
        more = process.memory_info().rss - empty
        print(f"\n{count} entries, {more / 1e6:.0f} MB more")
        for what, (took, waited) in figures.items():
            print(f"{what}: {took:.2f} s; another answer took at most {waited * 1000:.0f} ms")
        assert max(waited for _, waited in figures.values()) < LONGEST_WAIT_S, figures
        assert more < 50e6 + count * 5000


# --- T12: the topic without the code ---------------------------------------------------------------------------------------


@dataclass
class Guesser:
    """Reaches a member through the DHT, as whoever knows the topic can, and tries proofs and rooms as fast as it can."""

    bootstrap: list[str]
    member: bytes
    connections: int = 0
    guesses: int = 0
    proofs: int = 0
    heard: bytearray = field(default_factory=bytearray)
    told: list[object] = field(default_factory=list)
    """What came that is neither a room named nor a guess refused."""

    async def run(self, node: HyperDHT) -> None:
        while True:
            with suppress(HyperDHTError, anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
                async with await node.connect(self.member, key_pair=KeyPair.generate()) as stream:
                    self.connections += 1
                    await self._guess(stream)

    async def _guess(self, stream: Any) -> None:
        mux = Mux()
        while True:
            for _ in range(20):
                channel = mux.create_channel(PROTOCOL, os.urandom(32))
                assert channel is not None
                channel.open(b"\x01" + os.urandom(32))
                self.guesses += 1
            await stream.send_many(mux.messages_to_send())
            for message in await stream.receive_many():
                self.heard += message
                mux.receive(message)
                while (event := mux.next_event()) is not None:
                    self._answer(mux, event)

    def _answer(self, mux: Mux, event: object) -> None:
        """The member names its room on every connection; the name tells nothing, but it can be answered."""
        if isinstance(event, ChannelRequested):
            channel = mux.create_channel(event.protocol, event.id)
            assert channel is not None
            channel.open(b"\x01" + os.urandom(32))
            self.proofs += 1
        elif isinstance(event, ChannelMessageReceived) or not isinstance(event, ChannelClosed | ChannelOpened):
            self.told.append(event)


async def test_t12_who_knows_the_topic_and_not_the_code_gets_nothing_at_any_speed(tmp_path: Path, files: Path) -> None:
    async with over_dht(tmp_path, files) as (members, join), AsyncExitStack() as stack:
        left = await join("left")
        room = room_key(left)
        row = await members.publish(left)
        ollama = await members.ollama("right")
        bootstrap = [str(node) for node in left.parts.settings.bootstrap]
        node = await stack.enter_async_context(HyperDHT(bootstrap=bootstrap, host="127.0.0.1", port=0))
        found: set[bytes] = set()

        async def known() -> bool:
            found.update([record.public_key async for record in node.lookup(room.topic)])
            return left.key in found

        await until(known)
        guesser = Guesser(bootstrap, left.key)
        async with anyio.create_task_group() as tasks:
            for _ in range(4):
                tasks.start_soon(guesser.run, node)
            await until(lambda: left.parts.network.bad_input["proof"] >= 3)
            begun = anyio.current_time()
            async with running(tmp_path / "right", ollama, no_dht=False, bootstrap=tuple(bootstrap)) as right:
                await members.enter(right)
                await right.row("sql-lora", sources=1)
                await right.got("sql-lora")
                took = anyio.current_time() - begun
                proved = [each.key for each in left.parts.network.connections.values() if each.proved]
            tasks.cancel_scope.cancel()
        print(
            f"\n{guesser.connections} connections, {guesser.proofs} proofs and {guesser.guesses} rooms guessed; "
            f"{len(guesser.heard)} bytes heard; an honest member had the adapter after {took:.1f} s"
        )
        assert guesser.told == [], "nothing but names, refusals and ends came back"
        for secret in (b"sql-lora", row.digest.encode(), bytes.fromhex(row.digest[7:]), right.key):
            assert secret not in guesser.heard
        for secret in (room.secret, room.room_id, room.topic, room.proof_key):
            assert secret not in guesser.heard
        assert proved == [right.key]
        assert guesser.guesses < 2 * MAX_UNKNOWN_ROOMS * guesser.connections, "a connection that only guesses is ended"


# --- an Ollama that is away ------------------------------------------------------------------------------------------------


class Absent:
    """Takes the place of an Ollama that is away, and counts who knocks."""

    def __init__(self, port: int) -> None:
        self._server = socket.create_server(("127.0.0.1", port))
        self.knocks = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                knocking, _ = self._server.accept()
                self.knocks += 1
                knocking.close()

    def close(self) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join()


async def test_ollama_lost_for_an_hour_is_asked_patiently_and_what_was_due_comes_by_itself(
    tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hour passes in three seconds: every pause between looks is as much shorter."""
    faster = 1200
    for module, name in (
        (local_models, "ALIVE_CHECK_S"),
        *((runner, each) for each in ("PASSING_LOOK_S", "SLOW_LOOK_S", "FIRST_DELAY_S", "LONGEST_DELAY_S")),
    ):
        monkeypatch.setattr(module, name, getattr(module, name) / faster)
    monkeypatch.setattr(local_models, "ALIVE_CHECK_S", 60 / faster)
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        second = await people.join("second")
        await second.control.sync_add(RuleOptions("fetch", "team", first.key.hex()))
        await second.ollama.stop()
        await second.happened(OllamaLost)
        await people.publish(first)
        await people.publish(first, "other", "adapter_b.gguf")
        await second.row("other", sources=1)
        absent = Absent(second.ollama.port)
        await anyio.sleep(3600 / faster)
        absent.close()
        print(f"\n{absent.knocks} requests in an hour")
        assert 10 < absent.knocks < 400, "about once a minute, and a few for each of what is due"
        await second.ollama.start()

        async def there() -> bool:
            return {"team/sql-lora:latest", "team/other:latest"} <= await listed(second.ollama.url)

        await until(there)


# --- clocks ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hours", [1.0, -1.0])
async def test_publisher_whose_clock_is_an_hour_off_is_read_like_any_other(
    tmp_path: Path, files: Path, hours: float
) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        second = await people.join("second")
        first.parts.publisher._wall_clock = lambda: time.time() + hours * 3600
        row = await people.publish(first)
        assert abs(time.time() + hours * 3600 - _seconds(row.created)) < 60
        await second.row("sql-lora", sources=1)
        await second.got("sql-lora")
        await first.share("sql-lora", description="Its next version, by a clock that was set right.")
        first.parts.publisher._wall_clock = time.time
        await second.row("sql-lora", version=2)
        await first.control.unshare("sql-lora")

        async def gone() -> bool:
            return not await second.control.adapters()

        await until(gone)


async def test_our_clock_an_hour_off_makes_nothing_end_too_early(tmp_path: Path, files: Path) -> None:
    """What ended half an hour ago by our clock, which is an hour ahead, goes on for another half."""
    async with team(tmp_path, files) as people:
        node = await people.join("node")
        statements = node.parts.network._statements
        statements._wall_clock = lambda: time.time() + 3600
        publisher = KeyPair.generate()
        ending = made_entry(0, publisher, expires=time.time() + 1800)
        ended = made_entry(1, publisher, created=time.time() - 7200, expires=time.time() - 3700)
        async with (
            member(tmp_path / "member", room_key(node), (ending, ended), key_pair=publisher) as made,
            connected(made, node.address),
        ):
            await node.row(ending.name, sources=1)
            await statements.forget_expired()
            assert [each.name for each in await node.control.adapters()] == [ending.name]


def _seconds(text: str) -> float:
    return time.mktime(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ")) - time.timezone


# --- sleep -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asleep_s", [1.0, pytest.param(60.0, marks=pytest.mark.soak)])
def test_laptop_that_sleeps_in_the_middle_of_a_transfer_goes_on_with_it(
    tmp_path: Path, big_files: Path, asleep_s: float
) -> None:
    """A stopped process sees what a machine sees that slept. After 45 s the peer has given the connection up."""
    with (
        standin(tmp_path / "a-store", adapters="accept") as ollama_a,
        standin(tmp_path / "b-store") as ollama_b,
        Sidecar(tmp_path / "a", ollama_a, tmp_path / "a-store", args=["--upload-limit", "6MiB"]) as a,
        Sidecar(tmp_path / "b", ollama_b, tmp_path / "b-store", peers=[a.listening]) as b,
    ):
        for url in (ollama_a, ollama_b):
            run_base(url, big_files)
        run_adapter(ollama_a, big_files, "sql-lora")
        ask_a, ask_b = Api(a), Api(b)
        ask_b.post("/rooms/join", room=ask_a.post("/rooms", label="team")["code"], label="team")
        ask_a.post("/shares", what="sql-lora", room="team")
        transfer = ask_b.post("/transfers", ref=ask_b.row("sql-lora")["ref"])["id"]

        def some() -> int:
            return int(ask_b.get(f"/transfers/{transfer}")["done_bytes"])

        before = wait_for(some, "the first chunks")
        assert b.process is not None
        os.kill(b.process.pid, signal.SIGSTOP)
        time.sleep(asleep_s)
        os.kill(b.process.pid, signal.SIGCONT)
        assert some() < 12 << 20
        ended = ask_b.finished(transfer, 60.0)
        if ended["state"] != "done":  # all of its sources were lost: what was fetched is kept
            assert ended["error"]["code"] == "no-providers", ended["error"]
            assert ended["done_bytes"] >= before
            ended = ask_b.got(ask_b.row("sql-lora")["ref"])
        assert ended["result"]["fetched_bytes"] <= ended["result"]["size"]


@pytest.mark.soak
async def test_laptop_that_slept_for_a_minute_is_back_in_its_rooms_on_the_internet(tmp_path: Path, files: Path) -> None:
    """Its peer gave it up, its connections are dead, its announces ran out of relays."""
    async with testnet(4) as bootstrap:
        with (
            standin(tmp_path / "a-store", adapters="accept") as ollama_a,
            standin(tmp_path / "b-store") as ollama_b,
            Sidecar(tmp_path / "a", ollama_a, tmp_path / "a-store", bootstrap=bootstrap) as a,
            Sidecar(tmp_path / "b", ollama_b, tmp_path / "b-store", bootstrap=bootstrap) as b,
        ):
            await to_thread.run_sync(_sleep_apart, a, b, files)


def _sleep_apart(a: Sidecar, b: Sidecar, files: Path) -> None:
    ask_a, ask_b = Api(a), Api(b)
    ask_b.post("/rooms/join", room=ask_a.post("/rooms", label="team")["code"], label="team")
    for url in (a.ollama, b.ollama):
        run_base(url, files)
    run_adapter(a.ollama, files, "sql-lora")
    ask_a.post("/shares", what="sql-lora", room="team")
    ask_b.row("sql-lora")
    assert b.process is not None
    os.kill(b.process.pid, signal.SIGSTOP)
    wait_for(lambda: not ask_a.get("/rooms")[0]["peers"], "the peer to be given up", 60.0)
    time.sleep(30)
    os.kill(b.process.pid, signal.SIGCONT)
    begun = time.monotonic()
    wait_for(lambda: ask_a.get("/rooms")[0]["peers"] == 1, "the peer to be back", 60.0)
    print(f"\nback after {time.monotonic() - begun:.1f} s")
    ask_b.got(ask_b.row("sql-lora")["ref"])


@pytest.mark.soak
@pytest.mark.skipif(why_not() is not None, reason=why_not() or "")
def test_network_that_is_gone_and_back_leads_back_into_the_room(tmp_path: Path) -> None:
    """The cable of one of two members is pulled, until both have noticed, and put back."""
    nodes = [f"11.1.{number}.1" for number in range(1, 5)]
    with ExitStack() as stack:
        here, there = stack.enter_context(Namespace()), stack.enter_context(Namespace())
        here.link("cable", there, "cable")
        here.ip("address add 11.3.0.1/8 dev cable")
        there.ip(*(f"address add {host}/8 dev cable" for host in (*nodes, "11.2.0.1")))
        dht = stack.enter_context(Peer("py", prefix=there.prefix))
        bootstrap = dht.call("testnet", hosts=nodes, port=49737)["bootstrap"]
        sides = [
            stack.enter_context(
                Sidecar(
                    tmp_path / name,
                    "http://127.0.0.1:9",
                    listen=f"{host}:0",
                    bootstrap=bootstrap,
                    prefix=namespace.prefix,
                )
            )
            for name, host, namespace in (("a", "11.2.0.1", there), ("b", "11.3.0.1", here))
        ]
        code = sides[0].ok("room", "create", "team", "--json").json["code"]
        sides[1].ok("room", "join", "-", "--label", "team", stdin=code)

        def peers() -> list[int]:
            return [side.ok("room", "list", "--json").json[0]["peers"] for side in sides]

        wait_for(lambda: peers() == [1, 1], "each other")
        here.ip("link set cable down")
        wait_for(lambda: peers() == [0, 0], "the other one to be given up", 60.0)
        time.sleep(15)
        here.ip("link set cable up")
        begun = time.monotonic()
        wait_for(lambda: peers() == [1, 1], "each other again", 90.0)
        print(f"\nback after {time.monotonic() - begun:.1f} s")
