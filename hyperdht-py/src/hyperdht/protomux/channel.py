"""One lane of a connection."""
# ruff: noqa: A002 - `id` and `type` are the protocol's own words

from typing import TYPE_CHECKING, Any

from ..buffers import Body, BytesLike

if TYPE_CHECKING:
    from .mux import Mux

Key = tuple[str, bytes | None]


class Channel:
    """Made by `Mux.create_channel`. It is open once both sides opened it; messages may be sent right after our own open.

    created --open()--> waiting --peer's open--> open --close(), peer's close--> closed
                           |--peer's reject, close()---------------------------> closed
    """

    __slots__ = (
        "_mux",
        "aliases",
        "closed",
        "context",
        "id",
        "local_id",
        "open_sent",
        "opened",
        "protocol",
        "remote_id",
    )

    def __init__(self, mux: "Mux", protocol: str, id: bytes | None, aliases: tuple[str, ...]) -> None:
        self._mux = mux
        self.protocol = protocol
        self.id = id
        self.aliases = aliases
        """Other protocol names of the peer that find this channel."""
        self.local_id = 0
        """Our number for it, from 1; 0 before `open` and after closing."""
        self.remote_id = 0
        """The peer's number for it, from 1; 0 as long as it has none."""
        self.open_sent = False
        self.opened = False
        """Whether both sides opened it; stays true after closing."""
        self.closed = False
        self.context: Any = None
        """For the owner."""

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open" if self.opened else "waiting" if self.open_sent else "created"
        return f"<Channel {self.protocol!r} {state}>"

    @property
    def keys(self) -> tuple[Key, ...]:
        """Under which names a peer's open finds this channel."""
        return tuple((name, self.id) for name in (self.protocol, *self.aliases))

    def open(self, handshake: BytesLike = b"") -> None:
        """Send our open with `handshake` attached.

        Raises:
            LocalProtocolError: Opened or closed before.
        """
        self._mux.open_channel(self, handshake)

    def send(self, type: int, body: Body) -> None:
        """Send a message; dropped in silence when the channel is closed, since the peer may have closed it meanwhile.

        While the mux is corked, `body` must not change until the messages are taken.

        Raises:
            LocalProtocolError: Not opened yet.
        """
        self._mux.send_message(self, type, body)

    def close(self) -> None:
        """Close it; the peer is told and does not answer. Once more does nothing."""
        self._mux.close_channel(self)
