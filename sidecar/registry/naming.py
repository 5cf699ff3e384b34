"""`ROOM.NAME:TAG`: what a room's adapter is called where only Ollama's model names are possible.

ROOM is the room's label if that can stand in a name, else what is left of it with the beginning of the room's id. NAME is
the adapter's name; `PUBLISHER.NAME` where two publishers use it; the beginning of the entry's id where that is too long.
TAG is `latest`, or `v7` for version 7 and no other.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sidecar.errors import CatalogueError, NotFound
from sidecar.identity import short_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from sidecar.catalogue.catalogue import Catalogue
    from sidecar.catalogue.entry import SignedEntry
    from sidecar.catalogue.refs import RefIndex
    from sidecar.rooms.network import JoinedRoom

MAX_MODEL_CHARS = 80  # of Ollama's names
MAX_SLUG_CHARS = 32
"""Leaves 47 characters for NAME; longer ones are spelled by id."""
ID_DIGITS = 16
LATEST = "latest"

_SLUG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")
_NOT_IN_SLUG = re.compile(r"[^A-Za-z0-9_-]+")
_KEY_FIRST = re.compile(r"([0-9a-f]{8,64})\.(.+)")


def room_slug(room: JoinedRoom) -> str:
    """A room's label as the first part of a model name; without a dot, which ends it."""
    if _SLUG.fullmatch(room.label) and len(room.label) <= MAX_SLUG_CHARS:
        return room.label
    suffix = room.id_hex[:8]
    plain = _NOT_IN_SLUG.sub("-", room.label).strip("-")[: MAX_SLUG_CHARS - len(suffix) - 1]
    return f"{plain}-{suffix}" if plain else f"room-{suffix}"


class RoomNames:
    """Names of what the joined rooms offer now.

    Args:
        rooms: Those we are in.
        models: Whether whole models have names too.
    """

    def __init__(
        self, catalogue: Catalogue, rooms: Callable[[], Iterable[JoinedRoom]], *, models: Callable[[], bool]
    ) -> None:
        self._catalogue = catalogue
        self._models = models
        self._rooms = rooms

    def room(self, model: str) -> tuple[JoinedRoom, str]:
        """The room that a model name begins with, and the rest of the name.

        Raises:
            NotFound: We are in no such room.
            CatalogueError: Two of our rooms are called so.
        """
        slug, _, rest = model.partition(".")
        found = [room for room in self._rooms() if room_slug(room).lower() == slug.lower()]
        if not found or not rest:
            raise NotFound(f"We are in no room that {model!r} begins with.", "`ollaswarm registry` lists the names.")
        if len(found) > 1:
            raise CatalogueError(f"{slug!r} is the name of several rooms.", "Give one of them another label.")
        return found[0], rest

    def find(self, model: str, tag: str) -> SignedEntry:
        """What a room offers under a name.

        Raises:
            NotFound: No such room, adapter or version.
            CatalogueError: It could be one of several: a bare name never picks one of two publishers (T10).
        """
        room, rest = self.room(model)
        entry = _resolve(self._catalogue.refs([room.key.room_id]), rest)
        if entry.entry.is_model and not self._models():
            raise NotFound(
                f"{entry.name} is a whole model, and whole models are not pulled by this registry.",
                f"`ollaswarm get {entry.ref}`, or `ollaswarm registry on --models`.",
            )
        if tag.lower() not in (LATEST, f"v{entry.version}"):
            raise NotFound(f"{room.label} offers version {entry.version} of {entry.name}, not {tag!r}.")
        return entry

    def listed(self) -> Iterator[tuple[JoinedRoom, SignedEntry, str]]:
        """Every adapter of every room, and the shortest model name that means it."""
        for room in self._rooms():
            entries = [
                entry
                for entry in self._catalogue.entries(room.key.room_id)
                if self._models() or not entry.entry.is_model
            ]
            refs = self._catalogue.refs([room.key.room_id])
            for entry in sorted(entries, key=lambda entry: (entry.name.lower(), entry.publisher)):
                yield room, entry, f"{room_slug(room)}.{_shortest(refs, entry, MAX_MODEL_CHARS - MAX_SLUG_CHARS - 1)}"


def _resolve(refs: RefIndex, rest: str) -> SignedEntry:
    """A name that begins like a key is always read as one, or a stranger could take the name `KEY.NAME` of another."""
    if keyed := _KEY_FIRST.fullmatch(rest.lower()):
        return refs.resolve(f"{keyed[1]}/{keyed[2]}")
    return refs.resolve(rest)


def _shortest(refs: RefIndex, entry: SignedEntry, room: int) -> str:
    for rest in (entry.name, f"{short_key(entry.publisher)}.{entry.name}"):
        if len(rest) > room:
            continue
        try:
            if _resolve(refs, rest).id == entry.id:
                return rest
        except (NotFound, CatalogueError):
            continue
    return entry.id.hex()[:ID_DIGITS]
