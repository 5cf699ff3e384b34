"""A smallest possible protocol over a plain socket, to run the two halves of `transfer` in two processes.

Frames both ways: kind, request id, index or first, count or body length (4 bytes each, big-endian), then the body.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from typing import TYPE_CHECKING

from sidecar.transfer.chunks import CHUNK_BYTES, ChunkSet
from sidecar.transfer.source import ReceivedChunks, SourceLost, SourceRefused
from sidecar.transfer.uploads import Refusal

if TYPE_CHECKING:
    import socket

    from ollama_bridge.digests import Digest
    from sidecar.transfer.provide import Provider

FRAME = struct.Struct("!IIII")
RUN_BYTES = 3 * CHUNK_BYTES
REQUEST, CANCEL, TABLE, HOLDINGS, CHUNKS, REFUSED = range(1, 7)
RECEIVE_BYTES = 1 << 20


class SocketSource:
    """ChunkSource over a connected socket."""

    room_id = b"room"
    is_lan = False

    def __init__(self, sock: socket.socket, key: bytes = b"peer") -> None:
        self.key = key
        sock.setblocking(False)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._ids = iter(range(1, 1 << 30))
        self._buffer = bytearray(RECEIVE_BYTES + 70_000)
        self._filled = 0
        self._answers: deque[bytes] = deque()
        self._to_send = bytearray()

    async def chunk_table(self, digest: Digest, count: int) -> bytes:
        return await self._ask(TABLE)

    async def holdings(self, digest: Digest, count: int) -> ChunkSet:
        return ChunkSet.from_bytes(await self._ask(HOLDINGS), count)

    def request(self, digest: Digest, first: int, count: int) -> int:
        request_id = next(self._ids)
        self._sock.send(FRAME.pack(REQUEST, request_id, first, count))
        return request_id

    def cancel(self, request_id: int) -> None:
        self._sock.send(FRAME.pack(CANCEL, request_id, 0, 0))

    async def next_chunks(self) -> list[ReceivedChunks]:
        while True:
            if chunks := await self._receive():
                return chunks

    async def _ask(self, kind: int) -> bytes:
        self._sock.send(FRAME.pack(kind, 0, 0, 0))
        while not self._answers:
            assert not await self._receive()
        return self._answers.popleft()

    async def _receive(self) -> list[ReceivedChunks]:
        try:
            got = await self._loop.sock_recv_into(self._sock, memoryview(self._buffer)[self._filled :])
        except OSError as error:
            raise SourceLost from error
        if not got:
            raise SourceLost
        self._filled += got
        chunks, start = [], 0
        view = memoryview(self._buffer)
        while self._filled - start >= FRAME.size:
            kind, request_id, index, length = FRAME.unpack_from(self._buffer, start)
            end = start + FRAME.size + length
            if end > self._filled:
                break
            body = bytes(view[start + FRAME.size : end])
            start = end
            if kind == CHUNKS:
                chunks.append(ReceivedChunks(request_id, index, body))
            elif kind == REFUSED:
                raise SourceRefused(request_id, gone=bool(index))
            else:
                self._answers.append(body)
        view[: self._filled - start] = view[start : self._filled]
        self._filled -= start
        if self._filled == len(self._buffer):  # one frame larger than that: a chunk table
            self._buffer = self._buffer + bytearray(self._filled)
        return chunks


async def provide_on_socket(provider: Provider, digest: Digest, sock: socket.socket, key: bytes = b"peer") -> None:
    """Serve one blob to whoever is at the other end, until that ends."""
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    blob = provider.blob(digest)
    assert blob is not None
    async with provider.peer(key, may_have=lambda _: True) as uploads:

        async def send() -> None:
            while True:
                batch = await uploads.next_batch()
                if isinstance(batch, Refusal):
                    await loop.sock_sendall(sock, FRAME.pack(REFUSED, batch.request_id, batch.gone, 0))
                    continue
                frames: list[bytes | memoryview] = []
                for start in range(0, len(batch.data), RUN_BYTES):
                    run = batch.data[start : start + RUN_BYTES]
                    frames += [FRAME.pack(CHUNKS, batch.request_id, batch.first + start // CHUNK_BYTES, len(run)), run]
                await loop.sock_sendall(sock, b"".join(frames))

        sending = asyncio.ensure_future(send())
        try:
            pending = b""
            while data := await loop.sock_recv(sock, 1 << 16):
                pending += data
                while len(pending) >= FRAME.size:
                    kind, request_id, first, count = FRAME.unpack_from(pending)
                    pending = pending[FRAME.size :]
                    if kind == REQUEST:
                        uploads.request(request_id, digest, first, count)
                    elif kind == CANCEL:
                        uploads.cancel(request_id)
                    else:
                        body = blob.table.hashes if kind == TABLE else blob.holdings().to_bytes()
                        await loop.sock_sendall(sock, FRAME.pack(kind, 0, 0, len(body)) + body)
        except ConnectionError:
            pass
        finally:
            sending.cancel()
