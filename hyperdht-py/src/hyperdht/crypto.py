"""Every cryptographic primitive of the stack, and the only module that imports PyNaCl (libsodium).

Keys are Ed25519 signing keys throughout; Diffie-Hellman works on the same curve, never on X25519. The names of libsodium's
functions are given where their exact semantics matter on the wire.
"""

import hashlib
import hmac
import os
from dataclasses import dataclass, field
from typing import Any

import nacl.bindings as sodium
from nacl._sodium import ffi, lib  # the zero-copy secretstream calls below have no public wrapper
from nacl.exceptions import BadSignatureError, CryptoError
from nacl.exceptions import RuntimeError as SodiumError

from .buffers import BytesLike
from .errors import DecodeError, HandshakeError

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
SECRETSTREAM_HEADER_BYTES = 24
SECRETSTREAM_OVERHEAD_BYTES = 17  # one encrypted tag byte and a 16-byte MAC
AEAD_TAG_BYTES = 16
TAG_MESSAGE, TAG_PUSH, TAG_REKEY, TAG_FINAL = 0, 1, 2, 3

_push = lib.crypto_secretstream_xchacha20poly1305_push
_pull = lib.crypto_secretstream_xchacha20poly1305_pull
_buffer = ffi.from_buffer
_NULL = ffi.NULL


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An Ed25519 key pair.

    `public_key` is the 32-byte compressed point, `secret_key` libsodium's 64 bytes: seed followed by public key.
    """

    public_key: bytes
    secret_key: bytes = field(repr=False)

    @classmethod
    def generate(cls) -> "KeyPair":
        """A new key pair from the system's random source."""
        return cls.from_seed(os.urandom(32))

    @classmethod
    def from_seed(cls, seed: bytes) -> "KeyPair":
        """The key pair of a 32-byte seed."""
        public_key, secret_key = sodium.crypto_sign_seed_keypair(seed)
        return cls(public_key, secret_key)

    @property
    def scalar(self) -> bytes:
        """The secret number behind the public point: the first half of SHA-512 of the seed, clamped as for signing."""
        scalar = bytearray(hashlib.sha512(self.secret_key[:32]).digest()[:32])
        scalar[0] &= 248
        scalar[31] = scalar[31] & 127 | 64
        return bytes(scalar)


def sign(message: bytes, key_pair: KeyPair) -> bytes:
    """The 64-byte Ed25519 signature of `message`."""
    return sodium.crypto_sign(message, key_pair.secret_key)[:SIGNATURE_BYTES]


def verify(signature: bytes, message: bytes, public_key: bytes) -> bool:
    """Whether `public_key` signed `message`. Wrong lengths are a plain no."""
    if len(signature) != SIGNATURE_BYTES or len(public_key) != PUBLIC_KEY_BYTES:
        return False
    try:
        sodium.crypto_sign_open(signature + message, public_key)
    except BadSignatureError:
        return False
    return True


def equal(left: bytes, right: bytes) -> bool:
    """Whether two secrets are the same, in time that does not depend on where they differ."""
    return hmac.compare_digest(left, right)


def blake2b(data: BytesLike, *, key: bytes = b"", size: int = 32) -> bytes:
    """BLAKE2b of `size` bytes, keyed when `key` is given: libsodium's `generichash`."""
    return hashlib.blake2b(data, digest_size=size, key=key).digest()


def namespace(name: str, *ids: int) -> list[bytes]:
    """One 32-byte domain separator per id: BLAKE2b(BLAKE2b(name) ‖ id byte). Source: hypercore-crypto `namespace`."""
    prefix = blake2b(name.encode())
    return [blake2b(prefix + bytes([i])) for i in ids]


def argon2id(password: bytes, salt: bytes, *, opslimit: int, memlimit_bytes: int, size: int) -> bytes:
    """Argon2id, version 1.3: libsodium's `pwhash`. Slow on purpose: call it in a thread (it releases the GIL).

    Args:
        salt: Exactly 16 bytes.
    """
    return sodium.crypto_pwhash_alg(size, password, salt, opslimit, memlimit_bytes, sodium.crypto_pwhash_ALG_ARGON2ID13)


