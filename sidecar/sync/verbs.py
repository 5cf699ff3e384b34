"""The verbs of auto-sync as a user gives them: labels and prefixes in, plain results out."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sidecar.control_types import RollbackInfo, RuleInfo, SyncReport

from .rules import make_rule

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.catalogue.rows import RuleRow
    from sidecar.control_types import RuleOptions
    from sidecar.rooms.network import JoinedRoom, RoomNetwork

    from .runner import Sync


class SyncVerbs:
    """See `control_types.Control`."""

    def __init__(
        self,
        sync: Sync,
        network: RoomNetwork,
        *,
        room: Callable[[str], JoinedRoom],
        publisher: Callable[[str], bytes],
    ) -> None:
        """
        Args:
            room: The room of a label or id. Raises NotFound.
            publisher: The key of what a user calls a publisher. Raises NotFound.
        """
        self._sync = sync
        self._network = network
        self._room = room
        self._publisher = publisher

    async def rules(self) -> tuple[RuleInfo, ...]:
        """All rules."""
        return tuple(self._info(rule) for rule in await self._sync.rules())

    async def add(self, options: RuleOptions) -> RuleInfo:
        """Add a rule. Raises NotFound, UsageError."""
        room = self._room(options.room)
        publisher = None if options.publisher is None else self._publisher(options.publisher)
        rule = make_rule(options, room.key.room_id, publisher, time.time())
        await self._sync.add_rule(rule)
        return self._info(rule)

    async def remove(self, rule: str) -> RuleInfo:
        """Remove a rule. Raises NotFound."""
        return self._info(await self._sync.remove_rule(rule))

    async def run(self, *, dry_run: bool) -> SyncReport:
        """Do it now, or say what would be done."""
        return await self._sync.run_now(dry_run=dry_run)

    async def roll_back(self, name: str, version: int | None) -> RollbackInfo:
        """Bring back an older version. Raises NotFound, InstallError."""
        return await self._sync.roll_back(name, version)

    def _info(self, rule: RuleRow) -> RuleInfo:
        room = self._network.rooms.get(rule.room_id)
        return RuleInfo(
            id=rule.id,
            direction="share" if rule.direction == "share" else "fetch",
            room=rule.room_id.hex() if room is None else room.label,
            publisher=None if rule.publisher is None else rule.publisher.hex(),
            name=rule.name,
            base=rule.base,
            max_bytes=rule.max_bytes,
            tag=rule.tag,
            per_hour=rule.per_hour,
            created_at=rule.created_at,
            models=rule.models,
        )
