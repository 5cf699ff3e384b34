"""A source that does not help: sends wrong chunks of whatever it is asked for, or nothing, until its peer has had enough.

python -m bench.liar HOST:PORT SHORT_ID CHUNKS wrong|silent < CODE
"""

from __future__ import annotations

import sys

import anyio

from sidecar.rooms.code import normalise_code
from sidecar.rooms.key import derive_room_key
from sidecar.transfer.chunks import CHUNK_BYTES
from tests.journeys.liar import Lies, liar


async def _lie(address: str, short_id: bytes, lies: Lies, code: str) -> None:
    async with liar(address, derive_room_key(normalise_code(code)), lies=lies) as member:
        await member.offer_all([short_id])
        await member.flush()
        print("offered", flush=True)
        await member.ended.wait()


def main() -> None:
    address, short_id, chunks, how = sys.argv[1:]
    lies = Lies(chunk=bytes(CHUNK_BYTES), silent=how == "silent", count=int(chunks), refuse_table=True)
    anyio.run(_lie, address, bytes.fromhex(short_id), lies, sys.stdin.readline())


if __name__ == "__main__":
    main()
