"""What can go wrong, in families split by what the caller does next.

At the boundary of a stream the errors are anyio's own four instead: `EndOfStream` (the peer finished), `BrokenResourceError`
(the connection or the peer failed), `ClosedResourceError` (we closed it) and `BusyResourceError` (two tasks at one end).
"""


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


class PeerNotFound(HyperDHTError):
    """Nobody reachable announced that key."""


class ConnectionClosed(HyperDHTError):
    """The connection ended before the answer came."""
