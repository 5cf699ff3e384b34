"""A Noise handshake, message by message.

    handshake = NoiseHandshake("XX", is_initiator=True, static=key_pair)
    send(handshake.write_message())
    handshake.read_message(receive())
    send(handshake.write_message())
    handshake.keys()                   # transport keys, handshake hash, the peer's static key

Source: The Noise Protocol Framework, revision 34, section 5.3; noise-handshake 4.2.0; docs/protocol/noise.md.
"""

from dataclasses import dataclass, field
from typing import Final, Literal

from ..crypto import AEAD_TAG_BYTES, PUBLIC_KEY_BYTES, KeyPair, diffie_hellman
from ..errors import HandshakeError, LocalProtocolError
from .symmetric import SymmetricState

Pattern = Literal["IK", "XX"]

# The tokens of each message in turn; the initiator writes the first. Of "es" and the like the first letter is the
# initiator's key and the second the responder's: e for ephemeral, s for static.
MESSAGES: Final[dict[Pattern, tuple[tuple[str, ...], ...]]] = {
    "IK": (("e", "es", "s", "ss"), ("e", "ee", "se")),
    "XX": (("e",), ("e", "ee", "s", "es"), ("s", "se")),
}
MAX_MESSAGE_BYTES = 65535  # Noise revision 34, section 3


@dataclass(frozen=True, slots=True)
class HandshakeKeys:
    """What a finished handshake leaves behind."""

    tx: bytes = field(repr=False)
    """32-byte key for what we send."""
    rx: bytes = field(repr=False)
    """32-byte key for what we receive."""
    hash: bytes
    """64 bytes, equal on both sides and different for every handshake: the channel binding."""
    remote_public_key: bytes
    """The peer's static key; it proved that it holds the secret half."""


class NoiseHandshake:
    """One side of a handshake. Any failure is final: make a new one, with a new ephemeral key."""

    def __init__(
        self,
        pattern: Pattern,
        *,
        is_initiator: bool,
        static: KeyPair,
        remote_static: bytes | None = None,
        prologue: bytes = b"",
        ephemeral: KeyPair | None = None,
    ) -> None:
        """
        Args:
            remote_static: The responder's key, which an IK initiator must know beforehand.
            prologue: Bytes both sides must agree on; the 32-byte PEER_HANDSHAKE namespace in the DHT, empty in a stream.
            ephemeral: For replaying recorded handshakes. Never reuse one.
        """
        if pattern == "IK" and is_initiator and remote_static is None:
            raise LocalProtocolError("an IK initiator must know the responder's public key")
        self.is_initiator = is_initiator
        self.remote_static = remote_static
        self._static = static
        self._ephemeral = ephemeral or KeyPair.generate()
        self._remote_ephemeral: bytes | None = None
        self._messages = list(MESSAGES[pattern])
        self._we_write_next = is_initiator
        self._failed = False
        self._keys: HandshakeKeys | None = None
        self._symmetric = SymmetricState(f"Noise_{pattern}_Ed25519_ChaChaPoly_BLAKE2b")
        self._symmetric.mix_hash(prologue)
        if pattern == "IK":
            responder_static = remote_static if is_initiator else static.public_key
            assert responder_static is not None
            self._symmetric.mix_hash(responder_static)

    @property
    def complete(self) -> bool:
        """Whether the last message was written or read."""
        return self._keys is not None

    def keys(self) -> HandshakeKeys:
        """The result.

        Raises:
            LocalProtocolError: The handshake is not complete.
        """
        if self._keys is None:
            raise LocalProtocolError("the handshake is not complete")
        return self._keys

    @property
    def hash(self) -> bytes:
        """The handshake hash so far; final once complete."""
        return self._symmetric.hash

    @property
    def tx(self) -> bytes:
        """32-byte key for what we send, once complete."""
        return self.keys().tx

    @property
    def rx(self) -> bytes:
        """32-byte key for what we receive, once complete."""
        return self.keys().rx

    def write_message(self, payload: bytes = b"") -> bytes:
        """The next message to send.

        Raises:
            LocalProtocolError: It is the peer's turn, or the handshake is over.
            HandshakeError: The peer's keys do not work.
        """
        tokens = self._next_tokens(writing=True)
        out = bytearray()
        for token in tokens:
            if token == "e":  # noqa: S105 - a Noise token, not a password
                out += self._ephemeral.public_key
                self._symmetric.mix_hash(self._ephemeral.public_key)
            elif token == "s":  # noqa: S105
                out += self._symmetric.encrypt_and_hash(self._static.public_key)
            else:
                self._mix_shared_secret(token)
        out += self._symmetric.encrypt_and_hash(payload)
        if len(out) > MAX_MESSAGE_BYTES:
            raise LocalProtocolError(f"a handshake message holds at most {MAX_MESSAGE_BYTES} bytes")
        self._finish_message()
        return bytes(out)

    def read_message(self, message: bytes) -> bytes:
        """Take the peer's next message in and return its payload.

        Raises:
            LocalProtocolError: It is our turn, or the handshake is over.
            HandshakeError: The message is truncated, too long, forged or meant for another key.
        """
        tokens = self._next_tokens(writing=False)
        if len(message) > MAX_MESSAGE_BYTES:
            raise HandshakeError("handshake message is too long")
        rest = message
        for token in tokens:
            if token == "e":  # noqa: S105
                self._remote_ephemeral, rest = _split(rest, PUBLIC_KEY_BYTES)
                self._symmetric.mix_hash(self._remote_ephemeral)
            elif token == "s":  # noqa: S105
                sealed, rest = _split(rest, PUBLIC_KEY_BYTES + AEAD_TAG_BYTES * self._symmetric.has_key)
                self.remote_static = self._symmetric.decrypt_and_hash(sealed)
            else:
                self._mix_shared_secret(token)
        payload = self._symmetric.decrypt_and_hash(rest)
        self._finish_message()
        return payload

    def _next_tokens(self, *, writing: bool) -> tuple[str, ...]:
        if self._failed or not self._messages or self._we_write_next != writing:
            raise LocalProtocolError("this handshake has failed, is over, or waits for the other side")
        self._failed = True  # until this message went through whole
        return self._messages.pop(0)

    def _finish_message(self) -> None:
        self._failed = False
        self._we_write_next = not self._we_write_next
        if self._messages:
            return
        assert self.remote_static is not None
        initiator_key, responder_key = self._symmetric.split()
        tx, rx = (initiator_key, responder_key) if self.is_initiator else (responder_key, initiator_key)
        self._keys = HandshakeKeys(tx, rx, self._symmetric.hash, self.remote_static)

    def _mix_shared_secret(self, token: str) -> None:
        ours, theirs = (0, 1) if self.is_initiator else (1, 0)
        local = self._ephemeral if token[ours] == "e" else self._static
        remote = self._remote_ephemeral if token[theirs] == "e" else self.remote_static
        assert remote is not None, "the patterns above name no key before it was exchanged"
        self._symmetric.mix_key(diffie_hellman(local.scalar, remote))


def _split(data: bytes, size: int) -> tuple[bytes, bytes]:
    if len(data) < size:
        raise HandshakeError("handshake message is too short")
    return data[:size], data[size:]
