"""`python -m ollama_bridge.standin --store DIR [--port N] [--adapters accept|refuse]`: run until interrupted."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

import anyio

from ollama_bridge.standin.app import StandIn


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m ollama_bridge.standin", description="A stand-in for Ollama.")
    parser.add_argument("--store", type=Path, required=True, help="models folder; made if missing")
    parser.add_argument("--port", type=int, default=0, help="TCP port on 127.0.0.1 (default: any free one)")
    parser.add_argument("--adapters", choices=("accept", "refuse"), default="refuse", help="before or since 0.34.1")
    parser.add_argument("--version", help="what /api/version says (default: one that fits --adapters)")
    return parser.parse_args(arguments)


async def serve(options: argparse.Namespace) -> None:
    """Serve until SIGINT or SIGTERM. The first line on standard output is the URL."""
    standin = StandIn(options.store, adapters=options.adapters, version=options.version, port=options.port)
    async with standin:
        print(standin.url, flush=True)  # noqa: T201  # the one thing a caller needs to know
        await _stop_requested()


async def _stop_requested() -> None:
    if sys.platform == "win32":
        await anyio.sleep_forever()  # Ctrl-C arrives as KeyboardInterrupt there
    else:
        with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async for _ in signals:
                return


def main() -> None:
    """Entry point."""
    try:
        anyio.run(serve, parse_arguments())
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
