"""The local network as the daemon runs it: TCP listener, dialling, and mDNS on the right interfaces."""

from __future__ import annotations

import ipaddress
import logging
from typing import TYPE_CHECKING

import anyio
import ifaddr

from sidecar.doctor import MdnsInfo
from sidecar.errors import DaemonError
from sidecar.rooms.lan import LanNetwork
from sidecar.rooms.mdns import MdnsDiscovery, dialable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.parts import Parts
    from sidecar.rooms.mdns import LanPeer

log = logging.getLogger(__name__)


class LocalNetwork:
    """See the module docstring."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._settings = parts.settings
        network = parts.network
        self.lan = LanNetwork(
            parts.identity.key_pair,
            network.run_connection,
            connected=network.is_connected,
            has_peer=network.connections.__contains__,
        )
        self._address: tuple[str, int] | None = None
        self._mdns: MdnsDiscovery | None = None
        self._mdns_problem = ""

    async def open(self) -> None:
        """Bind the listener.

        Raises:
            DaemonError: The port is taken or the address is not ours.
        """
        listen = self._settings.listen
        try:
            self._address = await self.lan.listen(*((None, 0) if listen is None else (listen.host, listen.port)))
        except OSError as error:
            raise DaemonError(
                f"Peers cannot connect: {listen or 'the listener'} cannot be used ({error.strerror or error}).",
                "Choose another address or port with --listen HOST:PORT (port 0 lets the system choose).",
            ) from error

    def listening(self) -> tuple[str, ...]:
        """`host:port` of every address peers can connect to."""
        if self._address is None:
            return ()
        host, port = self._address
        hosts = self._addresses() if ipaddress.ip_address(host).is_unspecified else [host]
        return tuple(f"[{each}]:{port}" if ":" in each else f"{each}:{port}" for each in hosts)

    async def run(self) -> None:
        """Accept, dial and discover until cancelled."""
        peers = [(peer.host, peer.port) for peer in self._settings.peers]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.lan.run, peers)
            if not self._settings.no_mdns and self._address is not None:
                tasks.start_soon(self._discover, self._address)

    async def rooms_changed(self) -> None:
        """Announce the rooms we are in now."""
        if self._mdns is not None:
            await self._mdns.rooms_changed()

    def mdns_info(self) -> MdnsInfo:
        """How discovery is doing."""
        enabled, mdns = not self._settings.no_mdns, self._mdns
        if mdns is None:
            return MdnsInfo(enabled, running=False, others=0, cause=self._mdns_problem)
        return MdnsInfo(
            enabled, running=True, others=mdns.seen, members=mdns.members, heard_anything=mdns.heard_anything
        )

    async def _discover(self, address: tuple[str, int]) -> None:
        host, port = address
        everywhere = ipaddress.ip_address(host).is_unspecified
        try:
            async with MdnsDiscovery(
                port=port,
                addresses=self._addresses() if everywhere else [host],
                tags=self._tags,
                found=self._found,
                interfaces=None if everywhere else [host],
            ) as discovery:
                self._mdns = discovery
                await anyio.sleep_forever()
        except OSError as error:
            # Without multicast (some containers and VPNs) there is still --peer.
            self._mdns_problem = str(error)
            log.warning("discovery on the local network does not work here: %s", error)
        finally:
            self._mdns = None

    def _tags(self, nonce: bytes) -> Iterable[str]:
        return [room.key.mdns_tag(nonce).hex() for room in self._parts.network.rooms.values()]

    def _found(self, peer: LanPeer) -> None:
        log.info("found a member on the local network at %s port %d", peer.addresses[0], peer.port)
        self.lan.mdns_found(peer)

    def _addresses(self) -> list[str]:
        """Our IPv4 addresses on local networks, loopback left out unless there is nothing else."""
        found = [str(ip.ip) for adapter in ifaddr.get_adapters() for ip in adapter.ips if ip.is_IPv4]
        local = [each for each in found if dialable(each) and not ipaddress.ip_address(each).is_loopback]
        return local or ["127.0.0.1"]
