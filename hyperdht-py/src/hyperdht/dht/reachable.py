"""Which addresses we send to because somebody else said so."""

import ipaddress

from ..addresses import Address

MIN_PORT = 1024  # below are services that answer datagrams of strangers, DNS and NTP among them; no node listens there


def may_send_to(address: Address, *, named_by: Address) -> bool:
    """Whether to send to an address that `named_by` told us.

    Otherwise anybody could have us send to the machines of our own network, to this machine's services, or to a multicast
    group. Whoever is in a private network may name private addresses: a testnet or a LAN is private as a whole. Loopback
    may only be named from there.
    """
    host = ipaddress.IPv4Address(address.host)
    if address.port < MIN_PORT or host.is_multicast or host.is_unspecified or host.is_reserved:
        return False
    if host.is_global:
        return True
    namer = ipaddress.IPv4Address(named_by.host)
    return namer.is_loopback or not (namer.is_global or host.is_loopback)


def is_public(address: Address) -> bool:
    """Whether anybody could be there, and not only in our own network."""
    host = ipaddress.IPv4Address(address.host)
    return address.port >= MIN_PORT and host.is_global and not host.is_multicast
