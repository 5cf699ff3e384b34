"""`ollaswarm trust` and `ollaswarm block`."""

from typing import Annotated

import typer

from sidecar.cli.session import DataDir, Json, daemon_session

Key = Annotated[str, typer.Argument(help="Publisher's key: 64 hex characters, or the unique beginning of a known one.")]


def trust(
    key: Key,
    label: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="How you call them. Another key under it is an alarm.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the name from the key it is pinned to: the person has a new key.")
    ] = False,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Trust a publisher. Compare the four words with them first, over another channel."""
    with daemon_session(json, data_dir) as (client, output):
        publisher = client.post("/publishers/trust", {"key": key, "label": label, "replace_label": replace})
        output.done(f"{publisher['key'][:12]} ({publisher['words']}) is trusted.", publisher)


def block(key: Key, json: Json = False, data_dir: DataDir = None) -> None:
    """Block a publisher: nothing of theirs is shown, fetched or installed."""
    with daemon_session(json, data_dir) as (client, output):
        publisher = client.post("/publishers/block", {"key": key})
        output.done(f"{publisher['key'][:12]} ({publisher['words']}) is blocked.", publisher)
