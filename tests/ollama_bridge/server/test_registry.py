"""The loopback registry: what it gives to whom, and what it never gives (T24)."""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import anyio
import httpx
import pytest

from ollama_bridge import loopback_http
from ollama_bridge.client import OllamaClient
from ollama_bridge.digests import Digest
from ollama_bridge.errors import OllamaBridgeError, OllamaRejected, StoreError
from ollama_bridge.loopback_http import DropConnection, HttpServer, Request, Response
from ollama_bridge.manifest import Layer, MediaType, render_manifest
from ollama_bridge.names import ModelName
from ollama_bridge.registry import LoopbackRegistry, PushedModel, server, uploads
from ollama_bridge.registry.one_time import backed_up, backup_name, is_one_time, one_time_name
from ollama_bridge.registry.serving import BLOCK_BYTES
from ollama_bridge.standin import StandIn

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ollama_bridge.loopback_http import SendBytes

pytestmark = pytest.mark.anyio

CONTENT = os.urandom(3 * BLOCK_BYTES + 17)
DIGEST = Digest.of(CONTENT)
LAYER = Layer(MediaType.MODEL, DIGEST, len(CONTENT))
CONFIG = b"{}"
CONFIG_LAYER = Layer(MediaType.CONFIG, Digest.of(CONFIG), len(CONFIG))
MANIFEST = render_manifest(CONFIG_LAYER, [LAYER])


@pytest.fixture
def blobs(tmp_path: Path) -> dict[Digest, Path]:
    content, config = tmp_path / "content", tmp_path / "config"
    content.write_bytes(CONTENT)
    config.write_bytes(CONFIG)
    return {DIGEST: content, CONFIG_LAYER.digest: config}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@asynccontextmanager
async def offered(
    blobs: dict[Digest, Path], clock: Clock | None = None
) -> AsyncIterator[tuple[httpx.AsyncClient, str]]:
    """A registry with one offer, and a client whose base is that offer's path."""
    async with LoopbackRegistry(clock=clock or Clock()) as registry, registry.offer(MANIFEST, blobs=blobs) as name:
        base = f"http://127.0.0.1:{registry.port}/v2/{name.namespace}/{name.model}"
        async with httpx.AsyncClient(trust_env=False, timeout=10) as http:
            yield http, base


class TestServing:
    async def test_manifest_byte_for_byte(self, blobs: dict[Digest, Path]) -> None:
        async with offered(blobs) as (http, base):
            assert (await http.get(f"{base}/manifests/once")).content == MANIFEST

    async def test_head_has_the_length(self, blobs: dict[Digest, Path]) -> None:
        async with offered(blobs) as (http, base):
            answer = await http.head(f"{base}/blobs/{DIGEST}")
        assert (answer.status_code, answer.headers["content-length"]) == (200, str(len(CONTENT)))

    async def test_get_without_range_is_200_with_a_location(self, blobs: dict[Digest, Path]) -> None:
        async with offered(blobs) as (http, base):
            answer = await http.get(f"{base}/blobs/{DIGEST}")
        assert answer.status_code == 200
        assert base.endswith(answer.headers["location"].removesuffix(f"/blobs/{DIGEST}"))
        assert answer.content == CONTENT

    @pytest.mark.parametrize(
        ("start", "stop"),
        [(0, len(CONTENT)), (0, 1), (BLOCK_BYTES - 1, BLOCK_BYTES + 1), (5, 2 * BLOCK_BYTES + 5),
         (len(CONTENT) - 1, len(CONTENT)), (BLOCK_BYTES, 2 * BLOCK_BYTES)],
    )  # fmt: skip
    async def test_a_range_is_exactly_206(self, blobs: dict[Digest, Path], start: int, stop: int) -> None:
        async with offered(blobs) as (http, base):
            answer = await http.get(f"{base}/blobs/{DIGEST}", headers={"range": f"bytes={start}-{stop - 1}"})
        assert answer.status_code == 206
        assert answer.headers["content-length"] == str(stop - start)
        assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{len(CONTENT)}"
        assert answer.content == CONTENT[start:stop]

    @pytest.mark.parametrize("header", [f"bytes=0-{len(CONTENT)}", "bytes=5-4", "bytes=-5", "bytes=0-1,3-4", "x"])
    async def test_a_range_that_cannot_be_served_ends_the_connection(
        self, blobs: dict[Digest, Path], header: str
    ) -> None:
        async with offered(blobs) as (http, base):
            with pytest.raises(httpx.RemoteProtocolError):
                await http.get(f"{base}/blobs/{DIGEST}", headers={"range": header})

    async def test_an_error_page_never_answers_a_range(self, blobs: dict[Digest, Path]) -> None:
        async with offered(blobs) as (http, base):
            absent = Digest("d" * 64)
            assert (await http.head(f"{base}/blobs/{absent}")).status_code == 404
            with pytest.raises(httpx.RemoteProtocolError):
                await http.get(f"{base}/blobs/{absent}", headers={"range": "bytes=0-1"})

    async def test_names_are_found_in_any_case(self, blobs: dict[Digest, Path]) -> None:
        async with offered(blobs) as (http, base):
            head, _, model = base.rpartition("/")
            assert (await http.get(f"{head.replace('p2p', 'P2P')}/{model.upper()}/manifests/ONCE")).status_code == 200


