"""One look at `manifests/`: which names there are and what their files hold, at the price of one `lstat` per model.

A manifest is read and parsed again only when (path, mtime_ns, size, inode) changed: rewriting a tag in place changes the
content without touching any directory listing.
"""

from __future__ import annotations

import os
import stat
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from ollama_bridge.errors import ManifestInvalid, StoreError
from ollama_bridge.manifest import MAX_MANIFEST_BYTES, Manifest, parse_manifest
from ollama_bridge.names import ModelName
from ollama_bridge.nofollow import open_regular

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

MAX_MODELS = 50_000  # fifty times the largest store we heard of; ends a scan of a folder that is no store at all

# `metadata` is where Ollama 0.34 keeps what it read from GGUF headers; models are still in the other two.
_KNOWN_FOLDERS = {"blobs", "manifests", "metadata", "lost+found", "$RECYCLE.BIN", "System Volume Information", "@eaDir"}
_KNOWN_PREFIXES = (".", "ollama-safetensors")  # dot folders of desktops, and Ollama's import scratch


class FileState(NamedTuple):
    """What tells two contents of one path apart without reading."""

    mtime_ns: int
    size: int
    inode: int


@dataclass(frozen=True, slots=True)
class ScannedManifest:
    """One file at the fourth level of `manifests/`."""

    state: FileState
    manifest: Manifest | None
    problem: str | None
    """Why there is no manifest: half-written, foreign, unreadable."""


class ManifestScanner:
    """Reads `manifests/HOST/NAMESPACE/MODEL/TAG`, remembering what it parsed. Safe to call from several threads."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[ModelName, ScannedManifest] = {}
        self._lock = threading.Lock()

    def scan(self) -> dict[ModelName, ScannedManifest]:
        """Every validly named file, parsed or with its problem.

        Raises:
            StoreError: The store is missing, cannot be listed or has an unknown layout. A missing `manifests/` is an
                empty store: Ollama removes it together with the last model.
        """
        with self._lock:
            try:
                check_layout(self._root)
                looked = {name: self._look(name, path) for name, path in self._files()}
            except OSError as error:
                raise StoreError(
                    f"The model store at {self._root} cannot be read ({error.strerror or error}). Give this user read "
                    "access, or let sharing go through Ollama's API."
                ) from error
            self._known = {name: scanned for name, scanned in looked.items() if scanned is not None}
            return dict(self._known)

    def read(self, name: ModelName) -> ScannedManifest | None:
        """One name, from the cache if its file did not change; None if there is no such file."""
        with self._lock:
            path = os.path.join(self._root, "manifests", *name.path_parts)
            scanned = self._look(name, path)
            if scanned is None:
                self._known.pop(name, None)
            else:
                self._known[name] = scanned
            return scanned

    def _files(self) -> Iterator[tuple[ModelName, str]]:
        count = 0
        for parts, path in _descend([((), os.path.join(self._root, "manifests"))], depth=4):
            name = ModelName.from_path_parts(parts)
            if name is None:  # .DS_Store and the like: Ollama skips them too
                continue
            count += 1
            if count > MAX_MODELS:
                raise StoreError(f"{self._root} holds more than {MAX_MODELS} manifests, so it is no model store.")
            yield name, path

    def _look(self, name: ModelName, path: str) -> ScannedManifest | None:
        try:
            status = os.lstat(path)
        except OSError:  # deleted since it was listed, or never there
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        state = FileState(status.st_mtime_ns, status.st_size, status.st_ino)
        known = self._known.get(name)
        if known is not None and known.state == state and known.manifest is not None:
            return known
        return self._parse(name, state)

    def _parse(self, name: ModelName, state: FileState) -> ScannedManifest:
        try:
            with open_regular(self._root, ("manifests", *name.path_parts)) as file:
                return ScannedManifest(state, parse_manifest(file.read(MAX_MANIFEST_BYTES + 1)), None)
        except ManifestInvalid as error:
            return ScannedManifest(state, None, str(error))
        except OSError as error:
            return ScannedManifest(state, None, f"The manifest cannot be read ({error.strerror or error}).")


def check_layout(root: Path) -> None:
    """Look at the folders of the store's root.

    Raises:
        OSError: The root is missing or cannot be listed.
        StoreError: A folder we do not know lies beside `blobs` and `manifests`. A newer Ollama may then keep models in
            ways this reader would misread (PR 15735 adds `manifests-v2`), so files are left alone.
    """
    with os.scandir(root) as listing:
        for entry in listing:
            if entry.name in {"blobs", "manifests"} and entry.is_symlink():
                raise StoreError(
                    f"{entry.name!r} in the model store at {root} is a link, and links inside a store are not followed. "
                    "Point OLLAMA_MODELS at the real folder; until then sharing goes through Ollama's API."
                )
            if entry.name not in _KNOWN_FOLDERS and not entry.name.startswith(_KNOWN_PREFIXES) and entry.is_dir():
                raise StoreError(
                    f"The model store at {root} has a folder {entry.name!r} this version does not know. Sharing goes "
                    "through Ollama's API instead; look for a newer ollaswarm, or move that folder elsewhere."
                )


def _descend(level: Iterable[tuple[tuple[str, ...], str]], depth: int) -> Iterator[tuple[tuple[str, ...], str]]:
    for parts, folder in level:
        try:
            with os.scandir(folder) as listing:
                children = [((*parts, entry.name), entry.path) for entry in listing if _is_kind(entry, depth)]
        except (FileNotFoundError, NotADirectoryError):
            continue  # Ollama removes empty folders, `manifests/` itself included
        if depth == 1:
            yield from children
        else:
            yield from _descend(children, depth - 1)


def _is_kind(entry: os.DirEntry[str], depth: int) -> bool:
    return entry.is_file(follow_symlinks=False) if depth == 1 else entry.is_dir(follow_symlinks=False)
