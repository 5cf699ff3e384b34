"""The Noise IK handshake of a connection: one message each way, inside PEER_HANDSHAKE.

Source: hyperdht 6.34.0 `lib/noise-wrap.js`.
"""

from copy import deepcopy
from dataclasses import dataclass, field

from ..crypto import KeyPair, blake2b
from ..noise import HandshakeKeys, NoiseHandshake
from .constants import NS_PEER_HANDSHAKE, NS_PEER_HOLEPUNCH
from .payloads import NoisePayload, decode_noise_payload, encode_noise_payload


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """What both sides know after the handshake."""

    stream: HandshakeKeys
    holepunch_secret: bytes = field(repr=False)
    """32 bytes; seals the rounds of hole punching."""

    @classmethod
    def of(cls, handshake: NoiseHandshake) -> "SessionKeys":
        """The keys of a complete handshake."""
        keys = handshake.keys()
        return cls(keys, blake2b(NS_PEER_HOLEPUNCH, key=keys.hash))


class ClientHandshake:
    """The connecting side. One message is sent to several relays, and the first valid answer counts."""

    def __init__(
        self, key_pair: KeyPair, remote_public_key: bytes, payload: NoisePayload, *, ephemeral: KeyPair | None = None
    ) -> None:
        """
        Raises:
            HandshakeError: `remote_public_key` is no usable key.
        """
        self._handshake = NoiseHandshake(
            "IK",
            is_initiator=True,
            static=key_pair,
            remote_static=remote_public_key,
            prologue=NS_PEER_HANDSHAKE,
            ephemeral=ephemeral,
        )
        self.message = self._handshake.write_message(encode_noise_payload(payload))
        """What to send, always the same bytes."""

    def read_answer(self, message: bytes) -> tuple[NoisePayload, SessionKeys]:
        """Take an answer. A bad one changes nothing: the node that gave it must not spoil the others' answers.

        Raises:
            HandshakeError: Not from the peer we asked for, or not to our message.
            DecodeError: From the peer, and no payload.
        """
        attempt = deepcopy(self._handshake)
        payload = decode_noise_payload(attempt.read_message(message))
        return payload, SessionKeys.of(attempt)


class ServerHandshake:
    """The listening side, made from the client's message."""

    def __init__(self, key_pair: KeyPair, message: bytes, *, ephemeral: KeyPair | None = None) -> None:
        """
        Raises:
            HandshakeError: Forged, truncated or meant for another key.
            DecodeError: A proven sender, and no payload.
        """
        self._handshake = NoiseHandshake(
            "IK", is_initiator=False, static=key_pair, prologue=NS_PEER_HANDSHAKE, ephemeral=ephemeral
        )
        self.payload = decode_noise_payload(self._handshake.read_message(message))
        remote_public_key = self._handshake.remote_static
        assert remote_public_key is not None
        self.remote_public_key = remote_public_key

    def answer(self, payload: NoisePayload) -> tuple[bytes, SessionKeys]:
        """The message to send back, and the keys. Call once."""
        message = self._handshake.write_message(encode_noise_payload(payload))
        return message, SessionKeys.of(self._handshake)
