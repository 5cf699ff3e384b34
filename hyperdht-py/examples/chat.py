"""Talk to everybody who joined under the same name.

    python examples/chat.py NAME

What you type goes to all who are there, a line at a time. Ctrl-C ends it.
"""
# ruff: noqa: T201 - a program for a terminal

import argparse
import os
import sys
import threading
from collections.abc import AsyncIterator

import anyio
from anyio.abc import TaskGroup
from anyio.from_thread import BlockingPortal

from hyperdht import Hyperswarm, SecretStream, stop_on_signals
from hyperdht.crypto import blake2b

LONGEST_LINE = 4096


async def chat(name: str, bootstrap: list[str] | None) -> None:
    topic = blake2b(b"hyperdht-py chat example: " + name.encode())
    async with stop_on_signals(), Hyperswarm(bootstrap=bootstrap) as swarm, anyio.create_task_group() as tasks:
        print(f"you are {short(swarm.key_pair.public_key)}", flush=True)
        await swarm.join(topic)
        tasks.start_soon(take_connections, swarm, tasks)
        async for line in typed_lines():
            for stream in swarm.connections.open:
                tasks.start_soon(say, stream, line)
        tasks.cancel_scope.cancel()


async def take_connections(swarm: Hyperswarm, tasks: TaskGroup) -> None:
    async for stream in swarm.connections:
        tasks.start_soon(listen_to, stream)


async def listen_to(stream: SecretStream) -> None:
    """Print what one peer says, until it leaves."""
    name = short(stream.remote_public_key)
    print(f"* {name} is here", flush=True)
    try:
        async with stream:
            while True:
                print(f"{name}: {printable(await stream.receive())}", flush=True)
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        print(f"* {name} left", flush=True)


async def say(stream: SecretStream, line: bytes) -> None:
    """A peer that does not read holds up nobody but itself."""
    try:
        with anyio.move_on_after(10):
            await stream.send(line)
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass  # `listen_to` tells that it left


async def typed_lines() -> AsyncIterator[bytes]:
    """The lines of standard input. A thread reads them, for waiting for a terminal cannot be cancelled."""
    send, receive = anyio.create_memory_object_stream[bytes](1)
    async with BlockingPortal() as portal, send, receive:

        def read() -> None:
            try:
                while data := os.read(sys.stdin.fileno(), 65536):
                    portal.call(send.send, data)
                portal.call(send.aclose)
            except (RuntimeError, anyio.BrokenResourceError):
                pass  # the chat is over

        threading.Thread(target=read, daemon=True).start()
        rest = b""
        async for data in receive:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                yield line[:LONGEST_LINE]


def printable(message: bytes | bytearray) -> str:
    """What a stranger wrote must not steer the terminal."""
    text = bytes(message[:LONGEST_LINE]).decode(errors="replace")
    return "".join(character if character.isprintable() else "?" for character in text)


def short(public_key: bytes) -> str:
    return public_key.hex()[:8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="whoever knows it can listen and talk")
    parser.add_argument(
        "--bootstrap", action="append", metavar="HOST:PORT", help="a node of another network than the public one"
    )
    options = parser.parse_args()
    anyio.run(chat, options.name, options.bootstrap)


if __name__ == "__main__":
    main()