class TestT24:
    async def test_t24_without_the_path_there_is_nothing(self, blobs: dict[Digest, Path]) -> None:
        async with offered(blobs) as (http, base):
            root = base.partition("/v2/")[0]
            guesses = [
                "/", "/v2/", "/v2/_catalog", "/v2/p2p/install/manifests/once", f"/v2/p2p/x/blobs/{DIGEST}",
                f"/v2/share/x/blobs/{DIGEST}", f"/v2/p2p/install-{'0' * 32}/manifests/once",
                "/v2/p2p/../../etc/blobs/passwd", f"{base.removeprefix(root)}/tags/list",
            ]  # fmt: skip
            for path in guesses:
                for method in ("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS"):
                    answer = await http.request(method, root + path)
                    assert answer.status_code == 404, (method, path)
                    assert "www-authenticate" not in answer.headers

    async def test_t24_only_what_the_manifest_lists(self, blobs: dict[Digest, Path], tmp_path: Path) -> None:
        other = tmp_path / "other"
        other.write_bytes(b"private")
        blobs[Digest.of(b"private")] = other
        async with offered(blobs) as (http, base):
            for digest in (Digest.of(b"private"), "sha256:../../secret", f"sha256-{DIGEST.hex}", DIGEST.hex.upper()):
                assert (await http.get(f"{base}/blobs/{digest}")).status_code == 404

    @pytest.mark.parametrize(
        "headers",
        [{"host": "evil.example"}, {"host": "localhost"}, {"host": "127.0.0.1"}, {"origin": "http://127.0.0.1"},
         {"sec-fetch-site": "cross-site"}],
    )  # fmt: skip
    async def test_t24_only_the_exact_host_and_no_browser(
        self, blobs: dict[Digest, Path], headers: dict[str, str]
    ) -> None:
        async with offered(blobs) as (http, base):
            assert (await http.get(f"{base}/manifests/once", headers=headers)).status_code == 404

    async def test_t24_the_path_ends_with_the_install_and_the_port_closes(self, blobs: dict[Digest, Path]) -> None:
        async with LoopbackRegistry() as registry, httpx.AsyncClient(trust_env=False) as http:
            async with registry.offer(MANIFEST, blobs=blobs) as first, registry.offer(MANIFEST, blobs=blobs) as second:
                assert first.model != second.model
            url = f"http://127.0.0.1:{registry.port}/v2/p2p/{first.model}/manifests/once"
            with pytest.raises(httpx.ConnectError):
                await http.get(url)
            async with registry.offer(MANIFEST, blobs=blobs):
                assert (await http.get(url)).status_code == 404

    async def test_t24_an_idle_offer_expires(self, blobs: dict[Digest, Path]) -> None:
        clock = Clock()
        async with offered(blobs, clock) as (http, base):
            clock.now = server.OFFER_IDLE_S
            assert (await http.get(f"{base}/manifests/once")).status_code == 200
            clock.now += server.OFFER_IDLE_S + 1
            assert (await http.get(f"{base}/manifests/once")).status_code == 404

    async def test_t24_wrong_content_is_never_sent(self, blobs: dict[Digest, Path]) -> None:
        blobs[DIGEST].write_bytes(CONTENT[:-1] + b"\0")
        async with offered(blobs) as (http, base):
            assert (await http.get(f"{base}/blobs/{DIGEST}")).status_code == 404
            with pytest.raises(httpx.RemoteProtocolError):
                await http.get(f"{base}/blobs/{DIGEST}", headers={"range": "bytes=0-0"})

    async def test_t24_a_file_that_changes_is_cut(self, blobs: dict[Digest, Path]) -> None:
        async with offered(blobs) as (http, base):
            whole = {"range": f"bytes=0-{len(CONTENT) - 1}"}
            assert (await http.get(f"{base}/blobs/{DIGEST}", headers=whole)).content == CONTENT
            with blobs[DIGEST].open("r+b") as file:
                file.seek(2 * BLOCK_BYTES + 1)
                file.write(b"\xff\x00")
            got = bytearray()
            async with http.stream("GET", f"{base}/blobs/{DIGEST}", headers=whole) as answer:
                with pytest.raises(httpx.RemoteProtocolError):
                    await _read_into(got, answer)
            assert got == CONTENT[: 2 * BLOCK_BYTES]

    async def test_t24_tensor_models_are_not_offered(self) -> None:
        manifest = render_manifest(CONFIG_LAYER, [Layer(MediaType.TENSOR, DIGEST, 1, name="t")])
        async with LoopbackRegistry() as registry:
            with pytest.raises(StoreError, match="one layer per tensor"):
                async with registry.offer(manifest):
                    pass

    async def test_t24_ollama_never_gets_what_changed_under_it(self, blobs: dict[Digest, Path], tmp_path: Path) -> None:
        blobs[DIGEST].write_bytes(CONTENT[::-1])
        async with StandIn(tmp_path / "models") as standin, OllamaClient(standin.url) as client:
            async with LoopbackRegistry() as registry, registry.offer(MANIFEST, blobs=blobs) as name:
                with pytest.raises(OllamaRejected):
                    await client.pull(name, insecure=True)
            assert not await client.has_blob(DIGEST)
            assert await client.tags() == ()


