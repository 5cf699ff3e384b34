"""Publishers by key: when first seen, what the user decided, and which name was pinned to which key."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from sidecar.catalogue.rows import FollowedListRow, PublisherRow, Standing
from sidecar.errors import NotFound, NotTrusted

if TYPE_CHECKING:
    from collections.abc import Iterable

MIN_PREFIX_DIGITS = 8
"""Trusting or blocking by fewer hex digits could hit a key somebody made to look alike."""


class PublisherStore(Protocol):
    """Where decisions are kept; the journal is one."""

    def publishers(self) -> list[PublisherRow]: ...

    def save_publisher(self, row: PublisherRow) -> None: ...

    def followed_lists(self) -> list[FollowedListRow]: ...

    def save_followed_list(self, row: FollowedListRow) -> None: ...

    def remove_followed_list(self, key: bytes) -> None: ...


class Keyring:
    """What we know of publishers. Changes are saved before they count, so a crash never forgets a block."""

    def __init__(self, store: PublisherStore) -> None:
        self._store = store
        self._rows = {row.key: row for row in store.publishers()}
        self._lists = {row.key: row for row in store.followed_lists()}

    def see(self, key: bytes, now: float) -> PublisherRow:
        """The row of a publisher, made at first sight (trust on first use: seen is not trusted)."""
        row = self._rows.get(key)
        return row if row is not None else self._save(PublisherRow(key, first_seen=now))

    def standing(self, key: bytes) -> Standing:
        """What the user decided about a key, else what the block lists say that the user follows."""
        row = self._rows.get(key)
        if row is not None and row.standing is not Standing.UNKNOWN:
            return row.standing
        is_listed = any(key in each.blocked for each in self._lists.values())
        return Standing.BLOCKED if is_listed else Standing.UNKNOWN

    def lists(self) -> tuple[FollowedListRow, ...]:
        """The block lists the user follows."""
        return tuple(self._lists.values())

    def follow(self, key: bytes) -> FollowedListRow:
        """Subscribe to a publisher's block list; it says nothing until it is taken in."""
        return self._lists.get(key) or self._save_list(FollowedListRow(key))

    def unfollow(self, key: bytes) -> None:
        """Unsubscribe. Raises NotFound."""
        if key not in self._lists:
            raise NotFound(f"The block list of {key.hex()[:12]} is not followed.")
        self._store.remove_followed_list(key)
        del self._lists[key]

    def take_list(self, key: bytes, version: int, blocked: Iterable[bytes]) -> bool:
        """What a followed list says now; False for one that is not followed or no newer (T15)."""
        row = self._lists.get(key)
        if row is None or row.version >= version:
            return False
        self._save_list(FollowedListRow(key, version, frozenset(blocked) - {key}))
        return True

    def _save_list(self, row: FollowedListRow) -> FollowedListRow:
        self._store.save_followed_list(row)
        self._lists[row.key] = row
        return row

    def label(self, key: bytes) -> str | None:
        """The name pinned to a key."""
        row = self._rows.get(key)
        return None if row is None else row.label

    def trust(self, key: bytes, now: float) -> PublisherRow:
        """Trust a publisher, blocked or not before."""
        return self._save(replace(self.see(key, now), standing=Standing.TRUSTED))

    def block(self, key: bytes, now: float) -> PublisherRow:
        """Block a publisher. Its label stays pinned, so nobody else can take it over."""
        return self._save(replace(self.see(key, now), standing=Standing.BLOCKED))

    def forget_decision(self, key: bytes, now: float) -> PublisherRow:
        """Neither trusted nor blocked by the user any more; a list that is followed may still block it."""
        return self._save(replace(self.see(key, now), standing=Standing.UNKNOWN))

    def pin(self, label: str, key: bytes, now: float) -> PublisherRow:
        """Tie a name people use to a key, at first use.

        Raises:
            NotTrusted: The name belongs to another key. Never solved quietly: whoever shows up under a known name with
                a new key is a stranger until the user says otherwise (T14).
        """
        holder = next((row for row in self._rows.values() if row.label == label), None)
        if holder is not None and holder.key != key:
            raise NotTrusted(
                f"{label!r} is pinned to the key {holder.key.hex()[:12]}, but this is {key.hex()[:12]}.",
                "Ask that person over another channel whether the key changed. If so, block the old key, and trust the new one "
                "with --as and --replace.",
            )
        return self._save(replace(self.see(key, now), label=label))

    def unpin(self, label: str) -> None:
        """Free a pinned name. Raises NotFound."""
        holder = next((row for row in self._rows.values() if row.label == label), None)
        if holder is None:
            raise NotFound(f"No publisher is pinned as {label!r}.")
        self._save(replace(holder, label=None))

    def find(self, text: str, others: Iterable[bytes] = ()) -> bytes:
        """The key meant by 64 hex digits, a unique prefix of at least 8 of a known key, or a pinned name.

        Args:
            others: Keys that may be meant although they were never saved, such as those of connected peers.
        Raises:
            NotFound: No or more than one key matches.
        """
        wanted = text.strip()
        pinned = [row.key for row in self._rows.values() if row.label == wanted]
        digits = wanted.lower()
        is_hex = len(digits) >= MIN_PREFIX_DIGITS and all(digit in "0123456789abcdef" for digit in digits)
        if not pinned and is_hex and len(digits) == 64:
            return bytes.fromhex(digits)
        matches = pinned or [key for key in {*self._rows, *others} if is_hex and key.hex().startswith(digits)]
        if len(matches) != 1:
            found = "more than one publisher" if matches else "no publisher"
            raise NotFound(
                f"{wanted[:80]!r} names {found}.",
                "Give the whole key, or at least 8 digits of a known one; `ollaswarm adapters` and `ollaswarm peers` show them.",
            )
        return matches[0]

    def rows(self) -> tuple[PublisherRow, ...]:
        """All publishers ever seen or decided about, earliest first."""
        return tuple(sorted(self._rows.values(), key=lambda row: (row.first_seen, row.key)))

    def _save(self, row: PublisherRow) -> PublisherRow:
        self._store.save_publisher(row)
        self._rows[row.key] = row
        return row
