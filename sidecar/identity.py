"""Who we are: one Ed25519 key pair per data folder. Formats: docs/protocol/keys.md."""

from __future__ import annotations

import os
import re
import secrets
import stat
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from mnemonic import Mnemonic

from hyperdht.crypto import KeyPair, blake2b
from sidecar.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME = "identity"
SEED_BYTES = 32
SHORT_DIGITS = 12
READ_ALOUD_WORDS = 4
BITS_PER_WORD = 11

_FILE = re.compile(r"ollaswarm identity v1\n([0-9a-f]{64})\n?")


@dataclass(frozen=True, slots=True)
class Identity:
    """Our key pair and the forms in which people see it. Its repr holds no secret."""

    key_pair: KeyPair
    fingerprint: str
    """Public key, 64 lower-case hex digits."""
    short: str
    """First 12 digits of the fingerprint."""
    words: tuple[str, ...]
    """Four words for reading aloud."""

    @classmethod
    def of(cls, key_pair: KeyPair) -> Identity:
        """The identity of a key pair."""
        public_key = key_pair.public_key
        return cls(key_pair, public_key.hex(), short_key(public_key), read_aloud(public_key))

    def __repr__(self) -> str:
        return f"Identity({self.short})"


@cache
def bip39_words() -> tuple[str, ...]:
    """The 2,048 words of the BIP-39 English list, in list order."""
    return tuple(Mnemonic("english").wordlist)


def short_key(public_key: bytes) -> str:
    """The short form of any public key."""
    return public_key.hex()[:SHORT_DIGITS]


def read_aloud(public_key: bytes) -> tuple[str, ...]:
    """Four words (44 bits) for comparing a public key over the telephone. For people only: 44 bits can be forged."""
    number = int.from_bytes(blake2b(b"ollaswarm/words" + public_key), "big")
    shifts = range(256 - BITS_PER_WORD, 256 - BITS_PER_WORD * (READ_ALOUD_WORDS + 1), -BITS_PER_WORD)
    return tuple(bip39_words()[number >> shift & 0x7FF] for shift in shifts)


def relay_key_pair(identity: KeyPair) -> KeyPair:
    """The key pair under which the owner of an identity relays for members of its rooms."""
    return KeyPair.from_seed(blake2b(b"ollaswarm/relay", key=identity.secret_key[:SEED_BYTES]))


def load_or_create_identity(data_dir: Path, *, check_modes: bool = os.name == "posix") -> Identity:
    """Read the identity of a data folder, or make one at the first start. Blocking, a few milliseconds.

    Args:
        data_dir: An existing folder.
        check_modes: Whether file modes mean anything here. Windows protects the profile folder by its ACL instead.
    Raises:
        ConfigError: The file is not ours, is damaged, or others can read it. It is never replaced: a new identity
            would silently make this machine a stranger to everybody who trusted it (T14).
    """
    path = data_dir / FILE_NAME
    try:
        _create(path)
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError(
            f"The identity could not be written to {path}: {error.strerror}.",
            "Make the data folder writable, or choose another with --data-dir.",
        ) from error
    return Identity.of(KeyPair.from_seed(_read_seed(path, check_modes=check_modes)))


def _create(path: Path) -> None:
    """Write a new seed in a temporary file and give it its name only when it is whole.

    `os.link` refuses an existing name, so that of two daemons starting at once one wins and both read the same file.
    Folders without hard links (FAT, some network drives) get an exclusive create instead.
    """
    if path.exists():
        raise FileExistsError
    temporary = path.with_name(f"{FILE_NAME}.{secrets.token_hex(8)}.tmp")
    text = f"ollaswarm identity v1\n{secrets.token_hex(SEED_BYTES)}\n".encode()
    _write_new(temporary, text)
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:
        _write_new(path, text)
    finally:
        temporary.unlink(missing_ok=True)


def _write_new(path: Path, text: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)


def _read_seed(path: Path, *, check_modes: bool) -> bytes:
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(path, flags), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(1024)
    except OSError as error:
        raise ConfigError(
            f"The identity file {path} cannot be read: {error.strerror}.",
            f"Make {path} a regular file that you own, or restore it from a backup.",
        ) from error
    if check_modes and stat.S_IMODE(mode) & 0o077:
        raise ConfigError(
            f"The identity file {path} can be read by other users (mode {stat.S_IMODE(mode):04o}).",
            f"Run: chmod 600 {path}. If somebody may have copied it, delete it to start with a new identity.",
        )
    match = _FILE.fullmatch(content.decode("ascii", "replace").replace("\r\n", "\n"))
    if match is None:
        raise ConfigError(
            f"The identity file {path} is damaged or was made by another version.",
            "Restore it from a backup, or delete it to start with a new identity that others must trust anew.",
        )
    return bytes.fromhex(match[1])
