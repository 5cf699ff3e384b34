"""A program's wish for a topic."""

from types import TracebackType
from typing import TYPE_CHECKING, Self

from ..swarm import Discovery, DiscoveryState, Session

if TYPE_CHECKING:
    from .swarm import Hyperswarm


class SwarmSession:
    """Made by `Hyperswarm.join`. Leaving its `async with` block leaves the topic, unless other sessions want it."""

    def __init__(self, swarm: "Hyperswarm", session: Session) -> None:
        self._swarm = swarm
        self._session = session

    @property
    def topic(self) -> bytes:
        return self._discovery.topic

    @property
    def left(self) -> bool:
        """Whether this session, or the whole topic, was left."""
        return self._session.left

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.leave()

    async def flushed(self) -> bool:
        """Wait until the walk under way is done: we are announced, and the peers it found are being dialled.

        Returns:
            Whether it succeeded. False also when the topic is left or the swarm suspended meanwhile.
        """
        await self._swarm.until(lambda: self._discovery.settled)
        return self._discovery.succeeded and self._discovery.state is DiscoveryState.ACTIVE

    async def refresh(
        self, *, server: bool | None = None, client: bool | None = None, limit: int | None = None
    ) -> bool:
        """Walk again now; with arguments, as something else from now on. Returns what `flushed` does.

        Args:
            limit: As for `Hyperswarm.join`; None for no limit.

        Raises:
            LocalProtocolError: The session was left, or would be neither server nor client.
        """
        session = self._session
        self._discovery.change_session(
            session,
            server=session.server if server is None else server,
            client=session.client if client is None else client,
            limit=limit,
            now=self._swarm.now(),
        )
        self._swarm.pump()
        return await self.flushed()

    async def leave(self) -> None:
        """End it. With the last session of a topic our announce is taken back, which this waits for."""
        await self._swarm.leave_session(self._session)

    async def aclose(self) -> None:
        """The same."""
        await self.leave()

    @property
    def _discovery(self) -> Discovery:
        return self._session.discovery
