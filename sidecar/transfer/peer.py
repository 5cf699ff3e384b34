"""One source of a running fetch: the source, its task's scope, and which of its request ids mean which ticket."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio

from sidecar.transfer.source import ChunkSource, SourceLost

if TYPE_CHECKING:
    from ollama_bridge.digests import Digest
    from sidecar.transfer.scheduler_events import Request

REMEMBERED_REQUESTS = 256
"""More than can be owed and late together (64 each), so an id that is forgotten was surely not asked for."""
UNKNOWN_TICKET = 0


class Peer:
    """See the module docstring."""

    def __init__(self, source: ChunkSource) -> None:
        self.source = source
        self.scope = anyio.CancelScope()
        self.complete = False
        """Whether it holds the whole blob, so that its holdings need not be asked again."""
        self.asking = False
        self._tickets: dict[int, int] = {}  # in order of asking

    def request(self, digest: Digest, command: Request) -> None:
        """Send a request. A source that cannot be asked any more is ended."""
        try:
            request_id = self.source.request(digest, command.first, command.count)
        except SourceLost:
            self.scope.cancel()
            return
        self._tickets[request_id] = command.ticket
        if len(self._tickets) > REMEMBERED_REQUESTS:
            del self._tickets[next(iter(self._tickets))]

    def cancel(self, ticket: int) -> None:
        """Take a request back."""
        for request_id, its_ticket in self._tickets.items():
            if its_ticket == ticket:
                self.source.cancel(request_id)
                return

    def ticket_of(self, request_id: int) -> int:
        """The scheduler's name for a request, `UNKNOWN_TICKET` for one that was never made."""
        return self._tickets.get(request_id, UNKNOWN_TICKET)
