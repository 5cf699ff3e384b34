"""The stand-in's model store: the files Ollama would write, in the order and with the weaknesses it has (facts 1).

Manifests are truncated and rewritten in place, not renamed, because that is what readers of a real store have to stand.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import stat
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio

from ollama_bridge.digests import Digest
from ollama_bridge.errors import ManifestInvalid
from ollama_bridge.manifest import Layer, Manifest, parse_manifest, render_manifest
from ollama_bridge.names import ModelName
from ollama_bridge.standin.protocol import ApiError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from ollama_bridge.standin.faults import Faults

PRUNE_GRACE_S = 3600.0
NO_SPACE = "no space left on device"


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob after an upload."""

    digest: Digest
    is_new: bool


class StandInStore:
    """Blobs and manifests below one folder."""

    def __init__(self, root: Path, faults: Faults, clock: Callable[[], float] = time.time) -> None:
        self.root = root.resolve()
        self.faults = faults
        self._clock = clock
        (self.root / "blobs").mkdir(parents=True, exist_ok=True)
        (self.root / "manifests").mkdir(exist_ok=True)

    # Blobs.

    def blob_path(self, digest: Digest) -> Path:
        return self.root / "blobs" / digest.file_name

    def has_blob(self, digest: Digest) -> bool:
        return self.blob_path(digest).exists()

    async def receive_blob(self, pieces: AsyncIterator[bytes]) -> StoredBlob:
        """Write a body to a temporary file and rename it to its real digest, whatever was expected of it."""
        temporary = self.root / "blobs" / f"sha256-{secrets.randbelow(10**10)}"
        state = hashlib.sha256()
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                async for piece in pieces:
                    self.take_space(len(piece))
                    state.update(piece)
                    await anyio.to_thread.run_sync(file.write, piece)
            digest = Digest(state.hexdigest())
            return StoredBlob(digest, self._adopt(temporary, digest))
        finally:
            temporary.unlink(missing_ok=True)

    def add_blob(self, data: bytes, media_type: str) -> Layer:
        """Store a small blob made here: a config, a template, parameters."""
        digest = Digest.of(data)
        if not self.has_blob(digest):
            self.take_space(len(data))
            temporary = self.root / "blobs" / f"sha256-{secrets.randbelow(10**10)}"
            temporary.write_bytes(data)
            self._adopt(temporary, digest)
        return Layer(media_type, digest, len(data))

    def _adopt(self, temporary: Path, digest: Digest) -> bool:
        final = self.blob_path(digest)
        is_new = not final.exists()
        temporary.replace(final)
        final.chmod(0o644)
        return is_new

    def take_space(self, count: int) -> None:
        """Pretend that a disk of limited size is written to."""
        if self.faults.disk_bytes is None:
            return
        if count > self.faults.disk_bytes:
            raise ApiError(500, f"write {self.root}: {NO_SPACE}")
        self.faults.disk_bytes -= count

    # Manifests.

    def manifest_path(self, name: ModelName) -> Path:
        return self.root.joinpath("manifests", *name.path_parts)

    def names(self) -> Iterator[ModelName]:
        """Every file four levels below `manifests/` with a valid name."""
        for path in sorted((self.root / "manifests").glob("*/*/*/*")):
            name = ModelName.from_path_parts(path.parts[-4:])
            if name is not None and path.is_file():
                yield name

    def read(self, name: ModelName) -> Manifest | None:
        """None if there is no such model.

        Raises:
            ManifestInvalid: The file is not a manifest.
        """
        try:
            return parse_manifest(self.manifest_path(name).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return None

    def read_bytes(self, name: ModelName) -> bytes:
        return self.manifest_path(name).read_bytes()

    def models(self) -> dict[ModelName, Manifest]:
        """Every model whose manifest can be read; the others are skipped, as Ollama skips them."""
        found = {}
        for name in self.names():
            try:
                manifest = self.read(name)
            except ManifestInvalid:
                continue
            if manifest is not None:
                found[name] = manifest
        return found

    def existing_name(self, name: ModelName) -> ModelName:
        """`getExistingName`: each part takes the case of an equal part in any model."""
        parts = list(name.path_parts)
        for existing in self.models():
            for index, part in enumerate(existing.path_parts):
                if part.lower() == parts[index].lower():
                    parts[index] = part
        return ModelName(*parts)

    async def write_manifest(self, name: ModelName, data: bytes) -> None:
        """Truncate and write in place, on request with a pause in the middle."""
        if self.faults.windows and ":" in name.host:
            raise ApiError(500, f"mkdir {name.host}: The directory name is invalid.")
        path = self.manifest_path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            self.take_space(len(data))  # a full disk leaves an empty manifest behind, and that one cannot be deleted
            if self.faults.split_manifest_s:
                file.write(data[: len(data) // 2])
                file.flush()
                await anyio.sleep(self.faults.split_manifest_s)
                data = data[len(data) // 2 :]
            file.write(data)

    async def write_created(self, name: ModelName, config: Layer, layers: Sequence[Layer]) -> None:
        """What create writes: with a newline at the end, unlike what pull keeps."""
        await self.write_manifest(name, render_manifest(config, layers) + b"\n")

    def delete(self, name: ModelName) -> None:
        """Manifest first, then empty folders up to and including `manifests/`, then blobs nobody else uses."""
        manifest = self.read(name)
        assert manifest is not None
        self.manifest_path(name).unlink()
        self._remove_empty_folders()
        self.drop_unused(layer.digest for layer in manifest.blobs)

    def drop_unused(self, digests: Iterable[Digest]) -> None:
        """Delete those blobs that no manifest refers to."""
        used = self._used()
        for digest in digests:
            if digest not in used:
                self.blob_path(digest).unlink(missing_ok=True)

    def _used(self) -> set[Digest]:
        return {layer.digest for manifest in self.models().values() for layer in manifest.blobs}

    def _remove_empty_folders(self) -> None:
        top = self.root / "manifests"
        folders = [path for path in top.rglob("*") if path.is_dir()]
        for folder in (*sorted(folders, key=lambda path: -len(path.parts)), top):
            if not any(folder.iterdir()):
                folder.rmdir()

    def prune(self) -> None:
        """What a start does: drop old unreferenced blobs and partial files, unless any manifest is unreadable."""
        (self.root / "manifests").mkdir(exist_ok=True)
        paths = [path for path in (self.root / "manifests").glob("*/*/*/*") if path.is_file()]
        try:
            whole = [parse_manifest(path.read_bytes()) for path in paths]
        except ManifestInvalid:
            return
        if any(ModelName.from_path_parts(path.parts[-4:]) is None for path in paths):
            return
        used = {layer.digest.file_name for manifest in whole for layer in manifest.blobs}
        for path in (self.root / "blobs").iterdir():
            status = path.lstat()
            is_young = self._clock() - status.st_mtime < PRUNE_GRACE_S
            if path.name in used or is_young or not stat.S_ISREG(status.st_mode):
                continue
            path.unlink()

    def config(self, manifest: Manifest) -> dict[str, Any]:
        """The config blob of a model, empty if it is not there."""
        if manifest.config is None or not self.has_blob(manifest.config.digest):
            return {}
        document = json.loads(self.blob_path(manifest.config.digest).read_bytes())
        return document if isinstance(document, dict) else {}

    def text(self, manifest: Manifest, media_type: str) -> str:
        """The text of the last layer of a type, empty if there is none."""
        return next(reversed(self.texts(manifest, media_type)), "")

    def texts(self, manifest: Manifest, media_type: str) -> list[str]:
        """The text of each layer of a type."""
        return [self.blob_path(layer.digest).read_text("utf-8") for layer in manifest.of_type(media_type)]
