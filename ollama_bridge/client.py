"""Ollama's HTTP API, typed: over the `ollama` package where it has the call, over httpx where it lacks one.

What the package does not do and we need: `/api/version`, `HEAD /api/blobs`, uploads of a blob whose digest is already
known (with progress, and cut before the end when the bytes are not those), and the free probe for adapter support.

Every stream is read to its end and must finish with `success`: after the first progress line Ollama reports errors in a
200 stream (facts 3). Redirects are never followed and no Origin is sent (T25).
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, Literal, Self, cast
from urllib.parse import urlsplit

import anyio
import httpx
import ollama
from pydantic import ValidationError

from ollama_bridge.digests import HASH_BLOCK_BYTES, Digest
from ollama_bridge.errors import NameInvalid, OllamaRejected, OllamaUnavailable
from ollama_bridge.names import ModelName

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import BinaryIO

DEFAULT_PORT = "11434"
LOAD_KEEP_ALIVE = "10s"  # with 0 an empty prompt means unload and proves nothing (facts 4.3)
NO_DIGEST = "sha256:" + "0" * 64

AdaptersMode = Literal["accept", "refuse"]


@dataclass(frozen=True, slots=True)
class Progress:
    """One line of a stream; `total` and `completed` are bytes where Ollama gives them."""

    status: str
    digest: str | None = None
    total: int | None = None
    completed: int | None = None


ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. Without them a server that accepts and says nothing would hold us for ever."""

    connect: float = 5.0
    answer: float = 30.0
    """For calls that do no work."""
    work: float = 600.0
    """Between two lines of a stream, and for loading a model: hashing or reading 100 GB takes minutes."""


@dataclass(frozen=True, slots=True)
class ListedModel:
    """One line of `/api/tags`."""

    name: ModelName
    manifest_digest: str
    size: int


@dataclass(frozen=True, slots=True)
class ShownModel:
    """What `/api/show` says that tells which blobs make the model."""

    model_blobs: tuple[Digest, ...]
    """Digests of the `FROM` lines, in order."""
    adapter_blobs: tuple[Digest, ...]
    """Digests of the `ADAPTER` lines, in order."""
    store: str | None
    """The store as the server sees it, from the first `FROM` line. Not necessarily a path here (containers)."""
    parent: str
    modelfile: str
    template: str
    system: str


def ollama_url(text: str | None = None) -> str:
    """The URL a value of OLLAMA_HOST means to Ollama's own client, as `scheme://host:port[/path]`.

    Args:
        text: The value; None or blank gives the default. An unspecified address becomes loopback, because a client
            cannot connect to it.
    Source: envconfig/config.go `Host`, at fb30760.
    """
    value = (text or "").strip().strip("\"'").strip()
    scheme, separator, rest = value.partition("://")
    if not separator:
        scheme, rest = "http", value
    default_port = {"http": "80", "https": "443"}.get(scheme, DEFAULT_PORT) if separator else DEFAULT_PORT
    host_port, slash, path = rest.partition("/")
    host, port = _split_host_port(host_port) or (host_port.strip("[]") or "127.0.0.1", default_port)
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        port = default_port
    host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # turned away from
    shown = f"[{host}]" if ":" in host else host
    return f"{scheme}://{shown}:{port}{slash}{path}".rstrip("/")


def _split_host_port(text: str) -> tuple[str, str] | None:
    """Go's net.SplitHostPort: None where it would give an error."""
    if text.startswith("["):
        host, bracket, port = text[1:].partition("]")
        return (host, port[1:]) if bracket and port.startswith(":") else None
    if text.count(":") != 1:
        return None
    host, _, port = text.partition(":")
    return host, port


