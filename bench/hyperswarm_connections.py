"""What a connection costs: to make, to wait for its first byte, to keep."""

from __future__ import annotations

import secrets
import statistics
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from bench.common import cpu_seconds, resident_mb
from bench.hyperswarm import loopback
from tests.interop.dht_peers import Kind, Peer

if TYPE_CHECKING:
    from bench.hyperswarm import Case

CONNECT_S = 300.0
SEVERAL = 8
"""Connections that are made at a time, where many are."""
MS = 1000


class Made(NamedTuple):
    """One round of making connections, one after the other."""

    per_second: float
    client_ms: float
    server_ms: float


def rate(cases: list[Case], count: int, rounds: int) -> str:
    """Connections a second: found in the DHT, handshake, opened, destroyed; with other keys each time."""
    made: dict[str, list[Made]] = {case.name: [] for case in cases}
    with loopback() as options:
        for _ in range(rounds):
            for case in cases:
                with Peer(case.receiver) as server, Peer(case.sender) as client:
                    for peer in (server, client):
                        peer.call("init", firewalled=False, **options)
                    key = server.call("listen")["publicKey"]
                    client.call("connectMany", CONNECT_S, publicKey=key, count=1)
                    before = cpu_seconds(server.pid)
                    done = client.call("connectMany", CONNECT_S, publicKey=key, count=count)
                    used = cpu_seconds(server.pid) - before
                    made[case.name].append(Made(count / done["seconds"], done["cpu"] / count * MS, used / count * MS))
    lines = ["| client to server | connections a second | CPU ms each, client | server |", "|---|---|---|---|"]
    for name, runs in made.items():
        values = [statistics.median(each) for each in zip(*runs, strict=True)]
        lines.append(f"| {name} | {values[0]:.0f} | {values[1]:.2f} | {values[2]:.2f} |")
    return "\n".join(lines)


def first_byte(cases: list[Case], rounds: int) -> str:
    """From a client's join to the connection, and to the first byte of the server, which announced before."""
    times: dict[str, list[tuple[float, float]]] = {case.name: [] for case in cases}
    with loopback() as options:
        for _ in range(rounds):
            for case in cases:
                with Peer(case.receiver) as server, Peer(case.sender) as client:
                    server.call("init", kind="swarm", greet=b"hello".hex(), firewalled=False, **options)
                    client.call("init", kind="swarm", firewalled=False, **options)
                    topic = secrets.token_hex(32)
                    server.call("join", topic=topic, server=True, client=False)
                    joined = client.call("join", topic=topic, server=False, client=True, flush=False)["at"]
                    opened, heard = client.event("connection")["at"], client.event("data")["at"]
                    times[case.name].append(((opened - joined) * MS, (heard - joined) * MS))
    lines = ["| client to server | connection, ms median (worst) | first byte, ms median (worst) |", "|---|---|---|"]
    for name, runs in times.items():
        columns = [f"{statistics.median(each):.1f} ({max(each):.1f})" for each in zip(*runs, strict=True)]
        lines.append(f"| {name} | {' | '.join(columns)} |")
    return "\n".join(lines)


def idle(kinds: list[Kind], count: int, seconds: float) -> str:
    """Keep connections between two processes of a kind and do nothing but keep them alive."""
    lines = [
        "| | connections | share of a core, client | server | resident MB over none, client | server | made in s |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind in kinds:
        with ExitStack() as stack:
            options = stack.enter_context(loopback())
            server, client = (stack.enter_context(Peer(kind)) for _ in range(2))
            for peer in (server, client):
                peer.call("init", firewalled=False, **options)
            key = server.call("listen")["publicKey"]
            peers = (client, server)
            bare = [resident_mb(peer.pid) for peer in peers]
            made = client.call("connectMany", CONNECT_S, publicKey=key, count=count, keep=True, parallel=SEVERAL)
            before = [cpu_seconds(peer.pid) for peer in peers]
            time.sleep(seconds)
            share = [(cpu_seconds(peer.pid) - was) / seconds for peer, was in zip(peers, before, strict=True)]
            open_now = [len(peer.call("open")) for peer in peers]
            if open_now != [count, count]:
                raise RuntimeError(f"{kind}: of {count} connections {open_now} are left")
            more = [resident_mb(peer.pid) - was for peer, was in zip(peers, bare, strict=True)]
            lines.append(
                f"| {kind} | {count} | {share[0]:.1%} | {share[1]:.1%} | {more[0]:.0f} | {more[1]:.0f} | {made['seconds']:.1f} |"
            )
    return "\n".join(lines)
