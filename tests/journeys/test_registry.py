"""`ollama pull` from a room and `ollama push` into one, as a user of Ollama does it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.abc
import httpx
import pytest

from hyperdht import KeyPair
from ollama_bridge.adapters.gguf import read_gguf
from ollama_bridge.client import OllamaClient
from ollama_bridge.digests import Digest
from ollama_bridge.errors import OllamaRejected
from ollama_bridge.names import ModelName
from ollama_bridge.standin.faults import Fault
from ollama_bridge.store import Store
from sidecar.catalogue.entry import build_entry, sign_entry
from sidecar.events import (
    AdapterAppeared,
    InstallComplete,
    InstallFailed,
    RegistryRefused,
    TransferFailed,
    TransferProgress,
)
from sidecar.registry import carry, pulls, serve
from sidecar.transfer.chunks import ChunkTable
from tests.journeys.inside import IN_PROCESS, Node, Team, running, team, until
from tests.journeys.liar import Lies, liar
from tests.journeys.models import make_model
from tests.journeys.ollama import BASE, contents, listed, make_adapter, make_base
from tests.journeys.real import REAL_URL, real_ollama
from tests.journeys.test_liars import ZEROS, room_key, table_of
from tests.support.processes import free_port

if TYPE_CHECKING:
    from pathlib import Path

    from ollama_bridge.standin import StandIn
    from sidecar.control_types import AdapterRow, RegistryInfo

pytestmark = IN_PROCESS

PART_BYTES = 1 << 20
NOT_A_NUMBER = b"\x00\x00\xc0\x7f"
SLOWLY = "5MB"
"""Bytes a second that a publisher gives, so that 12 MiB leave time to do something in between."""


async def switched_on(node: Node, **options: Any) -> RegistryInfo:
    info = await node.control.set_registry(on=True, **options)
    assert info.listening, info.cause
    return info


async def pull(node: Node, name: str) -> None:
    """`ollama pull --insecure NAME`."""
    async with OllamaClient(node.ollama.url) as client:
        await client.pull(ModelName.parse(name), insecure=True)


async def refused_pull(node: Node, name: str) -> str:
    """The same, which must fail; what Ollama says."""
    with pytest.raises(OllamaRejected) as refused:
        await pull(node, name)
    return refused.value.message


async def copy(node: Node, source: str, name: str) -> None:
    """`ollama cp SOURCE NAME`."""
    async with OllamaClient(node.ollama.url) as client:
        await client.copy(ModelName.parse(source), ModelName.parse(name))


async def push(node: Node, name: str) -> None:
    """`ollama push --insecure NAME`."""
    async with OllamaClient(node.ollama.url) as client:
        await client.push(ModelName.parse(name), insecure=True)


async def pulling_ollama(people: Team, name: str, *, base: bool = True, **options: Any) -> StandIn:
    if REAL_URL:
        real = real_ollama(people.files, people.folder, base=base)
        return cast("StandIn", await people.exits.enter_async_context(real))
    return await people.ollama(name, base=base, part_bytes=PART_BYTES, **options)


async def puller(people: Team, name: str = "second", **options: Any) -> Node:
    """A member whose Ollama pulls: in many small parts, or the real one."""
    ollama = await pulling_ollama(people, name, **options)
    return await people.join(name, ollama=ollama, registry_port=0)


async def two(people: Team, **settings: Any) -> tuple[Node, Node, AdapterRow, RegistryInfo]:
    """A publisher, and somebody with the registry switched on who knows of the offer."""
    first = await people.join("first", **settings)
    second = await puller(people)
    row = await people.publish(first)
    await second.row(row.name, sources=1)
    return first, second, row, await switched_on(second)


async def stay(
    people: Team, folder: Path, ollama: StandIn, leave: anyio.Event, *, task_status: anyio.abc.TaskStatus[Node]
) -> None:
    """A member that leaves before the others."""
    peers = [node.address for node in people.nodes]
    async with running(folder, ollama, *peers, upload_limit=SLOWLY) as node:
        await people.enter(node)
        task_status.started(node)
        await leave.wait()


def contents_of(node: Node, name: str) -> list[tuple[str, str]]:
    """Media types and digests of a model, in order."""
    manifest = Store(node.store).read_manifest(ModelName.parse(name))
    return [(layer.media_type, str(layer.digest)) for layer in manifest.layers]


def in_ollama(node: Node, row: AdapterRow) -> bool:
    """Whether the adapter is whole in the store, as far as Ollama is concerned."""
    return (node.store / "blobs" / Digest.parse(row.digest).file_name).exists()


def streamed(node: Node, row: AdapterRow) -> int:
    """Bytes of the adapter that its Ollama has of an unfinished pull."""
    partial = node.store / "blobs" / f"{Digest.parse(row.digest).file_name}-partial"
    return partial.stat().st_blocks * 512 if partial.exists() else 0


class TestPull:
    async def test_a_pull_makes_a_model_that_is_known_as_installed_and_uninstall_removes_it(
        self, tmp_path: Path, files: Path
    ) -> None:
        async with team(tmp_path, files) as people:
            _, second, row, info = await two(people)
            before = contents(second.store)
            (offer,) = (await second.control.registry(entries=True)).entries
            assert offer.model == f"{info.prefix}team.sql-lora:latest"
            assert offer.fits
            await pull(second, offer.model)
            complete = await second.happened(InstallComplete)
            assert complete.installed_as == f"{info.address}/…/team.sql-lora:latest"
            assert (await second.row(row.name)).installed_as == offer.model
            blob = second.store / "blobs" / Digest.parse(row.digest).file_name
            assert blob.read_bytes() == (files / "adapter.gguf").read_bytes()
            assert not list(second.parts.paths.blobs.iterdir()), "no second copy is kept"
            assert (await second.control.uninstall(offer.model)).removed
            assert contents(second.store) == before

    async def test_it_streams_from_two_peers_and_goes_on_when_one_is_gone(
        self, tmp_path: Path, big_files: Path
    ) -> None:
        async with team(tmp_path, big_files) as people:
            first = await people.join("first", upload_limit=SLOWLY)
            row = await people.publish(first)
            second = await puller(people)
            info = await switched_on(second)
            third_ollama = await people.ollama("third")
            async with anyio.create_task_group() as tasks:
                leave = anyio.Event()
                third: Node = await tasks.start(stay, people, tmp_path / "third", third_ollama, leave)
                await third.row(row.name, sources=1)
                await third.got(row.ref)
                await second.row(row.name, sources=2)
                tasks.start_soon(pull, second, f"{info.prefix}team.sql-lora")
                progress = await second.happened(
                    TransferProgress, lambda event: event.done_bytes > PART_BYTES and event.sources == 2
                )
                await until(lambda: streamed(second, row) > 0)
                assert progress.done_bytes < row.size
                leave.set()
                await second.happened(InstallComplete)
            blob = second.store / "blobs" / Digest.parse(row.digest).file_name
            assert blob.read_bytes() == (big_files / "adapter.gguf").read_bytes()

    async def test_t06_a_liar_among_the_peers_changes_nothing(self, tmp_path: Path, big_files: Path) -> None:
        async with team(tmp_path, big_files) as people:
            _, second, row, info = await two(people)
            path = big_files / "adapter.gguf"
            entry = second.parts.catalogue.resolve(row.ref)
            _, hashes = await table_of(path)
            lies = Lies(chunk=ZEROS)
            async with liar(
                second.address, room_key(second), blob=path.read_bytes(), hashes=hashes, lies=lies
            ) as member:
                await member.offer(entry)
                await second.row(row.name, sources=2)
                await pull(second, f"{info.prefix}team.sql-lora")
                assert member.asked_for_chunks.is_set()
            blob = second.store / "blobs" / Digest.parse(row.digest).file_name
            assert blob.read_bytes() == path.read_bytes()

    async def test_t06_with_liars_alone_the_pull_fails_and_ollama_has_nothing(
        self, tmp_path: Path, files: Path
    ) -> None:
        async with team(tmp_path, files) as people:
            first, second, row, info = await two(people)
            path = files / "adapter.gguf"
            entry = second.parts.catalogue.resolve(row.ref)
            _, hashes = await table_of(path)
            await first.control.leave_room("team")
            lies = Lies(chunk=ZEROS)
            async with liar(
                second.address, room_key(second), blob=path.read_bytes(), hashes=hashes, lies=lies
            ) as member:
                await member.offer(entry)
                await second.row(row.name, sources=1)
                assert "wrong data" in await refused_pull(second, f"{info.prefix}team.sql-lora")
            assert not in_ollama(second, row)
            assert not any("sql-lora" in name for name in await listed(second.ollama.url))

    async def test_a_pull_goes_on_after_the_sidecar_was_restarted(self, tmp_path: Path, big_files: Path) -> None:
        async with team(tmp_path, big_files) as people:
            first = await people.join("first", upload_limit=SLOWLY)
            row = await people.publish(first)
            ollama = await pulling_ollama(people, "second", retry_s=0.5)
            options = {"registry_port": free_port()}
            async with anyio.create_task_group() as pulling:
                async with running(tmp_path / "second", ollama, first.address, **options) as before:
                    await people.enter(before)
                    await before.row(row.name, sources=1)
                    name = f"{(await switched_on(before)).prefix}team.sql-lora:v1"
                    pulling.start_soon(pull, before, name)
                    await before.happened(TransferProgress, lambda event: event.done_bytes > 3 * PART_BYTES)
                    await until(lambda: streamed(before, row) > 0)
                async with running(tmp_path / "second", ollama, first.address, **options) as after:
                    assert (await after.control.registry()).on
                    await after.happened(InstallComplete)
                    assert (await after.row(row.name)).installed_as == name, "with the tag that was asked for before"
                    assert in_ollama(after, row)
                    (transfer,) = await after.control.transfers()
                    assert transfer.result is not None
                    assert transfer.result.fetched_bytes < row.size - 2 * PART_BYTES

    async def test_a_new_version_comes_with_the_next_pull_and_the_old_one_is_not_pretended(
        self, tmp_path: Path, files: Path
    ) -> None:
        async with team(tmp_path, files) as people:
            first, second, row, info = await two(people)
            name = f"{info.prefix}team.sql-lora"
            await pull(second, name)
            await second.happened(InstallComplete)
            await make_adapter(first.ollama.url, files, "better", "adapter_b.gguf")
            newer = await first.share("better", name="sql-lora")
            await second.row(row.name, version=2, sources=1)
            await pull(second, name)
            await second.happened(InstallComplete, lambda event: event.digest == newer.digest)
            assert not in_ollama(second, row)
            assert "offers version 2 of sql-lora, not 'v1'" in await refused_pull(second, f"{name}:v1")

    async def test_what_ollama_has_already_needs_no_peer(self, tmp_path: Path, files: Path) -> None:
        async with team(tmp_path, files) as people:
            first, second, row, info = await two(people)
            await second.got(row.ref)
            await first.control.leave_room("team")
            await pull(second, f"{info.prefix}team.sql-lora")
            await second.happened(InstallComplete, lambda event: "team.sql-lora" in event.installed_as)

    async def test_rules_do_not_share_what_was_pulled(self, tmp_path: Path, files: Path) -> None:
        async with team(tmp_path, files) as people:
            _, second, _, info = await two(people)
            await second.control.share_all("team", on=True)
            await pull(second, f"{info.prefix}team.sql-lora")
            await second.happened(AdapterAppeared)
            await second.happened(InstallComplete)
            await make_adapter(second.ollama.url, files, "own", "adapter_b.gguf")
            await second.row("own", publisher=second.key)  # so the rule has looked at both by now
            assert {each.name for each in await second.control.adapters(local=True)} == {"own"}


class TestEnds:
    """What a pull that does not come to its end leaves: nothing but what the next one goes on from."""

    @pytest.mark.soak
    async def test_where_nobody_waits_any_more_the_fetch_ends(
        self, tmp_path: Path, big_files: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pulls, "IDLE_S", 0.5)
        async with team(tmp_path, big_files) as people:
            _, second, row, info = await two(people, upload_limit=SLOWLY)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(pull, second, f"{info.prefix}team.sql-lora")
                await second.happened(TransferProgress, lambda event: event.done_bytes > PART_BYTES)
                tasks.cancel_scope.cancel()  # Ctrl-C
            assert (await second.happened(TransferFailed)).code == "cancelled"
            assert (await second.row(row.name)).installed_as is None
            await pull(second, f"{info.prefix}team.sql-lora")
            await second.happened(InstallComplete)

    @pytest.mark.soak
    async def test_a_silent_peer_does_not_hold_a_part_for_ever(
        self, tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(serve, "STALL_S", 0.3)
        monkeypatch.setattr(pulls, "MANIFEST_S", 0.3)
        async with team(tmp_path, files) as people:
            first, second, row, info = await two(people)
            path = files / "adapter.gguf"
            entry = second.parts.catalogue.resolve(row.ref)
            _, hashes = await table_of(path)
            await first.control.leave_room("team")
            async with liar(
                second.address, room_key(second), blob=path.read_bytes(), hashes=hashes, lies=Lies(silent=True)
            ) as member:
                await member.offer(entry)
                await second.row(row.name, sources=1)
                assert "retries exceeded" in await refused_pull(second, f"{info.prefix}team.sql-lora")
            assert not in_ollama(second, row)

    async def test_an_ollama_that_does_not_finish_leaves_no_note_of_an_install(
        self, tmp_path: Path, files: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(carry, "FINISH_S", 0.5)
        async with team(tmp_path, files) as people:
            first, second, row, info = await two(people)
            name = f"{info.prefix}team.sql-lora:latest"
            second.ollama.faults.set("pull:write", Fault("fail"))
            await refused_pull(second, name)
            failed = await second.happened(InstallFailed)
            assert failed.cause == "Ollama did not finish its pull."
            assert (await second.row(row.name)).installed_as is None
            await pull(second, name)
            await second.happened(InstallComplete)

            await make_adapter(first.ollama.url, files, "better", "adapter_b.gguf")
            await first.share("better", name="sql-lora")
            await second.row(row.name, version=2, sources=1)
            before = second.parts.bus._number
            second.ollama.faults.set("pull:write", Fault("fail"))
            await refused_pull(second, name)
            await second.happened(InstallFailed, since=before)
            (noted,) = await second.parts.journal.run(lambda journal: journal.installs())
            assert (noted.name, noted.version) == (name, 1), "the version that is there stays known"


class TestRefusals:
    async def test_policy_is_asked_before_anything_is_fetched(self, tmp_path: Path, files: Path) -> None:
        async with team(tmp_path, files) as people:
            first, second, row, info = await two(people)
            await second.control.set_policy("team", "enforce")
            message = await refused_pull(second, f"{info.prefix}team.sql-lora")
            assert message.startswith("pull model manifest: 403")
            assert "is not trusted" in message
            event = await second.happened(RegistryRefused)
            assert (event.model, event.code) == ("team.sql-lora:latest", "not-trusted")
            await second.control.block(first.key.hex())
            assert "is blocked" in await refused_pull(second, f"{info.prefix}team.sql-lora")
            assert not in_ollama(second, row)
            assert await second.control.transfers() == ()

    async def test_without_the_base_there_is_no_manifest(self, tmp_path: Path, files: Path) -> None:
        async with team(tmp_path, files) as people:
            first = await people.join("first")
            row = await people.publish(first)
            third = await people.join("third", ollama=await people.ollama("third", base=False), registry_port=0)
            await third.row(row.name)
            info = await switched_on(third)
            assert "does not have" in await refused_pull(third, f"{info.prefix}team.sql-lora")
            assert (await third.happened(RegistryRefused)).code == "base-missing"

    async def test_t06_a_header_that_is_not_what_was_signed_is_refused_before_ollama_has_a_byte(
        self, tmp_path: Path, files: Path
    ) -> None:
        key = KeyPair.generate()
        async with team(tmp_path, files) as people:
            _, second, row, info = await two(people)
            honest = second.parts.catalogue.resolve(row.ref).entry
            assert honest.adapter is not None
            path = files / "adapter.gguf"
            _, hashes = await table_of(path)
            wrong = replace(honest, name="boast", adapter=replace(honest.adapter, rank=64))
            async with liar(
                second.address, room_key(second), blob=path.read_bytes(), hashes=hashes, key_pair=key
            ) as member:
                await member.say(sign_entry(build_entry(wrong), key))
                await second.row("boast", sources=1)
                assert "rank 64" in await refused_pull(second, f"{info.prefix}team.boast")
                assert (await second.happened(RegistryRefused)).code == "claim-mismatch"
            assert not in_ollama(second, row)
            assert streamed(second, row) == 0

    async def test_t06_what_turns_out_wrong_at_its_end_never_becomes_whole_in_ollama(
        self, tmp_path: Path, big_files: Path
    ) -> None:
        """Signed by a member: header, size and every chunk are as it says, but not the digest of the whole."""
        key = KeyPair.generate()
        async with team(tmp_path, big_files) as people:
            _, second, row, info = await two(people)
            honest = second.parts.catalogue.resolve(row.ref).entry
            path = big_files / "adapter.gguf"
            _, hashes = await table_of(path)
            digest = f"sha256:{'d' * 64}"
            wrong = replace(honest, name="boast", blobs=(replace(honest.blob, digest=digest),))
            async with liar(
                second.address, room_key(second), blob=path.read_bytes(), hashes=hashes, key_pair=key
            ) as member:
                await member.say(sign_entry(build_entry(wrong), key))
                await second.row("boast", sources=1)
                assert "retries exceeded" in await refused_pull(second, f"{info.prefix}team.boast")
                failed = await second.happened(TransferFailed)
                assert failed.code == "blob-mismatch"
                (transfer,) = await second.control.transfers()
                assert transfer.done_bytes == row.size, "it was fetched once, not for each of Ollama's tries"
            assert not (second.store / "blobs" / f"sha256-{'d' * 64}").exists()
            assert not any("boast" in name for name in await listed(second.ollama.url))

    async def test_t02_what_only_the_whole_file_shows_is_found_before_ollama_has_it(
        self, tmp_path: Path, big_files: Path
    ) -> None:
        """Header, digest and chunks are as signed; the numbers are none."""
        key = KeyPair.generate()
        path = tmp_path / "nan.gguf"
        honest_bytes = (big_files / "adapter.gguf").read_bytes()
        with (big_files / "adapter.gguf").open("rb") as file:
            start = read_gguf(file).data_offset
        path.write_bytes(honest_bytes[:start] + NOT_A_NUMBER * ((len(honest_bytes) - start) // 4))
        digest, hashes = await table_of(path)
        async with team(tmp_path, big_files) as people:
            _, second, row, info = await two(people)
            honest = second.parts.catalogue.resolve(row.ref).entry
            blob = replace(
                honest.blob, digest=str(digest), chunks=ChunkTable(hashes).root_hex, size=path.stat().st_size
            )
            wrong = replace(honest, name="noise", blobs=(blob,))
            async with liar(
                second.address, room_key(second), blob=path.read_bytes(), hashes=hashes, key_pair=key
            ) as member:
                await member.say(sign_entry(build_entry(wrong), key))
                await second.row("noise", sources=1)
                await refused_pull(second, f"{info.prefix}team.noise")
                failed = await second.happened(InstallFailed)
                assert failed.code == "claim-mismatch"
                assert "finite" in await refused_pull(second, f"{info.prefix}team.noise"), "now that it is here"
            assert not (second.store / "blobs" / digest.file_name).exists()

    async def test_t10_a_name_of_two_publishers_is_pulled_with_the_publisher(self, tmp_path: Path, files: Path) -> None:
        async with team(tmp_path, files) as people:
            first, second, row, info = await two(people)
            third = await people.join("third")
            await people.publish(third, file="adapter_b.gguf")
            await second.row(row.name, publisher=third.key, sources=1)
            assert "can mean 2 adapters" in await refused_pull(second, f"{info.prefix}team.sql-lora")
            rows = (await second.control.registry(entries=True)).entries
            assert {each.model for each in rows} == {
                f"{info.prefix}team.{node.key.hex()[:12]}.sql-lora:latest" for node in (first, third)
            }
            await pull(second, f"{info.prefix}team.{first.key.hex()[:12]}.sql-lora")
            assert in_ollama(second, row)


class TestModels:
    async def test_a_base_comes_from_a_peer_and_then_the_adapter_for_it(self, tmp_path: Path, files: Path) -> None:
        async with team(tmp_path, files) as people:
            first = await people.join("first")
            await make_model(first.ollama.url, files)
            await make_adapter(first.ollama.url, files, "sql-lora")
            await first.share("sql-lora")
            await first.share(BASE, model=True)
            ollama = await pulling_ollama(people, "second", base=False)
            second = await people.join("second", ollama=ollama, registry_port=0)
            for name in ("sql-lora", BASE):
                await second.row(name, sources=1)
            info = await switched_on(second)
            assert "--models" in await refused_pull(second, f"{info.prefix}team.{BASE}")
            assert len((await second.control.registry(entries=True)).entries) == 1
            assert (await switched_on(second, models=True)).models
            await pull(second, f"{info.prefix}team.{BASE}")
            await second.happened(InstallComplete)
            assert contents_of(second, f"{info.prefix}team.{BASE}") == contents_of(first, BASE)
            await pull(second, f"{info.prefix}team.sql-lora")
            await second.happened(InstallComplete, lambda event: event.installed_as.endswith("sql-lora:latest"))
            for name in ("sql-lora", BASE):
                assert (await second.control.uninstall(f"{info.prefix}team.{name}")).removed
            assert not any(info.secret in name for name in await listed(second.ollama.url))

    async def test_t05_a_model_that_is_not_what_was_signed_is_refused(self, tmp_path: Path, files: Path) -> None:
        key = KeyPair.generate()
        async with team(tmp_path, files) as people:
            first = await people.join("first")
            await make_base(first.ollama.url, files)
            honest = await first.share(BASE, model=True)
            ollama = await people.ollama("second", base=False)
            second = await people.join("second", ollama=ollama, registry_port=0)
            await second.row(BASE, sources=1)
            info = await switched_on(second, models=True)
            entry = second.parts.catalogue.resolve(honest.ref).entry
            assert entry.model is not None
            wrong = replace(entry, name="bigger", model=replace(entry.model, parameters=70_000_000_000))
            path = files / "base.gguf"
            _, hashes = await table_of(path)
            async with liar(
                second.address, room_key(second), blob=path.read_bytes(), hashes=hashes, key_pair=key
            ) as member:
                await member.say(sign_entry(build_entry(wrong), key))
                await second.row("bigger", sources=1)
                assert "parameters 70000000000" in await refused_pull(second, f"{info.prefix}team.bigger")
            assert not await listed(second.ollama.url)


class TestT24:
    async def test_t24_without_the_secret_there_is_nothing_whoever_asks_for_whatever(
        self, tmp_path: Path, files: Path
    ) -> None:
        async with team(tmp_path, files) as people:
            _, _, row, info = await two(people)
            other = "f" * 32
            paths = ["/", "/v2/", "/v2/_catalog", f"/v2/{info.secret}", f"/v2/{info.secret}/_catalog", "/metrics"]
            paths += [
                f"/v2/{secret}/team.sql-lora/{kind}"
                for secret in (other, info.secret[:-1], info.secret + "0", "library", "share", "p2p")
                for kind in ("manifests/latest", f"blobs/{row.digest}", "blobs/uploads/", "tags/list")
            ]
            answers = set()
            async with httpx.AsyncClient(base_url=f"http://{info.address}", trust_env=False) as http:
                for path in paths:
                    for method in ("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE"):
                        answer = await http.request(method, path)
                        answers.add((answer.status_code, answer.content, tuple(sorted(answer.headers))))
                right = f"/v2/{info.secret}/team.sql-lora/manifests/latest"
                for headers in ({"host": "localhost"}, {"origin": "http://evil.test"}, {"sec-fetch-mode": "cors"}):
                    answer = await http.get(right, headers=headers)
                    answers.add((answer.status_code, answer.content, tuple(sorted(answer.headers))))
                assert answers == {(404, b"", ("content-length",))}, "all the same, so nobody learns anything"
                assert (await http.get(right)).status_code == 200

    async def test_t24_off_is_off_and_a_new_secret_ends_the_old_one(self, tmp_path: Path, files: Path) -> None:
        async with team(tmp_path, files) as people:
            _, second, _, info = await two(people)
            assert oct((second.parts.paths.root / "registry.json").stat().st_mode & 0o777) == "0o600"
            renewed = await second.control.set_registry(on=True, new_secret=True)
            assert renewed.secret != info.secret
            assert renewed.address == info.address
            await refused_pull(second, f"{info.prefix}team.sql-lora")
            await second.control.set_registry(on=False)
            with pytest.raises(OSError, match="connect"):
                await anyio.connect_tcp("127.0.0.1", int(info.address.partition(":")[2]))
            assert not (await second.control.registry()).listening
            assert (await switched_on(second)).secret == renewed.secret
            await pull(second, f"{renewed.prefix}team.sql-lora")

    async def test_t24_nothing_listens_unless_the_user_said_so(self, tmp_path: Path, files: Path) -> None:
        port = free_port()
        async with team(tmp_path, files) as people:
            await people.join("first", registry_port=port)
            with pytest.raises(OSError, match="connect"):
                await anyio.connect_tcp("127.0.0.1", port)

    async def test_t24_a_taken_port_is_said_and_the_registry_comes_when_it_is_free(
        self, tmp_path: Path, files: Path
    ) -> None:
        async with team(tmp_path, files) as people:
            taken = await anyio.create_tcp_listener(local_host="127.0.0.1")
            port = taken.extra(anyio.abc.SocketAttribute.local_port)
            first = await people.join("first", registry_port=port)
            said = await first.control.set_registry(on=True)
            assert said.on
            assert not said.listening
            assert f"Port {port} of 127.0.0.1 cannot be used" in said.cause
            await taken.aclose()
            assert (await switched_on(first)).address == f"127.0.0.1:{port}"

    async def test_t24_the_secret_is_in_no_event_and_no_file_but_its_own_and_the_journal(
        self, tmp_path: Path, files: Path
    ) -> None:
        async with team(tmp_path, files) as people:
            first, second, _, info = await two(people)
            await pull(second, f"{info.prefix}team.sql-lora")
            await second.happened(InstallComplete)
            await make_adapter(second.ollama.url, files, "own", "adapter_b.gguf")
            await copy(second, "own", f"{info.prefix}team.own")
            await push(second, f"{info.prefix}team.own")
            offered = await first.row("own", sources=1)
            async with second.control.events(0) as events:
                seen = str([(await anext(events)).event.to_json() for _ in range(second.parts.bus._number)])
            entry = first.parts.catalogue.resolve(offered.ref)
            written = {
                path.name: path.read_bytes()
                for path in second.parts.paths.root.rglob("*")
                if path.is_file() and path.name != "registry.json" and "journal" not in path.name
            }
            everything = {
                "events": seen.encode(),
                "entry": entry.raw,
                "metrics": second.parts.metrics.render(),
                **written,
            }
            assert "audit.jsonl" in written
            assert [name for name, data in everything.items() if info.secret.encode() in data] == []


class TestPush:
    async def test_a_push_shares_under_the_name_after_the_room(self, tmp_path: Path, files: Path) -> None:
        async with team(tmp_path, files) as people:
            first, second, _, info = await two(people)
            await make_adapter(second.ollama.url, files, "mine", "adapter_b.gguf")
            await copy(second, "mine", f"{info.prefix}team.for-all")
            await push(second, f"{info.prefix}team.for-all")
            row = await first.row("for-all", publisher=second.key, sources=1)
            await first.got(row.ref)
            assert row.base == f"{BASE}:latest"

    @pytest.mark.parametrize(
        ("source", "room", "why"),
        [
            (BASE, "team.base", "This one has 0"),
            ("mine", "elsewhere.mine", "We are in no room"),
            ("mine", "team", "We are in no room"),
        ],
    )
    async def test_what_cannot_be_shared_is_refused_with_the_reason(
        self, tmp_path: Path, files: Path, source: str, room: str, why: str
    ) -> None:
        async with team(tmp_path, files) as people:
            second = await puller(people)
            info = await switched_on(second)
            await make_adapter(second.ollama.url, files, "mine")
            await copy(second, source, f"{info.prefix}{room}")
            with pytest.raises(OllamaRejected, match=why):
                await push(second, f"{info.prefix}{room}")
            assert await second.control.adapters() == ()

    async def test_what_was_pulled_from_somebody_is_not_pushed_as_ours(self, tmp_path: Path, files: Path) -> None:
        async with team(tmp_path, files) as people:
            _, second, _, info = await two(people)
            await pull(second, f"{info.prefix}team.sql-lora")
            await second.happened(InstallComplete)
            await copy(second, f"{info.prefix}team.sql-lora", f"{info.prefix}team.stolen")
            with pytest.raises(OllamaRejected, match="was installed from publisher"):
                await push(second, f"{info.prefix}team.stolen")

    async def test_pushes_can_be_switched_off_and_other_ollamas_have_none(self, tmp_path: Path, files: Path) -> None:
        async with team(tmp_path, files) as people:
            second = await puller(people)
            info = await switched_on(second)
            stranger = await people.ollama("stranger")
            await make_adapter(stranger.url, files, f"{info.prefix}team.theirs")
            async with OllamaClient(stranger.url) as client:
                with pytest.raises(OllamaRejected, match="only from the Ollama"):
                    await client.push(ModelName.parse(f"{info.prefix}team.theirs"), insecure=True)
            await make_adapter(second.ollama.url, files, "same-file")
            await make_adapter(second.ollama.url, files, f"{info.prefix}team.theirs", "adapter_b.gguf")
            async with OllamaClient(stranger.url) as client:
                with pytest.raises(OllamaRejected, match="only from the Ollama"):
                    await client.push(ModelName.parse(f"{info.prefix}team.theirs"), insecure=True)
            assert await second.control.adapters() == (), "and not another one that has its name here"
            await make_adapter(second.ollama.url, files, f"{info.prefix}team.mine")
            await switched_on(second, push=False)
            with pytest.raises(OllamaRejected, match="switched off"):
                await push(second, f"{info.prefix}team.mine")
            assert await second.control.adapters() == ()
