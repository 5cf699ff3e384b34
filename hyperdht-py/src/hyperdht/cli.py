"""The DHT for people: run a node, look things up, connect, and see what stands between this machine and its peers.

Source of the verbs: the `hyperdht` command of the JavaScript package, and `nc`.
"""

import argparse
import ipaddress
import os
import re
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence

import anyio

from .addresses import Address
from .crypto import KeyPair, blake2b
from .errors import HyperDHTError
from .io.connection import SecretStream
from .io.node import HyperDHT
from .io.testnet import bootstrapper

KEY_BYTES = 32
READ_BYTES = 65536


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit code: 0, 1 for an error that is told in a sentence, 130 after Ctrl-C."""
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], Awaitable[None]] = options.run
    try:
        anyio.run(run, options)
    except KeyboardInterrupt:
        return 130
    except (HyperDHTError, OSError) as error:
        print(f"hyperdht: {error}", file=sys.stderr)
        return 1
    except BaseExceptionGroup as group:
        if group.split(KeyboardInterrupt)[0] is not None:
            return 130
        matching, rest = group.split((HyperDHTError, OSError))
        if matching is None or rest is not None:
            raise
        print(f"hyperdht: {_first(matching)}", file=sys.stderr)
        return 1
    return 0


def _first(error: BaseException) -> BaseException:
    inner: Sequence[BaseException] = getattr(error, "exceptions", ())
    return _first(inner[0]) if inner else error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hyperdht", description=__doc__, formatter_class=_Formatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    bootstrap = commands.add_parser("bootstrap", help="run the first node of a network of your own")
    bootstrap.add_argument("--host", type=_ipv4, default="127.0.0.1", help="address other nodes reach this one at")
    bootstrap.add_argument("--port", type=int, default=49737)
    bootstrap.set_defaults(run=_bootstrap)

    lookup = commands.add_parser("lookup", help="list who announced a topic")
    lookup.add_argument("topic", type=_topic, help="64 hex digits, or any text, which is hashed")
    lookup.set_defaults(run=_lookup)

    announce = commands.add_parser("announce", help="announce a topic until interrupted, and answer on it")
    announce.add_argument("topic", type=_topic, help="64 hex digits, or any text, which is hashed")
    announce.set_defaults(run=_announce)

    connect = commands.add_parser("connect", help="connect standard input and output to a peer")
    connect.add_argument("public_key", type=_key, help="64 hex digits")
    connect.set_defaults(run=_connect)

    serve = commands.add_parser("serve", help="wait for a peer and connect it to standard input and output")
    serve.add_argument("--seed", type=_key, help="64 hex digits that determine the key pair; random without")
    serve.add_argument("--echo", action="store_true", help="send every message back instead, to any number of peers")
    serve.set_defaults(run=_serve)

    ping = commands.add_parser("ping", help="ask whether a node is there")
    ping.add_argument("address", type=_address, help="host:port")
    ping.set_defaults(run=_ping)

    info = commands.add_parser("holepunch-info", help="what kind of NAT or firewall this machine sits behind")
    info.set_defaults(run=_holepunch_info)

    for command in (lookup, announce, connect, serve, ping, info):
        command.add_argument(
            "--bootstrap",
            action="append",
            metavar="HOST:PORT",
            help="a node to start from, instead of the public network; may be repeated",
        )
    return parser


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


def _key(text: str) -> bytes:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError("a key has 64 hex digits")
    return bytes.fromhex(text)


def _topic(text: str) -> bytes:
    return bytes.fromhex(text) if re.fullmatch(r"[0-9a-fA-F]{64}", text) else blake2b(text.encode())


def _ipv4(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not an IPv4 address: {error}") from None


def _address(text: str) -> Address:
    """The host may be a name."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise argparse.ArgumentTypeError("an address is host:port")
    return Address(host, int(port))


def _node(options: argparse.Namespace, *, key_pair: KeyPair | None = None) -> HyperDHT:
    return HyperDHT(bootstrap=options.bootstrap, key_pair=key_pair)


async def _bootstrap(options: argparse.Namespace) -> None:
    async with bootstrapper(options.host, options.port) as node:
        print(f"{options.host}:{node.port}", flush=True)
        await anyio.sleep_forever()


async def _lookup(options: argparse.Namespace) -> None:
    async with _node(options) as dht:
        async for peer in dht.lookup(options.topic):
            relays = " ".join(f"{host}:{port}" for host, port in peer.relay_addresses)
            print(peer.public_key.hex(), relays, flush=True)


async def _announce(options: argparse.Namespace) -> None:
    async with _node(options) as dht, dht.listen() as server:
        await dht.announce(options.topic, key_pair=server.key_pair, relay_addresses=server.relay_addresses)
        print(f"{server.public_key.hex()} announces {options.topic.hex()}", flush=True)
        try:
            async for stream in server:
                await stream.aclose()
        finally:
            with anyio.CancelScope(shield=True), anyio.move_on_after(2.0):
                await dht.unannounce(options.topic, key_pair=server.key_pair)


async def _connect(options: argparse.Namespace) -> None:
    async with _node(options) as dht:
        await _join_terminal(await dht.connect(options.public_key))


async def _serve(options: argparse.Namespace) -> None:
    key_pair = KeyPair.from_seed(options.seed) if options.seed else KeyPair.generate()
    async with _node(options, key_pair=key_pair) as dht, dht.listen() as server:
        print(server.public_key.hex(), file=sys.stderr, flush=True)
        async with anyio.create_task_group() as tasks:
            async for stream in server:
                if not options.echo:
                    await _join_terminal(stream)
                    return
                tasks.start_soon(_echo, stream)


async def _echo(stream: SecretStream) -> None:
    async with stream:
        try:
            while True:
                await stream.send_many(await stream.receive_many())
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            pass


async def _join_terminal(stream: SecretStream) -> None:
    """Until the peer ends its side."""
    async with stream, anyio.create_task_group() as tasks:
        tasks.start_soon(_send_input, stream)
        output = sys.stdout.buffer
        try:
            while True:
                for message in await stream.receive_many():
                    output.write(message)
                output.flush()
        except anyio.EndOfStream:
            tasks.cancel_scope.cancel()


async def _send_input(stream: SecretStream) -> None:
    # A thread that waits for a terminal cannot be cancelled; it ends with the process.
    descriptor = sys.stdin.fileno()
    while data := await anyio.to_thread.run_sync(os.read, descriptor, READ_BYTES, abandon_on_cancel=True):
        await stream.send(data)
    await stream.send_eof()


async def _ping(options: argparse.Namespace) -> None:
    async with _node(options) as dht:
        host, port = options.address
        (_, _, _, _, address), *_ = await anyio.getaddrinfo(host, port, family=socket.AF_INET)
        started = anyio.current_time()
        await dht.ping(Address(*address[:2]))
        print(f"{(anyio.current_time() - started) * 1000:.1f} ms")


async def _holepunch_info(options: argparse.Namespace) -> None:
    async with _node(options) as dht:
        await dht.fully_bootstrapped()
        address = dht.nat_address
        if address is None:
            print("No node of the network answered, so nothing is known. Check the firewall for outgoing UDP.")
            return
        if dht.remote_address is not None:
            kind = "open: anybody can connect"
        elif address.port:
            kind = "consistent: the same address for every destination, so hole punching works"
        else:
            kind = "random: another port for each destination; hole punching works with peers that are not random too"
        print(f"address   {address.host}:{address.port or 'varies'}")
        print(f"kind      {kind}")
        print(f"firewall  {'strangers cannot reach this machine' if dht.firewalled else 'none'}")
