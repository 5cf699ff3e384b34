"""`ollaswarm trust` and `ollaswarm block`."""

from typing import Annotated

import typer

from sidecar.cli.cmd_adapters import only_room
from sidecar.cli.session import PLAIN, DataDir, Json, daemon_session

blocklist = typer.Typer(help="Block lists: publish yours, follow those of others.", no_args_is_help=True, **PLAIN)
Key = Annotated[str, typer.Argument(help="Publisher's key: 64 hex characters, or the unique beginning of a known one.")]


def trust(
    key: Key,
    label: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="How you call them. Another key under it is an alarm.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Take the name from the key it is pinned to: the person has a new key.")
    ] = False,
    forget: Annotated[
        bool,
        typer.Option("--forget", help="Neither trust nor block them any more. A name given with --as stays theirs."),
    ] = False,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Trust a publisher. Compare the four words with them first, over another channel."""
    if forget and (label is not None or replace):
        raise typer.BadParameter("--forget goes with no other option.")
    with daemon_session(json, data_dir) as (client, output):
        if forget:
            publisher = client.post("/publishers/forget", {"key": key})
            output.done(f"{publisher['key'][:12]} ({publisher['words']}) is {publisher['trust']} now.", publisher)
            return
        publisher = client.post("/publishers/trust", {"key": key, "label": label, "replace_label": replace})
        output.done(f"{publisher['key'][:12]} ({publisher['words']}) is trusted.", publisher)


def block(key: Key, json: Json = False, data_dir: DataDir = None) -> None:
    """Block a publisher: nothing of theirs is shown, fetched or installed."""
    with daemon_session(json, data_dir) as (client, output):
        publisher = client.post("/publishers/block", {"key": key})
        output.done(f"{publisher['key'][:12]} ({publisher['words']}) is blocked.", publisher)


@blocklist.command("list")
def list_followed(json: Json = False, data_dir: DataDir = None) -> None:
    """List the block lists that are followed."""
    with daemon_session(json, data_dir) as (client, output):
        lists = client.get("/blocklists")
        columns = {
            "PUBLISHER": [each["publisher"][:12] for each in lists],
            "VERSION": [str(each["version"]) for each in lists],
            "BLOCKS": [str(len(each["blocked"])) for each in lists],
        }
        output.rows(lists, columns, "No block list is followed. `ollaswarm blocklist follow KEY`.")


@blocklist.command()
def publish(
    room: Annotated[str | None, typer.Option("--room", help="Room; needed when in more than one.")] = None,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Publish the keys you block in a room, signed. Run it again after you blocked somebody else."""
    with daemon_session(json, data_dir) as (client, output):
        done = client.post("/blocklists/publish", {"room": room or only_room(client)})
        output.done(f"Published version {done['version']} of your block list: {len(done['blocked'])} keys.", done)


@blocklist.command()
def follow(key: Key, json: Json = False, data_dir: DataDir = None) -> None:
    """Block whom this publisher blocks, now and in future. Publishers that you trust stay trusted."""
    with daemon_session(json, data_dir) as (client, output):
        done = client.post("/blocklists/follow", {"key": key, "on": True})
        said = f"{len(done['blocked'])} keys" if done["version"] else "nothing of it was seen yet"
        output.done(f"Following the block list of {done['publisher'][:12]}: {said}.", done)


@blocklist.command()
def unfollow(key: Key, json: Json = False, data_dir: DataDir = None) -> None:
    """No longer follow a block list. Whom you blocked yourself stays blocked."""
    with daemon_session(json, data_dir) as (client, output):
        done = client.post("/blocklists/follow", {"key": key, "on": False})
        output.done(f"The block list of {done['publisher'][:12]} is not followed any more.", done)
