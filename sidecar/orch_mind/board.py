"""What the Orch-Mind users we are connected with share, as one list. Kept in memory only, and signed by nobody."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.catalogue.entry import suggest_name
from sidecar.errors import CatalogueError, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from .messages import AdapterFacts, AdapterOffer

REF_PREFIX = "orch-mind/"
"""No publisher key begins so, which keeps these refs apart from those of signed entries (T10)."""
SHORT_CHECKSUM_DIGITS = 12
MIN_CHECKSUM_DIGITS = 8


@dataclass(frozen=True, slots=True)
class UnsignedAdapter:
    """One file, whoever has it. Name and facts are those of the peer that listed it first."""

    name: str
    size: int
    checksum: str
    facts: AdapterFacts
    sources: tuple[tuple[bytes, str], ...]
    """Peer and the topic it lists the file under."""

    @property
    def label(self) -> str:
        """The name as a model may have it."""
        return suggest_name(self.name)

    @property
    def digest(self) -> str:
        """Of the PEFT file; the converted one has another."""
        return f"sha256:{self.checksum}"


class Board:
    """The list at one moment.

    Args:
        offers: What each peer lists now, by its key.
    """

    def __init__(self, offers: Mapping[bytes, Iterable[AdapterOffer]]) -> None:
        first: dict[tuple[str, int], AdapterOffer] = {}
        sources: dict[tuple[str, int], list[tuple[bytes, str]]] = {}
        for peer, listed in offers.items():
            for offer in listed:
                # Who lies about the size of a file is not a source of that file.
                key = (offer.checksum, offer.size)
                first.setdefault(key, offer)
                sources.setdefault(key, []).append((peer, offer.topic))
        self.adapters = sorted(
            (
                UnsignedAdapter(offer.name, offer.size, offer.checksum, offer.facts, tuple(sources[key]))
                for key, offer in first.items()
            ),
            key=lambda adapter: (adapter.label.lower(), adapter.checksum, adapter.size),
        )

    def ref(self, adapter: UnsignedAdapter) -> str:
        """The shortest text by which `resolve` finds exactly this one."""
        for name in (adapter.label, adapter.checksum[:SHORT_CHECKSUM_DIGITS]):
            if self._matches(name) == [adapter]:
                return REF_PREFIX + name
        return REF_PREFIX + adapter.checksum

    def resolve(self, ref: str) -> UnsignedAdapter | None:
        """The adapter a REF means; None if it is not a REF of this kind.

        Raises:
            NotFound: Nobody shares it now.
            CatalogueError: It can mean several.
        """
        wanted = ref.strip()
        if not wanted.lower().startswith(REF_PREFIX):
            return None
        found = self._matches(wanted[len(REF_PREFIX) :])
        if not found:
            raise NotFound(f"No Orch-Mind user we are connected with shares {wanted[:200]!r} now.")
        if len(found) > 1:
            refs = ", ".join(REF_PREFIX + adapter.checksum[:SHORT_CHECKSUM_DIGITS] for adapter in found[:8])
            raise CatalogueError(f"{wanted[:200]!r} can mean {len(found)} files: {refs}.", "Name one of these.")
        return found[0]

    def _matches(self, name: str) -> list[UnsignedAdapter]:
        wanted = name.lower()
        named = [adapter for adapter in self.adapters if adapter.label.lower() == wanted]
        if named or len(wanted) < MIN_CHECKSUM_DIGITS:
            return named
        return [adapter for adapter in self.adapters if adapter.checksum.startswith(wanted)]
