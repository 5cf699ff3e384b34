"""The examples, as their users run them: each in a process of its own, on a network of this machine."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream

from hyperdht import KeyPair, testnet

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

EXAMPLES = Path(__file__).parents[2] / "examples"
WAIT_S = 20.0


class Example:
    """A running example."""

    def __init__(self, process: Process) -> None:
        self.process = process
        assert process.stdout is not None
        self._output = BufferedByteReceiveStream(process.stdout)

    async def line(self, pattern: str) -> str:
        """The next line that matches; the first group of the match, if there is any."""
        with anyio.fail_after(WAIT_S):
            while True:
                line = (await self._output.receive_until(b"\n", 65536)).decode().rstrip()
                if match := re.fullmatch(pattern, line):
                    return match[match.lastindex or 0]

    async def type(self, line: str) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send(line.encode() + b"\n")


@asynccontextmanager
async def running(name: str, *arguments: str | Path, bootstrap: Sequence[str]) -> AsyncIterator[Example]:
    options = [part for node in bootstrap for part in ("--bootstrap", node)]
    command = [sys.executable, str(EXAMPLES / f"{name}.py"), *options, *map(str, arguments)]
    async with await anyio.open_process(command, stdin=subprocess.PIPE, stderr=None) as process:
        try:
            yield Example(process)
        finally:
            if process.returncode is None:
                process.kill()


async def output_of(name: str, *arguments: str | Path, bootstrap: Sequence[str]) -> str:
    async with running(name, *arguments, bootstrap=bootstrap) as example:
        output = await example.line(r"(.*)")
        with anyio.fail_after(WAIT_S):
            assert await example.process.wait() == 0
        return output


async def test_chat() -> None:
    async with testnet(4) as bootstrap, running("chat", "room", bootstrap=bootstrap) as first:
        first_name = await first.line(r"you are (\w+)")
        async with running("chat", "room", bootstrap=bootstrap) as second:
            second_name = await second.line(r"you are (\w+)")
            await first.line(rf"\* {second_name} is here")
            await second.line(rf"\* {first_name} is here")
            await second.type("hello \x1b[31mred")
            assert await first.line(rf"{second_name}: (.*)") == "hello ?[31mred"
            await first.type("hello yourself")
            assert await second.line(rf"{first_name}: (.*)") == "hello yourself"
            if sys.platform == "win32":
                second.process.kill()
            else:
                second.process.send_signal(signal.SIGTERM)
                with anyio.fail_after(WAIT_S):
                    assert await second.process.wait() == 0
        await first.line(rf"\* {second_name} left")
        assert first.process.stdin is not None
        await first.process.stdin.aclose()
        with anyio.fail_after(WAIT_S):
            assert await first.process.wait() == 0


async def test_send_file(tmp_path: Path) -> None:
    data = os.urandom(3_000_001)
    source, target = tmp_path / "holiday photos.tar", tmp_path / "received"
    source.write_bytes(data)
    target.mkdir()
    (target / source.name).write_bytes(b"not to be replaced")
    async with testnet(4) as bootstrap, running("send_file", "send", source, bootstrap=bootstrap) as sender:
        key = await sender.line(r"([0-9a-f]{64})")
        output = await output_of("send_file", "receive", key, target, bootstrap=bootstrap)
        assert output == "received holiday photos (2).tar, 3000001 bytes"
        await sender.line(r"sent holiday photos.tar, 3000001 bytes")
        with anyio.fail_after(WAIT_S):
            assert await sender.process.wait() == 0
    assert (target / "holiday photos (2).tar").read_bytes() == data
    assert (target / source.name).read_bytes() == b"not to be replaced"
    assert len(list(target.iterdir())) == 2


async def test_key_value(tmp_path: Path) -> None:
    secret = tmp_path / "secret"

    async with testnet(4) as bootstrap:

        async def key_value(*arguments: str) -> str:
            return await output_of("key_value", "--secret", secret, *arguments, bootstrap=bootstrap)

        address = await key_value("set", "greeting", "hello")
        assert await key_value("get", address) == "hello"
        assert await key_value("set", "greeting", "good evening") == address
        assert await key_value("get", address) == "good evening"
        assert await key_value("set", "farewell", "bye") != address
        kept = await key_value("keep", "for ever the same")
        assert await key_value("find", kept) == "for ever the same"
        nobody = KeyPair.generate().public_key.hex()
        async with running("key_value", "get", nobody, bootstrap=bootstrap) as example:
            with anyio.fail_after(WAIT_S):
                assert await example.process.wait() == 1
    if os.name == "posix":
        assert secret.stat().st_mode & 0o777 == 0o600


def test_t07_names_of_received_files_are_no_paths() -> None:
    send_file = runpy.run_path(str(EXAMPLES / "send_file.py"))
    for name in ("../up", "/etc/passwd", "a/b", "a\\b", "c:evil", ".profile", "", "x" * 101, "bell\x07", 7, None):
        with pytest.raises(ValueError):  # noqa: PT011 - which of its sentences does not matter
            send_file["describe"](json.dumps({"name": name, "size": 1, "sha256": "00"}).encode())
    for size in (-1, 1 << 50, "1"):
        with pytest.raises(ValueError):  # noqa: PT011 - which of its sentences does not matter
            send_file["describe"](json.dumps({"name": "a", "size": size, "sha256": "00"}).encode())
    for message in (b"[]", b"no json", b'{"name": "a"}', b"\xff"):
        with pytest.raises(ValueError):  # noqa: PT011
            send_file["describe"](message)
    assert send_file["describe"](b'{"name": "a.txt", "size": 0, "sha256": "00"}') == ("a.txt", 0, "00")
