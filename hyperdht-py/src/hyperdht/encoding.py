"""compact-encoding: the byte formats every message of the stack is made of.

Integers are little-endian. `uint` is one byte up to 0xfc, else a marker byte fd, fe or ff and 2, 4 or 8 bytes. The decoder
takes longer forms than needed, as the JavaScript one does, and refuses values above 2^53-1, which JavaScript cannot hold.
Source: compact-encoding 3.5.2, compact-encoding-net 1.3.0 and compact-encoding-bitfield 1.1.0; docs/protocol/encoding.md.
"""

import ipaddress
import struct
from collections.abc import Callable, Sequence
from typing import TypeVar

from .addresses import Address
from .buffers import BytesLike
from .errors import DecodeError

MAX_SAFE_INTEGER = 2**53 - 1
MAX_ARRAY_ITEMS = 0x100000  # compact-encoding's own cap; without one, five bytes could ask for a list of 2^32 items
WIDTH_OF_MARKER = {0xFD: 2, 0xFE: 4, 0xFF: 8}

Item = TypeVar("Item")


class Reader:
    """Takes values off the front of one message.

    Every method raises `DecodeError` when the bytes run out or are no valid encoding; what was read before stays read.
    """

    __slots__ = ("_data", "_end", "_position")

    def __init__(self, data: BytesLike) -> None:
        self._data = memoryview(data).cast("B")
        self._position = 0
        self._end = len(self._data)

    @property
    def remaining(self) -> int:
        """How many bytes are left."""
        return self._end - self._position

    def pull_view(self, size: int) -> memoryview:
        """The next `size` bytes without copying them."""
        start = self._position
        if size > self._end - start:
            raise DecodeError(f"message ends {size - (self._end - start)} bytes too early")
        self._position = start + size
        return self._data[start : self._position]

    def pull_fixed(self, size: int) -> bytes:
        """Exactly `size` bytes, without a length in front."""
        return bytes(self.pull_view(size))

    def pull_fixed_uint(self, size: int) -> int:
        """A little-endian integer of `size` bytes; 8-byte ones above 2^53-1 are refused."""
        value = int.from_bytes(self.pull_view(size), "little")
        if value > MAX_SAFE_INTEGER:
            raise DecodeError("integer above 2^53-1")
        return value

    def pull_uint8(self) -> int:
        return self.pull_fixed_uint(1)

    def pull_uint16(self) -> int:
        return self.pull_fixed_uint(2)

    def pull_uint24(self) -> int:
        return self.pull_fixed_uint(3)

    def pull_uint32(self) -> int:
        return self.pull_fixed_uint(4)

    def pull_uint64(self) -> int:
        return self.pull_fixed_uint(8)

    def pull_uint_be(self, size: int) -> int:
        """A big-endian integer of `size` bytes."""
        value = int.from_bytes(self.pull_view(size), "big")
        if value > MAX_SAFE_INTEGER:
            raise DecodeError("integer above 2^53-1")
        return value

    def pull_uint(self) -> int:
        """An integer of 1, 3, 5 or 9 bytes."""
        position = self._position
        if position >= self._end:
            raise DecodeError("message ends where an integer should be")
        first = self._data[position]
        self._position = position + 1
        return first if first < 0xFD else self.pull_fixed_uint(WIDTH_OF_MARKER[first])

    def pull_int(self) -> int:
        """A signed integer: zigzag, then `uint`."""
        value = self.pull_uint()
        return -(value + 1) // 2 if value & 1 else value // 2

    def pull_bool(self) -> bool:
        """True for the byte 01 and nothing else."""
        return self.pull_view(1)[0] == 1

    def pull_float32(self) -> float:
        value: float = struct.unpack("<f", self.pull_view(4))[0]
        return value

    def pull_float64(self) -> float:
        value: float = struct.unpack("<d", self.pull_view(8))[0]
        return value

    def pull_buffer_view(self, *, max_bytes: int | None = None) -> memoryview:
        """Length and bytes, not copied."""
        size = self.pull_uint()
        if max_bytes is not None and size > max_bytes:
            raise DecodeError(f"field of {size} bytes where at most {max_bytes} are allowed")
        return self.pull_view(size)

    def pull_buffer(self, *, max_bytes: int | None = None) -> bytes:
        """Length and bytes."""
        return bytes(self.pull_buffer_view(max_bytes=max_bytes))

    def pull_optional_buffer(self, *, max_bytes: int | None = None) -> bytes | None:
        """Length and bytes, where length 0 means absent."""
        return self.pull_buffer(max_bytes=max_bytes) or None

    def pull_string(self, *, max_bytes: int | None = None) -> str:
        """Length in bytes and UTF-8. JavaScript replaces bad UTF-8; we refuse it."""
        try:
            return str(self.pull_buffer_view(max_bytes=max_bytes), "utf-8")
        except UnicodeDecodeError:
            raise DecodeError("text that is not UTF-8") from None

    def pull_array(self, pull_item: Callable[["Reader"], Item], *, max_items: int = MAX_ARRAY_ITEMS) -> list[Item]:
        """Count and items; `pull_item` reads one item from this reader."""
        count = self.pull_uint()
        if count > max_items:
            raise DecodeError(f"list of {count} items where at most {max_items} are allowed")
        return [pull_item(self) for _ in range(count)]

    def pull_frame(self) -> "Reader":
        """A length-prefixed part as a reader of its own; what it leaves unread is skipped here."""
        return Reader(self.pull_buffer_view())

    def pull_bitfield(self) -> int:
        """Flags as an integer, bit i = flag i. The width is told by the first byte, as in `uint`."""
        return self.pull_uint()

    def pull_port(self) -> int:
        return self.pull_fixed_uint(2)

    def pull_ipv4(self) -> str:
        return ".".join(map(str, self.pull_view(4)))

    def pull_ipv6(self) -> str:
        """Eight groups without `::`, the form the JavaScript decoder gives."""
        return ":".join(f"{group:x}" for group in struct.unpack(">8H", self.pull_view(16)))

    def pull_ip(self) -> str:
        """A family byte, 4 or 6, and the address."""
        family = self.pull_uint8()
        if family == 4:
            return self.pull_ipv4()
        if family == 6:
            return self.pull_ipv6()
        raise DecodeError(f"IP family {family}")

    def pull_ipv4_address(self) -> Address:
        return Address(self.pull_ipv4(), self.pull_port())

    def pull_ipv6_address(self) -> Address:
        return Address(self.pull_ipv6(), self.pull_port())

    def pull_ip_address(self) -> Address:
        return Address(self.pull_ip(), self.pull_port())

    def pull_rest_view(self) -> memoryview:
        """Everything left, not copied."""
        return self.pull_view(self._end - self._position)

    def pull_rest(self) -> bytes:
        """Everything left."""
        return bytes(self.pull_rest_view())


