"""The short way between two peers in one network."""

from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address

from ..addresses import Address
from .reachable import MIN_PORT


def lan_addresses(named: Iterable[Address], own: Sequence[Address]) -> tuple[Address, ...]:
    """Those a peer behind the same public address may be reached at.

    It names them itself, so services and groups are left out, and this machine itself unless our node listens on nothing
    else.
    """
    on_loopback = bool(own) and all(IPv4Address(address.host).is_loopback for address in own)
    return tuple(address for address in named if _is_unicast(address, on_loopback=on_loopback))


def best_match(own: Sequence[Address], theirs: Sequence[Address]) -> Address | None:
    """The one with the longest common beginning with one of ours, in whole octets. None without a common one."""
    shared = {address: max((_common_octets(address, ours) for ours in own), default=0) for address in theirs}
    best = max(theirs, key=lambda address: shared[address], default=None)
    return best if best is not None and shared[best] else None


def private_ones(addresses: Iterable[Address]) -> tuple[Address, ...]:
    """Those that mean something else in another network."""
    return tuple(address for address in addresses if not IPv4Address(address.host).is_global)


def _is_unicast(address: Address, *, on_loopback: bool) -> bool:
    host = IPv4Address(address.host)
    if address.port < MIN_PORT or host.is_multicast or host.is_unspecified or host.is_reserved:
        return False
    return on_loopback or not host.is_loopback


def _common_octets(left: Address, right: Address) -> int:
    octets = zip(left.host.split(".")[:3], right.host.split(".")[:3], strict=True)
    count = 0
    for ours, theirs in octets:
        if ours != theirs:
            break
        count += 1
    return count
