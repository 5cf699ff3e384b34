"""Why a room has no peers, or fewer than were found."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .dials import explain_dial
from .findings import finding, plural
from .machine import diagnose_machine, worst_first

if TYPE_CHECKING:
    from sidecar.control_types import Finding

    from .facts import DialFacts, MachineFacts, RoomFacts

# What a machine has, and what says nothing about a room: they are left out unless the room is lonely.
ALWAYS = frozenset({"dht-silent", "dht-no-socket", "clock-behind"})
OF_THE_DHT = frozenset({"dht-off", "dht-unused", "dht-no-socket", "dht-silent", "nat-random", "nat-unknown", "joining"})
CODE_NEXT = "Compare the codes: `ollaswarm room rotate` makes a new one to hand out."


def diagnose_room(machine: MachineFacts, room: RoomFacts) -> tuple[Finding, ...]:
    """All that is found about a room, the worst first; never empty."""
    found = [] if not room.members else [_connected(room)]
    if room.on_internet and machine.dht.works:
        found += _announced(room)
        found += _found_but_not_connected(machine, room)
    if not room.on_internet and not room.members:
        found.append(_alone_on_lan(machine))
    for each in diagnose_machine(machine):
        about_the_room = room.on_internet or each.kind not in OF_THE_DHT
        if about_the_room and (not room.members or each.kind in ALWAYS):
            found.append(each)
    if not any(each.level != "ok" for each in found) and not room.members:
        found.append(_waiting(room))
    return worst_first(found)


def _connected(room: RoomFacts) -> Finding:
    roads = ", ".join(f"{count} {road}" for road, count in sorted(room.connected.items()) if count)
    return finding("connected", "ok", f"{plural(room.members, 'member')} connected.", f"By road: {roads}.")


def _waiting(room: RoomFacts) -> Finding:
    count = plural(max(room.waiting, 1), "peer")
    return finding("waiting", "warn", f"{count} about to be dialled.", "They were found a moment ago.", "Ask again.")


def _announced(room: RoomFacts) -> list[Finding]:
    if room.announced and room.walks:
        return [] if room.seen or room.members else [_nobody()]
    if room.walks_failed:
        what = "This machine is not announced in the room's topic: others cannot find it."
        cause = f"The last {plural(room.walks_failed, 'walk')} through the DHT failed; they are repeated."
        return [finding("not-announced", "warn", what, cause, "Ask again soon. If it stays, see `ollaswarm doctor`.")]
    what, cause = "This machine is about to be announced.", "The first walk through the DHT is under way."
    return [finding("joining", "warn", what, cause, "Ask again in a few seconds.")]


def _nobody() -> Finding:
    what = "Nobody else is announced in this room's topic."
    cause = "No other member is online, it joined with another code, or it is in another DHT (--bootstrap)."
    step = f"Is `ollaswarm up` running there? {CODE_NEXT}"
    return finding("nobody-announced", "warn", what, cause, step)


def _alone_on_lan(machine: MachineFacts) -> Finding:
    what = "No peer is connected in the room of the local network."
    cause = f"{plural(machine.lan.members, 'member')} announced there now." if machine.lan.members else "None is seen."
    step = "Is `ollaswarm up` running on the other machine, and did it join `local`?"
    return finding("alone-on-lan", "warn", what, cause, step)


def _found_but_not_connected(machine: MachineFacts, room: RoomFacts) -> list[Finding]:
    found = [_explain_group(dials, room) for dials in _by_kind(room.failed)]
    if room.unproved:
        what = f"{plural(room.unproved, 'peer')} connected, and proved no room."
        cause = "It knows the room's topic but not its code, or is another program."
        found.append(finding("nobody-proved", "warn", what, cause, CODE_NEXT, "likely"))
    if room.wrong_proofs and not room.members:
        what = f"{plural(room.wrong_proofs, 'wrong proof')} since the start."
        cause = "Somebody who is not a member tried, or runs a broken program."
        found.append(finding("wrong-proof", "warn", what, cause, "Nothing was told to them.", "likely"))
    if room.blocked:
        what = f"{plural(room.blocked, 'peer')} not dialled, as you blocked them or follow somebody who did."
        step = "`ollaswarm trust KEY` undoes it."
        found.append(finding("blocked", "ok", what, "Blocked keys get no connection.", step))
    if machine.peers >= machine.max_peers:
        what, cause = "No more peers are let in.", f"{machine.peers} are connected, and that is the limit."
        found.append(finding("peer-limit", "warn", what, cause, "Raise --max-peers."))
    return found


def _by_kind(dials: tuple[DialFacts, ...]) -> list[list[DialFacts]]:
    groups: dict[str, list[DialFacts]] = {}
    for dial in dials:
        groups.setdefault(explain_dial(dial, "").kind, []).append(dial)
    return list(groups.values())


def _explain_group(dials: list[DialFacts], room: RoomFacts) -> Finding:
    who = "One of the peers found" if len(dials) == 1 else f"Each of {len(dials)} peers found"
    return explain_dial(dials[0], who, members_relay=room.members_relay)
