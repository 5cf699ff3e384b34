"""The types of byte buffers that every layer takes."""

from typing import TypeAlias

BytesLike: TypeAlias = bytes | bytearray | memoryview
