"""The nodes a new node asks first."""

import ipaddress
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import anyio

from ..addresses import Address
from ..errors import LocalProtocolError

PUBLIC_NODES: Final = (
    "88.99.3.86@node1.hyperdht.org:49737",
    "142.93.90.113@node2.hyperdht.org:49737",
    "138.68.147.8@node3.hyperdht.org:49737",
)
"""Run by Holepunch for everybody. Source: hyperdht 6.34.0 `lib/constants.js`."""


@dataclass(frozen=True, slots=True)
class BootstrapNode:
    """`host:port`, or `ip@host:port`, where the name is resolved only if nothing answers at the address."""

    address: Address | None
    host: str
    port: int

    @classmethod
    def of(cls, node: str | Address) -> "BootstrapNode":
        """From an address, or a text; see `parse`."""
        return cls.parse(node) if isinstance(node, str) else cls(Address(*node), *node)

    @classmethod
    def parse(cls, text: str) -> "BootstrapNode":
        """
        Raises:
            LocalProtocolError: Not of one of these forms.
        """
        suggested, _, rest = text.rpartition("@")
        host, _, port = rest.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise LocalProtocolError(f"a bootstrap node is named host:port or ip@host:port, not {text!r}")
        known = suggested or host
        return cls(Address(known, int(port)) if _is_ipv4(known) else None, host, int(port))


def known_addresses(nodes: Iterable[BootstrapNode]) -> list[Address]:
    """What can be asked without resolving a name."""
    return [node.address for node in nodes if node.address is not None]


async def resolve(nodes: Sequence[BootstrapNode]) -> list[Address]:
    """The IPv4 addresses behind the names. A name that does not resolve is left out."""
    found: dict[int, Address] = {}

    async def look_up(index: int, node: BootstrapNode) -> None:
        try:
            answers = await anyio.getaddrinfo(node.host, node.port, family=socket.AF_INET)
        except OSError:
            return
        if answers:
            found[index] = Address(answers[0][4][0], node.port)

    async with anyio.create_task_group() as tasks:
        for index, node in enumerate(nodes):
            tasks.start_soon(look_up, index, node)
    return [found[index] for index in sorted(found)]


def _is_ipv4(text: str) -> bool:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        return False
    return True
