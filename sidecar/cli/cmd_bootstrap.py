"""`ollaswarm bootstrap`: a DHT for a network of one's own begins here."""

import os
from typing import Annotated

import typer

from sidecar.cli.session import Json, told_failures
from sidecar.config import HostPort
from sidecar.errors import ConfigError


def bootstrap(
    listen: Annotated[
        str,
        typer.Option("--listen", metavar="HOST:PORT", help="Address under which the other machines reach this one."),
    ],
    others: Annotated[
        list[str] | None,
        typer.Option("--bootstrap", metavar="HOST:PORT", help="Another bootstrap node of the same network."),
    ] = None,
    json: Json = False,
) -> None:
    """Run a DHT bootstrap node until it is stopped with Ctrl-C.

    For closed networks: machines that are given its address with --bootstrap find each other without any public node.
    """
    with told_failures(json) as output:
        address, rest = _parsed(listen), [_parsed(each) for each in others or ()]

        def announce(reached_at: str) -> None:
            everyone = ",".join((reached_at, *map(str, rest)))
            text = (
                f"A DHT begins at {reached_at}. On every machine: ollaswarm up --bootstrap {everyone}\nCtrl-C stops it."
            )
            output.done(text, {"bootstrap": everyone, "pid": os.getpid()})

        import anyio

        from sidecar.daemon.bootstrap import run_bootstrap_node

        async def run() -> None:
            await run_bootstrap_node(address, others=rest, ready=announce)

        anyio.run(run)


def _parsed(text: str) -> HostPort:
    try:
        return HostPort.parse(text)
    except ValueError as error:
        raise ConfigError(f"{text!r} cannot be used: {error}.") from None
