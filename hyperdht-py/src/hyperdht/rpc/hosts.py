"""What kind of network an address belongs to."""

from enum import Enum, auto
from functools import lru_cache
from ipaddress import IPv4Address


class HostKind(Enum):
    """Who can be at an IPv4 address."""

    PUBLIC = auto()
    PRIVATE = auto()
    """Only somebody in the same network: private, link-local, loopback, for documentation."""
    NOBODY = auto()
    """Multicast, reserved or unspecified."""


@lru_cache(maxsize=4096)  # the same few hundred nodes are named over and over
def host_kind(host: str) -> HostKind:
    """The kind of an IPv4 address in text form."""
    address = IPv4Address(host)
    if address.is_multicast or address.is_unspecified or address.is_reserved:
        return HostKind.NOBODY
    return HostKind.PUBLIC if address.is_global else HostKind.PRIVATE
