"""Somebody who learnt a room's topic in the DHT, and has not its code.

    python -m sidecar.demo.stranger --bootstrap HOST:PORT,… --members 3 < TOPIC

Announces itself under the topic as a member would, lets members connect, tries to open the room under a key of its own, and
listens. Tells on standard output, in one line of JSON, whom it met and every byte they said to it.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

import anyio

from hyperdht import Hyperswarm
from hyperdht.errors import HyperDHTError
from hyperdht.io.signals import stop_on_signals
from hyperdht.protomux import Mux
from sidecar.rooms.key import RoomKey
from sidecar.rooms.messages import PROTOCOL, VERSION, OpenHandshake

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hyperdht import SecretStream

LISTEN_S = 1.5
"""How long it waits for a member to say something. Members say all they say to each other within a fraction of that."""
PATIENCE_S = 20.0
ENDINGS = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, HyperDHTError)


class Stranger:
    """What it heard from whom."""

    def __init__(self, bootstrap: Sequence[str], topic: bytes, members: int) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._members = members
        self._guess = RoomKey(topic)  # the best it has
        self._heard: dict[bytes, bytearray] = {}

    async def run(self) -> None:
        """Meet the members, listen to them, tell, and stay until asked to end."""
        async with (
            stop_on_signals(),
            Hyperswarm(bootstrap=self._bootstrap) as swarm,
            anyio.create_task_group() as tasks,
        ):
            await swarm.join(self._topic)
            with anyio.move_on_after(PATIENCE_S):
                while len(self._heard) < self._members:
                    stream = await anext(swarm.connections)
                    heard = self._heard.setdefault(stream.remote_public_key, bytearray())
                    tasks.start_soon(self._listen, stream, heard)
            await anyio.sleep(LISTEN_S)
            told = {key.hex(): said.hex() for key, said in self._heard.items()}
            print(json.dumps({"key": swarm.key_pair.public_key.hex(), "heard": told}), flush=True)  # noqa: T201
            await anyio.sleep_forever()

    async def _listen(self, stream: SecretStream, heard: bytearray) -> None:
        mux = Mux()
        channel = mux.create_channel(PROTOCOL, self._guess.channel_id(stream.handshake_hash))
        assert channel is not None, "the first channel of a connection"
        proof = self._guess.proof(
            is_initiator=stream.is_initiator,
            handshake_hash=stream.handshake_hash,
            public_key=stream.public_key,
            remote_public_key=stream.remote_public_key,
        )
        channel.open(OpenHandshake(VERSION, proof).encode())
        try:
            await stream.send_many(mux.messages_to_send())
            while True:
                for message in await stream.receive_many():
                    heard += message
        except ENDINGS:
            return


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m sidecar.demo.stranger", description="A peer without the code.")
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--members", type=int, required=True)
    arguments = parser.parse_args()
    topic = bytes.fromhex(sys.stdin.readline())
    anyio.run(Stranger(arguments.bootstrap.split(","), topic, arguments.members).run)


if __name__ == "__main__":
    main()
