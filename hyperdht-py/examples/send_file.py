"""Send a file to somebody, wherever the two of you are.

    python examples/send_file.py send FILE            prints a key, and waits
    python examples/send_file.py receive KEY FOLDER

Whoever is told the key can fetch the file while the sender runs; nobody in between can read it.
"""
# ruff: noqa: T201 - a program for a terminal

import argparse
import hashlib
import json
import os
import sys
import tempfile
from io import BufferedReader
from pathlib import Path

import anyio
from anyio import to_thread

from hyperdht import HyperDHT, HyperDHTError, KeyPair, SecretStream, stop_on_signals
from hyperdht.io.bootstrap import PUBLIC_NODES

CHUNK_BYTES = 65536
CHUNKS_AT_ONCE = 16
MAX_NAME_CHARACTERS = 100
MAX_FILE_BYTES = 1 << 40


async def send(path: Path, bootstrap: list[str]) -> None:
    """Wait for one receiver, and give it the file."""
    key_pair = KeyPair.generate()
    async with (
        stop_on_signals(),
        HyperDHT(bootstrap=bootstrap) as dht,
        dht.listen(key_pair=key_pair) as server,
    ):
        print(key_pair.public_key.hex(), flush=True)
        async for stream in server:
            try:
                async with stream:
                    await give(stream, path)
            except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
                print(f"the receiver went away ({error}); still waiting", file=sys.stderr)
            else:
                return


async def give(stream: SecretStream, path: Path) -> None:
    """One message that describes the file, then its bytes, then wait for the receiver to have checked them."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = await to_thread.run_sync(hash_of, file)
        about = {"name": path.name, "size": size, "sha256": digest}
        await stream.send(json.dumps(about).encode())
        while chunks := await to_thread.run_sync(read_chunks, file):
            await stream.send_many(chunks)
    await stream.receive()
    print(f"sent {path.name}, {size} bytes", flush=True)


def hash_of(file: BufferedReader) -> str:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0)
    return digest


def read_chunks(file: BufferedReader) -> list[bytes]:
    chunks = (file.read(CHUNK_BYTES) for _ in range(CHUNKS_AT_ONCE))
    return [chunk for chunk in chunks if chunk]


async def receive(public_key: bytes, folder: Path, bootstrap: list[str]) -> None:
    """Fetch the file, check it, and only then give it its name."""
    async with stop_on_signals(), HyperDHT(bootstrap=bootstrap) as dht, await dht.connect(public_key) as stream:
        name, size, sha256 = describe(bytes(await stream.receive()))
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".receiving-", delete=False) as file:
            try:
                digest = await write(stream, file, size)
                if digest != sha256:
                    raise ValueError("what arrived is not what was announced")
                target = free_name(folder, name)
                file.close()
                os.replace(file.name, target)
            except BaseException:
                file.close()
                os.unlink(file.name)
                raise
        await stream.send(b"thanks")
        print(f"received {target.name}, {size} bytes", flush=True)


async def write(stream: SecretStream, file: "tempfile._TemporaryFileWrapper[bytes]", size: int) -> str:
    """Write exactly `size` bytes. Returns their hash."""
    digest, missing = hashlib.sha256(), size
    while missing:
        for chunk in await stream.receive_many():
            if len(chunk) > missing:
                raise ValueError("more arrived than was announced")
            missing -= len(chunk)
            digest.update(chunk)
            await to_thread.run_sync(file.write, chunk)
    return digest.hexdigest()


def describe(message: bytes) -> tuple[str, int, str]:
    """Name, size and hash. The sender is a stranger: its name is no path, and its size is no promise to allocate."""
    about = json.loads(message)
    if not isinstance(about, dict):
        raise ValueError("that is not how a file is announced")
    name, size, sha256 = (about.get(field) for field in ("name", "size", "sha256"))
    if not (isinstance(name, str) and isinstance(size, int) and isinstance(sha256, str)):
        raise ValueError("that is not how a file is announced")
    if not name.isprintable() or not 0 < len(name) <= MAX_NAME_CHARACTERS or set(name) & set('/\\:*?"<>|'):
        raise ValueError("the sender gave the file a name that it cannot have here")
    if name.startswith(".") or not 0 <= size <= MAX_FILE_BYTES:
        raise ValueError("hidden files and files over a terabyte are not taken")
    return name, size, sha256


def free_name(folder: Path, name: str) -> Path:
    """Never replace what is there."""
    target = folder / name
    number = 1
    while target.exists():
        number += 1
        target = folder / f"{Path(name).stem} ({number}){Path(name).suffix}"
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bootstrap", action="append", metavar="HOST:PORT", help="a node of another network than the public one"
    )
    commands = parser.add_subparsers(dest="command", required=True)
    sender = commands.add_parser("send")
    sender.add_argument("file", type=Path)
    receiver = commands.add_parser("receive")
    receiver.add_argument("key", type=bytes.fromhex)
    receiver.add_argument("folder", type=Path, nargs="?", default=Path())
    options = parser.parse_args()
    bootstrap = options.bootstrap or list(PUBLIC_NODES)
    try:
        if options.command == "send":
            anyio.run(send, options.file, bootstrap)
        else:
            anyio.run(receive, options.key, options.folder, bootstrap)
    except (HyperDHTError, OSError, ValueError, anyio.EndOfStream, anyio.BrokenResourceError) as error:
        sys.exit(f"send_file: {str(error) or 'the other side ended the connection'}")


if __name__ == "__main__":
    main()