def diffie_hellman(scalar: bytes, point: bytes) -> bytes:
    """`scalar` times `point` on edwards25519, as the 32 compressed bytes: `crypto_scalarmult_ed25519_noclamp`.

    Raises:
        HandshakeError: The point is non-canonical, off the curve or outside the prime-order group, or the result is the
            identity. A peer that sends such a key is trying to learn bits of ours.
    """
    if len(point) != PUBLIC_KEY_BYTES or not sodium.crypto_core_ed25519_is_valid_point(point):
        raise HandshakeError("the peer's key is not a point of the prime-order group")
    try:
        return sodium.crypto_scalarmult_ed25519_noclamp(scalar, point)
    except SodiumError:
        raise HandshakeError("the key exchange gave the identity point") from None


def aead_encrypt(plaintext: bytes, ad: bytes, nonce: bytes, key: bytes) -> bytes:
    """ChaCha20-Poly1305 (IETF): ciphertext and 16-byte tag."""
    return sodium.crypto_aead_chacha20poly1305_ietf_encrypt(plaintext, ad, nonce, key)


def aead_decrypt(ciphertext: bytes, ad: bytes, nonce: bytes, key: bytes) -> bytes:
    """Reverse `aead_encrypt`.

    Raises:
        HandshakeError: Too short, or the tag is wrong.
    """
    if len(ciphertext) < AEAD_TAG_BYTES:
        raise HandshakeError("handshake message is too short")
    try:
        return sodium.crypto_aead_chacha20poly1305_ietf_decrypt(ciphertext, ad, nonce, key)
    except CryptoError:
        raise HandshakeError("handshake message is forged, damaged or for another key") from None


def secretbox_seal(message: bytes, nonce: bytes, key: bytes) -> bytes:
    """XSalsa20-Poly1305: a 16-byte MAC, then the ciphertext."""
    sealed: bytes = sodium.crypto_secretbox_easy(message, nonce, key)
    return sealed


def secretbox_open(sealed: bytes, nonce: bytes, key: bytes) -> bytes | None:
    """Reverse `secretbox_seal`; None when the MAC is wrong."""
    try:
        message: bytes = sodium.crypto_secretbox_open_easy(sealed, nonce, key)
    except CryptoError:
        return None
    return message


class SecretStreamPush:
    """The encrypting half of libsodium's secretstream (XChaCha20-Poly1305).

    The plaintext may lie inside the output buffer one byte after its start, which encrypts in place.
    """

    __slots__ = ("_state", "header")

    def __init__(self, key: bytes, header: bytes | None = None) -> None:
        """`header` is for replaying recorded sessions; without it a random one is made, as it must be on the wire."""
        self.header = os.urandom(SECRETSTREAM_HEADER_BYTES) if header is None else header
        self._state = _new_state(self.header, key)

    def seal_into(self, out: BytesLike, message: BytesLike, tag: int = TAG_MESSAGE) -> None:
        """Encrypt `message` into `out`, which is exactly 17 bytes longer."""
        if _push(self._state, _buffer(out), _NULL, _buffer(message), len(message), _NULL, 0, tag):
            raise RuntimeError("libsodium could not encrypt")

    def state(self) -> bytes:
        """Key and nonce (32 + 12 bytes), to compare with recorded sessions."""
        return bytes(ffi.buffer(self._state, 44))


class SecretStreamPull:
    """The decrypting half of libsodium's secretstream."""

    __slots__ = ("_state", "_tag")

    def __init__(self, key: bytes, header: bytes) -> None:
        self._state = _new_state(header, key)
        self._tag = ffi.new("unsigned char *")

    def open_into(self, out: BytesLike, sealed: BytesLike) -> None:
        """Decrypt `sealed` into `out`, which is exactly 17 bytes shorter.

        Raises:
            DecodeError: The MAC is wrong; `out` holds nothing of use then.
        """
        if _pull(self._state, _buffer(out), _NULL, self._tag, _buffer(sealed), len(sealed), _NULL, 0):
            raise DecodeError("a message is forged, damaged or out of order")

    @property
    def tag(self) -> int:
        """The tag of the message opened last."""
        return int(self._tag[0])

    def state(self) -> bytes:
        """Key and nonce (32 + 12 bytes), to compare with recorded sessions."""
        return bytes(ffi.buffer(self._state, 44))


def _new_state(header: bytes, key: bytes) -> Any:
    """Both halves start from the same state, so `init_pull` serves the sender too and lets it choose its header."""
    state = ffi.new("unsigned char[]", lib.crypto_secretstream_xchacha20poly1305_statebytes())
    lib.crypto_secretstream_xchacha20poly1305_init_pull(state, header, key)
    return state
