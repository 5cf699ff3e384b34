"""`ollama pull` and `ollama push` as a registry sees them, mistakes included (facts 6).

A part of a blob is written whatever the status of the answer, a blob that is there is never looked at again, and
digests are checked only at the end: a registry that gets through this client unharmed gets through the real one.
"""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import anyio
import httpx

from ollama_bridge.digests import Digest, hash_file
from ollama_bridge.errors import ManifestInvalid
from ollama_bridge.manifest import MediaType, parse_manifest, render_manifest
from ollama_bridge.standin.protocol import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from ollama_bridge.manifest import Layer
    from ollama_bridge.names import ModelName
    from ollama_bridge.standin.protocol import Lines
    from ollama_bridge.standin.store import StandInStore

PART_BYTES = 100_000_000  # Ollama's smallest part
MAX_PARTS_AT_ONCE = 16
MAX_TRIES = 6
RETRY_S = 0.02  # Ollama's is one second
READ_BYTES = 1 << 20


@dataclass(slots=True)
class RegistryClient:
    """One server's way of talking to registries."""

    store: StandInStore
    reach: Callable[[str], Awaitable[None]]
    """Called at each step; faults happen there."""
    version: str
    part_bytes: int = PART_BYTES
    retry_s: float = RETRY_S
    """First pause before a part is tried again; doubles."""

    async def pull(self, name: ModelName, *, insecure: bool) -> Lines:
        """Fetch a model."""
        await self.reach("pull:begin")
        old = self.store.models().get(name)
        yield {"status": "pulling manifest"}
        async with self._http() as http:
            data = await self._fetch_manifest(http, name, insecure)
            try:
                manifest = parse_manifest(data)
            except ManifestInvalid as error:
                raise ApiError(500, f"pull model manifest: {error}") from None
            fetched = []
            for layer in manifest.blobs:
                if not self.store.has_blob(layer.digest):
                    await self._fetch_blob(http, _url(name, insecure, f"blobs/{layer.digest}"), layer.digest)
                    fetched.append(layer.digest)
                yield _progress("pulling", layer)
        yield {"status": "verifying sha256 digest"}
        for digest in fetched:
            await self._verify(digest)
        yield {"status": "writing manifest"}
        await self.reach("pull:write")
        await self.store.write_manifest(name, data)
        if old is not None:
            self.store.drop_unused(layer.digest for layer in old.blobs)
        await self.reach("pull:done")
        yield {"status": "success"}

    async def push(self, name: ModelName, *, insecure: bool) -> Lines:
        """Send a model."""
        await self.reach("push:begin")
        yield {"status": "retrieving manifest"}
        manifest = self.store.read(name)
        if manifest is None or manifest.config is None:
            raise ApiError(500, f"open {self.store.manifest_path(name)}: no such file or directory")
        async with self._http() as http:
            for layer in manifest.blobs:
                await self._send_blob(http, name, insecure, layer)
                yield _progress("pushing", layer)
            yield {"status": "pushing manifest"}
            response = await self._request(
                http,
                "PUT",
                _url(name, insecure, f"manifests/{name.tag}"),
                headers={"content-type": MediaType.MANIFEST},
                content=render_manifest(manifest.config, manifest.layers),
            )
            _raise_for_status(response)
        await self.reach("push:done")
        yield {"status": "success"}

    def _http(self) -> httpx.AsyncClient:
        agent = f"ollama/{self.version} (amd64 linux) Go/go1.26"
        nobody_trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # a stand-in never leaves this machine
        return httpx.AsyncClient(verify=nobody_trusted, trust_env=False, timeout=30.0, headers={"user-agent": agent})

    async def _request(
        self, http: httpx.AsyncClient, method: str, url: str, *, headers: dict[str, str], content: bytes = b""
    ) -> httpx.Response:
        try:
            return await http.request(method, url, headers=headers, content=content or None)
        except httpx.TransportError as error:
            raise ApiError(500, f'{method.title()} "{url}": {error}') from None

    async def _fetch_manifest(self, http: httpx.AsyncClient, name: ModelName, insecure: bool) -> bytes:
        url = _url(name, insecure, f"manifests/{name.tag}")
        try:
            response = await self._request(http, "GET", url, headers={"accept": MediaType.MANIFEST})
            _raise_for_status(response)
        except ApiError as error:
            raise ApiError(500, f"pull model manifest: {error.message}") from None
        return response.content

    async def _fetch_blob(self, http: httpx.AsyncClient, url: str, digest: Digest) -> None:
        head = await self._request(http, "HEAD", url, headers={})
        _raise_for_status(head)
        total = int(head.headers.get("content-length", "0"))
        if self.store.faults.cut_pulled_blob:
            total -= 1
        self.store.take_space(total)
        direct = await self._direct_url(http, url)
        final = self.store.blob_path(digest)
        partial = final.with_name(final.name + "-partial")
        with partial.open("wb") as file:
            file.truncate(total)
        await self._fetch_parts(http, direct, partial, total)
        partial.replace(final)

    async def _fetch_parts(self, http: httpx.AsyncClient, url: str, partial: Path, total: int) -> None:
        failures: list[ApiError] = []
        places = anyio.Semaphore(MAX_PARTS_AT_ONCE)

        async def fetch(start: int) -> None:
            async with places:
                try:
                    await self._fetch_part(http, url, partial, start, min(start + self.part_bytes, total))
                except ApiError as error:
                    failures.append(error)
                    tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            for start in range(0, total, self.part_bytes):
                tasks.start_soon(fetch, start)
        if failures:
            raise failures[0]

    async def _direct_url(self, http: httpx.AsyncClient, url: str) -> str:
        try:
            async with http.stream("GET", url) as response:  # the body is never read
                status, location = response.status_code, str(response.headers.get("location", ""))
        except httpx.TransportError as error:
            raise ApiError(500, str(error)) from None
        if status not in {200, 307}:
            raise ApiError(500, f"unexpected status code {status}")
        if not location:
            raise ApiError(500, "http: no Location header in response")
        direct = urljoin(url, location)
        if status == 307 and urlsplit(direct).hostname == urlsplit(url).hostname:
            return await self._direct_url(http, direct)
        return direct

    async def _fetch_part(self, http: httpx.AsyncClient, url: str, partial: Path, start: int, stop: int) -> None:
        pause = self.retry_s
        for _ in range(MAX_TRIES):
            try:
                async with http.stream("GET", url, headers={"range": f"bytes={start}-{stop - 1}"}) as response:
                    # No look at the status: that is what Ollama does.
                    async for piece in response.aiter_raw(READ_BYTES):
                        piece = piece[: stop - start]
                        await anyio.to_thread.run_sync(_write_at, partial, start, piece)
                        start += len(piece)
            except httpx.TransportError:
                pass
            if start == stop:
                return
            await anyio.sleep(pause)
            pause *= 2
        raise ApiError(500, "max retries exceeded: unexpected EOF")

    async def _verify(self, digest: Digest) -> None:
        path = self.store.blob_path(digest)
        got = await anyio.to_thread.run_sync(hash_file, path)
        if got != digest:
            path.unlink()
            raise ApiError(500, f"digest mismatch, file must be downloaded again: want {digest}, got {got}")

    async def _send_blob(self, http: httpx.AsyncClient, name: ModelName, insecure: bool, layer: Layer) -> None:
        head = await self._request(http, "HEAD", _url(name, insecure, f"blobs/{layer.digest}"), headers={})
        if head.status_code < 400:
            return
        if head.status_code != 404:
            _raise_for_status(head)
        url = _url(name, insecure, "blobs/uploads/")
        if layer.from_:
            url += f"?mount={layer.digest}&from={layer.from_.partition(':')[0]}"
        response = await self._request(http, "POST", url, headers={})
        _raise_for_status(response)
        if response.status_code == 201:
            return
        location, etag = await self._send_parts(http, response.headers["location"], layer)
        separator = "&" if "?" in location else "?"
        done = f"{location}{separator}digest={layer.digest}&etag={etag}"
        _raise_for_status(await self._request(http, "PUT", done, headers={"content-length": "0"}))

    async def _send_parts(self, http: httpx.AsyncClient, location: str, layer: Layer) -> tuple[str, str]:
        path = self.store.blob_path(layer.digest)
        size = path.stat().st_size
        sums = b""
        parts = range(0, size, self.part_bytes)
        for start in parts:
            stop = min(start + self.part_bytes, size)
            state = hashlib.md5(usedforsecurity=False)
            headers = {
                "content-range": f"{start}-{stop - 1}",
                "content-length": str(stop - start),
                "content-type": "application/octet-stream",
                "x-redirect-uploads": "1",
            }
            try:
                response = await http.patch(location, content=_read(path, start, stop, state), headers=headers)
            except httpx.TransportError as error:
                raise ApiError(500, str(error)) from None
            _raise_for_status(response)
            location = response.headers["location"]
            sums += state.digest()
        return location, f"{hashlib.md5(sums, usedforsecurity=False).hexdigest()}-{len(parts)}"


async def _read(path: Path, start: int, stop: int, state: hashlib._Hash) -> AsyncIterator[bytes]:
    async with await anyio.open_file(path, "rb") as file:
        await file.seek(start)
        while start < stop:
            piece = await file.read(min(READ_BYTES, stop - start))
            if not piece:
                return
            state.update(piece)
            start += len(piece)
            yield piece


def _write_at(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def _url(name: ModelName, insecure: bool, rest: str) -> str:
    scheme = "http" if insecure else "https"
    return f"{scheme}://{name.host}/v2/{name.namespace}/{name.model}/{rest}"


def _raise_for_status(response: httpx.Response) -> None:
    if response.status_code == 404:
        raise ApiError(500, "file does not exist")
    if response.status_code >= 400:
        raise ApiError(500, f"{response.status_code}: {response.text}")


def _progress(verb: str, layer: Layer) -> dict[str, object]:
    return {
        "status": f"{verb} {layer.digest.hex[:12]}",
        "digest": str(layer.digest),
        "total": layer.size,
        "completed": layer.size,
    }
