"""The registry that rooms are pulled from, as HTTP: who may ask, for what, and how it is refused (T24).

Without the secret every request gets the same empty 404, as it does for a path that no registry has. With it, a refusal
says why: Ollama shows the text of every status but 404, which is therefore not used then. Never a 401, whose challenge would make Ollama send a token.
"""

from __future__ import annotations

import hmac
import logging
import re
from typing import TYPE_CHECKING

import anyio

from ollama_bridge.digests import Digest
from ollama_bridge.errors import DigestInvalid, NameInvalid, OllamaBridgeError
from ollama_bridge.loopback_http import DropConnection, Response
from ollama_bridge.manifest import MediaType
from ollama_bridge.names import ModelName
from ollama_bridge.registry.serving import blob_response, is_local_program
from sidecar.errors import SidecarError
from sidecar.events import RegistryRefused
from sidecar.transfer.chunks import CHUNK_BYTES
from sidecar.transfer.follow import FollowEnded

if TYPE_CHECKING:
    from collections.abc import Callable

    from ollama_bridge.client import OllamaClient
    from ollama_bridge.loopback_http import Request, SendBytes
    from ollama_bridge.registry.serving import ByteRange
    from sidecar.events import Event

    from .pull import Pull
    from .pulls import Pulls
    from .push import Pushes

STALL_S = 45.0
"""Longest silence in the middle of an answer. Ollama itself reconnects after 30 s and does not count that as a try; what we
cut counts, so only an Ollama that would wait for ever is cut (before 0.32.2 it does until the first byte; facts 6.2)."""
READ_CHUNKS = 16  # 1 MiB at once

_PATH = re.compile(r"/v2/([^/]{1,80})/([^/]{1,80})/(manifests|blobs)/(.{1,200})")

log = logging.getLogger(__name__)


class RoomRegistry:
    """Answers requests. What it needs to know changes while it runs, so it asks."""

    def __init__(
        self,
        *,
        client: OllamaClient,
        pulls: Pulls,
        pushes: Pushes,
        host: Callable[[], str],
        authorities: Callable[[], frozenset[str]],
        secret: Callable[[], str],
        emit: Callable[[Event], None],
    ) -> None:
        """
        Args:
            host: Our address as part of a model name.
            authorities: What the `Host` header may be.
            secret: The path segment.
        """
        self._client = client
        self._pulls = pulls
        self._pushes = pushes
        self._host = host
        self._authorities = authorities
        self._secret = secret
        self._emit = emit

    async def handle(self, request: Request) -> Response:
        """One request."""
        match = _PATH.fullmatch(request.path)
        if not is_local_program(request, self._authorities()) or match is None or not self._knows(match[1]):
            return Response(404)
        _, model, kind, rest = match.groups()
        try:
            # The secret as we spell it: Ollama may have changed its case, and our notes are compared with its names.
            name = ModelName(self._host(), self._secret(), model, rest if kind == "manifests" else "latest")
        except NameInvalid:
            return Response(404)
        if kind == "manifests":
            return await self._manifest(request, name)
        return await self._blob(request, name, rest)

    def _knows(self, namespace: str) -> bool:
        return hmac.compare_digest(namespace.lower().encode(), self._secret().encode())

    async def _manifest(self, request: Request, name: ModelName) -> Response:
        try:
            if request.method == "PUT":
                digest = await self._pushes.accept(request, name)
                return Response(201, {"docker-content-digest": str(digest)})
            if request.method not in {"GET", "HEAD"}:
                return Response(404)
            manifest = await self._pulls.manifest(name)
        except SidecarError as error:
            return self._refuse(name, error)
        return Response(200, {"content-type": MediaType.MANIFEST}, manifest if request.method == "GET" else b"")

    async def _blob(self, request: Request, name: ModelName, text: str) -> Response:
        try:
            digest = Digest.parse(text)
        except DigestInvalid:
            if text.rstrip("/") == "uploads" and request.method == "POST":
                return self._refuse(name, self._pushes.nothing_is_uploaded())
            return Response(404)
        if request.method == "HEAD":
            return await self._head(name, digest)
        if request.method != "GET":
            return Response(404)
        try:
            pull = await self._pulls.blob(name, digest)
        except SidecarError as error:
            if "range" in request.headers:
                raise DropConnection from None  # the text would be written into the model (facts 6.2)
            return self._refuse(name, error)
        small = pull.plan.small.get(digest)
        return blob_response(request, _Streamed(pull) if small is None else _Small(small))

    async def _head(self, name: ModelName, digest: Digest) -> Response:
        """For a pull: how long it is. For a push: whether it need not be sent, as our Ollama has it anyway."""
        size = self._pulls.size(name, digest)
        if size is not None:
            return Response(200, {"content-length": str(size)})
        try:
            return Response(200 if await self._client.has_blob(digest) else 404)
        except OllamaBridgeError:
            return Response(404)

    def _refuse(self, name: ModelName, error: SidecarError) -> Response:
        model = f"{name.model}:{name.tag}"
        log.warning("the registry refused %s: %s %s", model, error.cause, error.next_step)
        self._emit(RegistryRefused(model, error.code, error.cause, error.next_step))
        status = 400 if error.http_status == 404 else error.http_status
        body = f"{error.cause} {error.next_step}".strip().encode()
        return Response(status, {"content-type": "text/plain; charset=utf-8"}, body)


class _Small:
    """A blob that is in memory."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    @property
    def size(self) -> int:
        return len(self._content)

    async def send(self, send: SendBytes, part: ByteRange) -> None:
        await send(self._content[part.start : part.stop])


class _Streamed:
    """An adapter, or a model's weights, while it is fetched or after."""

    def __init__(self, pull: Pull) -> None:
        self._followed = pull.followed

    @property
    def size(self) -> int:
        return self._followed.size

    async def send(self, send: SendBytes, part: ByteRange) -> None:
        at = part.start
        with self._followed.reader() as reader:
            while at < part.stop:
                index = at // CHUNK_BYTES
                try:
                    with anyio.fail_after(STALL_S):
                        data = await reader.read(index, READ_CHUNKS)
                except (FollowEnded, TimeoutError):
                    raise DropConnection from None
                offset = index * CHUNK_BYTES
                await send(data[at - offset : part.stop - offset])
                at = min(offset + len(data), part.stop)
