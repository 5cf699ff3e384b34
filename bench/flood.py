"""Floods against one node on loopback (T18): what they cost it, and whether an honest peer still connects.

    make bench ARGS=flood

The victim is a process of its own: a node with a server and a blind relay. Three more are the network's other nodes, the
attackers and the honest peer. All share the cores of this machine, so the time to connect also has the flood's own cost in it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import anyio

sys.path.insert(0, str(Path(__file__).parent.parent / "hyperdht-py" / "tests"))
sys.path.insert(0, str(Path(__file__).parent.parent))

from hyperdht_tests import flooding

from bench.common import cpu_seconds, peak_mb, reset_peak
from hyperdht import BlindRelay, HyperDHT, HyperDHTError, KeyPair, Protomux, SecretStream, testnet
from hyperdht.addresses import Address
from hyperdht.dht.blind_relay_messages import PROTOCOL, MessageType, Pair, encode_pair

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LOOPBACK = "127.0.0.1"
DATAGRAMS = 3000
SECONDS = 8.0
CONNECT_EVERY_S = 0.5
CONNECT_TIMEOUT_S = 10.0
CLIENTS = 300
PAIRS = 100
"""Asked for by each of CLIENTS / 10 clients of the relay."""


class Network(NamedTuple):
    """Who is attacked, and through whom."""

    pid: int
    victim: Address
    public_key: bytes
    relay_key: bytes
    bootstrap: list[str]


@dataclass
class Measured:
    """One flood."""

    name: str
    sent: int = 0
    connect_s: list[float] = field(default_factory=list)
    failed: int = 0
    cpu: float = 0.0
    peak_mb: float = 0.0
    files: int = 0

    def row(self) -> str:
        times = sorted(self.connect_s) or [float("nan")]
        return (
            f"| {self.name} | {self.sent / SECONDS:,.0f} | {len(self.connect_s)} of {len(self.connect_s) + self.failed} "
            f"| {statistics.median(times) * 1000:.0f} / {times[-1] * 1000:.0f} | {self.cpu:.0%} | {self.peak_mb:.0f} | {self.files} |"
        )


HEADER = (
    "| flood | packets or calls a second | honest peer connects | ms, median / longest | CPU of one core | peak RSS, MB | open files |\n"
    "|---|---|---|---|---|---|---|"
)


# --- the victim's process


async def _victim(bootstrap: list[str], firewalled: bool) -> None:
    async with (
        HyperDHT(
            bootstrap=bootstrap,
            host=LOOPBACK,
            port=0,
            firewalled=firewalled,
            ephemeral=None if firewalled else False,
            public_host=None if firewalled else LOOPBACK,
        ) as dht,
        dht.listen(KeyPair.generate()) as server,
        BlindRelay(dht) as relay,
        anyio.create_task_group() as tasks,
    ):
        print(dht.port, server.public_key.hex(), relay.public_key.hex(), flush=True)
        async for stream in server:
            tasks.start_soon(_hold, stream)


async def _hold(stream: SecretStream) -> None:
    async with stream:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            await stream.receive()


async def _network() -> None:
    async with testnet(5) as bootstrap:
        print(*bootstrap, flush=True)
        await anyio.sleep_forever()


@contextmanager
def _process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    with subprocess.Popen([sys.executable, __file__, *arguments], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().split()
        finally:
            process.kill()


@contextmanager
def _running(firewalled: bool) -> Iterator[Network]:
    with _process("network") as (_, bootstrap), _process("victim", str(firewalled), *bootstrap) as (victim, told):
        yield Network(
            victim.pid, Address(LOOPBACK, int(told[0])), bytes.fromhex(told[1]), bytes.fromhex(told[2]), bootstrap
        )


# --- measuring


async def _honest(network: Network, measured: Measured) -> None:
    """Another peer each time, with the node of a program that has been running for a while."""
    until = time.monotonic() + SECONDS
    async with HyperDHT(bootstrap=network.bootstrap, host=LOOPBACK, port=0, firewalled=True) as dht:
        await dht.fully_bootstrapped()
        while (started := time.monotonic()) < until:
            try:
                with anyio.fail_after(CONNECT_TIMEOUT_S):
                    stream = await dht.connect(network.public_key, key_pair=KeyPair.generate())
                measured.connect_s.append(time.monotonic() - started)
                await anyio.aclose_forcefully(stream)
            except (HyperDHTError, TimeoutError):
                measured.failed += 1
            measured.files = max(measured.files, len(os.listdir(f"/proc/{network.pid}/fd")))
            await anyio.sleep(max(0.0, started + CONNECT_EVERY_S - time.monotonic()))


def _measure(network: Network, measured: Measured) -> None:
    reset_peak(network.pid)
    before, started = cpu_seconds(network.pid), time.monotonic()
    anyio.run(_honest, network, measured)
    measured.cpu = (cpu_seconds(network.pid) - before) / (time.monotonic() - started)
    measured.peak_mb = peak_mb(network.pid)


def _packets(
    name: str,
    make: Callable[[Network], flooding.Datagrams],
    *,
    sources: int,
    per_s: float,
    firewalled: bool = False,
    through_relays: bool = False,
) -> Measured:
    measured = Measured(name)
    with _running(firewalled) as network, flooding.strangers(sources) as socks:
        datagrams = make(network)
        to = [_address(node) for node in network.bootstrap] if through_relays else [network.victim]
        with flooding.flood(to, datagrams, socks, per_s=per_s) as sent:
            _measure(network, measured)
            measured.sent = sent[0]
    return measured


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return Address(host, int(port))


def _announces(per_s: float) -> Measured:
    measured = Measured("announces, one address")
    with _running(firewalled=False) as network, flooding.strangers(1) as socks:
        datagrams = flooding.announces(network.victim, socks[0], DATAGRAMS)
        with flooding.flood([network.victim], datagrams, socks, per_s=per_s) as sent:
            _measure(network, measured)
            measured.sent = sent[0]
    return measured


def _calls(name: str, kind: str) -> Measured:
    measured = Measured(name)
    with _running(firewalled=False) as network, ExitStack() as stack:
        key = network.relay_key if kind == "pairs" else network.public_key
        _, told = stack.enter_context(_process("clients", kind, key.hex(), *network.bootstrap))
        measured.sent = int(told[0])
        _measure(network, measured)
    return measured


async def _clients(kind: str, public_key: bytes, bootstrap: list[str]) -> None:
    """Many connections that are never used, or that ask a relay for many pairs whose other side never comes."""
    count = CLIENTS // 10 if kind == "pairs" else CLIENTS
    limiter = anyio.CapacityLimiter(8)
    async with HyperDHT(bootstrap=bootstrap, host=LOOPBACK, port=0) as dht, anyio.create_task_group() as tasks:

        async def connect() -> None:
            async with limiter:
                stream = await dht.connect(public_key, key_pair=KeyPair.generate())
            if kind == "pairs":
                tasks.start_soon(_ask_for_pairs, stream)

        async with anyio.create_task_group() as connecting:
            for _ in range(count):
                connecting.start_soon(connect)
        print(count * (PAIRS if kind == "pairs" else 1), flush=True)
        await anyio.sleep_forever()


async def _ask_for_pairs(stream: SecretStream) -> None:
    async with Protomux(stream) as mux:
        channel = await mux.open_channel(PROTOCOL, stream.public_key)
        for number in range(PAIRS):
            pair = Pair(True, os.urandom(32), 1 + number)
            await channel.send(MessageType.PAIR, encode_pair(pair))
        await anyio.sleep_forever()


def run() -> str:
    """The table."""
    rows = [HEADER]

    def valid(network: Network) -> flooding.Datagrams:
        return flooding.handshakes(network.public_key, network.victim, DATAGRAMS)

    def with_relay(network: Network) -> flooding.Datagrams:
        return flooding.handshakes(network.public_key, network.victim, DATAGRAMS, relay_through=True)

    def noise(network: Network) -> flooding.Datagrams:
        return flooding.garbage_handshakes(network.public_key, network.victim, DATAGRAMS)

    def questions(network: Network) -> flooding.Datagrams:
        return flooding.lookups(network.victim, DATAGRAMS)

    floods: list[Callable[[], Measured]] = [
        lambda: _packets("none", noise, sources=1, per_s=0),
        lambda: _packets("none, behind a firewall", noise, sources=1, per_s=0, firewalled=True),
        lambda: _packets("handshakes, one address", valid, sources=1, per_s=2000),
        lambda: _packets("handshakes, 200 addresses", valid, sources=200, per_s=2000),
        lambda: _packets("garbage, 200 addresses", noise, sources=200, per_s=2000),
        lambda: _packets("handshakes naming a relay, 200 addresses", with_relay, sources=200, per_s=2000),
        lambda: _packets(
            "handshakes through relays, 200 addresses, behind a firewall",
            valid,
            sources=200,
            per_s=2000,
            firewalled=True,
            through_relays=True,
        ),
        lambda: _packets("FIND_NODE, 200 addresses", questions, sources=200, per_s=2000),
        lambda: _announces(2000),
        lambda: _calls(f"{CLIENTS} connections never used", "connections"),
        lambda: _calls(f"{CLIENTS // 10} x {PAIRS} pairs asked of the blind relay", "pairs"),
    ]
    for each in floods:
        rows.append(each().row())
        print(rows[-1], file=sys.stderr, flush=True)
    return "\n".join(rows)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["victim", firewalled, *nodes]:
            anyio.run(_victim, nodes, firewalled == "True")
        case ["network"]:
            anyio.run(_network)
        case ["clients", kind, key, *nodes]:
            anyio.run(_clients, kind, bytes.fromhex(key), nodes)
        case _:
            print(run())
