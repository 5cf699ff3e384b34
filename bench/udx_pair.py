"""One end of a transfer over UDX: encrypted messages of 64 KiB between two processes. By hand:

    .venv/bin/python bench/udx_pair.py role=recv bytes=1073741824                 # prints READY {"port": ...}
    .venv/bin/python bench/udx_pair.py role=send bytes=1073741824 port=PORT
    node tests/interop/udx_peer.mjs role=recv|send ...                            # the official stack, with the same words

Words: gso=0 (without UDP_SEGMENT and UDP_GRO), secret=0 (raw UDX), hash=1 (the receiver computes SHA-256), tasks=1 (the
slower event loop driver), host=ADDRESS, linger=SECONDS, profile=FILE. Each end prints RESULT {...} when it is done.
"""

from __future__ import annotations

import cProfile
import hashlib
import json
import os
import resource
import sys
import time
from typing import Any

import anyio

from hyperdht import KeyPair, SecretStream
from hyperdht.addresses import Address
from hyperdht.io import keep_freed_memory
from hyperdht.io.offload import Offload
from hyperdht.io.reactor import TaskReactor, reactor_for
from hyperdht.io.udx_stream import UdxByteStream
from hyperdht.io.udx_transport import UdxTransport

CHUNK = 65536
RECEIVER_ID, SENDER_ID = 1, 2
HELLO, GO = b"hi", b"go"


class Meter:
    """Wall time, CPU time and peak memory of this process from here on."""

    def __init__(self) -> None:
        self._start, self._used = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)

    def result(self, size: int, **more: Any) -> dict[str, Any]:
        wall, used = time.perf_counter() - self._start, resource.getrusage(resource.RUSAGE_SELF)
        user, system = used.ru_utime - self._used.ru_utime, used.ru_stime - self._used.ru_stime
        return {
            "bytes": size,
            "wall": wall,
            "mb_s": size / 1e6 / wall,
            "cpu_s_gb": (user + system) / (size / 1e9),
            "user_s_gb": user / (size / 1e9),
            "rss_mb": used.ru_maxrss * 1024 / 1e6,
            **more,
        }


def say(kind: str, **values: Any) -> None:
    print(kind, json.dumps(values), flush=True)


async def connect(transport: UdxTransport, words: dict[str, str]) -> UdxByteStream:
    """Find the other side by a datagram each way, then use the agreed stream ids."""
    found = anyio.Event()
    peer: list[Address] = []

    def on_datagram(data: bytes, sender: Address, _socket: int) -> None:
        if data in (HELLO, GO):
            peer.append(sender)
            found.set()

    sends = words["role"] == "send"
    ours, theirs = (SENDER_ID, RECEIVER_ID) if sends else (RECEIVER_ID, SENDER_ID)
    transport.on_datagram = on_datagram
    transport.endpoint.reserve(None, stream_id=ours)
    if sends:
        transport.send(HELLO, Address(words.get("host", "127.0.0.1"), int(words["port"])), 0)
    else:
        say("READY", port=transport.port(0))
    await found.wait()
    transport.endpoint.connect(ours, 0, peer[0], theirs, now=transport.now())
    if not sends:
        transport.send(GO, peer[0], 0)
    return UdxByteStream(transport, ours)


async def send(stream: UdxByteStream, words: dict[str, str], total: int) -> dict[str, Any]:
    chunk = os.urandom(CHUNK)
    if words.get("secret") == "0":
        meter = Meter()
        for _ in range(total // CHUNK):
            await stream.send(chunk)
        await stream.receive(1)
        return meter.result(total)
    secret = await SecretStream.establish(stream, is_initiator=True, key_pair=KeyPair.generate())
    meter = Meter()
    for _ in range(total // CHUNK):
        await secret.send(chunk)
    await secret.receive()
    return meter.result(total)


async def receive(stream: UdxByteStream, words: dict[str, str], total: int) -> dict[str, Any]:
    digest = hashlib.sha256() if words.get("hash") == "1" else None
    got = 0
    if words.get("secret") == "0":

        def take(data: memoryview) -> None:
            nonlocal got
            got += len(data)
            if digest is not None:
                digest.update(data)

        await stream.receive_to(take)
        meter = Meter()
        while got < total:
            await stream.receive_to(take)
        await stream.send(b"k")
        return meter.result(got)
    secret = await SecretStream.establish(stream, is_initiator=False, key_pair=KeyPair.generate())
    meter = Meter()
    while got < total:
        for message in await secret.receive_many():
            got += len(message)
            if digest is not None:
                digest.update(message)
    await secret.send(b"k")
    return meter.result(got)


async def run(words: dict[str, str]) -> None:
    total = int(words["bytes"])
    offload = Offload.none() if words.get("gso") == "0" else None
    reactor = TaskReactor if words.get("tasks") == "1" else reactor_for
    async with UdxTransport(host=words.get("host", "127.0.0.1"), offload=offload, reactor=reactor) as transport:
        transport.open()
        stream = await connect(transport, words)
        result = await (send if words["role"] == "send" else receive)(stream, words, total)
        machine = stream.stream.machine
        say("RESULT", **result, rtt=machine.rtt, **machine.statistics())
        await anyio.sleep(float(words.get("linger", "0.3")))  # the other side wants its last acknowledgement


def main() -> None:
    words = dict(word.partition("=")[::2] for word in sys.argv[1:])
    if "role" not in words:
        raise SystemExit(__doc__)
    keep_freed_memory()
    if "profile" in words:
        cProfile.runctx("anyio.run(run, words)", globals(), {"words": words}, words["profile"])
    else:
        anyio.run(run, words)


if __name__ == "__main__":
    main()
