"""An adapter carried as a file to a machine that no peer reaches."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import anyio
import pytest

from sidecar.control_types import GetOptions
from sidecar.errors import (
    BundleError,
    CatalogueError,
    ChunkMismatch,
    NotFound,
    NotTrusted,
    SidecarError,
    SignatureInvalid,
)
from tests.journeys.inside import IN_PROCESS, Node, Team, running, team
from tests.journeys.ollama import contents, listed, make_adapter, shown

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.control_types import AdapterRow

pytestmark = IN_PROCESS
DEFAULTS = GetOptions()


async def exported(people: Team, file: Path, *, with_base: bool = False) -> tuple[Node, AdapterRow]:
    first = await people.join("first")
    row = await people.publish(first)
    info = await first.control.export_bundle(row.ref, str(file), with_base=with_base, overwrite=False)
    assert (info.size, info.has_base) == ((await anyio.Path(file).stat()).st_size, with_base)
    return first, row


async def alone(people: Team, *, base: bool = True) -> Node:
    """A machine without any peer."""
    people.nodes.clear()
    return await people.join("alone", ollama=await people.ollama("alone", base=base), join=False)


async def test_export_and_import_on_a_machine_without_a_network(tmp_path: Path, files: Path) -> None:
    file = tmp_path / "sql.bundle"
    async with team(tmp_path, files) as people:
        _, row = await exported(people, file)
        node = await alone(people)
        before = contents(node.store)
        done = await node.control.import_bundle(str(file), DEFAULTS)
        assert done.result is not None
        assert (done.result.installed_as, done.digest, done.base_installed) == ("sql-lora:latest", row.digest, None)
        assert str((await shown(node.ollama.url, "sql-lora")).adapter_blobs[0]) == row.digest
        again = await node.control.import_bundle(str(file), DEFAULTS)
        assert again.result is not None, "importing twice is no error"
        await node.control.uninstall("sql-lora")
        assert contents(node.store) == before
        assert [name for name in os.listdir(tmp_path) if "bundle" in name] == ["sql.bundle"]


async def test_base_comes_along_where_it_is_missing(tmp_path: Path, files: Path) -> None:
    file = tmp_path / "with-base.bundle"
    async with team(tmp_path, files) as people:
        _, row = await exported(people, file, with_base=True)
        node = await alone(people, base=False)
        done = await node.control.import_bundle(str(file), GetOptions(as_name="mine"))
        assert done.base_installed == "tiny-base:latest"
        assert {"tiny-base:latest", "mine:latest"} <= await listed(node.ollama.url)
        assert str((await shown(node.ollama.url, "mine")).model_blobs[0]) == row.base_digest


async def test_import_of_a_base_that_is_missing_and_not_in_the_file(tmp_path: Path, files: Path) -> None:
    file = tmp_path / "sql.bundle"
    async with team(tmp_path, files) as people:
        await exported(people, file)
        node = await alone(people, base=False)
        with pytest.raises(SidecarError) as missing:
            await node.control.import_bundle(str(file), DEFAULTS)
        assert missing.value.code == "base-missing"
        kept = await node.control.import_bundle(str(file), GetOptions(install=False))
        assert kept.result is not None
        assert kept.result.path is not None


async def test_interrupted_import_continues(tmp_path: Path, big_files: Path) -> None:
    """A bundle that was cut while it was read leaves what was verified; the whole file finishes it."""
    file = tmp_path / "big.bundle"
    async with team(tmp_path, big_files) as people:
        _, row = await exported(people, file)
        node = await alone(people)
        whole = file.read_bytes()
        damaged = bytearray(whole)
        damaged[-1_000_000] ^= 1
        file.write_bytes(damaged)
        with pytest.raises(ChunkMismatch):
            await node.control.import_bundle(str(file), DEFAULTS)
        assert await listed(node.ollama.url) == {"tiny-base:latest"}
        partial = node.parts.paths.partial / row.digest.removeprefix("sha256:")
        assert (partial / "data").stat().st_size > row.size // 2
        file.write_bytes(whole)
        await node.control.import_bundle(str(file), DEFAULTS)
        assert not partial.exists()


async def test_t15_older_bundle_is_refused_and_a_newer_one_is_remembered(tmp_path: Path, files: Path) -> None:
    old, new = tmp_path / "old.bundle", tmp_path / "new.bundle"
    async with team(tmp_path, files) as people:
        first, row = await exported(people, old)
        await make_adapter(first.ollama.url, files, "sql-lora", "adapter_b.gguf")
        second = await first.share("sql-lora")
        await first.control.export_bundle(row.ref, str(new), with_base=False, overwrite=False)
        people.nodes.clear()
        ollama = await people.ollama("alone")
        async with running(tmp_path / "alone", ollama) as node:
            done = await node.control.import_bundle(str(new), DEFAULTS)
            assert (done.version, done.digest) == (2, second.digest)
        async with running(tmp_path / "alone", ollama) as node:
            with pytest.raises(CatalogueError, match="older"):
                await node.control.import_bundle(str(old), GetOptions(force=True))
            await node.control.block(first.key.hex())
            with pytest.raises(NotTrusted):
                await node.control.import_bundle(str(new), DEFAULTS)


async def test_export_says_why_it_cannot(tmp_path: Path, files: Path) -> None:
    async with team(tmp_path, files) as people:
        first = await people.join("first")
        second = await people.join("second")
        row = await people.publish(first)
        await second.row(row.name, sources=1)
        with pytest.raises(NotFound, match="does not hold"):
            await second.control.export_bundle(row.ref, str(tmp_path / "x"), with_base=False, overwrite=False)
        (tmp_path / "taken").write_text("mine")
        with pytest.raises(BundleError, match="exists"):
            await first.control.export_bundle(row.ref, str(tmp_path / "taken"), with_base=False, overwrite=False)
        with pytest.raises(BundleError, match="cannot be written"):
            await first.control.export_bundle(row.ref, str(tmp_path / "no" / "x"), with_base=False, overwrite=False)
        await first.control.export_bundle(row.ref, str(tmp_path / "taken"), with_base=False, overwrite=True)
        assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


async def test_t06_t07_t16_hostile_bundles_are_one_clear_error_each(tmp_path: Path, files: Path) -> None:
    file, bad = tmp_path / "sql.bundle", tmp_path / "bad.bundle"
    async with team(tmp_path, files) as people:
        _, row = await exported(people, file, with_base=True)
        whole = file.read_bytes()
        node = await alone(people, base=False)
        length = int.from_bytes(whole[20:24], "little")
        entry_end = 24 + length + 96
        adapter_at = entry_end + 32 * -(-row.size // 65536)
        base_at = adapter_at + row.size + 8

        def changed(place: int, by: bytes) -> bytes:
            return whole[:place] + by + whole[place + len(by) :]

        cases: list[tuple[str, bytes, type[SidecarError]]] = [
            ("empty", b"", BundleError),
            ("another file", (files / "adapter.gguf").read_bytes(), BundleError),
            ("another version", changed(17, b"9"), BundleError),
            ("entry as long as memory", changed(20, b"\xff\xff\xff\xff"), BundleError),
            ("entry changed", changed(40, b"~"), SignatureInvalid),
            ("signature changed", changed(entry_end - 1, bytes([whole[entry_end - 1] ^ 1])), SignatureInvalid),
            ("publisher changed", changed(24 + length, os.urandom(32)), SignatureInvalid),
            ("table changed", changed(entry_end, os.urandom(32)), BundleError),
            ("base as long as a disk", changed(base_at - 8, b"\xff" * 8), BundleError),
            ("something behind the end", whole + b"../../etc/passwd", BundleError),
            ("adapter changed", changed(adapter_at + 100, b"????????"), ChunkMismatch),
            ("base changed", changed(base_at + 100, b"????????"), BundleError),
        ]
        cases += [
            (f"cut at {at}", whole[:at], BundleError) for at in (19, 23, 60, entry_end + 5, adapter_at + 9, base_at)
        ]
        cases += [("last byte missing", whole[:-1], BundleError)]
        for what, data, kind in cases:
            bad.write_bytes(data)
            with pytest.raises(kind) as refused:
                await node.control.import_bundle(str(bad), DEFAULTS)
            assert refused.value.next_step, what
            assert await listed(node.ollama.url) == set(), what
        bad.unlink()
        for path in (str(bad), str(tmp_path), "relative"):
            with pytest.raises(SidecarError):
                await node.control.import_bundle(path, DEFAULTS)
        await node.control.import_bundle(str(file), DEFAULTS)
