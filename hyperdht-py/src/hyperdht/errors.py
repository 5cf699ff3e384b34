"""What can go wrong, in families split by what the caller does next.

At the boundary of a stream the errors are anyio's own four instead: `EndOfStream` (the peer finished), `BrokenResourceError`
(the connection or the peer failed), `ClosedResourceError` (we closed it) and `BusyResourceError` (two tasks at one end).
"""

from typing import Final


class HyperDHTError(Exception):
    """Any error of this package."""


class LocalProtocolError(HyperDHTError):
    """This program used a machine in a way its state does not allow. A bug here, never the peer's doing."""


class RemoteProtocolError(HyperDHTError):
    """The peer sent what the protocol forbids. Drop the connection; retrying with the same peer is rarely useful."""


class DecodeError(RemoteProtocolError):
    """Bytes that are truncated, too long or no valid encoding."""


class HandshakeError(RemoteProtocolError):
    """The Noise handshake failed: a wrong key, a forged message, or another protocol on that port."""


class RequestTimeout(HyperDHTError, TimeoutError):
    """No answer within the time limit. Trying again may help."""


class ConnectError(HyperDHTError):
    """Connecting to a peer failed. `code` is the name the JavaScript packages give the cause."""

    code = "PEER_CONNECTION_FAILED"
    summary = "The peer is known but nobody got an answer from it: it may be gone, or it refuses us."

    def __init__(self, detail: str | None = None) -> None:
        super().__init__(detail or self.summary)


class PeerNotFound(ConnectError):
    """Nobody reachable announced that key."""

    code = "PEER_NOT_FOUND"
    summary = "Nobody reachable knows that public key. The peer is offline, or not in this network."


class PeerIncompatible(ConnectError):
    """The peer speaks another version of the protocol. Trying again does not help."""

    code = "SERVER_INCOMPATIBLE"
    summary = "The peer speaks another version of the protocol."


class PeerFailed(ConnectError):
    """The peer answered with an error of its own."""

    code = "SERVER_ERROR"
    summary = "The peer took the handshake and answered with an error."


class RelayFailed(ConnectError):
    """The blind relay that was to carry the connection did not bring the two sides together."""

    code = "RELAY_ABORTED"
    summary = "The relay did not bring the two sides together in time."


class NodeSuspended(ConnectError):
    """The node is suspended. Resume it first."""

    code = "SUSPENDED"
    summary = "This node is suspended; resume it before connecting."


class HolepunchError(ConnectError):
    """The peer answered, but no packet found a way between the two networks. A relay may help."""

    SUMMARIES: Final[dict[str, str]] = {
        "HOLEPUNCH_ABORTED": "Hole punching was given up.",
        "CANNOT_HOLEPUNCH": "The peer named neither an address nor a way to punch a hole.",
        "HOLEPUNCH_INVALID": "The peer's answer to hole punching cannot be read.",
        "BAD_HOLEPUNCH_REPLY": "A relay answered hole punching with nonsense.",
        "HOLEPUNCH_PROBE_TIMEOUT": "One of the two sides could not find out in time what network it is in.",
        "HOLEPUNCH_DOUBLE_RANDOMIZED_NATS": "Both networks use another port for every destination; only a relay can help.",
        "REMOTE_NOT_HOLEPUNCHABLE": "The peer's network cannot be reached by hole punching.",
        "REMOTE_NOT_HOLEPUNCHING": "The peer did not take part in hole punching.",
        "REMOTE_ABORTED": "The peer gave up hole punching.",
    }

    def __init__(
        self,
        code: str = "HOLEPUNCH_ABORTED",
        detail: str | None = None,
        *,
        local_firewall: int = 0,
        remote_firewall: int = 0,
    ) -> None:
        super().__init__(detail or self.SUMMARIES[code])
        self.code = code
        self.local_firewall = local_firewall
        """Which NAT is before us, a `Firewall`; 0 while unknown. Found for this attempt, which had a socket of its own."""
        self.remote_firewall = remote_firewall
        """The same of the peer, as it told us."""


class ConnectionClosed(HyperDHTError):
    """The connection ended before the answer came."""
