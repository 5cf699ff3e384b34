"""The verbs of Orch-Mind's rooms as a user gives them: labels, refs and paths in, plain results out."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.catalogue.entry import suggest_name
from sidecar.catalogue.rows import NOBODY, Standing
from sidecar.control_types import AdapterRow, Diagnosis, Finding, PeerInfo, RoomInfo
from sidecar.errors import ConsentNeeded, ShareError
from sidecar.events import RoomJoined, RoomLeft
from sidecar.identity import read_aloud
from sidecar.rooms.key import GENERAL_TOPIC
from sidecar.transfers import Job

from .service import KIND, OrchMindInfo
from .topics import normalise_orch_mind_code, orch_mind_topic

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.catalogue.journal_thread import JournalThread
    from sidecar.catalogue.rows import InstallRow, OrchMindShareRow
    from sidecar.control_types import GetOptions, ShareOptions, TransferInfo
    from sidecar.events import Event
    from sidecar.rooms.network import JoinedRoom
    from sidecar.transfers import Transfers

    from .adopt import Adopter
    from .board import Board, UnsignedAdapter
    from .messages import AdapterOffer
    from .service import OrchMind

PUBLISHER_NAME = "Orch-Mind"
ROOM_CONSENT = (
    "A room of Orch-Mind's is not private: there are some 25,000 codes, and anybody can try them all. Everybody in it sees your "
    "IP address, your public key and the adapters you offer there. What others offer there is not signed by anybody."
)
GENERAL_CONSENT = "Orch-Mind's users there see the same. What they offer is not signed by anybody."
FILE_CONSENT = (
    "{name} comes from an Orch-Mind user. Nobody signed it, so nothing says who made it or that it is what it is called. Its "
    "file is checked to be a well-formed LoRA that fits your base model, and nothing else of it is used."
)


class OrchMindVerbs:
    """See `control_types.Control`."""

    def __init__(
        self,
        service: OrchMind,
        adopter: Adopter,
        transfers: Transfers,
        journal: JournalThread,
        emit: Callable[[Event], None],
    ) -> None:
        self._service = service
        self._adopter = adopter
        self._transfers = transfers
        self._journal = journal
        self._emit = emit

    # --- rooms -----------------------------------------------------------------------------------------------------------

    @property
    def joined(self) -> tuple[JoinedRoom, ...]:
        """All rooms in which its messages are spoken."""
        return tuple(self._service.rooms.values())

    async def join(self, code: str, label: str | None, *, consent: bool) -> RoomInfo:
        """Join the room of an Orch-Mind code. Raises RoomError, ConsentNeeded."""
        topic = orch_mind_topic(normalise_orch_mind_code(code))
        if topic in self._service.rooms:
            return self._info(self._service.rooms[topic])
        if not consent:
            raise ConsentNeeded(ROOM_CONSENT, "Agree with --yes, or make a private room with `ollaswarm room create`.")
        room = await self._service.join(topic, label or f"{KIND}-{topic.hex()[:6]}", time.time())
        self._emit(RoomJoined(room.id_hex, room.label))
        return self._info(room)

    async def join_general(self, label: str) -> None:
        """Speak with Orch-Mind's users in the general room too, which is joined and agreed to."""
        await self._service.join(GENERAL_TOPIC, label, time.time())

    async def leave_general(self) -> None:
        """The general room was left."""
        await self._service.leave(GENERAL_TOPIC)

    async def leave(self, room: JoinedRoom) -> RoomInfo:
        """Leave a room of Orch-Mind's."""
        info = self._info(room)
        await self._service.leave(room.key.topic)
        self._emit(RoomLeft(room.id_hex, room.label))
        return info

    def find(self, text: str) -> JoinedRoom | None:
        """The room of a label or id, if it is only Orch-Mind's."""
        return self._service.find(text)

    @property
    def in_general(self) -> bool:
        """Whether its users in the general room are spoken with."""
        return GENERAL_TOPIC in self._service.rooms

    def rooms(self) -> tuple[RoomInfo, ...]:
        """Those that are only Orch-Mind's."""
        return tuple(self._info(room) for topic, room in self._service.rooms.items() if topic != GENERAL_TOPIC)

    def _info(self, room: JoinedRoom) -> RoomInfo:
        # Connections do not say which room they are for, so every room shows all of them.
        peers, adapters = len(self._service.exchanges), len(self._service.board().adapters)
        return RoomInfo(room.id_hex, room.label, "orch-mind", peers, adapters, room.joined_at, orch_mind=True)

    # --- adapters ----------------------------------------------------------------------------------------------------------

    def rows(self, installs: list[InstallRow]) -> list[AdapterRow]:
        """What its users share, unsigned."""
        board = self._service.board()
        installed = {row.entry_id: row.name for row in installs if row.publisher == NOBODY}
        return [self._row(board, adapter, installed) for adapter in board.adapters]

    def _row(self, board: Board, adapter: UnsignedAdapter, installed: dict[bytes, str]) -> AdapterRow:
        return AdapterRow(
            ref=board.ref(adapter),
            name=adapter.name,
            version=0,
            publisher="",
            rooms=tuple(sorted(room.label for room in self._service.rooms.values())),
            digest=adapter.digest,
            size=adapter.size,
            base=adapter.facts.base_model,
            base_digest="",
            fits=None,
            sources=len({peer for peer, _ in adapter.sources}),
            trust="unsigned",
            installed_as=installed.get(bytes.fromhex(adapter.checksum)),
            publisher_name=PUBLISHER_NAME,
            description=adapter.facts.hf_model,
        )

    def is_ref(self, ref: str) -> bool:
        """Whether a REF means something of Orch-Mind's. Raises NotFound, CatalogueError."""
        return self._service.board().resolve(ref) is not None

    def get(self, ref: str, options: GetOptions) -> TransferInfo | None:
        """Start a `get` of what a REF means; None if it means nothing here.

        Raises:
            ConsentNeeded: The user has not agreed to something nobody signed.
        """
        board = self._service.board()
        adapter = board.resolve(ref)
        if adapter is None:
            return None
        if not options.accept_unsigned:
            raise ConsentNeeded(FILE_CONSENT.format(name=adapter.label))
        checksum = bytes.fromhex(adapter.checksum)
        carry = partial(self._adopter.get, adapter)
        job = Job(checksum, board.ref(adapter), adapter.name, adapter.digest, adapter.size, carry)
        return self._transfers.begin(job, options)

    async def share(self, what: str, room: JoinedRoom, options: ShareOptions) -> AdapterRow:
        """Offer a PEFT folder in a room that is only Orch-Mind's. Raises ShareError."""
        folder = Path(what)
        if not folder.is_absolute():
            raise ShareError(
                "Orch-Mind knows adapters as PEFT folders only, and a model of Ollama cannot be turned back into one.",
                "Name the folder it was made of.",
            )
        offer = await self._service.share(folder, room, options.name or suggest_name(folder.name), options.base or "")
        return self._own_row(offer, (room.label,))

    async def unshare(self, name: str, room: JoinedRoom | None) -> tuple[AdapterRow, ...]:
        """Take it back. Raises NotFound."""
        return tuple(self._gone_row(row) for row in await self._service.unshare(name, room))

    async def shares(self, name: str) -> bool:
        """Whether something is shared under a name, or from a path, in a room that is only Orch-Mind's."""
        rows = await self._journal.run(lambda journal: journal.orch_mind_shares())
        return any(name.lower() in (row.name.lower(), row.source.lower()) for row in rows)

    async def shared(self) -> None:
        """What is shared in the general room changed."""
        await self._service.refresh()

    def _own_row(self, offer: AdapterOffer, rooms: tuple[str, ...]) -> AdapterRow:
        return AdapterRow(
            offer.name, offer.name, 0, "", rooms, f"sha256:{offer.checksum}", offer.size, offer.facts.base_model, "",
            None, 0, "unsigned", local=True,
        )  # fmt: skip

    def _gone_row(self, row: OrchMindShareRow) -> AdapterRow:
        room = self._service.rooms.get(row.topic)
        rooms = () if room is None else (room.label,)
        return AdapterRow(row.name, row.name, 0, "", rooms, "", 0, row.base, "", None, 0, "unsigned", local=True)

    def diagnose(self, room: JoinedRoom) -> Diagnosis:
        """Why nobody is connected in a room that is only Orch-Mind's."""
        peers = len(self._service.exchanges)
        if peers:
            cause = "Connections do not say for which room they are."
            what = f"{peers} users of Orch-Mind connected, in all its rooms together."
            return Diagnosis(room.label, True, (Finding("orch-mind", "ok", what, cause),))
        what = "No user of Orch-Mind is connected."
        cause = "None is online in its rooms, or none can be reached; Orch-Mind has no relays and no local network."
        next_step = "Compare the code with theirs, and see `ollaswarm doctor` for this machine's place in the DHT."
        return Diagnosis(room.label, False, (Finding("orch-mind", "warn", what, cause, next_step, "possible"),))

    def info(self) -> OrchMindInfo:
        """All of it in numbers."""
        return OrchMindInfo(len(self._service.rooms), len(self._service.exchanges), self._service.offered)

    # --- people ------------------------------------------------------------------------------------------------------------

    def peers(self, standing: Callable[[bytes], Standing]) -> list[PeerInfo]:
        """Its users we are connected with."""
        rooms = tuple(sorted(room.label for room in self._service.rooms.values()))
        now = time.monotonic()
        return [
            PeerInfo(
                key=key.hex(),
                words=" ".join(read_aloud(key)),
                address=exchange.address,
                rooms=rooms,
                trust="unsigned" if standing(key) is not Standing.BLOCKED else "blocked",
                entries=len(exchange.listed),
                received_bytes=exchange.received_bytes,
                sent_bytes=exchange.sent_bytes,
                connected_s=now - exchange.connected_at,
                road=exchange.road,
            )
            for key, exchange in self._service.exchanges.items()
        ]

    @property
    def peer_keys(self) -> set[bytes]:
        """Their keys."""
        return set(self._service.exchanges)

    async def drop(self, key: bytes) -> None:
        """The peer is blocked."""
        await self._service.drop(key)
