"""By hand: how much CPU `transfer` takes without encryption. python -m tests.sidecar.transfer.speed FOLDER [MIB] [ROUNDS]"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import resource
import shutil
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.transfer.chunks import hash_chunks
from sidecar.transfer.fetch import fetch_blob
from sidecar.transfer.fetch_types import BlobSpec
from sidecar.transfer.pool import SourcePool
from sidecar.transfer.provide import Provider
from tests.sidecar.transfer.socket_peer import SocketSource, provide_on_socket

if TYPE_CHECKING:
    from ollama_bridge.digests import Digest
    from sidecar.transfer.chunks import ChunkTable


def meter() -> dict[str, float]:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "cpu": usage.ru_utime + usage.ru_stime,
        "system": usage.ru_stime,
        "rss_mb": usage.ru_maxrss / 1024,
        "faults": usage.ru_minflt,
        "switches": usage.ru_nvcsw + usage.ru_nivcsw,
    }


def provide(path: Path, size: int, digest: Digest, table: ChunkTable, sock: socket.socket, results: object) -> None:
    async def main() -> None:
        provider = Provider()
        provider.register(digest, size, table, lambda: path.open("rb", buffering=0))
        await provide_on_socket(provider, digest, sock)

    before = meter()
    asyncio.run(main())
    results.put(("send", before, meter()))  # type: ignore[attr-defined]


def fetch(spec: BlobSpec, folder: Path, sock: socket.socket, results: object) -> None:
    seconds = 0.0

    async def main() -> None:
        nonlocal seconds
        started = time.perf_counter()
        await fetch_blob(spec, SourcePool([SocketSource(sock)]), folder / "partial", folder / "blobs")
        seconds = time.perf_counter() - started

    before = meter()
    asyncio.run(main())
    sock.close()
    results.put(("receive", before, meter() | {"seconds": seconds}))  # type: ignore[attr-defined]


def main() -> None:
    folder, mib, rounds = Path(sys.argv[1]), int([*sys.argv, "1024"][2]), int([*sys.argv, "1024", "3"][3])
    source = folder / f"source-{mib}"
    if not source.exists():
        with source.open("wb") as file:
            for _ in range(mib):
                file.write(os.urandom(1 << 20))
    with source.open("rb") as file:
        digest, table = hash_chunks(file, mib << 20)
    spec = BlobSpec(digest, mib << 20, table.root_hex)
    context = multiprocessing.get_context("spawn")
    for _ in range(rounds):
        shutil.rmtree(folder / "blobs", ignore_errors=True)
        os.sync()
        listener = socket.create_server(("127.0.0.1", 0))
        near = socket.create_connection(listener.getsockname())
        far, _ = listener.accept()
        results = context.Queue()
        ends = [
            context.Process(target=provide, args=(source, mib << 20, digest, table, near, results)),
            context.Process(target=fetch, args=(spec, folder, far, results)),
        ]
        for end in ends:
            end.start()
        near.close()
        far.close()
        row: dict[str, float] = {}
        for _ in ends:
            name, before, after = results.get()
            row[f"{name}_cpu_s_per_gb"] = round((after["cpu"] - before["cpu"]) / ((mib << 20) / 1e9), 3)
            row[f"{name}_system_s_per_gb"] = round((after["system"] - before["system"]) / ((mib << 20) / 1e9), 3)
            row[f"{name}_faults_per_mib"] = round((after["faults"] - before["faults"]) / mib)
            row[f"{name}_switches_per_mib"] = round((after["switches"] - before["switches"]) / mib)
            row[f"{name}_rss_mb"] = round(after["rss_mb"])
            row[f"{name}_rss_over_idle_mb"] = round(after["rss_mb"] - before["rss_mb"])
            if "seconds" in after:
                row["mb_per_s"] = round((mib << 20) / 1e6 / after["seconds"])
        for end in ends:
            end.join()
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
