"""Tokens: proof that a node recently received something from us at its address, which a write must carry.

A spoofed source address never sees the token, so it cannot make us store anything. Source: dht-rpc 6.27.0 `lib/io.js`.
"""

from ..addresses import Address
from ..crypto import blake2b, equal
from .messages import HASH_BYTES

ROTATE_AFTER_STEPS = 10  # drain steps of 750 ms: a token is good for 7.5 to 15 s


class Tokens:
    """Issues and checks tokens. The owner calls `step` with every drain step."""

    __slots__ = ("_current", "_previous", "_steps_left", "_used")

    def __init__(self, previous: bytes, current: bytes) -> None:
        """Two secrets of 32 random bytes each, from the owner."""
        if len(previous) != HASH_BYTES or len(current) != HASH_BYTES:
            raise ValueError(f"a token secret has {HASH_BYTES} bytes")
        self._previous = previous
        self._current = current
        self._steps_left = ROTATE_AFTER_STEPS
        self._used = False

    def issue(self, address: Address) -> bytes:
        """The token for the host of that address. The port is not covered: a NAT may change it."""
        self._used = True
        return _token(address, self._current)

    def accepts(self, token: bytes, address: Address) -> bool:
        """Whether one of the two secrets made `token` for that host."""
        self._used = True
        return equal(token, _token(address, self._current)) or equal(token, _token(address, self._previous))

    def step(self) -> None:
        """One drain step has passed. Steps before the first use do not count."""
        if not self._used:
            return
        self._steps_left -= 1
        if not self._steps_left:
            self._steps_left = ROTATE_AFTER_STEPS
            # Not random, so as to match the reference: nobody learns the secrets, so nobody can follow the chain.
            self._previous, self._current = self._current, blake2b(self._previous)


def _token(address: Address, secret: bytes) -> bytes:
    return blake2b(address.host.encode(), key=secret)
