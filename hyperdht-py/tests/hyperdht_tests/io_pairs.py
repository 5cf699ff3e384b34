"""Two ends of a connection inside one test."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from anyio.abc import ByteStream

from hyperdht import KeyPair, SecretStream
from hyperdht.io import TcpStream, connect_tcp, listen_tcp


@asynccontextmanager
async def tcp_pair() -> AsyncIterator[tuple[TcpStream, TcpStream]]:
    """A TCP connection over loopback: the connecting side first."""
    async with await listen_tcp("127.0.0.1") as listener:
        left = await connect_tcp("127.0.0.1", listener.port)
        right = await listener.accept()
    async with left, right:
        yield left, right


async def establish_pair(
    left: ByteStream, right: ByteStream, left_options: dict[str, Any], right_options: dict[str, Any]
) -> tuple[SecretStream, SecretStream]:
    """Shake hands on both ends at once."""
    made: dict[bool, SecretStream] = {}

    async def establish(byte_stream: ByteStream, is_initiator: bool, options: dict[str, Any]) -> None:
        options = {"key_pair": KeyPair.generate()} | options
        made[is_initiator] = await SecretStream.establish(byte_stream, is_initiator=is_initiator, **options)

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(establish, left, True, left_options)
        task_group.start_soon(establish, right, False, right_options)
    return made[True], made[False]


@asynccontextmanager
async def secret_pair(
    left_options: dict[str, Any] | None = None, right_options: dict[str, Any] | None = None
) -> AsyncIterator[tuple[SecretStream, SecretStream]]:
    """Two ends of a secret stream over TCP: the initiator first."""
    async with tcp_pair() as (left, right):
        streams = await establish_pair(left, right, left_options or {}, right_options or {})
        async with streams[0], streams[1]:
            yield streams
