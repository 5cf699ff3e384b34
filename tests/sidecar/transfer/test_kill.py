"""kill -9 of a real receiving process, at twenty points of one transfer."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from sidecar.transfer.bandwidth import TokenBucket
from sidecar.transfer.chunks import CHUNK_BYTES
from sidecar.transfer.provide import Provider
from tests.sidecar.transfer.memory_source import make_blob
from tests.sidecar.transfer.socket_peer import provide_on_socket

if TYPE_CHECKING:
    from pathlib import Path

    from ollama_bridge.digests import Digest

pytestmark = pytest.mark.anyio

KILLS = 20
WINDOW_CHUNKS = 256


class CountingProvider(Provider):
    """Counts the chunks it read for peers."""

    served = 0

    async def read_chunks(self, digest: Digest, first: int, count: int) -> memoryview:
        chunks = await super().read_chunks(digest, first, count)
        self.served += count
        return chunks


@pytest.mark.timeout(120)
async def test_t20_receiver_killed_at_twenty_points_resumes(tmp_path: Path) -> None:
    rng = random.Random(7)
    blob = make_blob(3000 * CHUNK_BYTES + 17)
    path = blob.write(tmp_path / "source")
    provider = CountingProvider(cap=TokenBucket(60e6))
    provider.register(blob.digest, len(blob.data), blob.table, lambda: path.open("rb", buffering=0))
    listener = socket.create_server(("127.0.0.1", 0))
    listener.setblocking(False)
    arguments = [str(tmp_path), str(listener.getsockname()[1]), str(blob.digest), str(len(blob.data))]
    command = [sys.executable, "-m", "tests.sidecar.transfer.receiver", *arguments, blob.table.root_hex]
    lost_most = 0
    for run in range(KILLS + 1):
        before = provider.served
        held_before = held(tmp_path / "partial" / blob.digest.hex / "chunks")
        async with anyio.create_task_group() as tasks:
            child = await anyio.open_process(command, stdout=subprocess.PIPE, stderr=None)
            async with child:
                await anyio.wait_readable(listener)
                near, _ = listener.accept()
                tasks.start_soon(provide_on_socket, provider, blob.digest, near)
                if run < KILLS:
                    assert child.stdout is not None
                    await child.stdout.receive()  # it began
                    await anyio.sleep(rng.uniform(0.0, 0.2))
                    child.kill()
                assert await child.wait() == (-9 if run < KILLS else 0)
            tasks.cancel_scope.cancel()
            near.close()
        if run < KILLS:
            kept = held(tmp_path / "partial" / blob.digest.hex / "chunks") - held_before
            assert kept >= 0, "nothing that was verified is lost"
            lost = provider.served - before - kept
            lost_most = max(lost_most, lost)
            assert lost <= WINDOW_CHUNKS, "fetched twice: at most what was in flight"
    listener.close()
    result = tmp_path / "blobs" / blob.digest.file_name
    assert result.read_bytes() == blob.data
    print(f"fetched twice: {provider.served - blob.table.count} chunks in all, {lost_most} at most for one kill")


def held(bitmap: Path) -> int:
    """Chunks noted in the bitmap file."""
    return int.from_bytes(bitmap.read_bytes()[48:], "little").bit_count() if bitmap.exists() else 0
