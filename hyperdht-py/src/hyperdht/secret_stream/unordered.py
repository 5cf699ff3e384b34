"""Messages beside the stream: encrypted datagrams that may be lost, repeated or reordered (over UDX only).

Envelope: 8-byte counter, 16-byte MAC, ciphertext (XSalsa20-Poly1305, nonce = counter and 16 zero bytes). There is no check
for repeated envelopes. Source: @hyperswarm/secret-stream 6.9.2 `_setupSecretSend`, `_boxMessage`, `_onmessage`.
"""

import os

from ..crypto import blake2b, secretbox_open, secretbox_seal
from ..errors import LocalProtocolError
from .stream import INITIATOR, RESPONDER, SEND

COUNTER_BYTES = 8
MAC_BYTES = 16
NONCE_BYTES = 24


class UnorderedBox:
    """Seals our envelopes and opens the peer's."""

    def __init__(self, handshake_hash: bytes, *, is_initiator: bool, counter: bytes | None = None) -> None:
        """`counter` is for replaying recorded sessions; without it counting starts at a random place."""
        ours, theirs = (INITIATOR, RESPONDER) if is_initiator else (RESPONDER, INITIATOR)
        self._seal_key = blake2b(ours + SEND, key=handshake_hash)
        self._open_key = blake2b(theirs + SEND, key=handshake_hash)
        self._start = os.urandom(COUNTER_BYTES) if counter is None else counter
        self._counter = self._start

    def seal(self, message: bytes) -> bytes:
        """The next envelope.

        Raises:
            LocalProtocolError: All 2^64 counters are used up.
        """
        following = (int.from_bytes(self._counter, "little") + 1) % (1 << 8 * COUNTER_BYTES)
        counter = following.to_bytes(COUNTER_BYTES, "little")
        if counter == self._start:
            raise LocalProtocolError("no counter is left for another message")
        self._counter = counter
        return counter + secretbox_seal(message, counter.ljust(NONCE_BYTES, b"\0"), self._seal_key)

    def open(self, envelope: bytes) -> bytes | None:
        """The message, or None when the envelope is damaged or not the peer's: such are dropped in silence."""
        if len(envelope) < COUNTER_BYTES + MAC_BYTES:
            return None
        counter, sealed = envelope[:COUNTER_BYTES], envelope[COUNTER_BYTES:]
        return secretbox_open(sealed, counter.ljust(NONCE_BYTES, b"\0"), self._open_key)
