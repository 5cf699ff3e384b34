"""The client against servers that are away, slow, foreign or lying."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from ollama_bridge.client import OllamaClient, Timeouts, is_loopback_url, ollama_url, shown_model
from ollama_bridge.digests import Digest
from ollama_bridge.errors import OllamaRejected, OllamaUnavailable
from ollama_bridge.loopback_http import DropConnection, HttpServer, Request, Response
from ollama_bridge.names import ModelName

if TYPE_CHECKING:
    from pathlib import Path

    from ollama_bridge.loopback_http import SendBytes

pytestmark = pytest.mark.anyio

NAME = ModelName.parse("m")


class Scripted:
    """A server that gives one answer to everything and keeps the requests."""

    def __init__(self, response: Response | None, *, drop: bool = False) -> None:
        self.requests: list[Request] = []
        self._response = response
        self._drop = drop
        self.server = HttpServer(self._handle)

    async def _handle(self, request: Request) -> Response:
        self.requests.append(request)
        if self._drop:
            raise DropConnection
        if self._response is None:
            await anyio.sleep_forever()
        assert self._response is not None
        return self._response

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"


def lines(*documents: dict[str, Any], cut: bool = False) -> Response:
    async def write(send: SendBytes) -> None:
        for document in documents:
            await send(json.dumps(document).encode() + b"\n")
        if cut:
            raise DropConnection

    return Response(200, {"content-type": "application/x-ndjson"}, write)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (None, "http://127.0.0.1:11434"),
        ("", "http://127.0.0.1:11434"),
        ("  'box' ", "http://box:11434"),
        ("box:1234", "http://box:1234"),
        (":1234", "http://127.0.0.1:1234"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        ("::", "http://[::1]:11434"),
        ("::1", "http://[::1]:11434"),
        ("[::1]", "http://[::1]:11434"),
        ("[::]:7", "http://[::1]:7"),
        ("http://box", "http://box:80"),
        ("https://box", "https://box:443"),
        ("https://box:8443/ollama/", "https://box:8443/ollama"),
        ("box:66000", "http://box:11434"),
        ("http://box:x", "http://box:80"),
    ],
)
def test_ollama_host_means_to_us_what_it_means_to_ollama(text: str | None, url: str) -> None:
    assert ollama_url(text) == url


@pytest.mark.parametrize(
    ("url", "is_ours"),
    [
        ("http://127.0.0.1:1", True),
        ("http://127.8.8.8:1", True),
        ("http://[::1]:1", True),
        ("http://localhost:1", True),
        ("http://192.168.1.2:1", False),
        ("http://localhost.example:1", False),
        ("https://ollama.example", False),
    ],
)
def test_t25_an_address_that_is_not_loopback_is_flagged(url: str, is_ours: bool) -> None:
    assert is_loopback_url(url) is is_ours


async def test_t25_the_client_says_whether_adapters_would_leave_the_machine() -> None:
    async with OllamaClient("192.168.1.2") as far, OllamaClient("0.0.0.0") as near:
        assert (far.is_loopback, near.is_loopback) == (False, True)


@pytest.mark.parametrize("call", ["version", "pull", "push_blob", "create"])
async def test_t25_redirects_are_not_followed(call: str, tmp_path: Path) -> None:
    stranger = Scripted(lines({"status": "success"}))
    async with stranger.server:
        redirecting = Scripted(Response(307, {"location": stranger.url + "/elsewhere"}))
        async with redirecting.server, OllamaClient(redirecting.url) as client:
            with pytest.raises(OllamaRejected, match="redirect"):
                await _call(client, call, tmp_path)
    assert stranger.requests == []


async def _call(client: OllamaClient, call: str, folder: Path) -> None:
    if call == "version":
        await client.version()
    elif call == "pull":
        await client.pull(NAME)
    elif call == "create":
        await client.create(NAME, from_=NAME, extra={"renderer": "x"})
    else:
        path = folder / "blob"
        path.write_bytes(b"x")
        await client.push_blob(Digest.of(b"x"), path, 1)


async def test_t25_no_origin_and_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    server = Scripted(lines({"status": "success"}))
    async with server.server, OllamaClient(server.url) as client:
        await client.pull(NAME)
    assert [request.path for request in server.requests] == ["/api/pull"]
    assert "origin" not in server.requests[0].headers


async def test_nobody_listens() -> None:
    async with HttpServer(Scripted(None)._handle) as server:
        port = server.port
    async with OllamaClient(f"127.0.0.1:{port}") as client:
        for call in (client.version, client.tags):
            with pytest.raises(OllamaUnavailable, match="No Ollama answers at"):
                await call()
        with pytest.raises(OllamaUnavailable, match="No Ollama answers at"):
            await client.pull(NAME)


async def test_a_server_that_never_answers_times_out() -> None:
    silent = Scripted(None)
    quick = Timeouts(connect=1, answer=0.05, work=0.05)
    async with silent.server, OllamaClient(silent.url, timeouts=quick) as client:
        with pytest.raises(OllamaUnavailable, match="stopped answering"):
            await client.version()
        with pytest.raises(OllamaUnavailable, match="stopped answering"):
            await client.pull(NAME)


async def test_a_dropped_connection_is_ollama_being_away() -> None:
    dropping = Scripted(None, drop=True)
    async with dropping.server, OllamaClient(dropping.url) as client:
        with pytest.raises(OllamaUnavailable):
            await client.tags()


@pytest.mark.parametrize("body", [b"<html>hello</html>", b"[]", b'{"version":7}'])
async def test_something_else_than_ollama(body: bytes) -> None:
    foreign = Scripted(Response(200, {"content-type": "text/html"}, body))
    async with foreign.server, OllamaClient(foreign.url) as client:
        with pytest.raises(OllamaRejected, match="not as an Ollama server does"):
            await client.version()


class TestStreams:
    async def test_an_error_line_is_raised_with_status_200(self) -> None:
        server = Scripted(lines({"status": "parsing GGUF"}, {"error": "invalid file magic"}))
        async with server.server, OllamaClient(server.url) as client:
            for extra in (None, {"renderer": "x"}):
                with pytest.raises(OllamaRejected, match="invalid file magic") as caught:
                    await client.create(NAME, from_=NAME, extra=extra)
                assert caught.value.status == 200

    async def test_an_end_without_success_is_a_failure(self) -> None:
        server = Scripted(lines({"status": "writing manifest"}))
        async with server.server, OllamaClient(server.url) as client:
            with pytest.raises(OllamaRejected, match="before it was done"):
                await client.pull(NAME)

    async def test_success_before_the_end_does_not_count(self) -> None:
        server = Scripted(lines({"status": "success"}, {"status": "removing unused layers"}))
        async with server.server, OllamaClient(server.url) as client:
            with pytest.raises(OllamaRejected, match="before it was done"):
                await client.pull(NAME)

    async def test_a_cut_stream_is_ollama_going_away(self) -> None:
        server = Scripted(lines({"status": "pulling manifest"}, cut=True))
        async with server.server, OllamaClient(server.url) as client:
            with pytest.raises(OllamaUnavailable, match="stopped answering"):
                await client.pull(NAME)

    async def test_extra_fields_are_sent(self) -> None:
        server = Scripted(lines({"status": "success"}))
        async with server.server, OllamaClient(server.url) as client:
            await client.create(NAME, from_=NAME, extra={"renderer": "x", "info": {"a": 1}})
        assert len(server.requests) == 1


class TestUpload:
    async def test_progress_reaches_the_size(self, tmp_path: Path) -> None:
        path = tmp_path / "blob"
        path.write_bytes(bytes(3 << 20))
        seen: list[int] = []

        async def take(request: Request) -> Response:
            assert len(await request.read(4 << 20)) == 3 << 20
            assert request.headers["content-length"] == str(3 << 20)
            return Response(201)

        async with HttpServer(take) as server, OllamaClient(f"127.0.0.1:{server.port}") as client:
            await client.push_blob(Digest.of(path.read_bytes()), path, 3 << 20, seen.append)
        assert seen == [1 << 20, 2 << 20, 3 << 20]

    @pytest.mark.parametrize("claimed", [1, 5_000_000])
    async def test_a_wrong_size_is_our_error_not_a_stored_blob(self, tmp_path: Path, claimed: int) -> None:
        path = tmp_path / "blob"
        path.write_bytes(bytes(2 << 20))
        whole: list[bytes] = []

        async def take(request: Request) -> Response:
            whole.append(await request.read(8 << 20))
            return Response(201)

        async with HttpServer(take) as server, OllamaClient(f"127.0.0.1:{server.port}") as client:
            with pytest.raises((OllamaRejected, OllamaUnavailable)):
                await client.push_blob(Digest.of(path.read_bytes()), path, claimed)
        assert whole == []


class TestProbe:
    @pytest.mark.parametrize(
        ("message", "mode"),
        [
            ("invalid model name", "accept"),
            ("LoRA adapters are no longer supported", "refuse"),
            ("something new", "refuse"),
        ],
    )
    async def test_adapters_mode(self, message: str, mode: str) -> None:
        server = Scripted(Response(400, {}, json.dumps({"error": message}).encode()))
        async with server.server, OllamaClient(server.url) as client:
            assert await client.adapters_mode() == mode


class TestShownModel:
    def test_only_lines_before_the_texts_count(self) -> None:
        ours, theirs = Digest("a" * 64), Digest("b" * 64)
        modelfile = "\n".join([
            "# Modelfile generated by \"ollama show\"", "", f"FROM /s/blobs/{ours.file_name}",
            f"ADAPTER /s/blobs/{ours.file_name}", 'TEMPLATE """hello', f"ADAPTER /s/blobs/{theirs.file_name}", '"""',
        ])  # fmt: skip
        shown = shown_model(modelfile)
        assert shown.model_blobs == (ours,)
        assert shown.adapter_blobs == (ours,)
        assert shown.store == "/s"

    def test_windows_paths(self) -> None:
        digest = Digest("c" * 64)
        shown = shown_model(f"FROM C:\\Users\\me\\.ollama\\models\\blobs\\{digest.file_name}\n")
        assert shown.model_blobs == (digest,)
        assert shown.store == "C:\\Users\\me\\.ollama\\models"

    def test_a_name_is_not_a_blob(self) -> None:
        assert shown_model("FROM llama3.2:1b\n").model_blobs == ()
