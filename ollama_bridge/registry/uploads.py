"""Receiving `ollama push`: blobs into a spool folder, hashed as they come, then the manifest that makes them a model.

Everything here is filled by whoever can reach our port, which is any local process: sizes and counts are capped, and
nothing is believed that was not hashed on receipt.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import anyio

from ollama_bridge.digests import Digest
from ollama_bridge.errors import DigestInvalid, ManifestInvalid
from ollama_bridge.loopback_http import Response
from ollama_bridge.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from ollama_bridge.registry.one_time import new_token

if TYPE_CHECKING:
    from ollama_bridge.loopback_http import Request
    from ollama_bridge.names import ModelName

MAX_PUSH_BYTES = 8 << 30  # a rank-256 LoRA of a 70B model in F32 is about 7 GB; whole models are not taken this way
MAX_BLOBS = 64  # an adapter model has about ten layers
WRITE_BYTES = 1 << 20

_CONTENT_RANGE = re.compile(r"(?:bytes )?(\d{1,15})-(\d{1,15})(?:/.*)?")


@dataclass(frozen=True, slots=True)
class PushedModel:
    """A model that Ollama pushed to us."""

    name: ModelName
    """As pushed; for a one-time push not the user's name for it."""
    manifest: Manifest
    blobs: Path
    """Folder with the blobs that came along, each named by its digest and hashed. Gone when the receiver returns."""
    held: frozenset[Digest]
    """What is in that folder. Layers we said we know are in the manifest only."""

    def blob_path(self, digest: Digest) -> Path:
        """Where a held blob lies."""
        return self.blobs / digest.file_name


OnPush = Callable[[PushedModel], Awaitable[None]]


@dataclass(slots=True)
class _Upload:
    file: BinaryIO
    path: Path
    received: int = 0
    part_start: int = 0
    state: hashlib._Hash = field(default_factory=hashlib.sha256)
    part_state: hashlib._Hash = field(default_factory=hashlib.sha256)
    """The hash before the current part: Ollama sends a part again from its start after a lost connection."""

    def begin_part(self, start: int) -> bool:
        if start == self.received:
            self.part_start, self.part_state = start, self.state.copy()
            return True
        if start == self.part_start:
            self.received, self.state = start, self.part_state.copy()
            self.file.seek(start)
            self.file.truncate()
            return True
        return False

    def write(self, data: bytes) -> None:
        self.file.write(data)
        self.state.update(data)
        self.received += len(data)


class PushTarget:
    """One repository path that takes a push."""

    def __init__(self, name: ModelName, spool: Path, *, known: Callable[[Digest], bool], on_push: OnPush) -> None:
        self.name = name
        self._known = known
        self._on_push = on_push
        self._folder = Path(tempfile.mkdtemp(prefix="push-", dir=spool))
        self._held: dict[Digest, int] = {}
        self._uploads: dict[str, _Upload] = {}

    def close(self) -> None:
        """Remove what was received."""
        for upload in self._uploads.values():
            upload.file.close()
        self._uploads.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def has(self, digest: Digest) -> bool:
        """Whether this blob need not be sent: it is here, or the caller said it knows it."""
        return digest in self._held or self._known(digest)

    def begin(self, request: Request, base_url: str) -> Response:
        """`POST blobs/uploads/`, with a mount only of what is really here."""
        mount = _digest(request.query.get("mount", ""))
        if mount is not None and mount in self._held:
            return Response(201, {"location": f"{base_url}/blobs/{mount}"})
        if len(self._held) + len(self._uploads) >= MAX_BLOBS:
            return _refusal(413, f"A push has at most {MAX_BLOBS} blobs.")
        upload_id = new_token()
        path = self._folder / f"upload-{upload_id}"
        self._uploads[upload_id] = _Upload(path.open("xb"), path)
        return Response(202, {"location": f"{base_url}/blobs/uploads/{upload_id}", "range": "0-0"})

    async def append(self, request: Request, upload_id: str, base_url: str) -> Response:
        """`PATCH`: one part. Parts come in order; the last one may come again from its start."""
        upload = self._uploads.get(upload_id)
        if upload is None:
            return Response(404)
        match = _CONTENT_RANGE.fullmatch(request.headers.get("content-range", ""))
        start = int(match[1]) if match else upload.received
        if not await anyio.to_thread.run_sync(upload.begin_part, start):
            return _refusal(416, f"The next byte wanted is {upload.received}.")
        others = sum(self._held.values()) + sum(u.received for u in self._uploads.values() if u is not upload)
        try:
            pending = bytearray()
            async for piece in request.body():
                pending += piece
                if others + upload.received + len(pending) > MAX_PUSH_BYTES:
                    return _refusal(413, f"A push has at most {MAX_PUSH_BYTES} bytes.")
                if len(pending) >= WRITE_BYTES:
                    await anyio.to_thread.run_sync(upload.write, bytes(pending))
                    pending.clear()
            await anyio.to_thread.run_sync(upload.write, bytes(pending))
        except OSError as error:
            return _refusal(507, f"The pushed blob cannot be kept: {error.strerror}.")
        location = f"{base_url}/blobs/uploads/{upload_id}"
        return Response(202, {"location": location, "range": f"0-{max(upload.received - 1, 0)}"})

    async def finish(self, request: Request, upload_id: str, base_url: str) -> Response:
        """`PUT ?digest=`: accept the blob if its bytes have that digest."""
        upload = self._uploads.pop(upload_id, None)
        if upload is None:
            return Response(404)
        digest = _digest(request.query.get("digest", ""))
        upload.file.close()
        if digest is None or upload.state.hexdigest() != digest.hex:
            upload.path.unlink(missing_ok=True)
            return _refusal(400, f"The bytes received have the digest sha256:{upload.state.hexdigest()}.")
        upload.path.replace(self._folder / digest.file_name)
        self._held[digest] = upload.received
        return Response(201, {"location": f"{base_url}/blobs/{digest}", "docker-content-digest": str(digest)})

    async def accept_manifest(self, request: Request, name: ModelName) -> Response:
        """`PUT manifests/TAG`: the push is complete if every blob is here or known."""
        try:
            manifest = parse_manifest(await request.read(MAX_MANIFEST_BYTES))
        except ManifestInvalid as error:
            return _refusal(400, str(error))
        for layer in manifest.blobs:
            size = self._held.get(layer.digest)
            if size is None and not self._known(layer.digest):
                return _refusal(400, f"Blob {layer.digest.short} of the manifest was not pushed.")
            if size is not None and size != layer.size:
                return _refusal(400, f"Blob {layer.digest.short} has {size} bytes, not {layer.size}.")
        await self._on_push(PushedModel(name, manifest, self._folder, frozenset(self._held)))
        return Response(201, {"docker-content-digest": str(manifest.digest)})


def _digest(text: str) -> Digest | None:
    try:
        return Digest.parse(text)
    except DigestInvalid:
        return None


def _refusal(status: int, message: str) -> Response:
    return Response(status, {"content-type": "text/plain; charset=utf-8"}, message.encode())
