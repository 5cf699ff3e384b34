"""Two sidecars in one program: the first shares an adapter file in a private room, the second installs it.

    python examples/two_peers.py --first URL --second URL --adapter FILE --base NAME

Both URLs may be the same Ollama. To try it without one, start `python -m ollama_bridge.standin --store DIR` twice.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from pathlib import Path

from sidecar import Sidecar
from sidecar.control_types import ShareOptions, TransferInfo
from sidecar.events import EntryAdded


async def share_and_install(first_url: str, second_url: str, adapter: Path, base: str, folder: Path) -> str:
    """The name of the new model in the second Ollama."""
    nearby = {"listen": "127.0.0.1:0", "no_mdns": True, "no_dht": True}  # this machine only
    async with Sidecar(data_dir=folder / "first", ollama=first_url, **nearby) as first:
        room = await first.create_room("team")
        assert room.code is not None, "told once, by create_room"
        await first.share_adapter(str(adapter), "team", ShareOptions(name="my-lora", base=base))

        peers = (await first.status()).listen
        async with Sidecar(data_dir=folder / "second", ollama=second_url, peers=peers, **nearby) as second:
            async with second.events() as events:
                await second.join_room(room.code, "team")
                async for event in events:
                    if isinstance(event, EntryAdded):
                        print(f"offered: {event.adapter} version {event.version}, {event.size} bytes")
                        break
            result = await second.request_adapter("my-lora", progress=show)
            print(f"installed {result.installed_as} by {result.route}")
            assert result.installed_as is not None, "installing was not turned off"
            return result.installed_as


def show(transfer: TransferInfo) -> None:
    """Called as the transfer goes on."""
    print(f"{transfer.stage}: {transfer.done_bytes} of {transfer.total_bytes} bytes")


def main() -> None:
    """Read the command line and go."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", required=True, metavar="URL", help="Ollama of the first side")
    parser.add_argument("--second", required=True, metavar="URL", help="Ollama of the second side")
    parser.add_argument("--adapter", type=Path, required=True, help="adapter GGUF or PEFT folder")
    parser.add_argument("--base", required=True, help="its base model, present in both")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(
            share_and_install(options.first, options.second, options.adapter.absolute(), options.base, Path(folder))
        )


if __name__ == "__main__":
    main()
