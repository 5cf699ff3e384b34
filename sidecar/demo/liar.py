"""A member of the room who offers a good adapter, honestly signed, and sends its chunks with one bit flipped.

    python -m sidecar.demo.liar --peer HOST:PORT --adapter FILE --base NAME --base-digest DIGEST < CODE

Everything but the chunks is as the room protocol wants it, so that what the demo shows is the check of the chunks and
no other. Tells on standard output, in one line of JSON, what it offers, once the peer has the entry.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

from hyperdht import KeyPair, SecretStream
from hyperdht.io.tcp import connect_tcp
from hyperdht.protomux import ChannelMessageReceived, ChannelOpened, Mux
from ollama_bridge.adapters.inspect import describe_adapter
from sidecar.catalogue.entry import (
    ADAPTER_MEDIA_TYPE,
    AdapterFacts,
    BaseFacts,
    Blob,
    Entry,
    build_entry,
    sign_entry,
)
from sidecar.catalogue.fields import time_text
from sidecar.config import HostPort
from sidecar.rooms import session_events as events
from sidecar.rooms.code import normalise_code
from sidecar.rooms.key import derive_room_key
from sidecar.rooms.messages import EPOCH_BYTES, PROTOCOL, Offer
from sidecar.rooms.session import RoomSession
from sidecar.transfer.chunks import CHUNK_BYTES, HASH_BYTES, ChunkSet, hash_chunks

if TYPE_CHECKING:
    from sidecar.catalogue.entry import SignedEntry
    from sidecar.rooms.key import RoomKey
    from sidecar.transfer.chunks import ChunkTable

NAME = "tampered-lora"
FLIPPED_BIT = 0x10


class Liar:
    """One adapter, and what the liar says about it to one peer."""

    def __init__(self, adapter: Path, base: BaseFacts) -> None:
        self._data = adapter.read_bytes()
        with adapter.open("rb") as file:
            info = describe_adapter(file)
            file.seek(0)
            digest, self._table = hash_chunks(file, len(self._data))
        facts = AdapterFacts("gguf", info.rank, info.alpha, info.tensors, info.shapes)
        blob = Blob(str(digest), len(self._data), ADAPTER_MEDIA_TYPE, self._table.root_hex)
        entry = Entry(name=NAME, version=1, created=time_text(time.time()), base=base, adapter=facts, blobs=(blob,))
        self._key_pair = KeyPair.generate()
        self._signed = sign_entry(build_entry(entry), self._key_pair)

    async def run(self, peer: HostPort, room: RoomKey) -> None:
        """Join the room through a peer and lie until the connection ends."""
        stream = await SecretStream.establish(
            await connect_tcp(peer.host, peer.port), is_initiator=True, key_pair=self._key_pair
        )
        session = RoomSession(
            room,
            is_initiator=True,
            handshake_hash=stream.handshake_hash,
            public_key=stream.public_key,
            remote_public_key=stream.remote_public_key,
        )
        mux = Mux()
        channel = mux.create_channel(PROTOCOL, room.channel_id(stream.handshake_hash))
        assert channel is not None, "the first channel of a connection"
        channel.open(session.open_handshake())
        while True:
            now = time.monotonic()
            while (happened := session.next_event()) is not None:
                self._answer(session, happened)
            for message_type, body in session.messages_to_send(now):
                channel.send(message_type, body)
            await stream.send_many(mux.messages_to_send())
            for message in await stream.receive_many():
                mux.receive(message)
            while (event := mux.next_event()) is not None:
                if isinstance(event, ChannelOpened):
                    session.opened(event.handshake, now)
                elif isinstance(event, ChannelMessageReceived):
                    session.receive(event.type, event.body, now)

    def _answer(self, session: RoomSession, event: events.SessionEvent) -> None:
        match event:
            case events.ChangesAsked():
                offers = [Offer(self._signed.short_id, held=True)]
                session.answer_since(os.urandom(EPOCH_BYTES), 1, offers, more=False)
            case events.EntriesWanted():
                session.send_entries([self._signed])
                _tell(self._signed)
            case events.BlobQueried(digest):
                session.tell_blob(digest, ChunkSet.full(self._table.count))
            case events.TableRequested(digest, first, count):
                session.send_table(digest, first, _page(self._table, first, count))
            case events.ChunksRequested():
                for index in range(event.first, event.first + event.count):
                    session.send_chunks(event.request_id, index, self._flipped(index))
            case _:  # what others offer is of no interest
                pass

    def _flipped(self, index: int) -> bytes:
        chunk = bytearray(self._data[index * CHUNK_BYTES : (index + 1) * CHUNK_BYTES])
        chunk[len(chunk) // 2] ^= FLIPPED_BIT
        return bytes(chunk)


def _page(table: ChunkTable, first: int, count: int) -> bytes:
    return table.hashes[first * HASH_BYTES : (first + count) * HASH_BYTES]


def _tell(signed: SignedEntry) -> None:
    print(json.dumps({"name": signed.name, "ref": signed.ref, "key": signed.publisher.hex()}), flush=True)  # noqa: T201


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m sidecar.demo.liar", description="A peer that sends wrong chunks.")
    parser.add_argument("--peer", type=HostPort.parse, required=True)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--base", required=True)
    parser.add_argument("--base-digest", required=True)
    parser.add_argument("--architecture", default="llama")
    arguments = parser.parse_args()
    room = derive_room_key(normalise_code(sys.stdin.readline()))  # not in the arguments: others can read those (T11)
    liar = Liar(arguments.adapter, BaseFacts(arguments.base, arguments.base_digest, arguments.architecture))
    try:
        anyio.run(liar.run, arguments.peer, room)
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, KeyboardInterrupt):
        return  # the peer has had enough, or the demo is over


if __name__ == "__main__":
    main()
