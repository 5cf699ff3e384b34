"""How `doctor --room`, `doctor --peer` and `status` put connections into words."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import typer

from sidecar.cli.output import human_seconds

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.cli.client import ApiClient
    from sidecar.cli.output import Output

NATS = {
    "open": "anybody can connect to this machine",
    "consistent": "others connect to it by hole punching",
    "random": "peers behind a router like ours need a member that relays",
    "unknown": "how others see this machine is not known yet",
}
ROADS = {"lan": "over the local network", "direct": "directly", "relayed": "through a member that relays"}


def internet_text(connections: dict[str, Any]) -> str:
    """One line about the DHT and the dials over it."""
    if not connections["online"]:
        return "not connected to the DHT"
    failed = ", ".join(f"{count} {kind}" for kind, count in connections["dials_failed"].items())
    dials = f"{connections['dials_opened']} dials opened" + (f", failed: {failed}" if failed else "")
    relaying = f"; relays for {connections['relayed_pairs']} pairs of members" if connections["relaying"] else ""
    return f"{NATS[connections['nat']]}; {dials}{relaying}"


def explain(client: ApiClient, output: Output, *, room: str | None, peer: str | None, dial: bool) -> None:
    """Ask for a diagnosis and print it. Exits with 1 if nobody was reached."""
    if room is not None:
        found = client.post("/doctor/room", {"room": room})
    elif dial:
        with _dialling(output):
            found = client.post("/doctor/peer", {"peer": peer, "dial": True})
    else:
        found = client.post("/doctor/peer", {"peer": peer})
    if output.json:
        output.data({"ok": found["reached"]} | found)
    else:
        _print(found, output)
    if not found["reached"]:
        raise typer.Exit(1)


def _print(found: dict[str, Any], output: Output) -> None:
    if (dialled := found["dial"]) is not None:
        output.line(_dial_text(dialled))
    for finding in found["findings"]:
        certainty = "" if finding["certainty"] == "certain" else f" ({finding['certainty']})"
        output.line(f"{finding['level']:<4}  {finding['what']}")
        reason = "" if finding["level"] == "ok" else f"cause{certainty}: "
        output.line(f"      {reason}{finding['cause']}")
        if finding["next"]:
            output.line(f"      next: {finding['next']}")
    output.line("Each is explained in docs/connections.md: " + ", ".join(each["kind"] for each in found["findings"]))


def _dial_text(dialled: dict[str, Any]) -> str:
    took = human_seconds(dialled["seconds"])
    if dialled["ok"]:
        return f"dial  connected {ROADS[dialled['road']]} after {took}."
    return f"dial  failed after {took}: {dialled['detail'] or 'it was not its turn; too many connections or dials'}"


@contextlib.contextmanager
def _dialling(output: Output) -> Iterator[None]:
    """Show that something is going on: a spinner on a terminal, one line elsewhere, nothing with `--json`."""
    if output.json:
        yield
    elif not output.terminal:
        output.note("Dialling, which takes up to a minute.")
        yield
    else:
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TextColumn("dialling, up to a minute"), TimeElapsedColumn())
        with Progress(*columns, console=Console(file=output.out), transient=True) as bar:
            bar.add_task("", total=None)
            yield
