"""Rooms as a user has them: made, joined, left, rotated, and what policy they have."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from anyio import to_thread

from .catalogue.restore import restore_room
from .catalogue.rows import RoomRow, Standing
from .control_types import RoomInfo
from .errors import ConsentNeeded, NotFound, RoomError
from .events import RoomJoined, RoomLeft
from .orch_mind.verbs import GENERAL_CONSENT
from .rooms.code import generate_code, normalise_code, room_link
from .rooms.key import RoomKey, derive_room_key, general_room_key, local_room_key
from .rooms.messages import EPOCH_BYTES
from .rooms.network import JoinedRoom
from .sync.rules import shares_everything
from .trust.policy import Enforcement

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .catalogue.journal import Journal
    from .control_types import Policy, RoomKind
    from .parts import Parts

GENERAL, LOCAL = "general", "local"
MAX_LABEL_CHARS = 64
CONSENT = (
    "The general room is public. Everybody in it sees your IP address, your public key, the adapters you offer there and which "
    "ones you fetch. What you do not share stays unseen, and you can leave at any time."
)


class RoomVerbs:
    """See the module docstring."""

    def __init__(self, parts: Parts, *, changed: Callable[[], Awaitable[None]]) -> None:
        """
        Args:
            changed: Told after a room was joined or left, for announcements.
        """
        self._parts = parts
        self._changed = changed
        self._orch_mind = parts.orch_mind

    async def list(self) -> tuple[RoomInfo, ...]:
        """All of them, Orch-Mind's last."""
        rules = {rule.room_id for rule in await self._parts.sync.rules() if shares_everything(rule)}
        rooms = self._parts.network.rooms.values()
        found = tuple(replace(self.info(room), share_all=room.key.room_id in rules) for room in rooms)
        return found + self._orch_mind.rooms()

    async def create(self, label: str | None) -> RoomInfo:
        """A private room with a new code, which is in the answer and nowhere else."""
        code = generate_code()
        key = await to_thread.run_sync(derive_room_key, code)
        info = await self._enter(key, label or f"room-{key.room_id.hex()[:6]}", "private")
        return replace(info, code=code, link=room_link(code))

    async def join(self, room: str, *, label: str | None, consent: bool, orch_mind: bool = False) -> RoomInfo:
        """See `Control.join_room`."""
        wanted = room.strip()
        if orch_mind and wanted.lower() != GENERAL:
            if label is not None:
                self._check_label(label)
            info = await self._orch_mind.join(wanted, label, consent=consent)
            await self._changed()
            return info
        if wanted.lower() == LOCAL:
            return await self._enter(local_room_key(), label or LOCAL, "local")
        if wanted.lower() == GENERAL:
            if not consent:
                text = f"{CONSENT} {GENERAL_CONSENT}" if orch_mind else CONSENT
                raise ConsentNeeded(text, "Agree with --yes, or use a private room or the `local` room instead.")
            info = await self._enter(general_room_key(), label or GENERAL, "general")
            if orch_mind:
                await self._orch_mind.join_general(info.label)
            return replace(info, orch_mind=self._orch_mind.in_general)
        key = await to_thread.run_sync(derive_room_key, normalise_code(wanted))
        return await self._enter(key, label or f"room-{key.room_id.hex()[:6]}", "private")

    async def leave(self, room: str) -> RoomInfo:
        """See `Control.leave_room`."""
        if (theirs := self._orch_mind.find(room)) is not None:
            info = await self._orch_mind.leave(theirs)
            await self._changed()
            return info
        found = self.find(room)
        info = self.info(found)
        if found.kind == GENERAL:
            await self._orch_mind.leave_general()
        room_id = found.key.room_id
        self._parts.network.leave(room_id)
        self._parts.catalogue.close_room(room_id)
        await self._parts.journal.run(lambda journal: journal.remove_room(room_id))
        self._parts.bus.emit(RoomLeft(found.id_hex, found.label))
        await self._changed()
        return info

    async def rotate(self, room: str) -> RoomInfo:
        """The same room under a new code, without those who are blocked."""
        parts, old = self._parts, self.find(room)
        if old.kind != "private":
            raise RoomError("Only a private room has a code that can be changed.", "Leave this one instead.")
        code, now = generate_code(), time.time()
        key = await to_thread.run_sync(derive_room_key, code)
        epoch = secrets.token_bytes(EPOCH_BYTES)
        row = RoomRow(key.room_id, old.label, old.kind, key.secret, epoch, 0, now, old.policy.value)
        offering = {entry.publisher for entry in parts.catalogue.entries(old.key.room_id)}
        blocked = [each for each in offering if parts.keyring.standing(each) is Standing.BLOCKED]
        parts.network.leave(old.key.room_id)
        parts.catalogue.close_room(old.key.room_id)

        def work(journal: Journal) -> None:
            journal.replace_room(old.key.room_id, row, without=blocked)
            for each in journal.rooms():
                if each.room_id == row.room_id:
                    restore_room(journal, parts.catalogue, each)
            parts.pins.load()

        await parts.journal.run(work)
        changed = JoinedRoom(key, old.label, old.kind, now, old.policy)
        parts.network.join(changed)
        parts.bus.emit(RoomLeft(old.id_hex, old.label))
        parts.bus.emit(RoomJoined(changed.id_hex, changed.label))
        await self._changed()
        return replace(self.info(changed), code=code, link=room_link(code))

    async def _enter(self, key: RoomKey, label: str, kind: RoomKind) -> RoomInfo:
        if (joined := self._parts.network.rooms.get(key.room_id)) is not None:
            return self.info(joined)
        self._check_label(label, everybodys=kind in (GENERAL, LOCAL))
        epoch, now = secrets.token_bytes(EPOCH_BYTES), time.time()
        row = RoomRow(key.room_id, label, kind, key.secret, epoch, 0, now)
        await self._parts.journal.run(lambda journal: journal.save_room(row))
        self._parts.catalogue.open_room(key.room_id, epoch=epoch)
        room = JoinedRoom(key, label, kind, now)
        self._parts.network.join(room)
        self._parts.bus.emit(RoomJoined(room.id_hex, label))
        await self._changed()
        return self.info(room)

    def _check_label(self, label: str, *, everybodys: bool = False) -> None:
        if not label.strip() or len(label) > MAX_LABEL_CHARS or not label.isprintable():
            raise RoomError(f"A label has 1 to {MAX_LABEL_CHARS} printable characters.", "Choose one with --label.")
        if label.lower() in (GENERAL, LOCAL) and not everybodys:
            raise RoomError(f"{label!r} is the name of a room everybody has.", "Choose another one with --label.")
        labels = {room.label.lower() for room in self._parts.network.rooms.values()}
        if label.lower() in labels or self._orch_mind.find(label) is not None:
            raise RoomError(f"Another room is called {label!r}.", "Choose another label with --label.")

    def find(self, text: str) -> JoinedRoom:
        """A room of ours by label or id. Raises NotFound."""
        wanted = text.strip().lower()
        rooms = self._parts.network.rooms.values()
        found = [room for room in rooms if wanted in (room.label.lower(), room.id_hex)]
        if not found:
            labels = ", ".join(sorted({room.label for room in (*rooms, *self._orch_mind.joined)})) or "none"
            raise NotFound(f"We are in no room {text[:80]!r}.", f"Rooms joined: {labels}.")
        return found[0]

    def info(self, room: JoinedRoom) -> RoomInfo:
        """How it is shown."""
        network, catalogue = self._parts.network, self._parts.catalogue
        room_id = room.key.room_id
        roads = Counter(link.connection.road for link in network.links(room_id))
        kind: RoomKind = "general" if room.kind == GENERAL else "local" if room.kind == LOCAL else "private"
        return RoomInfo(
            room.id_hex,
            room.label,
            kind,
            len(network.links(room_id)),
            len(catalogue.entries(room_id)),
            room.joined_at,
            policy=room.policy.value,
            orch_mind=kind == GENERAL and self._orch_mind.in_general,
            lan=roads["lan"],
            direct=roads["direct"],
            relayed=roads["relayed"],
        )

    async def set_policy(self, room: str, policy: Policy) -> RoomInfo:
        """See `Control.set_policy`."""
        found = self.find(room)

        def work(journal: Journal) -> None:
            for row in journal.rooms():
                if row.room_id == found.key.room_id:
                    journal.save_room(replace(row, policy=policy))

        await self._parts.journal.run(work)
        self._parts.network.rooms[found.key.room_id] = changed = replace(found, policy=Enforcement(policy))
        self._parts.sync.wake()
        return self.info(changed)
