"""How the dials of a swarm ended: for whoever wants to know why a peer is not reached.

A swarm forgets a peer that it gave up; its log does not, until others take the place.
"""

from collections import Counter, OrderedDict
from dataclasses import dataclass

from ..errors import ConnectError, ConnectionClosed, HolepunchError

# Keys cost nothing and anybody can announce under a known topic. An honest topic has fewer peers that fail.
MAX_REPORTS = 256


@dataclass(frozen=True, slots=True)
class DialReport:
    """How the newest dial of a peer ended."""

    public_key: bytes
    topics: frozenset[bytes]
    """Ours under which the peer was known then."""
    at: float
    """On the clock of the swarm."""
    code: str | None = None
    """Why it failed: `ConnectError.code`, `TIMEOUT`, `CLOSED` (reached, and gone before it opened) or `OTHER`. None: it opened."""
    detail: str = ""
    """The cause in words."""
    failures: int = 0
    """In a row, this one included."""
    relay: bytes | None = None
    """The blind relay that was to help."""
    local_firewall: int = 0
    """Which NAT was found before us, a `Firewall`; 0 where it was not looked at."""
    remote_firewall: int = 0
    """The same of the peer."""


class DialLog:
    """The newest report of each of the last peers dialled, and how often each cause occurred."""

    def __init__(self) -> None:
        self.opened = 0
        """Dials that opened a connection."""
        self.failures: Counter[str] = Counter()
        """Those that did not, by `DialReport.code`."""
        self._reports: OrderedDict[bytes, DialReport] = OrderedDict()

    def __len__(self) -> int:
        return len(self._reports)

    def get(self, public_key: bytes) -> DialReport | None:
        """How the newest dial of a peer ended; None if that is not known (any more)."""
        return self._reports.get(public_key)

    def reports(self) -> tuple[DialReport, ...]:
        """All that are remembered, the newest last."""
        return tuple(self._reports.values())

    def succeed(self, public_key: bytes, topics: frozenset[bytes], *, relay: bytes | None, now: float) -> None:
        """A dial opened a connection."""
        self.opened += 1
        self._add(DialReport(public_key, topics, now, relay=relay))

    def fail(
        self, public_key: bytes, topics: frozenset[bytes], error: Exception, *, relay: bytes | None, now: float
    ) -> None:
        """A dial failed."""
        before = self._reports.get(public_key)
        code = code_of(error)
        self.failures[code] += 1
        punching = error if isinstance(error, HolepunchError) else None
        self._add(
            DialReport(
                public_key,
                topics,
                now,
                code,
                str(error),
                failures=1 if before is None else before.failures + 1,
                relay=relay,
                local_firewall=0 if punching is None else punching.local_firewall,
                remote_firewall=0 if punching is None else punching.remote_firewall,
            )
        )

    def _add(self, report: DialReport) -> None:
        self._reports.pop(report.public_key, None)
        self._reports[report.public_key] = report
        if len(self._reports) > MAX_REPORTS:
            self._reports.popitem(last=False)


def code_of(error: Exception) -> str:
    """The name of what a dial failed by."""
    if isinstance(error, ConnectError):
        return error.code
    if isinstance(error, TimeoutError):
        return "TIMEOUT"
    return "CLOSED" if isinstance(error, ConnectionClosed) else "OTHER"
