"""`ollaswarm room create|join|leave|list`."""

from typing import Annotated, Any

import typer

from sidecar.cli.client import ApiClient, RemoteFailure
from sidecar.cli.output import Output
from sidecar.cli.session import PLAIN, DataDir, Json, Yes, agreed, can_ask, daemon_session, read_secret
from sidecar.errors import ConsentNeeded

SEEN = "Members meet through the DHT, whose nodes see this machine's IP address, unless it runs with --no-dht."

app = typer.Typer(help="Create, join, leave and list rooms.", no_args_is_help=True, **PLAIN)
Label = Annotated[str | None, typer.Option("--label", help="How you call the room; others do not see it.")]


@app.command()
def create(
    label: Annotated[str | None, typer.Argument(help="How you call the room; others do not see it.")] = None,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Make a private room and show its code. Whoever has the code can enter."""
    with daemon_session(json, data_dir) as (client, output):
        _show_code(client.post("/rooms", {"label": label}), output)


def _show_code(room: dict[str, Any], output: Output) -> None:
    output.done(f"Room {room['label']} is ready.\n\n  code  {room['code']}\n  link  {room['link']}\n", room)
    if output.terminal:
        from sidecar.rooms.code import room_qr

        output.out.write(room_qr(room["code"]))
    output.line("Give the code only to those who may enter: it is not shown again.")


@app.command()
def rotate(
    room: Annotated[str, typer.Argument(help="Label or id, as `ollaswarm room list` shows it.")],
    yes: Yes = False,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Give a private room a new code, because the old one is known to somebody it should not be.

    What is offered goes along, except by publishers you blocked. Every member has to be told the new code; those who
    are not stay behind in the room with the old one, which this machine leaves.
    """
    with daemon_session(json, data_dir) as (client, output):
        if not agreed(
            f"Leave the room {room} as its members know it, and begin one with a new code?", yes=yes, output=output
        ):
            raise ConsentNeeded("The room was not changed.", "Run the same command with --yes.")
        _show_code(client.post("/rooms/rotate", {"room": room}), output)
        output.line(SEEN)


@app.command()
def join(
    room: Annotated[
        str | None,
        typer.Argument(metavar="ROOM", help="Code, link, `general` or `local`; `-` reads it from standard input."),
    ] = None,
    label: Label = None,
    orch_mind: Annotated[
        bool,
        typer.Option(
            "--orch-mind", help="Speak with Orch-Mind's users: in `general`, or in the room of a code of theirs."
        ),
    ] = False,
    yes: Yes = False,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Join a room. Without ROOM the code is asked for, so that it stays out of the shell's history."""
    with daemon_session(json, data_dir) as (client, output):
        chosen = read_secret(room, "Room code")
        joined = _join(client, {"room": chosen, "label": label, "consent": yes, "orch_mind": orch_mind}, output)
        output.done(f"Joined {joined['label']}: {joined['peers']} peers, {joined['adapters']} adapters.", joined)
        if joined["kind"] == "private":
            output.line(SEEN)


def _join(client: ApiClient, request: dict[str, Any], output: Output) -> Any:
    try:
        return client.post("/rooms/join", request)
    except RemoteFailure as failure:
        if failure.code != ConsentNeeded.code or not can_ask(output):
            raise
        output.note(failure.cause)
        if not agreed("Join?", yes=False, output=output):
            raise
        return client.post("/rooms/join", request | {"consent": True})


@app.command()
def leave(
    room: Annotated[str, typer.Argument(help="Label or id, as `ollaswarm room list` shows it.")],
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Leave a room. What was installed from it stays."""
    with daemon_session(json, data_dir) as (client, output):
        left = client.post("/rooms/leave", {"room": room})
        output.done(f"Left {left['label']}.", left)


@app.command("list")
def list_rooms(json: Json = False, data_dir: DataDir = None) -> None:
    """List the rooms this machine is in."""
    with daemon_session(json, data_dir) as (client, output):
        rooms = client.get("/rooms")
        columns = {
            "ROOM": [room["label"] for room in rooms],
            "KIND": [_kind(room) for room in rooms],
            "OFFERS": ["everything" if room["share_all"] else "what you share" for room in rooms],
            "POLICY": [room["policy"] for room in rooms],
            "PEERS": [str(room["peers"]) for room in rooms],
            "ADAPTERS": [str(room["adapters"]) for room in rooms],
            "ID": [room["id"] for room in rooms],
        }
        output.rows(rooms, columns, "In no room. `ollaswarm room create` or `ollaswarm room join`.")


def _kind(room: dict[str, Any]) -> str:
    return f"{room['kind']} + orch-mind" if room["orch_mind"] and room["kind"] != "orch-mind" else str(room["kind"])


@app.command()
def policy(
    room: Annotated[str, typer.Argument(help="Label or id, as `ollaswarm room list` shows it.")],
    level: Annotated[
        str,
        typer.Argument(
            metavar="off|warn|enforce",
            help="`enforce`: install only from publishers you trust. `warn`: from others with a warning. `off`: from all.",
        ),
    ],
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Set how much trust in a publisher an install from a room needs."""
    if level not in ("off", "warn", "enforce"):
        raise typer.BadParameter("a policy is off, warn or enforce")
    with daemon_session(json, data_dir) as (client, output):
        changed = client.post("/rooms/policy", {"room": room, "policy": level})
        output.done(f"The policy of {changed['label']} is {changed['policy']}.", changed)
