"""The newest connection with each of the last peers that is over, or that was not let in: for whoever explains connections."""

from __future__ import annotations

from collections import Counter, OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.control_types import Road
    from sidecar.diagnosis.facts import Refusal

    from .peer import PeerConnection

MAX_MEETINGS = 256
"""Connecting costs a stranger nothing, so the oldest go."""


@dataclass(frozen=True, slots=True)
class Meeting:
    """One connection that is over."""

    road: Road
    proved: bool
    """Whether the peer was a member of a room of ours."""
    refusal: Refusal
    reason: str
    at: float
    """When it ended, on the network's clock."""


class Meetings:
    """See the module docstring."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.refused: Counter[Refusal] = Counter()
        """Connections that were not let in."""
        self.unproved = 0
        """Connections that ended without a proof."""
        self._clock = clock
        self._by_key: OrderedDict[bytes, Meeting] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: bytes) -> Meeting | None:
        """The newest one with a peer."""
        return self._by_key.get(key)

    def refuse(self, connection: PeerConnection, refusal: Refusal) -> None:
        """A peer was not let in."""
        self.refused[refusal] += 1
        self._add(connection, refusal, "")

    def end(self, connection: PeerConnection, reason: str) -> None:
        """A connection is over."""
        self.unproved += not connection.had_member
        self._add(connection, "", reason)

    def _add(self, connection: PeerConnection, refusal: Refusal, reason: str) -> None:
        self._by_key.pop(connection.key, None)
        self._by_key[connection.key] = Meeting(connection.road, connection.had_member, refusal, reason, self._clock())
        if len(self._by_key) > MAX_MEETINGS:
            self._by_key.popitem(last=False)
