"""Relays blindly for members of our rooms that cannot reach each other, both being behind NATs that give each destination
another port. It passes on packets it cannot read, for who proved to be a member, and for nobody else.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio

from hyperdht import BlindRelay
from hyperdht.errors import HyperDHTError
from hyperdht.io.relay_limits import RelayLimits

from .introductions import Presence

if TYPE_CHECKING:
    from hyperdht import HyperDHT, KeyPair
    from hyperdht.addresses import Address
    from hyperdht.dht.payloads import NoisePayload

    from .acquaintances import Acquaintances

log = logging.getLogger(__name__)

LIMITS = RelayLimits(bytes_per_s=1 << 20, sessions=32, sessions_of_host=8)
"""All pairs together get 1 MiB/s, in and out again: what a home line has to spare for others, and enough for adapters. 16
pairs, as each is two sessions; a host is one member or a few behind one router, so it cannot take them all."""
LOOK_EVERY_S = 2.0
"""At our own NAT, and at who needs a relay. What a NAT does shows only in use."""
PAIR = 2
"""Members in need that make a relay worth its announcement, which costs a megabyte an hour."""
CLOSE_TIMEOUT_S = 1.0
"""To take the announce back; the swarm then needs its own time, and the daemon as a whole ends within five seconds."""
RETRY_S = 60.0
"""After the relay could not be announced."""


class MemberRelay:
    """Says what there is to say about us, and runs the relay while it is of use. One per node of the DHT."""

    def __init__(self, node: HyperDHT, key_pair: KeyPair | None, acquaintances: Acquaintances) -> None:
        """
        Args:
            key_pair: Of the relay, not our identity; None when the user does not want to relay.
        """
        self._node = node
        self._key_pair = key_pair
        self._acquaintances = acquaintances
        self._relay: BlindRelay | None = None
        self.refused = 0
        """Strangers that wanted to be carried."""

    @property
    def running(self) -> bool:
        """Whether members are told to use it."""
        return self._relay is not None

    @property
    def pairs(self) -> int:
        """Connections of others that go through here."""
        return 0 if self._relay is None else self._relay.pairs

    async def run(self) -> None:
        """Work until cancelled."""
        await self._node.fully_bootstrapped()
        while True:
            self._acquaintances.present(Presence(is_random=self._node.randomized))
            if self._is_wanted():
                await self._serve()
            await anyio.sleep(LOOK_EVERY_S)

    async def _serve(self) -> None:
        """Relay until it is of no more use."""
        try:
            async with BlindRelay(
                self._node,
                key_pair=self._key_pair,
                firewall=self._refuses,
                limits=LIMITS,
                close_timeout_s=CLOSE_TIMEOUT_S,
            ) as self._relay:
                log.info("relaying for members that cannot reach each other")
                self._acquaintances.present(Presence(relay=self._relay.public_key))
                while self._is_useful(self._relay):  # noqa: ASYNC110 - nothing announces what a NAT does
                    await anyio.sleep(LOOK_EVERY_S)
        except HyperDHTError as error:
            log.warning("cannot relay for members: %s", error)
            await anyio.sleep(RETRY_S)
        finally:
            self._relay = None

    def _is_wanted(self) -> bool:
        """Who is behind a random NAT itself is reached by neither of the two, and says nothing of a relay."""
        node = self._node
        reachable = node.nat_address is not None and not node.randomized
        return self._key_pair is not None and reachable and self._acquaintances.introductions.in_need >= PAIR

    def _is_useful(self, relay: BlindRelay) -> bool:
        return self._is_wanted() or (relay.pairs > 0 and not self._node.randomized)

    def _refuses(self, public_key: bytes, payload: NoisePayload, address: Address) -> bool:
        refused = not self._acquaintances.may_be_carried(public_key)
        self.refused += refused
        return refused
