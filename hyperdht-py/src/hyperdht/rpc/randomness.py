"""Where the machines get chance from: the system's in earnest, a seeded one in simulations."""

from collections.abc import MutableSequence, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Randomness(Protocol):
    """`random.SystemRandom` and `random.Random` are one. Nothing secret may come from the second."""

    def randbytes(self, n: int, /) -> bytes: ...

    def random(self) -> float: ...

    def randrange(self, start: int, stop: int, /) -> int: ...

    def sample(self, population: Sequence[T], k: int) -> list[T]: ...

    def shuffle(self, x: MutableSequence[Any], /) -> None: ...