def is_loopback_url(url: str) -> bool:
    """Whether the URL's host is this machine for certain: a loopback address or `localhost`."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


class OllamaClient:
    """One Ollama server. An async context manager; every method raises `OllamaUnavailable` or `OllamaRejected`."""

    def __init__(self, url: str | None = None, *, timeouts: Timeouts | None = None) -> None:
        self.url = ollama_url(url)
        self.is_loopback = is_loopback_url(self.url)
        """False: adapters would leave this machine. The caller warns and asks (T25)."""
        limits = timeouts or Timeouts()
        self._work_timeout = httpx.Timeout(limits.work, connect=limits.connect)
        # A proxy for loopback would be a stranger between us and Ollama; elsewhere the user's proxies apply.
        trust_env = not self.is_loopback
        # Reading the system's certificates takes 50 ms a client; over plain http there is nothing to check them with.
        verify: ssl.SSLContext | bool = self.url.startswith("https:") or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._http = httpx.AsyncClient(
            base_url=self.url,
            verify=verify,
            trust_env=trust_env,
            follow_redirects=False,
            timeout=httpx.Timeout(limits.answer, connect=limits.connect),
        )
        self._ollama = ollama.AsyncClient(
            host=self.url, verify=verify, trust_env=trust_env, follow_redirects=False, timeout=self._work_timeout
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        with anyio.CancelScope(shield=True):
            await self._http.aclose()
            await self._ollama.close()  # type: ignore[no-untyped-call]

    async def version(self) -> str:
        """The server's version text, such as `0.33.0`; development builds say `0.0.0`."""
        document = await self._json("GET", "/api/version")
        version = document.get("version")
        if not isinstance(version, str):
            raise OllamaRejected(200, f"{self.url} answers, but not as an Ollama server does. Check OLLAMA_HOST.")
        return version

    async def tags(self) -> tuple[ListedModel, ...]:
        """Every model with a readable manifest. Names that break Ollama's own rules are left out."""
        with self._translated():
            listed = (await self._ollama.list()).models
        models = []
        for model in listed:
            try:
                name = ModelName.parse(model.model or "")
            except NameInvalid:
                continue
            models.append(ListedModel(name, model.digest or "", int(model.size or 0)))
        return tuple(models)

    async def loaded(self) -> tuple[ModelName, ...]:
        """The models that are in memory now (`ollama ps`)."""
        with self._translated():
            listed = (await self._ollama.ps()).models
        names = [model.model or "" for model in listed]
        return tuple(ModelName.parse(name) for name in names if ModelName.is_valid(name))

    async def find(self, name: ModelName) -> ModelName | None:
        """The name as the server spells it, None if it has no such model. Ollama ignores case, so does this."""
        return next((model.name for model in await self.tags() if model.name.folded == name.folded), None)

    async def show(self, name: ModelName) -> ShownModel:
        """What a model is made of.

        Raises:
            OllamaRejected: With status 404, no such model, or one without a model layer.
        """
        # Not through the package: its answer type drops `system` and fails when `model_info` is missing.
        shown = await self._json("POST", "/api/show", {"model": name.display})
        details = shown.get("details")
        return shown_model(
            str(shown.get("modelfile") or ""),
            parent=str(details.get("parent_model") or "") if isinstance(details, dict) else "",
            template=str(shown.get("template") or ""),
            system=str(shown.get("system") or ""),
        )

    async def has_blob(self, digest: Digest) -> bool:
        """Whether a file of that name is in the store. Ollama only looks at the name, not at the content."""
        with self._translated():
            response = await self._http.head(f"/api/blobs/{digest}")
        if response.status_code == 404:
            return False
        _raise_for_status(response)
        return True

    async def push_blob(
        self,
        digest: Digest,
        source: Path,
        size: int,
        progress: Callable[[int], None] | None = None,
        *,
        offset: int | None = None,
    ) -> None:
        """Upload a blob from a file.

        The bytes are hashed on the way and the upload is cut before its last block unless they are the right ones:
        Ollama would keep wrong bytes in its store under their own digest (facts 3).

        Args:
            digest: What the bytes must hash to.
            source: The file.
            size: Its length in bytes.
            progress: Called with the bytes sent so far.
            offset: Where the blob begins in a file that holds more than it; None: it is the whole file.

        Raises:
            OllamaRejected: Ollama's answer (400 digest mismatch, 500 disk full), or 0 when the file is not what the
                caller said.
        """
        length = (await anyio.Path(source).stat()).st_size
        _require(length == size if offset is None else length >= offset + size, digest)
        headers = {"content-length": str(size), "content-type": "application/octet-stream"}
        with self._translated():
            async with await anyio.open_file(source, "rb") as file:
                await file.seek(offset or 0)
                body = _checked_blocks(cast("BinaryIO", file.wrapped), digest, size, progress)
                response = await self._http.post(
                    f"/api/blobs/{digest}", content=body, headers=headers, timeout=self._work_timeout
                )
        _raise_for_status(response)

    async def create(
        self,
        name: ModelName,
        *,
        from_: ModelName | None = None,
        files: Mapping[str, Digest] | None = None,
        adapters: Mapping[str, Digest] | None = None,
        template: str | None = None,
        system: str | None = None,
        license_: str | list[str] | None = None,
        parameters: Mapping[str, Any] | None = None,
        messages: list[Mapping[str, str]] | None = None,
        extra: Mapping[str, Any] | None = None,
        progress: ProgressCallback | None = None,
    ) -> None:
        """Create a model. `from_` must be spelled as the store spells it, or Ollama goes looking for it on the internet.

        Args:
            extra: Fields the `ollama` package lacks: renderer, parser, requires, info.
        """
        body: dict[str, Any] = {
            "model": name.display,
            "from": from_.display if from_ else None,
            "files": {key: str(digest) for key, digest in files.items()} if files else None,
            "adapters": {key: str(digest) for key, digest in adapters.items()} if adapters else None,
            "template": template,
            "system": system,
            "license": license_,
            "parameters": dict(parameters) if parameters else None,
            "messages": messages,
        }
        body = {key: value for key, value in body.items() if value is not None}
        if extra:
            await self._stream("/api/create", {**body, **extra, "stream": True}, progress)
            return
        body.pop("model")
        with self._translated():
            lines = await self._ollama.create(name.display, from_=body.pop("from", None), stream=True, **body)
            await _read_to_success(lines, progress)

    async def pull(self, name: ModelName, *, insecure: bool = False, progress: ProgressCallback | None = None) -> None:
        """Pull a model from the registry its name says. `insecure` means plain http, not unchecked TLS (facts 6.1)."""
        with self._translated():
            await _read_to_success(await self._ollama.pull(name.display, insecure=insecure, stream=True), progress)

    async def push(self, name: ModelName, *, insecure: bool = False, progress: ProgressCallback | None = None) -> None:
        """Push a model to the registry its name says."""
        with self._translated():
            await _read_to_success(await self._ollama.push(name.display, insecure=insecure, stream=True), progress)

    async def copy(self, source: ModelName, destination: ModelName) -> None:
        """Give a model a second name. Overwrites silently: look before."""
        with self._translated():
            await self._ollama.copy(source.display, destination.display)

    async def delete(self, name: ModelName) -> None:
        """Delete a model, and with it the blobs no other model uses.

        Raises:
            OllamaRejected: With status 404, no such model.
        """
        with self._translated():
            await self._ollama.delete(name.display)

    async def load(self, name: ModelName) -> None:
        """Load a model and its adapters without generating: the proof that llama.cpp takes them (facts 4.3).

        Raises:
            OllamaRejected: With status 500, llama.cpp refused. The reason is in Ollama's own log only.
        """
        with self._translated():
            answer = await self._ollama.generate(name.display, prompt="", keep_alive=LOAD_KEEP_ALIVE)
        if not answer.done:
            raise OllamaRejected(200, f"Ollama did not finish loading {name}. Look at its log.")

    async def generate(self, name: ModelName, prompt: str, *, options: Mapping[str, Any] | None = None) -> str:
        """The model's answer to a prompt."""
        with self._translated():
            answer = await self._ollama.generate(
                name.display, prompt=prompt, options=dict(options or {}), keep_alive=LOAD_KEEP_ALIVE
            )
        return answer.response or ""

    async def adapters_mode(self) -> AdaptersMode:
        """Whether `create` takes adapters: asked for free, nothing is written.

        An empty name with adapters gets "invalid model name" where adapters are supported and the refusal where not,
        by the order of the checks (server/create.go; 0.34.1 and later refuse).
        """
        body = {"model": "", "adapters": {"a.gguf": NO_DIGEST}}
        with self._translated():
            response = await self._http.post("/api/create", json=body)
        if response.status_code == 400 and "invalid model name" in _error_text(response):
            return "accept"
        if response.status_code == 400:
            return "refuse"
        _raise_for_status(response)
        return "refuse"

    async def _json(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        with self._translated():
            response = await self._http.request(method, path, json=body)
            _raise_for_status(response)
            document = response.json()
        return document if isinstance(document, dict) else {}

    async def _stream(self, path: str, body: dict[str, Any], progress: ProgressCallback | None) -> None:
        with self._translated():
            async with self._http.stream("POST", path, json=body, timeout=self._work_timeout) as response:
                if response.status_code >= 300:
                    await response.aread()
                _raise_for_status(response)
                await _read_to_success(_json_lines(response), progress)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ollama.ResponseError as error:
            status = 200 if error.status_code == -1 else error.status_code
            raise OllamaRejected(status, error.error or _status_sentence(status)) from None
        except (ConnectionError, httpx.ConnectError):
            raise OllamaUnavailable(
                f"No Ollama answers at {self.url}. Start it, or name the right address with OLLAMA_HOST or --ollama."
            ) from None
        except httpx.TransportError as error:
            reason = str(error) or type(error).__name__
            raise OllamaUnavailable(
                f"Ollama at {self.url} stopped answering ({reason}). Check that it runs, then try again."
            ) from None
        except (ValidationError, json.JSONDecodeError):
            raise OllamaRejected(
                200, f"{self.url} answers, but not as an Ollama server does. Check OLLAMA_HOST."
            ) from None


def shown_model(modelfile: str, *, parent: str = "", template: str = "", system: str = "") -> ShownModel:
    """Read the blob lines of a shown Modelfile.

    Only the lines before the first TEMPLATE, SYSTEM or other instruction count: the texts after them span lines and can
    hold anything, also lines that look like ours.
    """
    model_blobs: list[Digest] = []
    adapter_blobs: list[Digest] = []
    store: str | None = None
    for line in modelfile.splitlines():
        instruction, _, value = line.strip().partition(" ")
        if not instruction or instruction.startswith("#"):
            continue
        if instruction not in {"FROM", "ADAPTER"}:
            break
        path = _blob_path(value)
        digest = Digest.parse_file_name(path.name)
        if digest is None:
            continue
        if instruction == "FROM":
            model_blobs.append(digest)
            store = store or str(path.parent.parent)
        else:
            adapter_blobs.append(digest)
    return ShownModel(tuple(model_blobs), tuple(adapter_blobs), store, parent, modelfile, template, system)


def _blob_path(value: str) -> PurePosixPath | PureWindowsPath:
    text = value.strip().strip('"')
    return PureWindowsPath(text) if "\\" in text else PurePosixPath(text)


async def _checked_blocks(
    file: BinaryIO, digest: Digest, size: int, progress: Callable[[int], None] | None
) -> AsyncIterator[bytes]:
    state = hashlib.sha256()
    left = size

    def read() -> bytes:
        nonlocal left
        block = file.read(min(HASH_BLOCK_BYTES, left))
        left -= len(block)
        state.update(block)
        return block

    sent, held = 0, await anyio.to_thread.run_sync(read)
    while following := await anyio.to_thread.run_sync(read):
        yield held
        sent += len(held)
        if progress is not None:
            progress(sent)
        held = following
    _require(sent + len(held) == size and state.hexdigest() == digest.hex, digest)
    yield held
    if progress is not None:
        progress(size)


def _require(is_same: bool, digest: Digest) -> None:
    if not is_same:
        raise OllamaRejected(0, f"The file for {digest.short} is another or changed while it was read. Fetch it again.")


async def _read_to_success(lines: AsyncIterator[Any], progress: ProgressCallback | None) -> None:
    last = "nothing"
    async for line in lines:
        last = str(line.status or "")[:200]
        if progress is not None:
            progress(Progress(last, line.digest, line.total, line.completed))
    if last != "success":
        raise OllamaRejected(200, f"Ollama stopped before it was done (last it said: {last}). Try again.")


async def _json_lines(response: httpx.Response) -> AsyncIterator[ollama.ProgressResponse]:
    async for line in response.aiter_lines():
        document = json.loads(line)
        if error := document.get("error"):
            raise ollama.ResponseError(str(error))
        yield ollama.ProgressResponse(**document)


def _raise_for_status(response: httpx.Response) -> None:
    if response.status_code >= 300:
        status = response.status_code
        raise OllamaRejected(status, _error_text(response) or _status_sentence(status))


def _error_text(response: httpx.Response) -> str:
    try:
        document = response.json()
        return str(document["error"])
    except (ValueError, KeyError, TypeError):
        return response.text[:500].strip()


def _status_sentence(status: int) -> str:
    if status == 403:
        return "Ollama refuses requests for this host name (403). Use an IP address or localhost in OLLAMA_HOST."
    if 300 <= status < 400:
        return f"The server answered with a redirect ({status}), which Ollama never does. Check OLLAMA_HOST."
    return f"Ollama answered with status {status} and no reason."


__all__ = [
    "AdaptersMode",
    "ListedModel",
    "OllamaClient",
    "Progress",
    "ShownModel",
    "Timeouts",
    "is_loopback_url",
    "ollama_url",
    "shown_model",
]
