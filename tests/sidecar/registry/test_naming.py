"""Which name means which adapter, and that no stranger can get between."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest

from hyperdht import KeyPair
from ollama_bridge.names import ModelName
from sidecar.catalogue.catalogue import Catalogue
from sidecar.catalogue.entry import AdapterFacts, BaseFacts, Blob, Entry, SignedEntry, build_entry, sign_entry
from sidecar.errors import CatalogueError, NotFound
from sidecar.registry.naming import RoomNames, room_slug
from sidecar.rooms.key import RoomKey
from sidecar.rooms.network import JoinedRoom

ALICE, MALLORY = (KeyPair.from_seed(bytes([number]) * 32) for number in (1, 2))


def make_room(label: str, number: int = 1) -> JoinedRoom:
    return JoinedRoom(RoomKey(bytes([number]) * 32), label, "private", 0.0)


def make_entry(name: str, key: KeyPair = ALICE, version: int = 1) -> SignedEntry:
    entry = Entry(
        name=name,
        version=version,
        created="2026-11-24T00:00:00Z",
        base=BaseFacts("base", f"sha256:{'b' * 64}", "llama"),
        adapter=AdapterFacts("gguf", 8, 16.0, 4, "c" * 64),
        blobs=(Blob(f"sha256:{'a' * 64}", 100, "application/vnd.ollama.image.adapter", "d" * 64),),
    )
    return sign_entry(build_entry(entry), key)


@dataclass
class World:
    rooms: list[JoinedRoom] = field(default_factory=lambda: [make_room("team")])

    def __post_init__(self) -> None:
        self.catalogue = Catalogue()
        for room in self.rooms:
            self.catalogue.open_room(room.key.room_id, epoch=bytes(16))
        self.names = RoomNames(self.catalogue, lambda: self.rooms, models=lambda: False)

    def offer(self, entry: SignedEntry, room: int = 0) -> SignedEntry:
        assert self.catalogue.put(self.rooms[room].key.room_id, entry, now=0.0).changed
        return entry


@pytest.mark.parametrize("label", ["team", "our_room-2", "_x", "x" * 32])
def test_a_label_that_can_stand_in_a_name_stands_there(label: str) -> None:
    assert room_slug(make_room(label)) == label


@pytest.mark.parametrize("label", ["büro 7", "a.b", "-x", "日本", "x" * 33, "a/b:c", "."])
def test_other_labels_are_slugged_and_two_never_become_one(label: str) -> None:
    first, second = room_slug(make_room(label, 1)), room_slug(make_room(label, 2))
    assert first != second
    for slug in (first, second):
        assert ModelName.is_valid(f"127.0.0.1:1/{'0' * 32}/{slug}.x")
        assert "." not in slug
        assert len(slug) <= 32


def test_names_tags_and_case() -> None:
    world = World()
    entry = world.offer(make_entry("SQL.lora-v2", version=7))
    for model, tag in (("team.SQL.lora-v2", "latest"), ("TEAM.sql.LORA-V2", "v7"), ("team.sql.lora-v2", "V7")):
        assert world.names.find(model, tag) == entry
    for model, tag in (
        ("team.sql.lora-v2", "v6"), ("team.sql.lora-v2", "7"), ("team.sql", "latest"), ("team", "latest"),
        ("team.", "latest"), ("other.sql.lora-v2", "latest"), (".x", "latest"),
    ):  # fmt: skip
        with pytest.raises(NotFound):
            world.names.find(model, tag)


def test_what_another_room_offers_is_not_found_in_this_one() -> None:
    world = World([make_room("team", 1), make_room("other", 2)])
    world.offer(make_entry("lora"), room=1)
    assert world.names.find("other.lora", "latest").name == "lora"
    with pytest.raises(NotFound):
        world.names.find("team.lora", "latest")


def test_two_rooms_of_one_name_are_not_chosen_between() -> None:
    world = World([make_room("team", 1), make_room("TEAM", 2)])
    with pytest.raises(CatalogueError):
        world.names.find("team.lora", "latest")


def test_every_listed_name_is_valid_and_finds_its_entry() -> None:
    world = World([make_room("ein ziemlich langes Wort für einen Raum")])
    names = ["lora", "x" * 80, "deadbeef", "deadbeef.lora", ALICE.public_key.hex()[:12]]
    entries = [world.offer(make_entry(name)) for name in names]
    entries += [world.offer(make_entry("lora", MALLORY))]
    listed = {entry.id: model for _, entry, model in world.names.listed()}
    assert len(set(listed.values())) == len(entries)
    for entry in entries:
        model = listed[entry.id]
        assert ModelName.is_valid(f"127.0.0.1:1/{'0' * 32}/{model}:latest")
        assert world.names.find(model, "latest") == entry


def test_t10_a_bare_name_of_two_publishers_needs_the_publisher() -> None:
    world = World()
    mine, theirs = world.offer(make_entry("lora")), world.offer(make_entry("lora", MALLORY))
    with pytest.raises(CatalogueError):
        world.names.find("team.lora", "latest")
    for entry in (mine, theirs):
        assert world.names.find(f"team.{entry.publisher.hex()[:12]}.lora", "latest") == entry


def test_t10_nobody_takes_the_name_that_means_another_publishers() -> None:
    """A stranger calls its adapter KEY.NAME, with the key of somebody whose NAME is not (or no longer) offered."""
    world = World()
    posing = f"{ALICE.public_key.hex()[:12]}.lora"
    world.offer(make_entry(posing, MALLORY))
    with pytest.raises(NotFound):
        world.names.find(f"team.{posing}", "latest")
    honest = world.offer(make_entry("lora"))
    assert world.names.find(f"team.{posing}", "latest") == honest
    assert re.fullmatch(r"team\.[0-9a-f]{12}\..+|team\.[0-9a-f]{16}", next(
        model for _, entry, model in world.names.listed() if entry.publisher == MALLORY.public_key
    ))  # fmt: skip
