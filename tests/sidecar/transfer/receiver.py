"""A receiving process for `test_kill`: python -m tests.sidecar.transfer.receiver FOLDER PORT DIGEST SIZE ROOT"""

from __future__ import annotations

import asyncio
import socket
import sys
from pathlib import Path

from ollama_bridge.digests import Digest
from sidecar.transfer.fetch import fetch_blob
from sidecar.transfer.fetch_types import BlobSpec, Progress
from sidecar.transfer.pool import SourcePool
from tests.sidecar.transfer.socket_peer import SocketSource


def show(progress: Progress) -> None:
    print(progress.done_bytes, flush=True)


async def main(folder: Path, port: int, spec: BlobSpec) -> None:
    sock = socket.create_connection(("127.0.0.1", port))
    with sock:
        await fetch_blob(spec, SourcePool([SocketSource(sock)]), folder / "partial", folder / "blobs", progress=show)


if __name__ == "__main__":
    folder, port, digest, size, root = sys.argv[1:]
    asyncio.run(main(Path(folder), int(port), BlobSpec(Digest.parse(digest), int(size), root)))