async def test_ollama_pulls_in_parts(blobs: dict[Digest, Path], tmp_path: Path) -> None:
    async with StandIn(tmp_path / "models", part_bytes=700_001) as standin, OllamaClient(standin.url) as client:
        async with LoopbackRegistry() as registry, registry.offer(MANIFEST, blobs=blobs) as name:
            await client.pull(name, insecure=True)
        assert standin.store.blob_path(DIGEST).read_bytes() == CONTENT


class TestPush:
    @pytest.fixture
    def pushed(self) -> list[PushedModel]:
        return []

    @asynccontextmanager
    async def _target(self, tmp_path: Path) -> AsyncIterator[tuple[httpx.AsyncClient, str, Path]]:
        async with (
            LoopbackRegistry(tmp_path) as registry,
            registry.expect_push(known=lambda digest: False) as expected,
            httpx.AsyncClient(trust_env=False, timeout=10) as http,
        ):
            yield http, f"http://127.0.0.1:{registry.port}/v2/{expected.name.namespace}/{expected.name.model}", tmp_path

    async def _begin(self, http: httpx.AsyncClient, base: str) -> str:
        answer = await http.post(f"{base}/blobs/uploads/")
        assert answer.status_code == 202
        assert answer.headers["location"].startswith("http://127.0.0.1:")
        return answer.headers["location"]

    async def _upload(self, http: httpx.AsyncClient, base: str, data: bytes, digest: Digest) -> int:
        location = await self._begin(http, base)
        headers = {"content-range": f"0-{len(data) - 1}"}
        location = (await http.patch(location, content=data, headers=headers)).headers["location"]
        return (await http.put(f"{location}?digest={digest}&etag=x-1")).status_code

    async def test_a_blob_is_hashed_on_receipt(self, tmp_path: Path) -> None:
        async with self._target(tmp_path) as (http, base, _):
            assert await self._upload(http, base, b"abc", DIGEST) == 400
            assert (await http.head(f"{base}/blobs/{DIGEST}")).status_code == 404
            assert await self._upload(http, base, b"abc", Digest.of(b"abc")) == 201
            assert (await http.head(f"{base}/blobs/{Digest.of(b'abc')}")).status_code == 200

    async def test_a_lost_part_can_be_sent_again(self, tmp_path: Path) -> None:
        async with self._target(tmp_path) as (http, base, _):
            location = await self._begin(http, base)
            await http.patch(location, content=b"ab", headers={"content-range": "0-1"})
            await http.patch(location, content=b"cX", headers={"content-range": "2-3"})
            await http.patch(location, content=b"cd", headers={"content-range": "2-3"})
            skipping = await http.patch(location, content=b"z", headers={"content-range": "9-9"})
            assert skipping.status_code == 416
            assert (await http.put(f"{location}?digest={Digest.of(b'abcd')}")).status_code == 201

    async def test_a_mount_only_of_what_is_here(self, tmp_path: Path) -> None:
        async with self._target(tmp_path) as (http, base, _):
            url = f"{base}/blobs/uploads/?mount={Digest.of(b'abc')}&from=library/m"
            assert (await http.post(url)).status_code == 202
            await self._upload(http, base, b"abc", Digest.of(b"abc"))
            assert (await http.post(url)).status_code == 201

    async def test_a_manifest_needs_its_blobs(self, tmp_path: Path) -> None:
        async with self._target(tmp_path) as (http, base, _):
            url = f"{base}/manifests/once"
            assert (await http.put(url, content=MANIFEST)).status_code == 400
            assert (await http.put(url, content=b"{")).status_code == 400
            await self._upload(http, base, CONFIG, CONFIG_LAYER.digest)
            small = Layer(MediaType.MODEL, CONFIG_LAYER.digest, 99)
            wrong_size = await http.put(url, content=render_manifest(CONFIG_LAYER, [small]))
            assert wrong_size.status_code == 400
            assert "has 2 bytes, not 99" in wrong_size.text
            assert (await http.put(url, content=render_manifest(CONFIG_LAYER, []))).status_code == 201

    async def test_t20_sizes_and_counts_are_capped(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(uploads, "MAX_PUSH_BYTES", 10)
        monkeypatch.setattr(uploads, "MAX_BLOBS", 2)
        async with self._target(tmp_path) as (http, base, _):
            first, second = await self._begin(http, base), await self._begin(http, base)
            assert (await http.post(f"{base}/blobs/uploads/")).status_code == 413
            assert (await http.patch(first, content=b"12345678")).status_code == 202
            assert (await http.patch(second, content=b"123")).status_code == 413

    async def test_the_spool_is_empty_afterwards(self, tmp_path: Path) -> None:
        async with self._target(tmp_path) as (http, base, spool):
            await self._upload(http, base, b"abc", Digest.of(b"abc"))
            assert list(spool.rglob("sha256-*"))
        assert not list(spool.rglob("*"))


class TestShare:
    async def test_a_push_to_the_share_path_reaches_the_callback(
        self, blobs: dict[Digest, Path], tmp_path: Path
    ) -> None:
        seen: list[tuple[ModelName, frozenset[Digest], bytes]] = []

        async def take(model: PushedModel) -> None:
            content = model.blob_path(CONFIG_LAYER.digest).read_bytes()
            seen.append((model.name, model.held, content))

        async with (
            StandIn(tmp_path / "models") as standin,
            OllamaClient(standin.url) as client,
            LoopbackRegistry(tmp_path, on_push=take, known=lambda digest: digest == DIGEST) as registry,
        ):
            async with registry.offer(MANIFEST, blobs=blobs) as name:
                await client.pull(name, insecure=True)
            mine = ModelName(registry.host, "share", "sql-lora", "v2")
            await client.copy(name, mine)
            await client.push(mine, insecure=True)
            assert seen == [(mine, frozenset({CONFIG_LAYER.digest}), CONFIG)]

    async def test_without_a_callback_nothing_is_taken(self) -> None:
        async with LoopbackRegistry() as registry, registry.probe(), httpx.AsyncClient(trust_env=False) as http:
            url = f"http://127.0.0.1:{registry.port}/v2/share/x/blobs/uploads/"
            assert (await http.post(url)).status_code == 404

    async def test_t20_open_shares_are_few(self, tmp_path: Path) -> None:
        async def take(model: PushedModel) -> None:
            raise AssertionError

        async with LoopbackRegistry(tmp_path, on_push=take) as registry, httpx.AsyncClient(trust_env=False) as http:
            for index in range(server.MAX_OPEN_SHARES + 3):
                url = f"http://127.0.0.1:{registry.port}/v2/share/m{index}/blobs/uploads/"
                assert (await http.post(url)).status_code == 202
            assert _count(tmp_path, "registry-*/push-*") == server.MAX_OPEN_SHARES


class TestWindows:
    async def test_a_name_has_no_port(self, blobs: dict[Digest, Path], free_port: int) -> None:
        async with LoopbackRegistry(platform="win32", http_port=free_port) as registry:
            assert registry.unavailable is None
            async with registry.offer(MANIFEST, blobs=blobs) as name:
                assert name.host == "127.0.0.1"
                url = f"http://127.0.0.1:{free_port}/v2/{name.namespace}/{name.model}/manifests/once"
                async with httpx.AsyncClient(trust_env=False) as http:
                    assert (await http.get(url, headers={"host": "127.0.0.1"})).status_code == 200

    async def test_a_taken_port_is_said_not_raised(self, free_port: int) -> None:
        first = LoopbackRegistry(platform="win32", http_port=free_port, on_push=_ignore)
        async with first, LoopbackRegistry(platform="win32", http_port=free_port) as second:
            assert second.unavailable is not None
            with pytest.raises(OllamaBridgeError, match="not available"):
                async with second.probe():
                    pass

    async def test_elsewhere_a_taken_port_is_an_error(self, free_port: int) -> None:
        async with LoopbackRegistry(port=free_port, platform="linux", on_push=_ignore):
            with pytest.raises(OSError, match=r".*"):
                async with LoopbackRegistry(port=free_port, platform="linux"):
                    pass

    async def test_a_port_taken_while_idle_is_replaced(self, blobs: dict[Digest, Path]) -> None:
        async with LoopbackRegistry(platform="linux") as registry:
            port = registry.port
            other = LoopbackRegistry(port=port, platform="linux", on_push=_ignore)
            async with other, registry.offer(MANIFEST, blobs=blobs) as name:
                assert name.host == f"127.0.0.1:{registry.port}"
                assert registry.port != port

    @pytest.fixture
    async def free_port(self) -> int:
        async with LoopbackRegistry(platform="linux") as registry:
            return registry.port


async def _read_into(got: bytearray, answer: httpx.Response) -> None:
    async for piece in answer.aiter_raw():
        got += piece


def _count(folder: Path, pattern: str) -> int:
    return len(list(folder.glob(pattern)))


async def _ignore(model: PushedModel) -> None:
    pass


class TestOneTimeNames:
    def test_ours_are_known_and_nobody_elses(self) -> None:
        ours = one_time_name("127.0.0.1:5000", "install")
        assert is_one_time(ours)
        assert is_one_time(one_time_name("127.0.0.1", "push"))
        for text in ["p2p/install-x:once", "m:once", f"evil.example/p2p/{ours.model}:once", f"p2p/{ours.model}:once",
                     f"127.0.0.1:5000/p2p/{ours.model}:latest", "127.0.0.1:5000/share/x:once"]:  # fmt: skip
            assert not is_one_time(ModelName.parse(text)), text

    @pytest.mark.parametrize("text", ["m", "a-b/c.d:v1.2-x", "host.example:80/ns/m_x:T", "s_c/x.s:y..z"])
    def test_a_backup_says_where_it_came_from(self, text: str) -> None:
        name = ModelName.parse(text)
        assert backed_up(backup_name(name)) == name
        assert not is_one_time(backup_name(name))
        assert backed_up(name) is None

    def test_a_name_too_long_to_back_up_is_refused(self) -> None:
        with pytest.raises(OllamaBridgeError, match="too long to be replaced safely"):
            backup_name(ModelName.parse("m" * 80 + ":" + "t" * 80))


class TestConnections:
    """The server below the registry."""

    async def test_a_writer_can_end_the_connection(self) -> None:
        async def handle(request: Request) -> Response:
            async def write(send: SendBytes) -> None:
                await send(b"half")
                raise DropConnection

            return Response(200, {"content-length": "8"}, write)

        async with HttpServer(handle) as http_server, httpx.AsyncClient(trust_env=False) as http:
            with pytest.raises(httpx.RemoteProtocolError):
                await http.get(f"http://127.0.0.1:{http_server.port}/")

    async def test_a_client_that_hangs_up_cancels_the_writer(self) -> None:
        cancelled = anyio.Event()

        async def handle(request: Request) -> Response:
            async def write(send: SendBytes) -> None:
                await send(b"first")
                try:
                    await anyio.sleep_forever()
                finally:
                    cancelled.set()

            return Response(200, {}, write)

        async with HttpServer(handle) as http_server, httpx.AsyncClient(trust_env=False) as http:
            async with http.stream("GET", f"http://127.0.0.1:{http_server.port}/") as answer:
                async for _ in answer.aiter_raw():
                    break
            with anyio.fail_after(5):
                await cancelled.wait()

    async def test_garbage_gets_400(self) -> None:
        async def handle(request: Request) -> Response:
            raise AssertionError

        async with HttpServer(handle) as http_server, await anyio.connect_tcp("127.0.0.1", http_server.port) as stream:
            await stream.send(b"\x16\x03\x01 not http\r\n\r\n")
            assert (await stream.receive()).startswith(b"HTTP/1.1 400")

    async def test_t24_connections_beyond_the_cap_cost_nothing_and_do_not_stay(self) -> None:
        async def handle(request: Request) -> Response:
            return Response(200)

        async with HttpServer(handle) as http_server, AsyncExitStack() as open_ones:
            idle = [
                await open_ones.enter_async_context(await anyio.connect_tcp("127.0.0.1", http_server.port))
                for _ in range(loopback_http.MAX_CONNECTIONS)
            ]
            async with await anyio.connect_tcp("127.0.0.1", http_server.port) as one_more:
                with anyio.fail_after(5), pytest.raises(anyio.EndOfStream):
                    await one_more.receive()
            await idle[0].aclose()
            async with httpx.AsyncClient(trust_env=False) as http:
                with anyio.fail_after(5):
                    while not await self._answers(http, http_server.port):  # noqa: ASYNC110
                        await anyio.sleep(0.01)

    async def _answers(self, http: httpx.AsyncClient, port: int) -> bool:
        try:
            return (await http.get(f"http://127.0.0.1:{port}/")).status_code == 200
        except httpx.TransportError:
            return False

    async def test_a_failing_accept_does_not_end_the_server(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(loopback_http, "ACCEPT_AGAIN_S", 0.01)

        async def handle(request: Request) -> Response:
            return Response(200)

        loop = asyncio.get_running_loop()
        accept, failures = loop.sock_accept, [OSError(errno.EMFILE, "Too many open files")] * 2

        async def failing(listening: socket.socket) -> object:
            if failures:
                raise failures.pop()
            return await accept(listening)

        monkeypatch.setattr(loop, "sock_accept", failing)
        async with HttpServer(handle) as http_server, httpx.AsyncClient(trust_env=False) as http:
            with anyio.fail_after(5):
                assert (await http.get(f"http://127.0.0.1:{http_server.port}/")).status_code == 200
        assert not failures
