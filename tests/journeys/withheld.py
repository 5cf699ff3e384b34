"""A DHT in which the nodes around a topic lie: who looks there is told of nobody, or of a crowd that does not exist."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hyperdht import HyperDHT, KeyPair
from hyperdht.dht.messages import PeerRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

    from hyperdht.addresses import Address

CROWD = 20


class Surrounded:
    """Who may find whom in topics. Use `install` before the sidecars start."""

    def __init__(self) -> None:
        self.hides: Callable[[bytes, bytes], bool] = lambda who, whom: False
        """Whether `who` looks for `whom` in vain."""
        self.hidden = 0
        self._crowd = tuple(PeerRecord(KeyPair.generate().public_key) for _ in range(CROWD))

    def install(self, patch: pytest.MonkeyPatch) -> Surrounded:
        """From now on the sidecars of this process meet in that DHT."""
        around = self

        class LiedTo(HyperDHT):
            async def search(self, topic: bytes, **options: Any) -> tuple[Address, ...]:
                return await super().search(topic, **around._filtered(self, options))

            async def announce(self, topic: bytes, **options: Any) -> tuple[Address, ...]:
                return await super().announce(topic, **around._filtered(self, options))

        patch.setattr("sidecar.rooms.internet.HyperDHT", LiedTo)
        return self

    def _filtered(self, node: HyperDHT, options: dict[str, Any]) -> dict[str, Any]:
        on_peers = options.get("on_peers")
        if on_peers is None:
            return options

        def told(found: Any, now: float) -> None:
            hidden = [each for each in found.peers if self.hides(node.key_pair.public_key, each.public_key)]
            self.hidden += len(hidden)
            kept = [each for each in found.peers if each not in hidden]
            on_peers(replace(found, peers=(*kept, *(self._crowd if hidden else ()))), now)

        return options | {"on_peers": told}
