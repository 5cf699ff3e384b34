"""mDNS: which addresses on this network belong to members of our rooms.

Discovery only ever yields addresses (T22). Who answers there is settled by the Noise link and the room proof, so a
spoofed record costs one failed connection. A record carries a random nonce of this run and, per room, eight bytes that
only members can recognise; no key, host name or room name is in it.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import anyio
import anyio.abc
from zeroconf import IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

SERVICE_TYPE = "_ollaswarm._tcp.local."
NONCE_BYTES = 16
MAX_TAGS = 14
"""Rooms named in one record: a TXT string holds 255 bytes, a tag and its comma 17."""
MAX_INSTANCES = 256
"""Instances remembered: anyone on the network can announce any number of names."""
MAX_LOOKS = 32
"""Instances looked at at a time: each may cost a query."""
RESOLVE_TIMEOUT_MS = 3000

TagFunction = Callable[[bytes], Iterable[str]]
"""A record's nonce -> the tag (16 hex digits) of each room we are in."""


@dataclass(frozen=True, slots=True)
class LanPeer:
    """A member of at least one of our rooms, as mDNS describes it."""

    instance: str
    addresses: tuple[str, ...]
    port: int


def dialable(address: str) -> bool:
    """Whether an address from mDNS may be dialled: only local ones, so a record cannot aim us at the internet (T19)."""
    try:
        ip = ipaddress.ip_address(address.split("%", 1)[0])
    except ValueError:
        return False
    return (ip.is_private or ip.is_link_local or ip.is_loopback) and not (ip.is_multicast or ip.is_unspecified)


class MdnsDiscovery:
    """Announces our listener and reports members it finds. An async context manager."""

    def __init__(
        self,
        *,
        port: int,
        addresses: Sequence[str],
        tags: TagFunction,
        found: Callable[[LanPeer], None],
        interfaces: Sequence[str] | None = None,
    ) -> None:
        """
        Args:
            port: TCP port of our listener.
            addresses: Our addresses to announce.
            tags: See `TagFunction`; called for our own nonce and for every peer's.
            found: Called in the event loop for each matching record, again when one changes.
            interfaces: Addresses of the interfaces to use; None means all of them.
        """
        self._port = port
        self._addresses = list(addresses)
        self._tags = tags
        self._found = found
        self._interfaces = interfaces
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._instance = f"{self._nonce[:8].hex()}.{SERVICE_TYPE}"
        self._names: set[str] = set()
        self._looks = anyio.CapacityLimiter(MAX_LOOKS)
        self._resolving: anyio.abc.TaskGroup | None = None
        self.seen = 0
        """Records of other sidecars seen, matching or not (for `doctor`)."""
        self._members: set[str] = set()

    async def __aenter__(self) -> Self:
        self._zeroconf = (
            AsyncZeroconf(ip_version=IPVersion.V4Only)
            if self._interfaces is None
            else AsyncZeroconf(interfaces=list(self._interfaces), ip_version=IPVersion.V4Only)
        )
        self._resolving = anyio.create_task_group()
        await self._resolving.__aenter__()
        self._info = self._describe()
        # The name is random: probing for a conflict would only cost the first second.
        await self._zeroconf.async_register_service(self._info, cooperating_responders=True)
        self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, SERVICE_TYPE, handlers=[self._changed])
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._resolving is not None
        self._resolving.cancel_scope.cancel()
        await self._resolving.__aexit__(None, None, None)
        with anyio.CancelScope(shield=True):
            await self._browser.async_cancel()
            await self._zeroconf.async_close()

    @property
    def members(self) -> int:
        """Instances announced now that are in a room of ours."""
        return len(self._members)

    @property
    def heard_anything(self) -> bool:
        """Whether anybody else on the network was heard by multicast, whatever it offers: a printer will do."""
        ours = (self._instance.lower(), str(self._info.server).lower(), SERVICE_TYPE)
        return any(name.lower() not in ours for name in self._zeroconf.zeroconf.cache.names())

    async def rooms_changed(self) -> None:
        """Announce the rooms we are in now, and look at known records again."""
        self._info = self._describe()
        await self._zeroconf.async_update_service(self._info)
        for name in list(self._names):
            self._resolve_soon(name)

    def _describe(self) -> AsyncServiceInfo:
        tags = list(self._tags(self._nonce))[:MAX_TAGS]
        return AsyncServiceInfo(
            SERVICE_TYPE,
            self._instance,
            port=self._port,
            parsed_addresses=self._addresses,
            properties={"v": "1", "n": self._nonce.hex(), "r": ",".join(tags)},
            server=f"ollaswarm-{self._nonce[:8].hex()}.local.",
        )

    def _changed(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        if name == self._instance:
            return
        if state_change is ServiceStateChange.Removed:
            self._names.discard(name)
            self._members.discard(name)
            return
        if name not in self._names:
            if len(self._names) >= MAX_INSTANCES and not self._forget_a_stranger():
                return
            self._names.add(name)
            self.seen += 1
        self._resolve_soon(name)

    def _forget_a_stranger(self) -> bool:
        """Make room for another name: who announces hundreds must not hide the members that come after them (T22)."""
        strangers = [*(self._names - self._members)]
        if strangers:
            self._names.discard(secrets.choice(strangers))
        return bool(strangers)

    def _resolve_soon(self, name: str) -> None:
        if self._resolving is not None and not self._resolving.cancel_scope.cancel_called:
            self._resolving.start_soon(self._resolve, name)

    async def _resolve(self, name: str) -> None:
        info = AsyncServiceInfo(SERVICE_TYPE, name)
        async with self._looks:
            if name not in self._names or not await info.async_request(self._zeroconf.zeroconf, RESOLVE_TIMEOUT_MS):
                return
        if (peer := self._match(name, info)) is None:
            self._members.discard(name)
        elif name in self._names:
            self._members.add(name)
            self._found(peer)

    def _match(self, name: str, info: AsyncServiceInfo) -> LanPeer | None:
        """The peer a record describes, if it is well formed and shares a room with us."""
        texts = info.decoded_properties
        if texts.get("v") != "1" or not info.port:
            return None
        try:
            nonce = bytes.fromhex(texts.get("n") or "")
        except ValueError:
            return None
        if len(nonce) != NONCE_BYTES:
            return None
        theirs = set((texts.get("r") or "").split(",")[:MAX_TAGS])
        if theirs.isdisjoint(self._tags(nonce)):
            return None
        addresses = tuple(a for a in info.parsed_addresses(IPVersion.V4Only) if dialable(a))
        return LanPeer(name.removesuffix("." + SERVICE_TYPE), addresses, info.port) if addresses else None
