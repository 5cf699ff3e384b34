"""Frames: a 3-byte little-endian length, then that many bytes.

Source: @hyperswarm/secret-stream 6.9.2 `index.js`, `_onrawdata` and `_write`.
"""

from collections.abc import Iterator

from ..buffers import BytesLike
from ..crypto import SECRETSTREAM_OVERHEAD_BYTES
from ..errors import DecodeError

LENGTH_BYTES = 3
FRAME_OVERHEAD_BYTES = LENGTH_BYTES + SECRETSTREAM_OVERHEAD_BYTES
MAX_MESSAGE_BYTES = 2**24 - 1 - SECRETSTREAM_OVERHEAD_BYTES  # what three length bytes can say


class FrameReader:
    """Cuts a byte stream into frame bodies. Holds the bytes of one unfinished frame and nothing else."""

    __slots__ = ("_carry", "max_body_bytes")

    def __init__(self, max_body_bytes: int) -> None:
        self.max_body_bytes = max_body_bytes
        """May be changed between two frames. A longer frame is refused by its length, before any of it is kept."""
        self._carry = bytearray()

    @property
    def in_frame(self) -> bool:
        """Whether the stream stands in the middle of a frame."""
        return bool(self._carry)

    def bodies(self, data: BytesLike) -> Iterator[memoryview]:
        """The bodies of all frames that `data` completes; iterate to the end.

        Most are views into `data`; only a frame that arrived in pieces is copied together.

        Raises:
            DecodeError: A frame announces more than `max_body_bytes`.
        """
        view = memoryview(data)
        position = 0
        if self._carry:
            position = self._complete_carry(view)
            if position < 0:
                return
            carry, self._carry = self._carry, bytearray()
            yield memoryview(carry)[LENGTH_BYTES:]
        end = len(view)
        while end - position >= LENGTH_BYTES:
            size = view[position] | view[position + 1] << 8 | view[position + 2] << 16
            self._check_size(size)
            start, stop = position + LENGTH_BYTES, position + LENGTH_BYTES + size
            if stop > end:
                break
            yield view[start:stop]
            position = stop
        self._carry += view[position:]

    def _complete_carry(self, view: memoryview) -> int:
        """Append to the unfinished frame. How many bytes that took, or -1 when it is still unfinished."""
        carry = self._carry
        used = max(0, LENGTH_BYTES - len(carry))
        carry += view[:used]
        if len(carry) < LENGTH_BYTES:
            return -1
        size = int.from_bytes(carry[:LENGTH_BYTES], "little")
        self._check_size(size)
        missing = LENGTH_BYTES + size - len(carry)
        carry += view[used : used + missing]
        return used + missing if len(view) - used >= missing else -1

    def _check_size(self, size: int) -> None:
        if size > self.max_body_bytes:
            raise DecodeError(f"the peer announced a frame of {size} bytes, at most {self.max_body_bytes} are taken")


def write_length(frame: bytearray | memoryview, position: int, body_bytes: int) -> None:
    """Put the length of a body of `body_bytes` at `position`."""
    frame[position : position + LENGTH_BYTES] = body_bytes.to_bytes(LENGTH_BYTES, "little")
