"""Nodes of an attacker: they are in everybody's tables, answer every ping, and lie about all else."""

from collections.abc import Callable, Sequence
from enum import Enum
from heapq import nsmallest
from random import Random

from hyperdht.addresses import Address
from hyperdht.crypto import KeyPair
from hyperdht.dht.constants import Command
from hyperdht.dht.messages import PeerRecord, encode_lookup_reply, encode_peer
from hyperdht.errors import DecodeError
from hyperdht.rpc import node_id
from hyperdht.rpc.messages import REQUEST_TYPE, Reply, Request, decode_request
from hyperdht.rpc.node import RpcNode
from hyperdht.rpc.requests import Datagram
from hyperdht.rpc.routing_table import BUCKET_SIZE

NAMED = 100
"""Closer nodes per lie where more are of use: as many as a packet of 1,200 bytes has room for is more than honest ones name."""
PRIVATE = tuple(Address(f"192.168.{i}.{j}", 49737) for i in range(2) for j in range(1, 21))
BAD = (
    Address("127.0.0.1", 22),
    Address("224.0.0.1", 5),
    Address("0.0.0.0", 1),
    Address("255.255.255.255", 9),
    *PRIVATE,
)


class Lie(Enum):
    """What an attacker's node says when it is asked about a target."""

    SILENCE = "nothing"
    GARBAGE = "random bytes"
    PRIVATE = "private and impossible addresses"
    INVENTED = "public addresses where nobody is"
    EACH_OTHER = "only each other"


class Liar:
    """A machine: an honest node that joins, pings and answers pings, with lies in place of its answers about targets."""

    def __init__(
        self, rpc: RpcNode, own: Callable[[], Address], lie: Lie, accomplices: Sequence[Address], random: Random
    ):
        """
        Args:
            own: Its own address.
            accomplices: All nodes of the attacker; the sequence may still grow.
        """
        self.lies = 0
        self._rpc = rpc
        self._own = own
        self._lie = lie
        self._accomplices = accomplices
        self._random = random
        self._garbage: list[Datagram] = []

    def receive(self, datagram: bytes, *, sender: Address, socket: int, now: float) -> None:
        request = _request_of(datagram, sender)
        if request is None or request.target is None:
            self._rpc.receive(datagram, sender=sender, socket=socket, now=now)
            return
        self.lies += 1
        if self._lie is Lie.GARBAGE:
            length = self._random.randrange(1, 1000)
            data = datagram[:1] + self._random.randbytes(length)
            if self._random.random() < 0.5:  # the right number makes it a reply that is damaged further on
                data = b"\x13" + self._random.randbytes(1) + datagram[2:4] + data
            self._garbage.append(Datagram(data, sender, socket))
        elif self._lie is not Lie.SILENCE:
            self._rpc.send(self._answer(request, sender), to=sender, socket=socket)

    def datagrams_to_send(self) -> list[Datagram]:
        garbage, self._garbage = self._garbage, []
        return garbage + self._rpc.datagrams_to_send()

    def next_timer(self) -> float:
        return self._rpc.next_timer()

    def handle_timer(self, *, now: float) -> None:
        self._rpc.handle_timer(now=now)

    def _answer(self, request: Request, sender: Address) -> Reply:
        assert request.target is not None
        value = None
        if not request.internal and request.command == Command.LOOKUP:
            value = self._false_records()
        return Reply(
            request.tid,
            sender,
            id=node_id(self._own()),
            token=self._random.randbytes(32),
            closer_nodes=self._closer_nodes(request.target),
            value=value,
        )

    def _closer_nodes(self, target: bytes) -> tuple[Address, ...]:
        if self._lie is Lie.PRIVATE:
            return tuple(self._random.sample(BAD, BUCKET_SIZE))
        if self._lie is Lie.INVENTED:
            hosts = (self._random.randrange(1 << 24) for _ in range(NAMED))
            return tuple(Address(f"77.{host >> 16}.{host >> 8 & 255}.{host & 255}", 49737) for host in hosts)
        key = int.from_bytes(target, "big")
        distance = {address: int.from_bytes(node_id(address), "big") ^ key for address in self._accomplices}
        return tuple(nsmallest(BUCKET_SIZE, distance, key=distance.__getitem__))

    def _false_records(self) -> bytes:
        keys = (self._random.randbytes(32) for _ in range(BUCKET_SIZE))
        return encode_lookup_reply([encode_peer(PeerRecord(key, (self._own(),))) for key in keys], 0)


def ports_near(target: bytes, host: str, count: int, *, ports: Sequence[int]) -> list[int]:
    """Which ports of a host have the ids closest to a target: whoever has one address can choose among 65,000 places."""
    key = int.from_bytes(target, "big")
    return nsmallest(count, ports, key=lambda port: int.from_bytes(node_id(Address(host, port)), "big") ^ key)


def key_pair_of(number: int) -> KeyPair:
    """One of many, the same in each run."""
    return KeyPair.from_seed(number.to_bytes(32, "big"))


def _request_of(datagram: bytes, sender: Address) -> Request | None:
    if datagram[:1] != bytes((REQUEST_TYPE,)):
        return None
    try:
        return decode_request(datagram, sender=sender)
    except DecodeError:
        return None
