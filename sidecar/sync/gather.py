"""Collects the facts for a plan from the parts of a running daemon."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from anyio.lowlevel import checkpoint

from ollama_bridge.digests import Digest
from ollama_bridge.errors import OllamaBridgeError
from ollama_bridge.install.probe import SAFE_VERSION, parse_version
from sidecar.catalogue.rows import Standing
from sidecar.trust.policy import may_install

from .facts import AdapterFact, Facts, OfferFact
from .rules import full_name, wants_offer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Mapping

    from ollama_bridge.client import OllamaClient
    from sidecar.catalogue.catalogue import Catalogue
    from sidecar.catalogue.entry import SignedEntry
    from sidecar.catalogue.journal import Journal
    from sidecar.catalogue.journal_thread import JournalThread
    from sidecar.catalogue.rows import InstallRow, RuleRow, SyncedRow
    from sidecar.config import DailyWindow
    from sidecar.local_models import LocalModel, LocalModels
    from sidecar.publish import Publisher
    from sidecar.rooms.network import RoomNetwork
    from sidecar.trust.keyring import Keyring
    from sidecar.trust.policy import Enforcement

    from .facts import Delay, Version

ENTRIES_AT_ONCE = 200
"""Looked at between two looks at everything else; a room can hold 50,000, and peers must not wait for all of them."""


class Gatherer:
    """Knows where each fact is."""

    def __init__(
        self,
        *,
        client: OllamaClient,
        local: LocalModels,
        catalogue: Catalogue,
        journal: JournalThread,
        keyring: Keyring,
        network: RoomNetwork,
        publisher: Publisher,
        own_key: bytes,
        enforcement: Callable[[SignedEntry], Enforcement],
        quota_bytes: int,
        window: DailyWindow | None,
        wall_clock: Callable[[], float],
    ) -> None:
        self._client = client
        self._local = local
        self._catalogue = catalogue
        self._journal = journal
        self._keyring = keyring
        self._network = network
        self._publisher = publisher
        self._own_key = own_key
        self._enforcement = enforcement
        self._quota_bytes = quota_bytes
        self._window = window
        self._wall_clock = wall_clock

    async def facts(
        self,
        *,
        running: Mapping[Version, tuple[str, int]],
        delays: Mapping[bytes, Delay],
        adapters: Iterable[LocalModel] | None = None,
        whatever_the_hour: bool = False,
        with_offers: bool = True,
    ) -> Facts:
        """Everything as it is now.

        Args:
            adapters: The adapters that share rules are asked about; None: all of the store, but not those that came from
                a peer. One that is named here is refused with an event when it is shared, so that its owner learns why.
            whatever_the_hour: Leave the schedule out.
            with_offers: Otherwise what rooms offer is left out, for who asks only about what is here already.
        """

        def read(journal: Journal) -> tuple[list[RuleRow], list[SyncedRow], list[InstallRow]]:
            return journal.rules(), journal.synced(), journal.installs()

        rules, synced, installs = await self._journal.run(read)
        fetches = [rule for rule in rules if rule.direction == "fetch"]
        shares = any(rule.direction == "share" for rule in rules)
        obstacle, models = await self._ollama() if fetches or synced else ("", {})
        bases = {
            full_name(model.name): str(model.base)
            for model in self._local.models.values()
            if model.base is not None and not model.adapters
        }
        now = self._wall_clock()
        asking = fetches if with_offers else []
        offers = tuple([offer async for offer in self._offers(asking, bases, now)])
        wants_models = any(rule.direction == "share" and rule.models for rule in rules)
        own = self._own_models(installs, whole=wants_models) if adapters is None else adapters
        return Facts(
            now=now,
            rules=tuple(rules),
            labels={room_id: room.label for room_id, room in self._network.rooms.items()},
            offers=offers,
            adapters=tuple([AdapterFact(model, self._publisher.settled_in(model)) for model in own] if shares else []),
            synced=tuple(synced),
            installs=tuple(installs),
            models=models,
            bases=bases,
            quota_bytes=self._quota_bytes,
            running=dict(running),
            delays=dict(delays),
            opens_at=None if whatever_the_hour else self._opens_at(now),
            obstacle=obstacle,
        )

    async def _ollama(self) -> tuple[str, dict[str, str]]:
        """Why nothing can be installed now, and the models that are there."""
        try:
            version = self._local.ollama_version or await self._client.version()
            listed = await self._client.tags()
        except OllamaBridgeError as error:
            return str(error), {}
        models = {full_name(model.name): f"sha256:{model.manifest_digest}" for model in listed}
        number = parse_version(version)
        if number is not None and number < SAFE_VERSION:
            oldest = ".".join(map(str, SAFE_VERSION))
            return f"Ollama {version} reads hostile files unsafely; auto-sync installs from {oldest} on.", models
        return "", models

    async def _offers(self, rules: list[RuleRow], bases: Mapping[str, str], now: float) -> AsyncIterator[OfferFact]:
        """Entries of others that some rule is about. Rooms can hold 50,000, so rules are asked first."""
        for room_id in {rule.room_id for rule in rules} & set(self._catalogue.rooms()):
            asking = [rule for rule in rules if rule.room_id == room_id]
            for number, entry in enumerate(self._catalogue.entries(room_id), 1):
                if number % ENTRIES_AT_ONCE == 0:
                    await checkpoint()
                if entry.publisher != self._own_key and any(wants_offer(rule, entry, bases) for rule in asking):
                    standing = self._keyring.standing(entry.publisher)
                    if standing is not Standing.BLOCKED:
                        yield self._offer(room_id, entry, standing, now)

    def _offer(self, room_id: bytes, entry: SignedEntry, standing: Standing, now: float) -> OfferFact:
        decision = may_install(entry, standing, own=False, enforcement=self._enforcement(entry), now=now)
        digest = Digest.parse(entry.entry.blob.digest)
        is_here = bool(self._local.bases(digest)) if entry.entry.is_model else self._local.holds_adapter(digest)
        sources = self._network.sources(entry)
        return OfferFact(room_id, entry, standing is Standing.TRUSTED, decision, sources, is_here)

    def _own_models(self, installs: list[InstallRow], *, whole: bool) -> list[LocalModel]:
        """Adapters of the store that did not come from a peer, and whole models if they are asked for."""
        foreign = {row.digest for row in installs if row.publisher != self._own_key}
        adapters = [each for each in self._local.adapters if not foreign & {str(digest) for digest in each.adapters}]
        plain = self._local.plain if whole else []
        return adapters + [model for model in plain if str(model.base) not in foreign]

    def _opens_at(self, now: float) -> float | None:
        if self._window is None:
            return None
        local = time.localtime(now)
        minutes = self._window.opens_in(local.tm_hour * 60 + local.tm_min)
        return None if minutes == 0 else now + minutes * 60 - local.tm_sec
