"""What the stand-in does that cannot be asked of a real server: faults, clocks, restarts, bad registries."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import anyio
import httpx
import pytest

from ollama_bridge.client import OllamaClient
from ollama_bridge.digests import Digest
from ollama_bridge.errors import OllamaRejected, OllamaUnavailable
from ollama_bridge.loopback_http import DropConnection, HttpServer, Request, Response
from ollama_bridge.manifest import Layer, MediaType, render_manifest
from ollama_bridge.names import ModelName
from ollama_bridge.standin import STEPS, Fault, Faults, StandIn
from ollama_bridge.standin.store import PRUNE_GRACE_S

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conformance.lab import Lab

pytestmark = pytest.mark.anyio

BLOB = bytes(range(256)) * 40
DIGEST = Digest.of(BLOB)
CONFIG = b"{}"
MANIFEST = render_manifest(
    Layer(MediaType.CONFIG, Digest.of(CONFIG), len(CONFIG)), [Layer(MediaType.MODEL, DIGEST, len(BLOB))]
)


class TestStore:
    async def test_a_split_manifest_can_be_seen_half_written(self, lab: Lab) -> None:
        assert lab.standin is not None
        lab.standin.faults.split_manifest_s = 0.2
        target = lab.standin.store.manifest_path(lab.fresh_name("copy"))
        whole = lab.standin.store.read_bytes(lab.base)
        seen = b""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lab.client.copy, lab.base, lab.fresh_name("copy"))
            with anyio.fail_after(5):
                while not seen:
                    seen = target.read_bytes() if target.exists() else b""
                    await anyio.sleep(0.005)
        assert len(seen) == len(whole) // 2
        assert target.read_bytes() == whole

    async def test_create_ends_the_manifest_with_a_newline_and_pull_does_not(self, lab: Lab) -> None:
        assert lab.standin is not None
        created = lab.fresh_name("created")
        await lab.client.create(created, from_=lab.base)
        assert lab.standin.store.read_bytes(created).endswith(b"\n")
        assert not lab.standin.store.read_bytes(lab.base).endswith(b"\n")

    async def test_deleting_the_last_model_takes_the_manifests_folder_along(self, lab: Lab) -> None:
        assert lab.standin is not None
        await lab.client.delete(lab.base)
        assert not (lab.standin.store.root / "manifests").exists()
        assert await lab.client.tags() == ()

    async def test_rewrite_files_changes_the_digest(self, lab: Lab) -> None:
        assert lab.standin is not None
        lab.standin.faults.rewrite_files = True
        await lab.client.create(lab.fresh_name("x"), files={"base.gguf": lab.base_layer.digest})
        assert (await lab.client.show(lab.fresh_name("x"))).model_blobs != (lab.base_layer.digest,)

    async def test_from_a_missing_model_fails_without_a_network(self, lab: Lab) -> None:
        with pytest.raises(OllamaRejected, match="pull model manifest: file does not exist") as caught:
            await lab.client.create(lab.fresh_name("x"), from_=lab.fresh_name("nothing"))
        assert caught.value.status == 200

    async def test_windows_refuses_a_port_in_a_name(self, lab: Lab) -> None:
        assert lab.standin is not None
        lab.standin.faults.windows = True
        with pytest.raises(OllamaRejected, match="directory name is invalid"):
            await lab.client.copy(lab.base, ModelName.parse("127.0.0.1:5000/p2p/x"))
        await lab.client.copy(lab.base, ModelName.parse("127.0.0.1/p2p/x"))

    async def test_a_full_disk_leaves_no_temporary_file(self, lab: Lab) -> None:
        assert lab.standin is not None
        lab.standin.faults.disk_bytes = 10
        path, digest, size = lab.adapter()
        with pytest.raises(OllamaRejected, match="no space left on device") as caught:
            await lab.client.push_blob(digest, path, size)
        assert caught.value.status == 500
        names = {path.name for path in lab.standin.store.blob_path(digest).parent.iterdir()}
        assert all(Digest.parse_file_name(name) for name in names)
        assert not await lab.client.has_blob(digest)

    async def test_it_can_have_the_folder_of_0_34(self, tmp_path: Path) -> None:
        async with StandIn(tmp_path, metadata_folder=True):
            assert set(os.listdir(tmp_path)) == {"blobs", "manifests", "metadata"}


class TestPrune:
    async def _start(self, folder: Path, now: float) -> set[str]:
        async with StandIn(folder, clock=lambda: now):
            return {path.name for path in (folder / "blobs").iterdir()}

    def _blob(self, folder: Path, name: str) -> str:
        (folder / "blobs").mkdir(parents=True, exist_ok=True)
        path = folder / "blobs" / name
        path.write_bytes(b"x")
        os.utime(path, (1000.0, 1000.0))
        return name

    async def test_old_orphans_and_partials_go_young_ones_stay(self, tmp_path: Path) -> None:
        names = {self._blob(tmp_path, DIGEST.file_name), self._blob(tmp_path, DIGEST.file_name + "-partial")}
        assert await self._start(tmp_path, 1000.0 + PRUNE_GRACE_S - 1) == names
        assert await self._start(tmp_path, 1000.0 + PRUNE_GRACE_S + 1) == set()

    async def test_one_cut_manifest_stops_it(self, tmp_path: Path) -> None:
        names = {self._blob(tmp_path, DIGEST.file_name)}
        cut = tmp_path / "manifests" / "registry.ollama.ai" / "library" / "m" / "latest"
        cut.parent.mkdir(parents=True)
        cut.write_bytes(b"{")
        assert await self._start(tmp_path, 1e9) == names

    async def test_what_a_manifest_lists_stays(self, tmp_path: Path) -> None:
        names = {self._blob(tmp_path, DIGEST.file_name)}
        path = tmp_path / "manifests" / "registry.ollama.ai" / "library" / "m" / "latest"
        path.parent.mkdir(parents=True)
        path.write_bytes(MANIFEST)
        assert await self._start(tmp_path, 1e9) == names


class TestFaults:
    def test_unknown_steps_are_refused(self) -> None:
        with pytest.raises(ValueError, match="there is no step"):
            Faults().set("pull:nowhere", Fault("drop"))
        for step in STEPS:
            Faults().set(step, Fault("drop"))

    async def test_a_restart_comes_back_on_the_same_port(self, lab: Lab) -> None:
        assert lab.standin is not None
        lab.standin.faults.set("tags", Fault("restart", seconds=0.05))
        port = lab.standin.port
        with pytest.raises(OllamaUnavailable):
            await lab.client.tags()
        with anyio.fail_after(5):
            while True:
                try:
                    assert await lab.client.tags()
                    break
                except OllamaUnavailable:
                    await anyio.sleep(0.01)
        assert lab.standin.port == port

    async def test_a_fault_happens_as_often_as_told(self, lab: Lab) -> None:
        assert lab.standin is not None
        lab.standin.faults.set("version", Fault("fail", after=1, times=1, status=503, message="busy"))
        await lab.client.version()
        with pytest.raises(OllamaRejected, match="busy"):
            await lab.client.version()
        await lab.client.version()


class TestAgainstBadRegistries:
    """The stand-in makes Ollama's mistakes, or our registry would be tested against a kinder client."""

    async def _pull(self, folder: Path, answer: Callable[[Request], Response]) -> tuple[OllamaRejected, bool]:
        async def handle(request: Request) -> Response:
            if "/manifests/" in request.path:
                return Response(200, {}, MANIFEST)
            if request.path.endswith(str(Digest.of(CONFIG))):
                return _honest(request, CONFIG)
            return answer(request)

        async with StandIn(folder) as standin, HttpServer(handle) as server, OllamaClient(standin.url) as client:
            name = ModelName.parse(f"127.0.0.1:{server.port}/p2p/x")
            with pytest.raises(OllamaRejected) as caught:
                await client.pull(name, insecure=True)
            return caught.value, await client.has_blob(DIGEST)

    async def test_no_location(self, tmp_path: Path) -> None:
        def answer(request: Request) -> Response:
            response = _honest(request, BLOB)
            response.headers.pop("location", None)
            return response

        error, _ = await self._pull(tmp_path, answer)
        assert "no Location header in response" in error.message

    async def test_an_error_page_becomes_part_of_the_blob(self, tmp_path: Path) -> None:
        def answer(request: Request) -> Response:
            return Response(503, {}, b"x" * len(BLOB)) if "range" in request.headers else _honest(request, BLOB)

        error, kept = await self._pull(tmp_path, answer)
        assert "digest mismatch, file must be downloaded again" in error.message
        assert not kept

    async def test_dropped_parts_are_tried_six_times(self, tmp_path: Path) -> None:
        tries = 0

        def answer(request: Request) -> Response:
            nonlocal tries
            if "range" in request.headers:
                tries += 1
                raise DropConnection
            return _honest(request, BLOB)

        error, kept = await self._pull(tmp_path, answer)
        assert "max retries exceeded" in error.message
        assert (tries, kept) == (6, False)


def _honest(request: Request, data: bytes) -> Response:
    if request.method == "HEAD":
        return Response(200, {"content-length": str(len(data))})
    if "range" in request.headers:
        return Response(206, {}, data)
    return Response(200, {"location": request.path}, data)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM for a child there")
async def test_it_runs_as_a_program_until_told_to_stop(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "ollama_bridge.standin", "--store", str(tmp_path), "--adapters", "refuse"]
    async with await anyio.open_process(arguments, stderr=None) as program:
        assert program.stdout is not None
        with anyio.fail_after(30):
            url = (await program.stdout.receive()).decode().strip()
            async with httpx.AsyncClient(trust_env=False) as http:
                assert (await http.get(f"{url}/api/version")).json() == {"version": "0.40.0"}
            program.send_signal(signal.SIGTERM)
            assert await program.wait() == 0
