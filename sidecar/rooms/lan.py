"""TCP on the local network: accept, dial, and turn each socket into a SecretStream (XX).

What runs over the streams is the hub's business; this file only decides which sockets exist. Three kinds: accepted
ones, addresses the user gave with `--peer` (redialled for ever), and addresses mDNS found (dialled while they are news).
"""

from __future__ import annotations

import errno
import logging
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import anyio
import anyio.abc

from hyperdht import KeyPair, SecretStream
from hyperdht.errors import HyperDHTError
from hyperdht.io.tcp import TcpListener, TcpStream, connect_tcp, listen_tcp

if TYPE_CHECKING:
    from sidecar.diagnosis.facts import LanOutcome

    from .mdns import LanPeer

log = logging.getLogger(__name__)

Address = tuple[str, int]
ConnectionHandler = Callable[[SecretStream, str], Awaitable[bool]]
"""Runs one connection (stream, "host:port") until it ends; whether the peer was a member of a room of ours."""

HANDSHAKE_TIMEOUT_S = 10.0
MAX_HANDSHAKES = 32
"""Concurrent handshakes: each holds a socket and a few KiB before the peer has shown anything (T18)."""
MAX_HANDSHAKES_PER_HOST = 8
"""So that one host cannot take all handshake places and lock everybody else out (T18)."""
REDIAL_FIRST_S = 0.5
REDIAL_MAX_S = 30.0
MDNS_TRIES = 3
REDIALS = 20
"""Of a member that mDNS found and that was lost: about eight minutes. mDNS says nothing new of a machine that slept or lost
its cable for a while; whichever side notices the loss later looks for the other one from then on."""
MAX_FOUND = 256
"""Peers mDNS found that are remembered for that: as many as it looks at."""
MAX_DIALS = 256
"""Outcomes remembered: anybody on the network can announce any number of addresses by mDNS."""
MAX_FRAME_BYTES = 256 * 1024 + 512
"""Largest SecretStream message: the room protocol's frame cap and Protomux's header."""
KEEP_ALIVE_S = 15.0
IDLE_TIMEOUT_S = 45.0
"""A peer that vanished without a FIN is noticed after three keep-alive periods."""


