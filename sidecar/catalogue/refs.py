"""What a REF means: `name`, `publisher/name`, or a prefix of an entry id in hex (docs/protocol/entry.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.errors import CatalogueError, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .entry import SignedEntry

MIN_PREFIX_DIGITS = 8
"""Shorter hex prefixes are refused: too likely to be a name, and cheap to make collide."""


class RefIndex:
    """Looks up REFs among some entries, of which each adapter's newest counts. Build it once for a whole listing."""

    def __init__(self, entries: Iterable[SignedEntry]) -> None:
        newest: dict[tuple[bytes, str], SignedEntry] = {}
        for entry in entries:
            key = (entry.publisher, entry.name.lower())
            if key not in newest or newest[key].version < entry.version:
                newest[key] = entry
        self._entries = list(newest.values())
        self._by_name: dict[str, list[SignedEntry]] = {}
        for entry in self._entries:
            self._by_name.setdefault(entry.name.lower(), []).append(entry)

    def resolve(self, ref: str) -> SignedEntry:
        """The entry a REF means.

        Raises:
            NotFound: Nothing matches.
            CatalogueError: More than one adapter matches; a bare name never picks one of two publishers (T10).
        """
        found = self._matches(ref.strip())
        if not found:
            raise NotFound(f"No room offers {ref[:200]!r}.")
        if len(found) > 1:
            refs = sorted(entry.ref for entry in found)
            raise CatalogueError(
                f"{ref[:200]!r} can mean {len(found)} adapters: {', '.join(refs[:8])}.",
                f"Name the publisher too, as in {refs[0]}.",
            )
        return found[0]

    def shortest(self, entry: SignedEntry) -> str:
        """The shortest text by which `resolve` finds exactly this entry."""
        for ref in (entry.name, entry.ref, f"{entry.publisher.hex()}/{entry.name}"):
            if [match.id for match in self._matches(ref)] == [entry.id]:
                return ref
        return entry.id.hex()

    def _matches(self, ref: str) -> list[SignedEntry]:
        publisher, slash, name = ref.lower().rpartition("/")
        named = self._by_name.get(name, [])
        if slash:
            return [entry for entry in named if _is_prefix(publisher) and entry.publisher.hex().startswith(publisher)]
        if not _is_prefix(name):
            return named
        return [entry for entry in self._entries if entry in named or entry.id.hex().startswith(name)]


def _is_prefix(text: str) -> bool:
    return len(text) >= MIN_PREFIX_DIGITS and all(digit in "0123456789abcdef" for digit in text)
