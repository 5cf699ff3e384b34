"""A node, peer, DHT or relay of ours, driven line by line: the same verbs as dht_peer.mjs, which says what they are."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import secrets
import struct
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

import anyio

from hyperdht import BlindRelay, HyperDHT, Hyperswarm, KeyPair, SecretStream, stop_on_signals, testnet
from hyperdht.addresses import Address
from hyperdht.io.offload import Offload
from hyperdht.io.testnet import bootstrapper

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
    from contextlib import AbstractAsyncContextManager

    from hyperdht import Server
    from hyperdht.io.udx_stream import UdxByteStream

CHUNK_BYTES = 65536
READ_BYTES = 1 << 20
ACK = b"\x06"
MB = 1e6
MS = 1000

T = TypeVar("T")

Json = dict[str, Any]


def say(message: Json) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def emit(event: str, **fields: Any) -> None:
    say({"event": event, "at": time.monotonic(), **fields})


def raw(stream: SecretStream) -> UdxByteStream:
    return cast("UdxByteStream", stream.raw_stream)


def hexed(data: bytes | bytearray | None) -> str | None:
    return None if data is None else bytes(data).hex()


def unhexed(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)


def text_of(address: Address | None) -> str | None:
    return None if address is None else f"{address.host}:{address.port}"


def address_of(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return Address(host, int(port))


def key_pair_of(seed: str | None) -> KeyPair | None:
    return None if seed is None else KeyPair.from_seed(bytes.fromhex(seed))


def snake(name: str) -> str:
    """A name of JavaScript as we spell it."""
    return re.sub("[A-Z]", lambda letter: f"_{letter[0].lower()}", name)


class Meter:
    """Wall and CPU seconds since it was made."""

    def __init__(self) -> None:
        self._started, self._cpu = time.monotonic(), cpu_seconds()

    def stop(self) -> Json:
        return {"seconds": time.monotonic() - self._started, "cpu": cpu_seconds() - self._cpu}


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


class Held:
    """An async context manager that lives in a task of its own, so that any task may end it."""

    def __init__(self, manager: AbstractAsyncContextManager[Any]) -> None:
        self._manager = manager
        self._stop, self._gone = anyio.Event(), anyio.Event()

    async def run(self, *, task_status: anyio.abc.TaskStatus[Any]) -> None:
        try:
            async with self._manager as value:
                task_status.started(value)
                await self._stop.wait()
        finally:
            self._gone.set()

    async def close(self) -> None:
        self._stop.set()
        await self._gone.wait()


@dataclass
class Connection:
    """A stream, and what is done with what arrives on it."""

    number: int
    stream: SecretStream
    topics: list[bytes]
    echo: bool = False
    receiving: Callable[[bytearray], Awaitable[None]] | None = None
    acknowledged: anyio.Event | None = None
    closed: anyio.Event = field(default_factory=anyio.Event)

    def description(self) -> Json:
        stream = self.stream
        return {
            "conn": self.number,
            "publicKey": hexed(stream.public_key),
            "remotePublicKey": hexed(stream.remote_public_key),
            "handshakeHash": hexed(stream.handshake_hash),
            "isInitiator": stream.is_initiator,
            "topics": [hexed(topic) for topic in self.topics],
        }

    async def read(self) -> None:
        """Until it ends."""
        code = None
        try:
            while True:
                for message in await self.stream.receive_many():
                    await self._take(message)
        except anyio.EndOfStream:
            emit("end", conn=self.number)
            await self.stream.aclose()
        except anyio.BrokenResourceError:
            code = "ECONNRESET"
        except anyio.ClosedResourceError:
            pass
        self.closed.set()
        emit("closed", conn=self.number, code=code)

    async def _take(self, message: bytearray) -> None:
        if self.receiving is not None:
            await self.receiving(message)
        elif self.acknowledged is not None:
            self.acknowledged.set()
        elif self.echo:
            await self.stream.send(message)
        else:
            emit("data", conn=self.number, hex=hexed(message))

    async def receive(self, size: int, *, hashed: bool) -> Json:
        """The next `size` bytes."""
        digest, meter = hashlib.sha256(), Meter()
        first: list[Meter] = []
        left, complete = size, anyio.Event()

        async def take(message: bytearray) -> None:
            nonlocal left
            if not first:
                first.append(Meter())
            if hashed:
                digest.update(message)
            left -= len(message)
            if left <= 0:
                self.receiving = None
                complete.set()
                await self.stream.send(ACK)

        self.receiving = take
        if not await self._wait(complete):
            return {"closed": True, "left": left}
        return {**meter.stop(), "seconds": first[0].stop()["seconds"], "sha256": digest.hexdigest() if hashed else None}

    async def send(self, size: int, *, hashed: bool, chunk: int = CHUNK_BYTES) -> Json:
        """`size` bytes, until the peer has them."""
        digest, block, left, number = hashlib.sha256(), secrets.token_bytes(chunk), size, 0
        self.acknowledged, meter = anyio.Event(), Meter()
        while left > 0:
            message: bytes | bytearray = block if left >= chunk else block[:left]
            if hashed:
                message = bytearray(message)
                struct.pack_into("<I", message, 0, number)
                digest.update(message)
            await self.stream.send(message)
            left -= len(message)
            number += 1
        if not await self._wait(self.acknowledged):
            raise ConnectionError("closed while sending")
        self.acknowledged = None
        return {**meter.stop(), "sha256": digest.hexdigest() if hashed else None}

    async def _wait(self, event: anyio.Event) -> bool:
        """Whether it came before the connection closed."""
        async with anyio.create_task_group() as tasks:

            async def until(either: anyio.Event) -> None:
                await either.wait()
                tasks.cancel_scope.cancel()

            tasks.start_soon(until, event)
            tasks.start_soon(until, self.closed)
        return event.is_set()


class Program:
    """What the process has, and the verbs: the methods that begin with `verb_`."""

    def __init__(self, tasks: anyio.abc.TaskGroup) -> None:
        self._tasks = tasks
        self._connections: dict[int, Connection] = {}
        self._servers: dict[str, Server] = {}
        self._held: list[Held] = []
        self._host = ""
        self._dht: HyperDHT | None = None
        self._swarm: Hyperswarm | None = None
        self._greeting: bytes | None = None

    @property
    def dht(self) -> HyperDHT:
        assert self._dht is not None, "init comes first"
        return self._dht

    @property
    def swarm(self) -> Hyperswarm:
        assert self._swarm is not None, "init comes first, with kind swarm"
        return self._swarm

    async def answer(self, request: Json) -> None:
        """Do what one line asks for and say how it went."""
        number, verb = request.pop("id"), request.pop("verb")
        try:
            method = getattr(self, f"verb_{snake(verb)}")
            ok = await method(**{snake(name): value for name, value in request.items()})
        except Exception as error:
            say({"id": number, "error": repr(error), "code": getattr(error, "code", None)})
        else:
            say({"id": number, "ok": ok})

    async def _hold(self, manager: AbstractAsyncContextManager[T]) -> T:
        held = Held(manager)
        value: T = await self._tasks.start(held.run)
        self._held.append(held)
        return value

    async def _add(self, stream: SecretStream, topics: Iterable[bytes] = ()) -> Json:
        connection = Connection(len(self._connections), stream, list(topics))
        self._connections[connection.number] = connection
        self._tasks.start_soon(connection.read)
        if self._greeting is not None:
            await stream.send(self._greeting)
        return connection.description()

    async def _accept(self, streams: AsyncIterable[SecretStream]) -> None:
        async for stream in streams:
            emit("connection", **await self._add(stream, getattr(stream, "topics", ())))

    # ------------------------------------------------------------ nodes

    async def verb_init(
        self,
        kind: str = "dht",
        seed: str | None = None,
        greet: str | None = None,
        host: str = "127.0.0.1",
        offload: bool = True,
        keep_alive: float | None = None,
        max_peers: int | None = None,
        relay_through: str | None = None,
        **options: Any,
    ) -> Json:
        self._greeting, self._host = unhexed(greet), host
        if keep_alive is not None:
            options["keep_alive_s"] = keep_alive / MS
        if not offload:
            options["offload"] = Offload.none()
        node = HyperDHT(host=host, key_pair=key_pair_of(seed), **options)
        if kind == "swarm":
            swarm = {"key_pair": node.key_pair, "max_peers": max_peers, "relay_through": unhexed(relay_through)}
            self._swarm = await self._hold(swarm_on(node, swarm))
            self._tasks.start_soon(self._accept, self._swarm.connections)
        else:
            await self._hold(node)
        self._dht = node
        await node.fully_bootstrapped()
        return await self.verb_info()

    async def verb_info(self) -> Json:
        return {
            "publicKey": hexed(self.dht.key_pair.public_key),
            "local": f"{self._host}:{self.dht.port}",
            "public": text_of(self.dht.nat_address),
            "remote": text_of(self.dht.remote_address),
            "firewalled": self.dht.firewalled,
            "ephemeral": self.dht.ephemeral,
            "randomized": self.dht.randomized,
        }

    async def verb_testnet(self, size: int = 5, hosts: list[str] | None = None, port: int = 0) -> Json:
        if hosts is None:
            return {"bootstrap": await self._hold(testnet(size))}
        bootstrap: list[str] = []
        for host in hosts:
            node = await self._hold(bootstrapper(host, port, bootstrap=bootstrap))
            await node.fully_bootstrapped()
            bootstrap = bootstrap or [f"{host}:{node.port}"]
        return {"bootstrap": bootstrap}

    async def verb_listen(
        self,
        seed: str | None = None,
        reject: Iterable[str] = (),
        relay_through: str | None = None,
        holepunch: bool = True,
        **options: Any,
    ) -> Json:
        rejected = set(map(unhexed, reject))
        server = self.dht.listen(
            key_pair_of(seed),
            firewall=lambda public_key, *_: public_key in rejected,
            relay_through=unhexed(relay_through),
            holepunch=None if holepunch else lambda *_: False,
            **options,
        )
        self._servers[server.public_key.hex()] = await self._hold(server)
        self._tasks.start_soon(self._accept, server)
        return {"publicKey": hexed(server.public_key), "relayAddresses": list(map(text_of, server.relay_addresses))}

    async def verb_relay_server(self) -> Json:
        relay = await self._hold(BlindRelay(self.dht))
        return {"publicKey": hexed(relay.public_key)}

    async def verb_unlisten(self, public_key: str) -> None:
        await self._servers.pop(public_key).aclose()

    async def verb_connect(self, public_key: str, **options: Any) -> Json:
        return await self._add(await self._connect(public_key, **options))

    async def _connect(
        self,
        public_key: str,
        seed: str | None = None,
        relay_through: str | None = None,
        relay_addresses: Iterable[str] = (),
        **options: Any,
    ) -> SecretStream:
        return await self.dht.connect(
            bytes.fromhex(public_key),
            key_pair=key_pair_of(seed),
            relay_through=unhexed(relay_through),
            relay_addresses=list(map(address_of, relay_addresses)),
            **options,
        )

    async def verb_connect_many(
        self, public_key: str, count: int, parallel: int = 1, keep: bool = False, **options: Any
    ) -> Json:
        left, meter = count, Meter()

        async def work() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                stream = await self._connect(public_key, seed=secrets.token_hex(32), **options)
                if keep:
                    await self._add(stream)
                else:
                    raw(stream).destroy()

        async with anyio.create_task_group() as tasks:
            for _ in range(parallel):
                tasks.start_soon(work)
        return meter.stop()

    async def verb_close(self, force: bool = False) -> None:
        while self._held:
            await self._held.pop().close()

    async def verb_suspend(self) -> None:
        if self._swarm is not None:
            await self._swarm.suspend()
        await self.dht.suspend()

    async def verb_resume(self) -> None:
        await self.dht.resume()
        if self._swarm is not None:
            await self._swarm.resume()

    async def verb_stats(self) -> Json:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB
        return {"cpu": cpu_seconds(), "peakMb": peak}

    async def verb_kill(self) -> None:
        os._exit(1)

    # ------------------------------------------------------------ the DHT

    async def verb_ping(self, to: str) -> None:
        await self.dht.ping(address_of(to))

    async def verb_closest(self, target: str) -> list[str | None]:
        return list(map(text_of, await self.dht.search(bytes.fromhex(target))))

    async def verb_find_peer(self, public_key: str) -> bool:
        found = [peer async for peer in self.dht.find_peer(bytes.fromhex(public_key))]
        return bool(found)

    async def verb_lookup(self, topic: str) -> Json:
        return {
            peer.public_key.hex(): list(map(text_of, peer.relay_addresses))
            async for peer in self.dht.lookup(bytes.fromhex(topic))
        }

    async def verb_announce(self, topic: str, seed: str | None = None) -> None:
        key_pair = key_pair_of(seed) or self.dht.key_pair
        server = self._servers.get(key_pair.public_key.hex())
        relays = () if server is None else server.relay_addresses
        await self.dht.announce(bytes.fromhex(topic), key_pair=key_pair, relay_addresses=relays)

    async def verb_unannounce(self, topic: str, seed: str | None = None) -> None:
        await self.dht.unannounce(bytes.fromhex(topic), key_pair=key_pair_of(seed))

    async def verb_immutable_put(self, value: str) -> Json:
        return {"hash": hexed(await self.dht.immutable_put(bytes.fromhex(value)))}

    async def verb_immutable_get(self, hash: str) -> str | None:  # noqa: A002
        return hexed(await self.dht.immutable_get(bytes.fromhex(hash)))

    async def verb_mutable_put(self, seed: str, value: str, seq: int = 0) -> Json:
        key_pair = KeyPair.from_seed(bytes.fromhex(seed))
        await self.dht.mutable_put(key_pair, bytes.fromhex(value), seq=seq)
        return {"publicKey": hexed(key_pair.public_key)}

    async def verb_mutable_get(self, public_key: str, **options: Any) -> Json | None:
        found = await self.dht.mutable_get(bytes.fromhex(public_key), **options)
        return None if found is None else {"seq": found.seq, "value": hexed(found.value)}

    # ------------------------------------------------------------ the swarm

    async def verb_join(self, topic: str, server: bool = True, client: bool = True, flush: bool = True) -> Json:
        at = time.monotonic()
        session = await self.swarm.join(bytes.fromhex(topic), server=server, client=client)
        if flush:
            await session.flushed()
        return {"at": at}

    async def verb_leave(self, topic: str) -> None:
        await self.swarm.leave(bytes.fromhex(topic))

    async def verb_flush(self) -> None:
        await self.swarm.flush()

    async def verb_join_peer(self, public_key: str) -> None:
        self.swarm.join_peer(bytes.fromhex(public_key))

    async def verb_leave_peer(self, public_key: str) -> None:
        self.swarm.leave_peer(bytes.fromhex(public_key))

    # ------------------------------------------------------------ one connection

    async def verb_write(self, conn: int, data: str) -> None:
        await self._connections[conn].stream.send(bytes.fromhex(data))

    async def verb_echo(self, conn: int, on: bool = True) -> None:
        self._connections[conn].echo = on

    async def verb_end(self, conn: int) -> None:
        await self._connections[conn].stream.send_eof()

    async def verb_destroy(self, conn: int) -> None:
        raw(self._connections[conn].stream).destroy()

    async def verb_receive(self, conn: int, bytes: int, hash: bool = True) -> Json:  # noqa: A002
        return await self._connections[conn].receive(bytes, hashed=hash)

    async def verb_send(self, conn: int, bytes: int, hash: bool = True, chunk: int = CHUNK_BYTES) -> Json:  # noqa: A002
        return await self._connections[conn].send(bytes, hashed=hash, chunk=chunk)

    async def verb_open(self) -> list[Json]:
        return [each.description() for each in self._connections.values() if not each.closed.is_set()]

    async def verb_path(self, conn: int) -> Json:
        stream = self._connections[conn].stream
        return {"remote": text_of(raw(stream).remote_address)}


async def requests() -> AsyncIterator[Json]:
    """One a line, until the end of stdin."""
    rest = b""
    while True:
        await anyio.wait_readable(sys.stdin.fileno())
        data = os.read(sys.stdin.fileno(), READ_BYTES)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield json.loads(line)


@asynccontextmanager
async def swarm_on(node: HyperDHT, options: Json) -> AsyncIterator[Hyperswarm]:
    """A swarm with a node of its own."""
    async with node, Hyperswarm(dht=node, **options) as swarm:
        yield swarm


async def main() -> None:
    async with stop_on_signals(), anyio.create_task_group() as tasks:
        program = Program(tasks)
        async for request in requests():
            tasks.start_soon(program.answer, request)
        tasks.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main)
