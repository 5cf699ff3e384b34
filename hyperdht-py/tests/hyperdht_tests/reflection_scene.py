"""Run in a network namespace of its own by `test_node_reflection`: a public-looking network on one interface, where a stranger
names addresses in every message that has room for one. Prints what left the victims as JSON."""

import itertools
import json
import random
import socket
import subprocess
import sys
import threading
from collections import Counter
from contextlib import AsyncExitStack, suppress

import anyio

from hyperdht import HyperDHT, KeyPair
from hyperdht.addresses import Address
from hyperdht.crypto import blake2b
from hyperdht.dht.constants import Command, Firewall
from hyperdht.dht.noise_session import ClientHandshake
from hyperdht.dht.payloads import (
    HandshakeMessage,
    HolepunchMessage,
    Mode,
    NoisePayload,
    UdxInfo,
    encode_handshake,
    encode_holepunch,
)
from hyperdht.errors import ConnectError
from hyperdht.io.testnet import bootstrapper
from hyperdht.rpc.messages import Command as InternalCommand
from hyperdht.rpc.messages import Request, encode_address, encode_request

NODES = [f"9.9.0.{number}" for number in range(10, 14)]
OPEN, FIREWALLED, CLIENT, STRANGER, THIRD = "9.9.0.1", "9.9.0.2", "9.9.0.3", "9.9.0.9", "9.9.0.8"
PORT = 5000
LOW_PORT = 53
FORBIDDEN = [
    Address(host, PORT)
    for host in (
        "10.0.0.5",
        "172.16.0.5",
        "192.168.1.5",
        "169.254.1.5",
        "100.64.0.5",
        "127.0.0.5",
        "224.0.0.5",
        "240.0.0.5",
    )
] + [Address(THIRD, LOW_PORT), Address("255.255.255.255", PORT), Address("0.0.0.0", PORT)]
ETHERNET_BYTES, IP_BYTES, UDP = 14, 20, 17


class Capture:
    """Every UDP packet that leaves, by sender and destination."""

    def __init__(self) -> None:
        self.bytes: Counter[tuple[str, str, int]] = Counter()
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self._socket.bind(("lo", 0))
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            frame, info = self._socket.recvfrom(65535)
            packet = frame[ETHERNET_BYTES:]
            if info[2] != socket.PACKET_OUTGOING or packet[0] >> 4 != 4 or packet[9] != UDP:
                continue
            source, to = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
            port = int.from_bytes(packet[IP_BYTES + 2 : IP_BYTES + 4], "big")
            self.bytes[source, to, port] += len(packet)


def hostile(victim: Address, public_key: bytes, named: Address) -> list[bytes]:
    """All messages in which a stranger can name an address."""
    target = blake2b(public_key)

    def request(command: int, value: bytes, *, internal: bool = False) -> bytes:
        tid = random.randrange(1 << 16)
        return encode_request(Request(tid, victim, command, internal=internal, target=target, value=value))

    def shake(mode: Mode, *, peer: Address | None = None, relay: Address | None = None) -> bytes:
        payload = NoisePayload(
            firewall=random.choice([Firewall.OPEN, Firewall.UNKNOWN]),
            addresses4=(named,),
            udx=UdxInfo(random.randrange(1 << 32), False),
        )
        noise = ClientHandshake(KeyPair.generate(), public_key, payload).message
        return request(Command.PEER_HANDSHAKE, encode_handshake(HandshakeMessage(mode, noise, peer, relay)))

    def punch(mode: Mode) -> bytes:
        message = HolepunchMessage(mode, random.randrange(4), bytes(80), named)
        return request(Command.PEER_HOLEPUNCH, encode_holepunch(message))

    return [
        shake(Mode.FROM_CLIENT, relay=named),
        shake(Mode.FROM_SERVER, peer=named),
        shake(Mode.FROM_RELAY, peer=named),
        shake(Mode.FROM_SECOND_RELAY, peer=Address(THIRD, PORT), relay=named),
        shake(Mode.FROM_SECOND_RELAY, peer=named, relay=Address(STRANGER, PORT)),
        punch(Mode.FROM_CLIENT),
        punch(Mode.FROM_RELAY),
        punch(Mode.FROM_SERVER),
        request(InternalCommand.DOWN_HINT, encode_address(named), internal=True),
    ]


def prepare() -> None:
    """Every packet crosses the one interface, wherever it is for."""
    hosts = (*NODES, OPEN, FIREWALLED, CLIENT, STRANGER, THIRD)
    addresses = [f"address add {host}/32 dev lo" for host in hosts]
    for command in ("link set lo up", *addresses, f"route add default dev lo src {OPEN}"):
        subprocess.run(["ip", *command.split()], check=True)


async def main() -> None:
    capture = Capture()
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(bootstrapper(NODES[0], 49737))
        bootstrap = [f"{NODES[0]}:{first.port}"]
        for host in NODES[1:]:
            await stack.enter_async_context(bootstrapper(host, 49737, bootstrap=bootstrap))
        middle = await stack.enter_async_context(bootstrapper(OPEN, 49737, bootstrap=bootstrap))
        behind = await stack.enter_async_context(
            HyperDHT(bootstrap=bootstrap, host=FIREWALLED, port=49737, firewalled=True)
        )
        client = await stack.enter_async_context(
            HyperDHT(bootstrap=bootstrap, host=CLIENT, port=49737, firewalled=True)
        )
        servers = [await stack.enter_async_context(dht.listen()) for dht in (middle, behind)]
        stranger = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        stranger.bind((STRANGER, PORT))
        stranger.sendto(b"seen", FORBIDDEN[0])
        victims = [(Address(OPEN, 49737), servers[0]), (Address(FIREWALLED, 49737), servers[1])]
        for named, (victim, server), listening in itertools.product(
            [*FORBIDDEN, Address(THIRD, PORT)], victims, [True, False]
        ):
            key = server.public_key if listening else KeyPair.generate().public_key
            for message in hostile(victim, key, named):
                stranger.sendto(message, victim)
                await anyio.sleep(0.002)
        for named in FORBIDDEN:
            with suppress(ConnectError), anyio.move_on_after(0.2):
                await client.connect(KeyPair.generate().public_key, relay_addresses=[named])
        await anyio.sleep(1)
    print(json.dumps([[*key, size] for key, size in capture.bytes.items()]))


if __name__ == "__main__":
    prepare()
    anyio.run(main)
    sys.stdout.flush()
