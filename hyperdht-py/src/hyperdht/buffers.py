"""The types of byte buffers that every layer takes."""

from collections.abc import Sequence
from typing import TypeAlias

BytesLike: TypeAlias = bytes | bytearray | memoryview


class Parts:
    """A message body in several buffers, put together only where the message is. Its length is that of the whole."""

    __slots__ = ("_size", "buffers")

    def __init__(self, *buffers: BytesLike) -> None:
        self.buffers = buffers
        self._size = sum(map(len, buffers))

    def __len__(self) -> int:
        return self._size


Body: TypeAlias = BytesLike | Parts


def parts_of(body: Body) -> Sequence[BytesLike]:
    """The buffers of a body, in order."""
    return body.buffers if isinstance(body, Parts) else (body,)
