"""The loopback registry: what `ollama pull` fetches our manifest from and what `ollama push` talks to.

It has no authentication, because Ollama's challenge handling has leaked tokens (CVE-2025-51471) and it never sends one
unasked. What protects it instead (T24): loopback only, its own port, the exact Host, no browser headers, an unguessable
path per install that ends with the install, only what that install's manifest lists, and 404 for everything else.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

import anyio

from ollama_bridge.digests import Digest
from ollama_bridge.errors import BlobMissing, DigestInvalid, NameInvalid, OllamaBridgeError, StoreError
from ollama_bridge.loopback_http import DropConnection, HttpServer, Request, Response
from ollama_bridge.manifest import Layer, MediaType, parse_manifest
from ollama_bridge.names import ModelName
from ollama_bridge.registry.one_time import one_time_name
from ollama_bridge.registry.serving import CheckedBlob, blob_response, is_local_program
from ollama_bridge.registry.uploads import OnPush, PushedModel, PushTarget

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from types import TracebackType

    from ollama_bridge.store import Store

SHARE_NAMESPACE = "share"  # `ollama push --insecure HOST:PORT/share/NAME` offers NAME to the daemon
MAX_OPEN_SHARES = 4  # pushes nobody announced; each may fill the spool up to its cap
OFFER_IDLE_S = 600.0  # an install that does nothing for ten minutes is dead; the path dies with it
HTTP_PORT = 80

_PATH = re.compile(r"/v2/([^/]{1,80})/([^/]{1,80})/(manifests|blobs)/(.{1,200})")


@dataclass(slots=True)
class _Offer:
    """One manifest served under one path, and the blobs it lists."""

    manifest: bytes
    layers: dict[Digest, Layer]
    opener: Callable[[Digest], BinaryIO]
    checked: dict[Digest, CheckedBlob] = field(default_factory=dict)
    opening: anyio.Lock = field(default_factory=anyio.Lock)
    last_used: float = 0.0

    async def open(self, digest: Digest) -> CheckedBlob:
        async with self.opening:  # hash once, however many parts ask
            if digest not in self.checked:
                self.checked[digest] = await CheckedBlob.open(self.opener, digest, self.layers[digest].size)
        return self.checked[digest]

    def close(self) -> None:
        for blob in self.checked.values():
            blob.close()


@dataclass(slots=True)
class Probe:
    """A name that does not exist; `seen` tells whether Ollama came to ask for it."""

    name: ModelName
    seen: bool = False


@dataclass(slots=True)
class ExpectedPush:
    """A one-time name that takes one push."""

    name: ModelName
    model: PushedModel | None = None
    """Set when the push is complete; its blobs live until the `expect_push` block ends."""


class LoopbackRegistry:
    """An async context manager. Listens only while something is offered or expected, or while it takes shares.

    Args:
        spool: A folder of ours; pushed blobs are kept in a temporary folder below it.
        store: Where base layers are read from, should Ollama ask for one. None: only what an offer brings along.
        on_push: Called for each model a user pushed to `share/NAME`; None turns that off.
        known: Digests a share need not send, such as base layers in the user's own store.
        port: 0 lets the OS choose. Ignored where `platform` is Windows.
        platform: As `sys.platform`. On Windows a port cannot be part of a model name, because a name becomes a path
            (facts 1.6), so there the registry listens on port 80 of a loopback address and names have no port.
    """

    def __init__(
        self,
        spool: Path | None = None,
        *,
        store: Store | None = None,
        on_push: OnPush | None = None,
        known: Callable[[Digest], bool] = lambda digest: False,
        port: int = 0,
        platform: str = sys.platform,
        http_port: int = HTTP_PORT,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spool_parent = spool
        self._store = store
        self._on_push = on_push
        self._known = known
        self._portless = platform == "win32"
        self._server = HttpServer(self._handle, port=http_port if self._portless else port)
        self._clock = clock
        self._offers: dict[tuple[str, str], _Offer] = {}
        self._pushes: dict[tuple[str, str], PushTarget] = {}
        self._shares: dict[tuple[str, str], PushTarget] = {}
        self._probes: dict[tuple[str, str], Probe] = {}
        self._users = 0
        self._switching = anyio.Lock()
        self._exits = AsyncExitStack()
        self.unavailable: str | None = None
        """Why this registry cannot be used, None when it can."""

    async def __aenter__(self) -> Self:
        self._spool = Path(tempfile.mkdtemp(prefix="registry-", dir=self._spool_parent))
        self._exits.callback(shutil.rmtree, self._spool, ignore_errors=True)
        try:
            await self._exits.enter_async_context(self._server)
        except OSError as error:
            await self._exits.aclose()
            if not self._portless:
                raise
            self.unavailable = (
                f"port {self._server.port} of {self._server.host} cannot be used ({error.strerror}), and on Windows "
                "Ollama cannot take a registry name with a port"
            )
            return self
        if self._on_push is None:
            await self._server.stop()
        else:
            self._users = 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for target in (*self._pushes.values(), *self._shares.values()):
            target.close()
        await self._exits.aclose()

    @property
    def port(self) -> int:
        """The TCP port; known from the start."""
        return self._server.port

    @property
    def host(self) -> str:
        """Our address as part of a model name: with the port, except on Windows."""
        return self._server.host if self._portless else f"{self._server.host}:{self._server.port}"

    @property
    def _base(self) -> str:
        return f"http://{self._server.host}:{self._server.port}"

    @asynccontextmanager
    async def offer(self, manifest: bytes, *, blobs: Mapping[Digest, Path] | None = None) -> AsyncIterator[ModelName]:
        """Serve a manifest, and the blobs it lists, under a one-time name while the block lasts.

        Args:
            manifest: Exact bytes; Ollama stores them as they are.
            blobs: Files for blobs that are not in the store.

        Raises:
            ManifestInvalid: Not a manifest.
            StoreError: It has tensor layers, for which Ollama uses other code that takes digests as paths unchecked
                (CVE-2026-7020).
        """
        parsed = parse_manifest(manifest)
        if parsed.has_tensor_layers:
            raise StoreError("A model with one layer per tensor cannot be installed this way. Use a GGUF model.")
        layers = {layer.digest: layer for layer in parsed.blobs}
        async with self._in_use():
            name = one_time_name(self.host, "install")
            offer = _Offer(manifest, layers, self._opener(dict(blobs or {})), last_used=self._clock())
            self._offers[_key(name)] = offer
            try:
                yield name
            finally:
                del self._offers[_key(name)]
                offer.close()

    @asynccontextmanager
    async def expect_push(self, *, known: Callable[[Digest], bool]) -> AsyncIterator[ExpectedPush]:
        """Take one push under a one-time name while the block lasts.

        Args:
            known: Blobs to be answered as already here, so that they are not sent.
        """
        async with self._in_use():
            expected = ExpectedPush(one_time_name(self.host, "push"))

            async def keep(model: PushedModel) -> None:
                expected.model = model

            target = PushTarget(expected.name, self._spool, known=known, on_push=keep)
            self._pushes[_key(expected.name)] = target
            try:
                yield expected
            finally:
                del self._pushes[_key(expected.name)]
                target.close()

    @asynccontextmanager
    async def probe(self) -> AsyncIterator[Probe]:
        """A name to have pulled in vain: shows whether Ollama can reach us, and writes nothing anywhere."""
        async with self._in_use():
            probe = Probe(one_time_name(self.host, "probe"))
            self._probes[_key(probe.name)] = probe
            try:
                yield probe
            finally:
                del self._probes[_key(probe.name)]

    @asynccontextmanager
    async def _in_use(self) -> AsyncIterator[None]:
        if self.unavailable:
            raise OllamaBridgeError(f"Our registry is not available: {self.unavailable}.")
        async with self._switching:
            if self._users == 0:
                await self._listen_again()
            self._users += 1
        try:
            yield
        finally:
            with anyio.CancelScope(shield=True):
                async with self._switching:
                    self._users -= 1
                    if self._users == 0:
                        await self._server.stop()

    async def _listen_again(self) -> None:
        try:
            await self._server.start()
        except OSError as error:
            if self._portless:
                raise OllamaBridgeError(
                    f"Port {self._server.port} was taken while our registry was idle ({error.strerror}). Free it."
                ) from None
            self._server.port = 0  # somebody took ours meanwhile; names carry the port, so any will do
            await self._server.start()

    def _opener(self, files: dict[Digest, Path]) -> Callable[[Digest], BinaryIO]:
        def open_blob(digest: Digest) -> BinaryIO:
            if digest in files:
                return files[digest].open("rb")
            if self._store is None:
                raise BlobMissing(f"Blob {digest.short} is not ours to serve.")
            return self._store.open_blob(digest)

        return open_blob

    # What comes in over HTTP.

    async def _handle(self, request: Request) -> Response:
        if not self._is_local_program(request):
            return Response(404)
        match = _PATH.fullmatch(request.path)
        if match is None:
            return Response(404)
        namespace, model, kind, rest = match.groups()
        # Ollama may have re-cased the name to match another one in its store (facts 1.6).
        key = (namespace.lower(), model.lower())
        if kind == "manifests":
            return await self._handle_manifest(request, key, ModelName(self.host, namespace, model, rest))
        if rest.startswith("uploads"):
            return await self._handle_upload(request, key, rest, f"{self._base}/v2/{namespace}/{model}")
        return await self._handle_blob(request, key, rest)

    def _is_local_program(self, request: Request) -> bool:
        authorities = {f"{self._server.host}:{self._server.port}"}
        if self._portless:
            authorities.add(self._server.host)
        return is_local_program(request, authorities)

    async def _handle_manifest(self, request: Request, key: tuple[str, str], name: ModelName) -> Response:
        if request.method == "PUT":
            target = self._target(key) or self._new_share(key)
            return Response(404) if target is None else await self._accept(request, key, target, name)
        if probe := self._probes.get(key):
            probe.seen = True
        offer = self._live_offer(key)
        if offer is None or request.method not in {"GET", "HEAD"}:
            return Response(404)
        return Response(200, {"content-type": MediaType.MANIFEST}, offer.manifest if request.method == "GET" else b"")

    async def _accept(self, request: Request, key: tuple[str, str], target: PushTarget, name: ModelName) -> Response:
        response = await target.accept_manifest(request, name)
        if response.status == 201 and (share := self._shares.pop(key, None)):
            share.close()
        return response

    async def _handle_blob(self, request: Request, key: tuple[str, str], text: str) -> Response:
        ranged = "range" in request.headers
        try:
            digest = Digest.parse(text)
        except DigestInvalid:
            return _absent(ranged)
        if request.method == "HEAD" and (has := self._push_check(key)):
            return Response(200 if has(digest) else 404)
        offer = self._live_offer(key)
        if offer is None or digest not in offer.layers or request.method not in {"GET", "HEAD"}:
            return _absent(ranged)
        if request.method == "HEAD":
            return Response(200, {"content-length": str(offer.layers[digest].size)})
        try:
            return blob_response(request, await offer.open(digest))
        except StoreError:
            return _absent(ranged)

    async def _handle_upload(self, request: Request, key: tuple[str, str], rest: str, base_url: str) -> Response:
        upload_id = rest.removeprefix("uploads").strip("/")
        if request.method == "POST" and not upload_id:
            target = self._target(key) or self._new_share(key)
            return Response(404) if target is None else target.begin(request, base_url)
        target = self._target(key)
        if target is None:
            return Response(404)
        if request.method == "PATCH":
            return await target.append(request, upload_id, base_url)
        if request.method == "PUT":
            return await target.finish(request, upload_id, base_url)
        return Response(404)

    def _target(self, key: tuple[str, str]) -> PushTarget | None:
        return self._pushes.get(key) or self._shares.get(key)

    def _push_check(self, key: tuple[str, str]) -> Callable[[Digest], bool] | None:
        """What a push to this path need not send; None where no push is taken."""
        if target := self._target(key):
            return target.has
        return self._known if self._on_push is not None and key[0] == SHARE_NAMESPACE else None

    def _new_share(self, key: tuple[str, str]) -> PushTarget | None:
        namespace, model = key
        if self._on_push is None or namespace != SHARE_NAMESPACE:
            return None
        while len(self._shares) >= MAX_OPEN_SHARES:
            self._shares.pop(next(iter(self._shares))).close()  # the oldest was given up, or is a nuisance
        try:
            name = ModelName(self.host, namespace, model, "latest")
        except NameInvalid:
            return None
        self._shares[key] = PushTarget(name, self._spool, known=self._known, on_push=self._on_push)
        return self._shares[key]

    def _live_offer(self, key: tuple[str, str]) -> _Offer | None:
        offer = self._offers.get(key)
        if offer is None or self._clock() - offer.last_used > OFFER_IDLE_S:
            return None
        offer.last_used = self._clock()
        return offer


def _absent(ranged: bool) -> Response:
    if ranged:
        raise DropConnection  # the body of an error answer would be written into the model as data (facts 6.2)
    return Response(404)


def _key(name: ModelName) -> tuple[str, str]:
    return (name.namespace.lower(), name.model.lower())
