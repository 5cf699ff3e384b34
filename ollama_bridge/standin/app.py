"""The stand-in server: Ollama's routes over a real store folder (facts 3 and 8)."""

from __future__ import annotations

import ipaddress
import re
import socket
import time
from typing import TYPE_CHECKING, Any, Literal, Self
from urllib.parse import urlsplit

import anyio

from ollama_bridge.digests import Digest
from ollama_bridge.errors import DigestInvalid, ManifestInvalid
from ollama_bridge.loopback_http import DropConnection, HttpServer, Request, Response
from ollama_bridge.standin.create import Creator
from ollama_bridge.standin.describe import Describer
from ollama_bridge.standin.faults import Fault, Faults
from ollama_bridge.standin.protocol import (
    ApiError,
    error_response,
    json_response,
    parse_name,
    read_json,
    stream_response,
    text_response,
)
from ollama_bridge.standin.registry_client import PART_BYTES, RETRY_S, RegistryClient
from ollama_bridge.standin.store import StandInStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from ollama_bridge.names import ModelName

DEFAULT_VERSIONS = {"accept": "0.33.0", "refuse": "0.40.0"}
FIRST_JSON_CREATE = (0, 5, 5)
LOCAL_NAMES = (".localhost", ".local", ".internal")
ALLOWED_SCHEMES = ("app", "file", "tauri", "vscode-webview", "vscode-file")
ALLOWED_ORIGIN_HOSTS = ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104  # compared with, not listened on

_DIGEST = re.compile(r"sha256[:-][0-9a-fA-F]{64}")


