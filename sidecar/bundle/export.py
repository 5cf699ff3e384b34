"""`export`: what we hold of an entry, into one file."""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING, BinaryIO

from anyio import to_thread

from ollama_bridge.digests import Digest
from sidecar.bridge_errors import bridge_errors
from sidecar.control_types import BundleInfo
from sidecar.errors import BaseModelMissing, BundleError, NotFound
from sidecar.transfer.files import check_space, sync_directory
from sidecar.transfer.provided import FileChanged, read_verified

from .format import base_head, head_bytes, write_head

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ollama_bridge.store import Store
    from sidecar.catalogue.entry import SignedEntry
    from sidecar.transfer.provide import Provider
    from sidecar.transfer.provided import ProvidedBlob

CHUNKS_AT_ONCE = 16
BLOCK_BYTES = 1 << 20


class Exporter:
    """See the module docstring."""

    def __init__(self, *, provider: Provider, store: Store | None, reserve: Callable[[int], int]) -> None:
        self._provider = provider
        self._store = store
        self._reserve = reserve

    async def export(self, signed: SignedEntry, path: Path, *, with_base: bool, overwrite: bool) -> BundleInfo:
        """Write a bundle; the file appears when it is whole and every byte in it was checked.

        Raises:
            NotFound: We do not hold the adapter.
            BaseModelMissing: The base was asked for and its file cannot be read here.
            BundleError: The file is there already, or something changed while it was read.
            DiskFull: It cannot fit.
        """
        if signed.entry.is_model:
            raise BundleError(
                f"{signed.ref} is a whole model; a bundle is of one adapter.",
                "Export an adapter for it with --with-base: the model comes along.",
            )
        blob = self._provider.blob(Digest.parse(signed.entry.blob.digest))
        if blob is None or blob.have is not None:
            raise NotFound(
                f"This machine does not hold {signed.ref}.", f"Fetch it with `ollaswarm get {signed.ref}` first."
            )
        return await to_thread.run_sync(partial(self._write, signed, blob, path, with_base, overwrite))

    def _write(
        self, signed: SignedEntry, blob: ProvidedBlob, path: Path, with_base: bool, overwrite: bool
    ) -> BundleInfo:
        if path.exists() and not overwrite:
            raise BundleError(f"{path} exists already.", "Choose another name, or replace it with --force.")
        base = self._open_base(signed) if with_base else None
        base_size = 0 if base is None else os.fstat(base.fileno()).st_size
        temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.part")
        size = head_bytes(signed) + blob.size + base_size
        try:
            check_space(path.parent, size, reserve_of=self._reserve)
            with temporary.open("xb") as file:
                write_head(file, signed, blob.table)
                _copy_adapter(blob, file)
                file.write(base_head(base_size))
                if base is not None:
                    _copy_base(base, file, signed.entry.base.digest)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            sync_directory(path.parent)
        except OSError as error:
            raise BundleError(
                f"{path} cannot be written: {error.strerror or error}.", "Choose another folder."
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
            if base is not None:
                base.close()
        return BundleInfo(str(path), signed.ref, signed.version, signed.publisher.hex(), size, base is not None)

    def _open_base(self, signed: SignedEntry) -> BinaryIO:
        wanted = signed.entry.base
        if self._store is None:
            raise BaseModelMissing("The base cannot be read, because Ollama's store is not readable here.")
        with bridge_errors():
            digest = Digest.parse(wanted.digest)
            if not self._store.has_blob(digest):
                raise BaseModelMissing(f"The base {wanted.name} ({wanted.digest}) is not in this Ollama.")
            return self._store.open_blob(digest)


def _copy_adapter(blob: ProvidedBlob, file: BinaryIO) -> None:
    for first in range(0, blob.table.count, CHUNKS_AT_ONCE):
        try:
            file.write(read_verified(blob, first, min(CHUNKS_AT_ONCE, blob.table.count - first)))
        except FileChanged as error:
            raise BundleError(f"The adapter's file is not what was shared any more: {error}.") from error


def _copy_base(base: BinaryIO, file: BinaryIO, digest: str) -> None:
    state = hashlib.sha256()
    with closing(base):
        while block := base.read(BLOCK_BYTES):
            state.update(block)
            file.write(block)
    if f"sha256:{state.hexdigest()}" != digest:
        raise BundleError("The base's file in Ollama's store is damaged.", "Pull the base model again.")
