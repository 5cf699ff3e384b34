"""One adapter or model on its way into Ollama by Ollama's own pull: what it is, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

import anyio

from ollama_bridge.digests import Digest
from sidecar.transfer.follow import Followed

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ollama_bridge.names import ModelName
    from sidecar.catalogue.entry import SignedEntry
    from sidecar.errors import SidecarError


@dataclass(frozen=True, slots=True)
class Plan:
    """What is answered, as far as it does not depend on the file that is fetched."""

    name: ModelName
    """As Ollama spells it, or will."""
    manifest: bytes
    """Made here (T4)."""
    base: str
    """Name of the base, for people."""
    small: Mapping[Digest, bytes] = field(default_factory=lambda: MappingProxyType({}))
    """Further blobs of the manifest that Ollama may not have: config and texts of a whole model."""


class Pull:
    """An entry, the name it is pulled under, and how far it is."""

    def __init__(self, entry: SignedEntry, plan: Plan, now: float, *, tag_known: bool) -> None:
        self.entry = entry
        self.plan = plan
        self.tag_known = tag_known
        """Requests for blobs do not say which tag is pulled."""
        self.digest = Digest.parse(entry.entry.blob.digest)
        """Of the file that is streamed: the adapter, or the model's weights."""
        self.manifest_digest = Digest.of(plan.manifest)
        self.followed = Followed(entry.entry.blob.size)
        self.transfer: str | None = None
        """The transfer that carries it out, while one does."""
        self.asked_at = now
        self.refusal: SidecarError | None = None
        """Why it was stopped, when it was the header."""
        self.failure: SidecarError | None = None
        self.failed_at = 0.0
        self.settled = anyio.Event()
        """Set when the file was found right, or the pull ended."""

    @property
    def name(self) -> ModelName:
        """See `Plan`."""
        return self.plan.name

    def size_of(self, digest: Digest) -> int | None:
        """Bytes of one of its blobs; None for any other."""
        if digest == self.digest:
            return self.followed.size
        content = self.plan.small.get(digest)
        return None if content is None else len(content)

    def begin(self, now: float) -> None:
        """Try (again)."""
        self.followed = Followed(self.followed.size)
        self.refusal = self.failure = None
        self.asked_at, self.settled = now, anyio.Event()

    def fail(self, error: SidecarError, now: float) -> SidecarError:
        """End it; readers are told. The error that is to be shown."""
        self.failure, self.failed_at = self.refusal or error, now
        self.followed.end(self.failure.cause)
        self.settled.set()
        return self.failure

    def is_idle(self, seconds: float, now: float) -> bool:
        """Whether nobody asked for anything for so long."""
        if self.followed.readers:
            self.asked_at = now
        return now - self.asked_at > seconds

    def may_be(self, name: ModelName) -> bool:
        """Whether a model of Ollama's may be what is pulled. Without the tag, any tag may."""
        same = name.folded == self.name.folded
        return same or (not self.tag_known and name.folded[:-1] == self.name.folded[:-1])