class Writer:
    """Builds one message. A value that does not fit its field raises `ValueError` or `OverflowError`."""

    __slots__ = ("_out",)

    def __init__(self) -> None:
        self._out = bytearray()

    def finish(self) -> bytes:
        """The message."""
        return bytes(self._out)

    def push_fixed(self, data: BytesLike) -> None:
        """Raw bytes, without a length in front."""
        self._out += data

    push_rest = push_fixed

    def push_fixed_uint(self, value: int, size: int) -> None:
        """A little-endian integer of `size` bytes."""
        self._out += value.to_bytes(size, "little")

    def push_uint8(self, value: int) -> None:
        self._out += value.to_bytes(1, "little")

    def push_uint16(self, value: int) -> None:
        self._out += value.to_bytes(2, "little")

    def push_uint24(self, value: int) -> None:
        self._out += value.to_bytes(3, "little")

    def push_uint32(self, value: int) -> None:
        self._out += value.to_bytes(4, "little")

    def push_uint64(self, value: int) -> None:
        self._out += value.to_bytes(8, "little")

    def push_uint_be(self, value: int, size: int) -> None:
        """A big-endian integer of `size` bytes."""
        self._out += value.to_bytes(size, "big")

    def push_uint(self, value: int) -> None:
        """An integer of 1, 3, 5 or 9 bytes, the shortest that holds it."""
        self._out += encode_uint(value)

    def push_int(self, value: int) -> None:
        """A signed integer: zigzag, then `uint`."""
        self.push_uint(2 * value if value >= 0 else -2 * value - 1)

    def push_bool(self, value: bool) -> None:
        self._out.append(value)

    def push_float32(self, value: float) -> None:
        self._out += struct.pack("<f", value)

    def push_float64(self, value: float) -> None:
        self._out += struct.pack("<d", value)

    def push_buffer(self, data: BytesLike) -> None:
        """Length and bytes."""
        view = memoryview(data).cast("B")
        self.push_uint(len(view))
        self._out += view

    def push_optional_buffer(self, data: BytesLike | None) -> None:
        """Length and bytes, where absent is length 0."""
        self.push_buffer(b"" if data is None else data)

    def push_string(self, text: str) -> None:
        """Length in bytes and UTF-8."""
        self.push_buffer(text.encode())

    def push_array(self, items: Sequence[Item], push_item: Callable[["Writer", Item], object]) -> None:
        """Count and items; `push_item` writes one item to this writer."""
        self.push_uint(len(items))
        for item in items:
            push_item(self, item)

    def push_frame(self, push_content: Callable[["Writer"], object]) -> None:
        """What `push_content` writes, with its length in front."""
        content = Writer()
        push_content(content)
        self.push_buffer(content._out)

    def push_bitfield(self, flags: int, count: int) -> None:
        """`count` flags as an integer. Eight flags take three bytes: the width follows the count, not the value."""
        if count < 8:
            self._out += flags.to_bytes(1, "little")
            return
        marker, size = next((m, w) for m, w in WIDTH_OF_MARKER.items() if count <= 8 * w)
        self._out.append(marker)
        self._out += flags.to_bytes(size, "little")

    push_port = push_uint16  # little-endian here, unlike everywhere else on the internet

    def push_ipv4(self, host: str) -> None:
        self._out += ipaddress.IPv4Address(host).packed

    def push_ipv6(self, host: str) -> None:
        self._out += ipaddress.IPv6Address(host).packed

    def push_ip(self, host: str) -> None:
        """A family byte, 4 or 6, and the address."""
        address = ipaddress.ip_address(host)
        self._out.append(address.version)
        self._out += address.packed

    def push_ipv4_address(self, address: Address) -> None:
        self.push_ipv4(address.host)
        self.push_port(address.port)

    def push_ipv6_address(self, address: Address) -> None:
        self.push_ipv6(address.host)
        self.push_port(address.port)

    def push_ip_address(self, address: Address) -> None:
        self.push_ip(address.host)
        self.push_port(address.port)


def encode_uint(value: int) -> bytes:
    """One `uint`.

    Raises:
        ValueError: Negative, or above 2^53-1.
    """
    if 0 <= value < 0xFD:
        return value.to_bytes(1, "little")
    if not 0 <= value <= MAX_SAFE_INTEGER:
        raise ValueError(f"{value} is not an integer between 0 and 2^53-1")
    for marker, size in WIDTH_OF_MARKER.items():
        if value < 1 << (8 * size):
            return marker.to_bytes(1, "little") + value.to_bytes(size, "little")
    raise AssertionError("unreachable: 2^53-1 fits eight bytes")
