"""Streams of clients that have not spoken yet (T18).

A handshake is one packet with any sender address in it. What comes of it is a stream and a task that waits for the client,
for 15 s; whoever sends handshakes without end must not collect these.
"""

from collections import Counter
from typing import Protocol

from ..addresses import Address

# A client speaks one round trip after our answer. At the 512 handshakes per second that a server looks at, so many are the
# last second's: the oldest are not those of peers that still come.
MAX_HALF_OPEN = 512
MAX_HALF_OPEN_OF_SOURCE = 64


class Stream(Protocol):
    """What can be given up."""

    def destroy(self) -> None: ...


class HalfOpen:
    """Gives up the oldest when there are too many of one source, or altogether."""

    def __init__(self) -> None:
        self.given_up = 0
        """For lack of room."""
        self._sources: dict[Stream, str | Address] = {}  # in order of arrival
        self._of_source: Counter[str | Address] = Counter()

    def __len__(self) -> int:
        return len(self._sources)

    def add(self, stream: Stream, source: str | Address) -> None:
        """One more."""
        if self._of_source[source] >= MAX_HALF_OPEN_OF_SOURCE:
            self._give_up(next(each for each, its in self._sources.items() if its == source))
        elif len(self._sources) >= MAX_HALF_OPEN:
            self._give_up(next(iter(self._sources)))
        self._sources[stream] = source
        self._of_source[source] += 1

    def discard(self, stream: Stream) -> None:
        """It opened, or is over."""
        source = self._sources.pop(stream, None)
        if source is not None:
            self._of_source[source] -= 1
            if not self._of_source[source]:
                del self._of_source[source]

    def _give_up(self, stream: Stream) -> None:
        self.given_up += 1
        self.discard(stream)
        stream.destroy()