class StandIn:
    """An Ollama-compatible server for the demo and the tests. An async context manager.

    Args:
        store_dir: The models folder; made if missing.
        adapters: `accept` as before 0.34.1, `refuse` as since.
        version: What `/api/version` says; by default one that fits `adapters`.
        faults: What goes wrong; can be changed while it runs.
        port: 0 lets the OS choose. Kept over restarts.
        clock: Wall-clock seconds, for the startup prune.
        part_bytes: Size of the parts blobs are pulled and pushed in.
        retry_s: First pause before a part is pulled again; doubles.
        metadata_folder: Keep a folder `metadata` beside `blobs`, as 0.34 does for what it read from GGUF headers. None: as
            the server that `adapters` stands for.
    """

    def __init__(
        self,
        store_dir: Path,
        *,
        adapters: Literal["accept", "refuse"] = "accept",
        version: str | None = None,
        faults: Faults | None = None,
        port: int = 0,
        clock: Callable[[], float] = time.time,
        part_bytes: int = PART_BYTES,
        retry_s: float = RETRY_S,
        metadata_folder: bool | None = None,
    ) -> None:
        self.faults = faults or Faults()
        self.version = version or DEFAULT_VERSIONS[adapters]
        self.store = StandInStore(store_dir, self.faults, clock)
        if metadata_folder is None:
            metadata_folder = adapters == "refuse"
        if metadata_folder:
            (self.store.root / "metadata").mkdir(exist_ok=True)
        self._server = HttpServer(self._handle, port=port)
        self._creator = Creator(self.store, adapters == "refuse", self._reach)
        self._registries = RegistryClient(self.store, self._reach, self.version, part_bytes, retry_s)
        self._describer = Describer(self.store)
        self._routes = {
            "/": {"GET": self._root, "HEAD": self._root},
            "/api/version": {"GET": self._version, "HEAD": self._version},
            "/api/tags": {"GET": self._tags, "HEAD": self._tags},
            "/api/ps": {"GET": self._ps},
            "/api/show": {"POST": self._show},
            "/api/create": {"POST": self._create},
            "/api/pull": {"POST": self._pull},
            "/api/push": {"POST": self._push},
            "/api/copy": {"POST": self._copy},
            "/api/delete": {"DELETE": self._delete},
            "/api/generate": {"POST": self._generate},
        }

    async def __aenter__(self) -> Self:
        self.store.prune()
        await self._server.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._server.__aexit__(kind, error, traceback)

    @property
    def port(self) -> int:
        """The TCP port."""
        return self._server.port

    @property
    def url(self) -> str:
        """What to give as OLLAMA_HOST."""
        return f"http://127.0.0.1:{self.port}"

    async def stop(self) -> None:
        """Go down: port and connections closed at once."""
        await self._server.stop()

    async def start(self) -> None:
        """Come back on the same port, with the startup prune."""
        self.store.prune()
        await self._server.start()

    async def _reach(self, step: str) -> None:
        fault = self.faults.at.get(step)
        if fault is None or not fault.is_due():
            return
        fault.reached.set()
        await self._happen(fault)

    async def _happen(self, fault: Fault) -> None:
        if fault.kind == "fail":
            raise ApiError(fault.status, fault.message)
        if fault.kind == "pause":
            await fault.proceed.wait()
            return
        if fault.kind == "restart":
            self._server.restart_after(fault.seconds)
            await anyio.sleep_forever()
        raise DropConnection

    async def _handle(self, request: Request) -> Response:
        if not _is_allowed_host(request.headers.get("host", "")) or not _is_allowed_origin(request.headers):
            return Response(403)
        try:
            if request.path.startswith("/api/blobs/"):
                return await self._blob(request, request.path.removeprefix("/api/blobs/"))
            methods = self._routes.get(request.path)
            if methods is None:
                return text_response(404, "404 page not found")
            handler = methods.get(request.method)
            if handler is None:
                return text_response(405, "405 method not allowed")
            return await handler(request)
        except ApiError as error:
            return error_response(error)

    async def _root(self, request: Request) -> Response:
        return _headless(request, text_response(200, "Ollama is running"))

    async def _version(self, request: Request) -> Response:
        await self._reach("version")
        return _headless(request, json_response({"version": self.version}))

    async def _tags(self, request: Request) -> Response:
        await self._reach("tags")
        return _headless(request, json_response({"models": self._describer.tags()}))

    async def _ps(self, request: Request) -> Response:
        return json_response({"models": self._describer.ps()})

    async def _show(self, request: Request) -> Response:
        body = await read_json(request)
        await self._reach("show")
        return json_response(self._describer.show(body.get("model") or body.get("name")))

    async def _blob(self, request: Request, text: str) -> Response:
        if request.method not in {"HEAD", "POST"}:
            return text_response(405, "405 method not allowed")
        if not _DIGEST.fullmatch(text):
            error = ApiError(400, "invalid digest format")
            return Response(400) if request.method == "HEAD" else error_response(error)
        try:
            digest: Digest | None = Digest.parse(text.replace("-", ":"))
        except DigestInvalid:
            digest = None  # upper-case hex names another file
        exists = digest is not None and self.store.has_blob(digest)
        if request.method == "HEAD":
            return Response(200 if exists else 404)
        await self._reach("blob:begin")
        if exists:
            return Response(200)
        stored = await self.store.receive_blob(request.body())
        await self._reach("blob:stored")
        if text != str(stored.digest):
            raise ApiError(400, f'digest mismatch, expected "{text}", got "{stored.digest}"')
        return Response(201)

    async def _create(self, request: Request) -> Response:
        body = await read_json(request)
        if self._is_older_than(FIRST_JSON_CREATE) and not (body.get("modelfile") or body.get("path")):
            if parse_name(body.get("model") or body.get("name")) is None:
                raise ApiError(400, "invalid model name")
            raise ApiError(400, "path or Modelfile are required")
        name = self._creator.check(body)
        return await stream_response(self._creator.create(name, body), stream=body.get("stream", True))

    async def _pull(self, request: Request) -> Response:
        body = await read_json(request)
        name = self._required_name(body)
        lines = self._registries.pull(name, insecure=bool(body.get("insecure")))
        return await stream_response(lines, stream=body.get("stream", True))

    async def _push(self, request: Request) -> Response:
        body = await read_json(request)
        name = self._required_name(body)
        lines = self._registries.push(name, insecure=bool(body.get("insecure")))
        return await stream_response(lines, stream=body.get("stream", True))

    async def _copy(self, request: Request) -> Response:
        body = await read_json(request)
        source, destination = parse_name(body.get("source")), parse_name(body.get("destination"))
        if source is None:
            raise ApiError(400, f'source "{body.get("source")}" is invalid')
        if destination is None:
            raise ApiError(400, f'destination "{body.get("destination")}" is invalid')
        await self._reach("copy:begin")
        source, destination = self.store.existing_name(source), self.store.existing_name(destination)
        try:
            data = self.store.read_bytes(source)
        except FileNotFoundError:
            raise ApiError(404, f'model "{body["source"]}" not found') from None
        await self.store.write_manifest(destination, data)
        await self._reach("copy:done")
        return Response(200)

    async def _delete(self, request: Request) -> Response:
        body = await read_json(request)
        text = body.get("model") or body.get("name")
        name = parse_name(text)
        if name is None:
            raise ApiError(400, f'name "{text}" is invalid')
        await self._reach("delete:begin")
        name = self.store.existing_name(name)
        try:
            manifest = self.store.read(name)
        except ManifestInvalid as error:
            raise ApiError(500, str(error)) from None
        if manifest is None:
            raise ApiError(404, f"model '{text}' not found")
        self.store.delete(name)
        await self._reach("delete:done")
        return Response(200)

    async def _generate(self, request: Request) -> Response:
        body = await read_json(request)
        await self._reach("generate")
        prompt = str(body.get("prompt") or "")
        text = self._describer.generate(body.get("model"), prompt)
        answer: dict[str, Any] = {"model": body.get("model"), "created_at": "2026-01-01T00:00:00Z", "done": True}
        if prompt:
            return json_response({**answer, "response": text, "done_reason": "stop"})
        return json_response({**answer, "response": "", "done_reason": "load"})

    def _required_name(self, body: dict[str, Any]) -> ModelName:
        name = parse_name(body.get("model") or body.get("name"))
        if name is None:
            raise ApiError(400, "invalid model name")
        return self.store.existing_name(name)

    def _is_older_than(self, version: tuple[int, int, int]) -> bool:
        numbers = [int(part) for part in re.findall(r"\d+", self.version)[:3]]
        return any(numbers) and tuple(numbers) < version


def _headless(request: Request, response: Response) -> Response:
    if request.method == "HEAD" and isinstance(response.body, bytes):
        response.headers["content-length"] = str(len(response.body))
        response.body = b""
    return response


def _is_allowed_host(header: str) -> bool:
    host = (urlsplit(f"//{header}").hostname or "").lower()
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host in {"", "localhost", socket.gethostname().lower()} or host.endswith(LOCAL_NAMES)
    return address.is_loopback or address.is_private or address.is_unspecified


def _is_allowed_origin(headers: dict[str, str]) -> bool:
    origin = headers.get("origin")
    if origin is None:
        return True
    parts = urlsplit(origin)
    return parts.scheme in ALLOWED_SCHEMES or (
        parts.scheme in {"http", "https"} and (parts.hostname or "") in ALLOWED_ORIGIN_HOSTS
    )