class LanNetwork:
    """Listens and dials on the local network."""

    def __init__(
        self,
        key_pair: KeyPair,
        on_connection: ConnectionHandler,
        *,
        connected: Callable[[str], bool] = lambda _: False,
        has_peer: Callable[[bytes], bool] = lambda _: False,
    ) -> None:
        """
        Args:
            key_pair: Our identity, shown to whoever completes the handshake.
            on_connection: Called with each established stream; returns when it ended.
            connected: Whether the "host:port" we would dial already is a connected peer.
            has_peer: Whether the holder of a key is connected, by whatever road.
        """
        self._key_pair = key_pair
        self._on_connection = on_connection
        self._connected = connected
        self._has_peer = has_peer
        self._handshaking = 0
        self._hosts: Counter[str] = Counter()
        self._listener: TcpListener | None = None
        self._tasks: anyio.abc.TaskGroup | None = None
        self._dialling: set[str] = set()
        self._found: dict[str, LanPeer] = {}
        """By instance, the ones found last at the end."""
        self._keys: dict[str, bytes] = {}
        """Who answered there, by instance."""
        self.refused = 0
        """Sockets closed before or during the handshake."""
        self.dials: OrderedDict[str, LanOutcome] = OrderedDict()
        """How the newest dial of each of the last addresses ended, by "host:port"."""

    async def listen(self, host: str | None, port: int) -> Address:
        """Bind the listener and return where it listens; None is every address. OSError if the port is taken."""
        self._listener = await listen_tcp(host, port)
        return self._listener.local_address

    async def run(self, peers: Sequence[Address]) -> None:
        """Accept and dial until cancelled; then the listener is closed."""
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                if self._listener is not None:
                    tasks.start_soon(self._accept, self._listener)
                for address in peers:
                    tasks.start_soon(self.keep_connected, address)
                await anyio.sleep_forever()
        finally:
            if self._listener is not None:
                with anyio.CancelScope(shield=True):
                    await self._listener.aclose()

    def mdns_found(self, peer: LanPeer) -> None:
        """Dial a peer mDNS found, unless that is under way."""
        self._found.pop(peer.instance, None)
        self._found[peer.instance] = peer
        if len(self._found) > MAX_FOUND:
            oldest = next(iter(self._found))
            del self._found[oldest]
            self._keys.pop(oldest, None)
        self._look_for(peer, MDNS_TRIES)

    def _look_for(self, peer: LanPeer, tries: int, after_s: float = 0.0) -> None:
        if self._tasks is not None and peer.instance not in self._dialling:
            self._tasks.start_soon(self._dial_found, peer, tries, after_s)

    async def keep_connected(self, address: Address) -> None:
        """Dial, and dial again whenever the connection ended, until cancelled."""
        label = f"{address[0]}:{address[1]}"
        delay = REDIAL_FIRST_S
        while True:
            if self._connected(label):
                delay = REDIAL_MAX_S  # it connected to us; look now and then whether it still is
            else:
                # A member that is lost is probably restarting, so it is looked for at once, however short it was here.
                was_member = await self._try(address)
                delay = REDIAL_FIRST_S if was_member else min(delay * 2, REDIAL_MAX_S)
            await anyio.sleep(delay)

    async def _dial_found(self, peer: LanPeer, tries: int, after_s: float) -> None:
        self._dialling.add(peer.instance)
        delay = REDIAL_FIRST_S
        try:
            await anyio.sleep(after_s)
            while tries > 0 and not self._is_there(peer):
                tries -= 1
                for host in peer.addresses:
                    was_member = await self._try((host, peer.port), peer.instance)
                    if was_member is False:
                        return
                    if was_member:
                        tries, delay = REDIALS, REDIAL_FIRST_S
                        break
                await anyio.sleep(delay)
                delay = min(delay * 2, REDIAL_MAX_S)
        finally:
            self._dialling.discard(peer.instance)

    def _is_there(self, peer: LanPeer) -> bool:
        key = self._keys.get(peer.instance)
        connected = any(self._connected(f"{host}:{peer.port}") for host in peer.addresses)
        return connected or (key is not None and self._has_peer(key))

    async def _try(self, address: Address, instance: str = "") -> bool | None:
        """Dial once. None without a connection; else it has ended by now, and whether it was with a member."""
        label = f"{address[0]}:{address[1]}"
        try:
            with anyio.fail_after(HANDSHAKE_TIMEOUT_S):
                sock = await connect_tcp(*address)
        except (OSError, TimeoutError) as error:
            log.debug("cannot reach %s port %d: %s", *address, str(error) or "no answer")
            self._dialled(label, _outcome_of(error))
            return None
        self._dialled(label, "connected")
        was_member = await self._run_stream(sock, is_initiator=True, instance=instance)
        if was_member is None:
            self._dialled(label, "handshake")
        return was_member

    def _dialled(self, label: str, outcome: LanOutcome) -> None:
        self.dials.pop(label, None)
        self.dials[label] = outcome
        if len(self.dials) > MAX_DIALS:
            self.dials.popitem(last=False)

    async def _accept(self, listener: TcpListener) -> None:
        async with anyio.create_task_group() as tasks:
            while True:
                sock = await listener.accept()
                if (
                    self._handshaking >= MAX_HANDSHAKES
                    or self._hosts[sock.remote_address.host] >= MAX_HANDSHAKES_PER_HOST
                ):
                    self.refused += 1
                    await sock.aclose()
                else:
                    tasks.start_soon(self._run_accepted, sock)

    async def _run_accepted(self, sock: TcpStream) -> None:
        if await self._run_stream(sock, is_initiator=False) is None:
            self.refused += 1

    async def _run_stream(self, sock: TcpStream, *, is_initiator: bool, instance: str = "") -> bool | None:
        """Handshake, then the connection to its end: whether it was with a member, None if the handshake failed."""
        host, port = sock.remote_address
        self._handshaking += 1
        self._hosts[host] += 1
        try:
            stream = await SecretStream.establish(
                sock,
                is_initiator=is_initiator,
                key_pair=self._key_pair,
                keep_alive_s=KEEP_ALIVE_S,
                timeout_s=IDLE_TIMEOUT_S,
                handshake_timeout_s=HANDSHAKE_TIMEOUT_S,
                max_message_bytes=MAX_FRAME_BYTES,
            )
        except HyperDHTError as error:
            log.debug("no connection with %s: %s", host, error)
            return None
        finally:
            self._handshaking -= 1
            self._hosts[host] -= 1
            self._hosts += Counter()  # drops the zeros
        key = stream.remote_public_key
        if instance:
            self._keys[instance] = key
        was_member = await self._on_connection(stream, f"{host}:{port}")
        if was_member and not is_initiator:  # who dialled sees to it itself
            for lost in [each for each in self._found.values() if self._keys.get(each.instance) == key]:
                self._look_for(lost, REDIALS, REDIAL_FIRST_S)
        return was_member


def _outcome_of(error: OSError | TimeoutError) -> LanOutcome:
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    timed_out = isinstance(error, TimeoutError) or error.errno == errno.ETIMEDOUT
    return "timeout" if timed_out else "unreachable"
