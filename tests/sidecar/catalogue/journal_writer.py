"""A process that writes entries until it is killed, saying which are committed: python -m … FOLDER."""

from __future__ import annotations

import sys
from pathlib import Path

from sidecar.catalogue.catalogue import Catalogue
from sidecar.catalogue.journal import Journal
from sidecar.catalogue.rows import HeldRow, RoomRow
from tests.sidecar.catalogue.made import NOW, blob, entry

ROOM, EPOCH = b"r" * 16, b"e" * 16


def main() -> None:
    journal = Journal.open(Path(sys.argv[1]), now=lambda: NOW)
    catalogue = Catalogue()
    if not journal.rooms():
        journal.save_room(RoomRow(ROOM, "team", "private", b"k" * 32, EPOCH, 0, NOW))
    catalogue.open_room(ROOM, epoch=EPOCH)
    version = 1 + max((row.version for row in journal.versions()), default=0)
    while True:
        batch = [
            catalogue.put(ROOM, entry(name=f"n{n}", version=version, blobs=(blob("1"),)), now=NOW) for n in range(20)
        ]
        journal.record(batch)
        journal.save_held(HeldRow(f"sha256:{version:064x}", "/blob", 1, bytes(40_000)))
        sys.stdout.write(f"{version}\n")
        sys.stdout.flush()
        version += 1


if __name__ == "__main__":
    main()
