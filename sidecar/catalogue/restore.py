"""The catalogue as it was when the daemon last ran."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.errors import EntryInvalid

from .catalogue import Catalogue, HighWater
from .withdrawal import parse_statement

if TYPE_CHECKING:
    from .journal import Journal
    from .rows import RoomRow


def restore_catalogue(journal: Journal) -> tuple[Catalogue, int]:
    """Build the catalogue from the journal; blocking.

    Signatures were checked before statements were written, and nobody who can write the journal needs to forge them.

    Returns:
        The catalogue, and how many statements this version of ollaswarm cannot read (written by a newer one; skipped).
    """
    catalogue, unreadable = Catalogue(), 0
    for version in journal.versions():
        catalogue.restore_version(version.publisher, version.name, HighWater(version.version, version.id))
    for room in journal.rooms():
        unreadable += restore_room(journal, catalogue, room)
    return catalogue, unreadable


def restore_room(journal: Journal, catalogue: Catalogue, room: RoomRow) -> int:
    """Open one room with what the journal has of it; how many statements this version cannot read."""
    catalogue.open_room(room.room_id, epoch=room.epoch, sequence=room.sequence)
    unreadable = 0
    for row in journal.statements(room.room_id):
        try:
            statement = parse_statement(row.kind, row.raw, row.publisher, row.signature)
        except EntryInvalid:
            unreadable += 1
            continue
        catalogue.restore(room.room_id, statement, sequence=row.sequence, held=row.held)
    return unreadable
