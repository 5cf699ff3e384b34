"""The addresses of this machine's network interfaces."""

import ifaddr

LOOPBACK = "127.0.0.1"
EVERY_INTERFACE = "0.0.0.0"  # noqa: S104 - a node of a public network listens to the public


def local_hosts(bind_host: str) -> tuple[str, ...]:
    """IPv4 addresses under which peers in the same network may reach a socket bound to `bind_host`.

    As hyperdht: loopback alone if the socket is bound to it, or if the machine has no other interface that is up.
    """
    if bind_host != EVERY_INTERFACE:
        return (bind_host,)
    hosts = [address.ip for adapter in ifaddr.get_adapters() for address in adapter.ips if isinstance(address.ip, str)]
    return tuple(host for host in hosts if not host.startswith("127.")) or (LOOPBACK,)
