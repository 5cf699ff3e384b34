"""Small values that others can read while you are away: the DHT keeps them for a day or two.

    python examples/key_value.py set NAME VALUE       prints the address of the value, which stays the same
    python examples/key_value.py get ADDRESS
    python examples/key_value.py keep VALUE           prints the hash of the value, under which nothing else can ever be
    python examples/key_value.py find HASH

What is `set` is signed with a key made from your secret (--secret FILE, created when missing) and the name: only you can
change it, and everybody checks that. Put it again from time to time to keep it alive.
"""
# ruff: noqa: T201 - a program for a terminal

import argparse
import os
import sys
from pathlib import Path

import anyio

from hyperdht import HyperDHT, HyperDHTError, KeyPair, stop_on_signals
from hyperdht.crypto import blake2b
from hyperdht.io.bootstrap import PUBLIC_NODES

SECRET_BYTES = 32


async def run(options: argparse.Namespace) -> str:
    """One command; what to print."""
    async with stop_on_signals(), HyperDHT(bootstrap=options.bootstrap or PUBLIC_NODES) as dht:
        if options.command == "set":
            return await set_value(dht, key_for(options.secret, options.name), options.value.encode())
        if options.command == "get":
            stored = await dht.mutable_get(options.address)
            return "" if stored is None else stored.value.decode(errors="backslashreplace")
        if options.command == "keep":
            return (await dht.immutable_put(options.value.encode())).hex()
        kept = await dht.immutable_get(options.hash)
        return "" if kept is None else kept.decode(errors="backslashreplace")
    return ""


async def set_value(dht: HyperDHT, key_pair: KeyPair, value: bytes) -> str:
    """Nodes keep what has the highest number, so ask for the last one first."""
    last = await dht.mutable_get(key_pair.public_key)
    outcome = await dht.mutable_put(key_pair, value, seq=0 if last is None else last.seq + 1)
    if not outcome.stored:
        raise HyperDHTError("somebody else set this value at the same moment; try again")
    return key_pair.public_key.hex()


def key_for(secret: Path, name: str) -> KeyPair:
    """A key pair per name, all from one secret."""
    if not secret.exists():
        descriptor = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(os.urandom(SECRET_BYTES))
    return KeyPair.from_seed(blake2b(name.encode(), key=secret.read_bytes()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bootstrap", action="append", metavar="HOST:PORT", help="a node of another network than the public one"
    )
    parser.add_argument("--secret", type=Path, default=Path("key_value.secret"), metavar="FILE")
    commands = parser.add_subparsers(dest="command", required=True)
    setting = commands.add_parser("set")
    setting.add_argument("name")
    setting.add_argument("value")
    commands.add_parser("get").add_argument("address", type=bytes.fromhex)
    commands.add_parser("keep").add_argument("value")
    commands.add_parser("find").add_argument("hash", type=bytes.fromhex)
    try:
        found = anyio.run(run, parser.parse_args())
    except (HyperDHTError, OSError, ValueError) as error:
        sys.exit(f"key_value: {error}")
    print(found)
    sys.exit(0 if found else 1)


if __name__ == "__main__":
    main()
