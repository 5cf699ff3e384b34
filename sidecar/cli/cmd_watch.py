"""Verbs that look: `status`, `doctor`, `peers`, `transfers`, `events`."""

from typing import Annotated, Any

import typer

from sidecar.cli.explain import explain, internet_text
from sidecar.cli.output import Output, human_bytes, human_seconds
from sidecar.cli.session import DataDir, Json, daemon_session
from sidecar.errors import TransferError


def status(json: Json = False, data_dir: DataDir = None) -> None:
    """Show the whole sidecar on one page."""
    with daemon_session(json, data_dir) as (client, output):
        found = client.get("/status")
        if json:
            output.data(found)
        else:
            output.facts(_status_facts(found))


def _status_facts(found: dict[str, Any]) -> dict[str, str]:
    ollama, store = found["ollama"], found["store"]
    if ollama["reachable"]:
        route = f"installs by {ollama['route']}" if ollama["route"] else f"cannot be given adapters: {ollama['cause']}"
        ollama_text = f"{ollama['version']} at {ollama['url']}, {route}"
    else:
        ollama_text = f"{ollama['url']} does not answer: {ollama['cause']}"
    readable = f"{store['models']} models, {store['adapters']} adapters" if store["readable"] else store["cause"]
    rooms = ", ".join(_room_text(room) for room in found["rooms"])
    connections = found["connections"]
    withdrawn = {"taken back": f"{', '.join(found['withdrawn'])}; `ollaswarm uninstall` removes them"}
    return {
        "ollaswarm": f"{found['version']}, pid {found['pid']}, up {human_seconds(found['uptime_s'])}",
        "we are": f"{found['key'][:12]} ({found['words']})",
        "data folder": found["data_dir"],
        "api": found["api"],
        "listens at": ", ".join(found["listen"]) or "nowhere",
        "ollama": ollama_text,
        "store": f"{store['path'] or 'not found'}: {readable}",
        "rooms": rooms or "none: `ollaswarm room create` or `ollaswarm room join`",
        "peers": _by_kind(found["peers"], connections["roads"]),
        "internet": internet_text(connections),
        "adapters": f"{found['entries']} offered by rooms, {found['shared']} shared by us",
        "transfers": f"{found['transfers']} running",
        "fetched": f"{human_bytes(found['fetched_bytes'])} of {human_bytes(found['quota_bytes'])}",
    } | (withdrawn if found["withdrawn"] else {})


def doctor(
    room: Annotated[str | None, typer.Option("--room", metavar="ROOM", help="Why this room has no peers.")] = None,
    peer: Annotated[str | None, typer.Option("--peer", metavar="KEY", help="Why this peer is not reachable.")] = None,
    dial: Annotated[bool, typer.Option("--dial", help="With --peer: try to connect now; up to a minute.")] = False,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Check everything, or one room's or peer's connections, and say what to do about what is wrong.

    Exit code 1 if something fails, or if the room has no member and the peer no connection with us.
    """
    if room is not None and peer is not None:
        raise typer.BadParameter("--room and --peer are two questions; ask one.")
    if dial and peer is None:
        raise typer.BadParameter("--dial needs --peer KEY.")
    with daemon_session(json, data_dir) as (client, output):
        if room is not None or peer is not None:
            explain(client, output, room=room, peer=peer, dial=dial)
            return
        checks = client.post("/doctor")
        failed = sum(check["level"] == "fail" for check in checks)
        if json:
            output.data({"ok": failed == 0, "checks": checks})
        else:
            _print_checks(checks, failed, output)
        if failed:
            raise typer.Exit(1)


def _room_text(room: dict[str, Any]) -> str:
    roads = ", ".join(f"{room[road]} {road}" for road in ("lan", "direct", "relayed") if room[road])
    return f"{room['label']} ({room['peers']} peers{': ' if roads else ''}{roads})"


def _by_kind(total: int, counts: dict[str, int]) -> str:
    said = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return f"{total} ({said})" if said else str(total)


def _print_checks(checks: list[dict[str, str]], failed: int, output: Output) -> None:
    for check in checks:
        output.line(f"{check['level']:<4}  {check['name']}: {check['cause']}")
        if check["next"] and check["level"] != "ok":
            output.line(f"      next: {check['next']}")
    warned = sum(check["level"] == "warn" for check in checks)
    output.line(f"{len(checks)} checks, {failed} failed, {warned} warnings.")


def peers(json: Json = False, data_dir: DataDir = None) -> None:
    """List connected peers."""
    with daemon_session(json, data_dir) as (client, output):
        found = client.get("/peers")
        columns = {
            "PEER": [peer["key"][:12] for peer in found],
            "WORDS": [peer["words"] for peer in found],
            "ROOMS": [", ".join(peer["rooms"]) for peer in found],
            "ADDRESS": [peer["address"] for peer in found],
            "ROAD": [peer["road"] for peer in found],
            "TRUST": [peer["trust"] for peer in found],
            "OFFERS": [str(peer["entries"]) for peer in found],
            "RECEIVED": [human_bytes(peer["received_bytes"]) for peer in found],
            "SENT": [human_bytes(peer["sent_bytes"]) for peer in found],
            "SINCE": [human_seconds(peer["connected_s"]) for peer in found],
        }
        output.rows(found, columns, "No peer is connected. `ollaswarm doctor` looks for reasons.")


def transfers(
    cancel: Annotated[
        str | None, typer.Option("--cancel", metavar="ID", help="Stop this one; what came is kept.")
    ] = None,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """List running and ended transfers, or stop one."""
    with daemon_session(json, data_dir) as (client, output):
        if cancel is not None:
            # Ids are ours: hex. Quoting keeps a typing slip from becoming another route.
            if not cancel.isalnum():
                raise TransferError(f"{cancel!r} is not the id of a transfer.", "`ollaswarm transfers` lists them.")
            found = client.post(f"/transfers/{cancel}/cancel")
            output.done(f"{found['ref']}: {found['state']}.", found)
            return
        found = client.get("/transfers")
        columns = {
            "ID": [each["id"] for each in found],
            "WAY": [each["direction"] for each in found],
            "ADAPTER": [each["ref"] for each in found],
            "STATE": [_state(each) for each in found],
            "DONE": [f"{human_bytes(each['done_bytes'])} of {human_bytes(each['total_bytes'])}" for each in found],
            "SPEED": [f"{human_bytes(each['bytes_per_s'])}/s" for each in found],
            "PEERS": [str(each["sources"]) for each in found],
        }
        output.rows(found, columns, "No transfers yet.")


def _state(transfer: dict[str, Any]) -> str:
    if transfer["error"]:
        return f"{transfer['state']}: {transfer['error']['cause']}"
    return transfer["stage"] if transfer["state"] == "running" else str(transfer["state"])


def events(
    since: Annotated[int | None, typer.Option(min=0, help="Number of the last event already seen.")] = None,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Print what happens, as it happens, until Ctrl-C."""
    with daemon_session(json, data_dir) as (client, output):
        try:
            for event in client.follow_events(since):
                if json:
                    output.data(event)
                else:
                    output.line(_event_line(event))
        except KeyboardInterrupt:
            return


def _event_line(event: dict[str, Any]) -> str:
    facts = " ".join(f"{name}={value}" for name, value in event.items() if name not in ("event", "number"))
    return f"{event['number']:>6}  {event['event']:<18}  {facts}"
