"""Our SecretStream and the official one over TCP, with either side connecting."""

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio import BrokenResourceError, EndOfStream

from hyperdht import HandshakeError, KeyPair, SecretStream
from hyperdht.io import connect_tcp, listen_tcp

from .js_peer import JsPeer, js_peer

pytestmark = [pytest.mark.anyio, pytest.mark.interop, pytest.mark.usefixtures("node")]

ROLES = pytest.mark.parametrize("we_connect", [True, False], ids=["python-connects", "javascript-connects"])
CHUNK = 65536
CHUNKS = 1600  # 100 MiB


@asynccontextmanager
async def connection(
    we_connect: bool, js_options: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[tuple[SecretStream, JsPeer, dict[str, Any]]]:
    """Our stream, the JavaScript peer, and what it says about the connection."""
    options = {"key_pair": KeyPair.generate()} | options
    async with js_peer() as peer:
        if we_connect:
            byte_stream = await connect_tcp("127.0.0.1", (await peer.request("listen", **js_options or {}))["port"])
        else:
            async with await listen_tcp("127.0.0.1") as listener:
                await peer.request("connect", port=listener.port, **js_options or {})
                byte_stream = await listener.accept()
        stream = await SecretStream.establish(byte_stream, is_initiator=we_connect, **options)
        async with stream:
            yield stream, peer, await peer.event("connected")


@ROLES
async def test_both_sides_agree_on_keys_and_handshake_hash(we_connect: bool) -> None:
    key_pair, js_seed = KeyPair.generate(), bytes(range(32))
    js_key = KeyPair.from_seed(js_seed).public_key
    async with connection(we_connect, {"seed": js_seed.hex()}, key_pair=key_pair, remote_public_key=js_key) as (
        stream,
        _,
        connected,
    ):
        assert connected["handshakeHash"] == stream.handshake_hash.hex()
        assert connected["remotePublicKey"] == key_pair.public_key.hex()
        assert connected["publicKey"] == stream.remote_public_key.hex() == js_key.hex()
        assert connected["isInitiator"] is not stream.is_initiator


async def test_javascript_with_another_key_than_expected_is_refused() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        async with connection(True, remote_public_key=KeyPair.generate().public_key):
            pytest.fail("the connection was made")
    assert raised.group_contains(HandshakeError, match="another key")


@ROLES
async def test_messages_keep_their_boundaries(we_connect: bool) -> None:
    sizes = [0, 1, 15, 16, 17, 63, 64, 65, 1000, 65536]
    async with connection(we_connect) as (stream, peer, _):
        await stream.send_many([bytes([size % 251]) * size for size in sizes])
        for size in sizes:
            assert (await peer.event("data"))["hex"] == (bytes([size % 251]) * size).hex()
        for size in sizes:
            await peer.request("write", data=(bytes([size % 250]) * size).hex())
        for size in sizes:
            assert await stream.receive() == bytes([size % 250]) * size


@ROLES
async def test_100_mib_from_python(we_connect: bool) -> None:
    async with connection(we_connect) as (stream, peer, _), anyio.create_task_group() as task_group:
        digest = hashlib.sha256()
        answer: dict[str, str] = {}

        async def receive() -> None:
            answer.update(await peer.request("receiveBulk", size=CHUNK * CHUNKS))

        task_group.start_soon(receive)
        await anyio.wait_all_tasks_blocked()
        for first in range(0, CHUNKS, 8):
            batch = [bytes([n % 256]) * CHUNK for n in range(first, first + 8)]
            digest.update(b"".join(batch))
            await stream.send_many(batch)
    assert answer["sha256"] == digest.hexdigest()


@ROLES
async def test_100_mib_from_javascript(we_connect: bool) -> None:
    async with connection(we_connect) as (stream, peer, _), anyio.create_task_group() as task_group:
        digest = hashlib.sha256()
        answer: dict[str, str] = {}

        async def send() -> None:
            answer.update(await peer.request("sendBulk", count=CHUNKS, size=CHUNK))

        task_group.start_soon(send)
        received = 0
        while received < CHUNKS:
            for message in await stream.receive_many():
                assert len(message) == CHUNK
                digest.update(message)
                received += 1
    assert answer["sha256"] == digest.hexdigest()


@ROLES
async def test_keep_alives_in_both_directions(we_connect: bool) -> None:
    limits = {"keep_alive_s": 0.05, "timeout_s": 1.0}
    async with connection(we_connect, {"keepAlive": 50}, **limits) as (stream, peer, _):
        with (
            pytest.raises(TimeoutError),
            anyio.fail_after(1.5),
        ):  # the keep-alive of JavaScript holds it and is not seen
            await stream.receive()
        assert peer.events("data") == []  # nor are ours over there
        await stream.send(b"alive")
        assert (await peer.event("data"))["hex"] == b"alive".hex()


async def test_our_keep_alives_are_empty_messages_to_a_peer_without_them() -> None:
    async with connection(True, keep_alive_s=0.05) as (stream, peer, _), anyio.create_task_group() as task_group:
        task_group.start_soon(stream.receive)
        assert (await peer.event("data"))["hex"] == ""
        await peer.request("write", data="00")


@ROLES
async def test_clean_end_from_python(we_connect: bool) -> None:
    async with connection(we_connect) as (stream, peer, _):
        await stream.send(b"last")
        await stream.send_eof()
        assert (await peer.event("data"))["hex"] == b"last".hex()
        await peer.event("end")
        await peer.request("end")
        with pytest.raises(EndOfStream):
            await stream.receive()
        await peer.event("closed")
        assert peer.events("error") == []


@ROLES
async def test_clean_end_from_javascript(we_connect: bool) -> None:
    async with connection(we_connect) as (stream, peer, _):
        await peer.request("write", data=b"last".hex())
        await peer.request("end")
        assert await stream.receive() == b"last"
        with pytest.raises(EndOfStream):
            await stream.receive()
        await stream.send_eof()
        await peer.event("closed")
        assert peer.events("error") == []


async def test_javascript_refuses_what_we_forge() -> None:
    """So that the tests above can fail: the official side does check."""
    async with connection(True) as (stream, peer, _):
        await stream._bytes.send(b"\x20\0\0" + bytes(32))
        await peer.event("error")
        await peer.event("closed")
        with pytest.raises((EndOfStream, BrokenResourceError)):
            await stream.receive()
