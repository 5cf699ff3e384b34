"""Noise's CipherState and SymmetricState over ChaChaPoly and BLAKE2b-512.

Source: The Noise Protocol Framework, revision 34, sections 5.1 and 5.2; noise-handshake 4.2.0 `symmetric-state.js`.
"""

import hashlib
import hmac

from ..crypto import aead_decrypt, aead_encrypt

HASH_BYTES = 64
KEY_BYTES = 32


def hmac_blake2b(key: bytes, data: bytes) -> bytes:
    """RFC 2104 over unkeyed BLAKE2b-512 with its 128-byte block. Not the same as keyed BLAKE2b."""
    return hmac.digest(key, data, hashlib.blake2b)


def hkdf(chaining_key: bytes, key_material: bytes) -> tuple[bytes, bytes]:
    """Noise's HKDF with two outputs of 64 bytes each."""
    temporary = hmac_blake2b(chaining_key, key_material)
    first = hmac_blake2b(temporary, b"\x01")
    return first, hmac_blake2b(temporary, first + b"\x02")


class SymmetricState:
    """The running hash, the chaining key and the current cipher of one handshake."""

    __slots__ = ("_chaining_key", "_key", "_nonce", "hash")

    def __init__(self, protocol_name: str) -> None:
        self.hash = protocol_name.encode().ljust(HASH_BYTES, b"\0")  # both names are shorter than a hash
        self._chaining_key = self.hash
        self._key: bytes | None = None
        self._nonce = 0

    def mix_hash(self, data: bytes) -> None:
        """Bind `data` to everything that follows."""
        self.hash = hashlib.blake2b(self.hash + data).digest()

    def mix_key(self, key_material: bytes) -> None:
        """Take a shared secret in and start a new cipher."""
        self._chaining_key, key = hkdf(self._chaining_key, key_material)
        self._key = key[:KEY_BYTES]
        self._nonce = 0

    def encrypt_and_hash(self, plaintext: bytes) -> bytes:
        """Encrypt once there is a key; before that the bytes pass as they are, but are hashed too."""
        sealed = plaintext if self._key is None else aead_encrypt(plaintext, self.hash, self._take_nonce(), self._key)
        self.mix_hash(sealed)
        return sealed

    def decrypt_and_hash(self, sealed: bytes) -> bytes:
        """Reverse `encrypt_and_hash`; raises `HandshakeError` when the tag is wrong."""
        plaintext = sealed if self._key is None else aead_decrypt(sealed, self.hash, self._take_nonce(), self._key)
        self.mix_hash(sealed)
        return plaintext

    @property
    def has_key(self) -> bool:
        """Whether what is written from here on is encrypted."""
        return self._key is not None

    def split(self) -> tuple[bytes, bytes]:
        """The two transport keys: initiator to responder, responder to initiator."""
        first, second = hkdf(self._chaining_key, b"")
        return first[:KEY_BYTES], second[:KEY_BYTES]

    def _take_nonce(self) -> bytes:
        nonce = b"\0" * 4 + self._nonce.to_bytes(4, "little") + b"\0" * 4
        self._nonce += 1
        return nonce
