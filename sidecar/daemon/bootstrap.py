"""A bootstrap node of the DHT, for networks of one's own that the public nodes cannot be reached from, or should not be."""

from __future__ import annotations

import ipaddress
import logging
from typing import TYPE_CHECKING

import anyio

from hyperdht import stop_on_signals
from hyperdht.io.testnet import bootstrapper
from sidecar.errors import ConfigError, DaemonError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sidecar.config import HostPort

log = logging.getLogger(__name__)


async def run_bootstrap_node(
    listen: HostPort, *, others: Sequence[HostPort] = (), ready: Callable[[str], None]
) -> None:
    """Be a node that others start from, until SIGINT, SIGTERM or cancellation.

    Args:
        listen: An address of this machine, as others reach it. Port 0 lets the system choose.
        others: Bootstrap nodes of the same network; none for the first.
        ready: Told the "host:port" to give to others.
    Raises:
        ConfigError: The host is not an address that others could use.
        DaemonError: The address is not this machine's, or the port is taken.
    """
    host = _address(listen)
    try:
        async with stop_on_signals(), bootstrapper(host, listen.port, bootstrap=[str(each) for each in others]) as node:
            if listen.port not in (0, node.port):
                raise DaemonError(
                    f"Port {listen.port} is taken.",
                    "Others are told this port, so it must be free. Choose another with --listen HOST:PORT.",
                )
            ready(f"{host}:{node.port}")
            await anyio.sleep_forever()
    except OSError as error:
        raise DaemonError(
            f"{listen} cannot be used: {error.strerror or error}.",
            "Name an IPv4 address of this machine with --listen HOST:PORT.",
        ) from error


def _address(listen: HostPort) -> str:
    """The host as nodes tell it to each other. A name or 0.0.0.0 would be nobody's address there."""
    try:
        address = ipaddress.IPv4Address(listen.host)
    except ValueError:
        address = ipaddress.IPv4Address(0)
    if address.is_unspecified:
        raise ConfigError(
            f"{listen.host!r} is not an IPv4 address that others could connect to.",
            "Give the address under which the other machines reach this one, for example --listen 192.168.1.5:49737.",
        )
    return str(address)
