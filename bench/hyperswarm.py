"""The whole stack in two processes: official and ours in every combination, over loopback or over a line with delay and loss.

A case is named after the sender and the receiver. The sender searches a topic, the receiver announced it, and a message of 64 KiB is
written at a time. Every run has new processes; the cases take turns in every round. The DHT is the official one.

MB/s is from the first to the last byte at the receiver. CPU seconds are what each process used between being told to send or to
receive and the end. Peak memory is that of the whole process, the interpreter included (Linux).
"""

from __future__ import annotations

import secrets
import statistics
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.common import MIB, peak_mb
from tests.interop.dht_peers import Kind, Peer, transfer
from tests.natlab.lab import ANY_HOST, Lab

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE = "js to js"
TRANSFER_S = 600.0
LOSSES = (0.0, 0.001, 0.01)
ONE_WAY_S = 0.025


@dataclass(frozen=True)
class Case:
    """Who sends to whom, and how our side is set up."""

    sender: Kind
    receiver: Kind
    offload: bool = True
    """Whether ours may use UDP_SEGMENT and UDP_GRO."""

    @property
    def name(self) -> str:
        return f"{self.sender} to {self.receiver}{'' if self.offload else ', no GSO'}"

    def options(self, kind: Kind) -> dict[str, Any]:
        return {} if self.offload or kind == "js" else {"offload": False}


CASES = [Case("js", "js"), Case("py", "py"), Case("py", "js"), Case("js", "py"), Case("py", "py", offload=False)]


@dataclass
class Row:
    """All runs of one case."""

    case: str
    mb_s: list[float] = field(default_factory=list)
    send_cpu: list[float] = field(default_factory=list)
    receive_cpu: list[float] = field(default_factory=list)
    send_mb: list[float] = field(default_factory=list)
    receive_mb: list[float] = field(default_factory=list)

    @property
    def cpu(self) -> list[float]:
        return [sum(pair) for pair in zip(self.send_cpu, self.receive_cpu, strict=True)]


@contextmanager
def loopback() -> Iterator[dict[str, Any]]:
    """What a peer on 127.0.0.1 is started with."""
    with Peer("js") as dht:
        yield {"bootstrap": dht.testnet()}


@contextmanager
def meeting(case: Case, sender_prefix: list[str], receiver_prefix: list[str], **options: Any) -> Iterator[Meeting]:
    """A new connection between two new processes."""
    with ExitStack() as stack:
        receiver = stack.enter_context(Peer(case.receiver, prefix=receiver_prefix))
        sender = stack.enter_context(Peer(case.sender, prefix=sender_prefix))
        for peer in (receiver, sender):
            peer.call("init", kind="swarm", **case.options(peer.kind), **options)
        topic = secrets.token_hex(32)
        receiver.call("join", topic=topic, server=True, client=False)
        sender.call("join", topic=topic, server=False, client=True, flush=False)
        yield Meeting(sender, sender.event("connection")["conn"], receiver, receiver.event("connection")["conn"])


@dataclass(frozen=True)
class Meeting:
    sender: Peer
    conn: int
    receiver: Peer
    remote: int

    def measure(self, row: Row, mib: int, *, hashed: bool) -> None:
        """Transfer once and add what it took."""
        size = mib * MIB
        sent, received = transfer(self.sender, self.conn, self.receiver, self.remote, size, TRANSFER_S, hash=hashed)
        if sent["sha256"] != received["sha256"] or "closed" in received:
            raise RuntimeError(f"{row.case}: what arrived is not what was sent")
        row.mb_s.append(size / 1e6 / received["seconds"])
        row.send_cpu.append(sent["cpu"] / (size / 1e9))
        row.receive_cpu.append(received["cpu"] / (size / 1e9))
        row.send_mb.append(peak_mb(self.sender.pid))
        row.receive_mb.append(peak_mb(self.receiver.pid))


def transfers(cases: list[Case], mib: int, rounds: int, *, hashed: bool) -> list[Row]:
    """Over loopback."""
    rows = [Row(case.name) for case in cases]
    with loopback() as options:
        for number in range(rounds):
            for case, row in zip(cases, rows, strict=True):
                with meeting(case, [], [], firewalled=False, **options) as both:
                    both.measure(row, mib, hashed=hashed)
                _tell(number, row)
    return rows


def over_a_line(cases: list[Case], mib: int, rounds: int, loss: float) -> list[Row]:
    """Between two namespaces, 50 ms there and back, losing a share of the packets in each direction."""
    rows = [Row(case.name) for case in cases]
    with Lab(delay_s=ONE_WAY_S / 2) as lab:
        options: dict[str, Any] = {"bootstrap": lab.bootstrap, "host": ANY_HOST, "firewalled": False}
        for number in range(rounds):
            for case, row in zip(cases, rows, strict=True):
                with lab.site("open", loss=loss) as here, lab.site("open") as there:
                    prefixes = here.hosts[0].prefix, there.hosts[0].prefix
                    with meeting(case, *prefixes, **options) as both:
                        both.measure(row, mib, hashed=False)
                _tell(number, row)
    return rows


def table(rows: list[Row]) -> str:
    """Ratios are medians of round-by-round ratios to the official stack at both ends."""
    base = next((row for row in rows if row.case == BASE), None)
    lines = [
        "| from, to | MB/s min / median / max | CPU s/GB sender, receiver, both | MB/s ratio | CPU ratio | peak RSS MB sender, receiver |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        speed = f"{min(row.mb_s):.0f} / {statistics.median(row.mb_s):.0f} / {max(row.mb_s):.0f}"
        cpu = ", ".join(f"{statistics.median(each):.2f}" for each in (row.send_cpu, row.receive_cpu, row.cpu))
        faster, cheaper = (_ratio(row.mb_s, base.mb_s), _ratio(row.cpu, base.cpu)) if base else ("", "")
        lines.append(
            f"| {row.case} | {speed} | {cpu} | {faster} | {cheaper} | {max(row.send_mb):.0f}, {max(row.receive_mb):.0f} |"
        )
    return "\n".join(lines)


def _ratio(values: list[float], base: list[float]) -> str:
    ratios = [a / b for a, b in zip(values, base, strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _tell(number: int, row: Row) -> None:
    print(
        f"round {number + 1}, {row.case}: {row.mb_s[-1]:.0f} MB/s, {row.cpu[-1]:.2f} CPU s/GB",
        file=sys.stderr,
        flush=True,
    )
