"""Installing verified files as an Ollama model: all or nothing.

Order, and what makes it safe to stop anywhere:
1. names and base are checked, a route is chosen: nothing written
2. the blobs are uploaded: unreferenced, harmless
3. the model is made under a one-time name, read back, and loaded once
4. only then it is copied to the wanted name; what stood there was copied aside before
5. one-time name and backup are deleted
We never write into Ollama's store ourselves: its API does the bookkeeping.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from ollama_bridge.client import Progress
from ollama_bridge.digests import Digest, hash_file
from ollama_bridge.errors import BlobMissing, OllamaBridgeError, OllamaRejected
from ollama_bridge.install import create_route, pull_route
from ollama_bridge.install.errors import InstallFailed, NameTaken, NoRoute
from ollama_bridge.install.plan import InstallPlan, NewLayer, Plan, make_plan
from ollama_bridge.install.probe import Route, RouteKind, choose_route
from ollama_bridge.install.recover import delete_if_there
from ollama_bridge.install.rollback import Attempt, roll_back
from ollama_bridge.install.verify import verify_model
from ollama_bridge.registry.one_time import backup_name

if TYPE_CHECKING:
    from pathlib import Path

    from ollama_bridge.client import OllamaClient, ProgressCallback
    from ollama_bridge.names import ModelName
    from ollama_bridge.registry import LoopbackRegistry
    from ollama_bridge.store import Store

BLOB_VANISHED = ("no such file", "cannot find the file", "unknown type")  # facts 3.1: how create says so; Windows too


@dataclass(frozen=True, slots=True)
class Installed:
    """A model that Ollama now serves."""

    name: ModelName
    route: RouteKind
    manifest_digest: Digest | None
    """As `/api/tags` shows it; None if Ollama did not list it. Keep it: `uninstall` compares."""


async def install_adapter(
    client: OllamaClient,
    registry: LoopbackRegistry | None,
    *,
    adapter: Path,
    digest: Digest,
    size: int,
    base: ModelName,
    wanted: ModelName,
    force: bool = False,
    probe_load: bool = True,
    progress: ProgressCallback | None = None,
    store: Store | None = None,
) -> Installed:
    """Install an adapter on a base model under the wanted name.

    Args:
        client: The Ollama to install into.
        registry: Ours, running; None leaves only the create route.
        adapter: The file. Its bytes are checked against `digest` on their way into Ollama.
        digest: SHA-256 of the file.
        size: Bytes of the file.
        base: A model in that Ollama; case is ignored.
        wanted: The name to install as.
        force: Replace a model that has the wanted name.
        probe_load: Load the model once before it gets its name (facts 4.3): the only proof that llama.cpp takes it.
        progress: Told each step, and bytes while uploading.
        store: That Ollama's store, where we can read it.

    Raises:
        InstallFailed: And its kinds; the store is as it was.
        OllamaUnavailable, OllamaRejected: Ollama went away or refused; the store is as it was, or will be after
            `recover` if Ollama does not come back in time.
    """
    say = progress or _say_nothing
    route = await choose_route(client, registry)
    # Only a registry that Ollama reaches can be pushed to, should the base's manifest have to be learnt that way.
    reached = registry if route.kind == "pull" else None
    plan = await make_plan(
        client, reached, store, adapter=adapter, digest=digest, size=size, base=base, wanted=wanted, force=force
    )
    install = Install(client, registry, store, plan, _usable(route, plan), say)
    return await install.carry_out(probe_load=probe_load)


class Install:
    """One install under way."""

    def __init__(
        self,
        client: OllamaClient,
        registry: LoopbackRegistry | None,
        store: Store | None,
        plan: Plan,
        route: RouteKind,
        say: ProgressCallback,
    ) -> None:
        self.route = route
        self.attempt = Attempt(plan)
        self._client = client
        self._registry = registry
        self._store = store
        self._plan = plan
        self._say = say

    async def carry_out(self, *, probe_load: bool) -> Installed:
        """All of it, or nothing."""
        try:
            await self.prepare(probe_load=probe_load)
            await self.commit()
        except BaseException:
            await roll_back(self._client, self.attempt, self.make_again)
            raise
        # The model stands. Who cancels now gets the result, not an exception about something that happened.
        with anyio.CancelScope(shield=True):
            await self.clean_up()
            manifest_digest = await _manifest_digest(self._client, self._plan.wanted)
        self._say(Progress("installed"))
        return Installed(self._plan.wanted, self.route, manifest_digest)

    async def prepare(self, *, probe_load: bool) -> None:
        """Everything up to a checked model under a one-time name."""
        await self._ensure_blobs()
        self._say(Progress(f"installing by {self.route}"))
        try:
            name = await self.make_model()
        except OllamaRejected as error:
            if not any(sign in error.message for sign in BLOB_VANISHED):
                raise
            await self._ensure_blobs()  # pruned between upload and use (facts 1.5)
            name = await self.make_model()
        self._made = name
        self._say(Progress("checking the result"))
        await verify_model(self._client, self._store, self._plan, name)
        if probe_load:
            self._say(Progress("loading it once"))
            await self._probe_load(name)

    async def make_model(self) -> ModelName:
        """Make the model under a new one-time name, noted in the attempt."""
        announce = self.attempt.one_time.append
        if self.route == "pull":
            assert self._registry is not None
            return await pull_route.make_model(
                self._client, self._registry, self._plan, announce=announce, progress=self._say
            )
        assert isinstance(self._plan, InstallPlan)
        return await create_route.make_model(self._client, self._plan, announce=announce, progress=self._say)

    async def make_again(self, present: list[Digest]) -> None:
        """Make a model of what was uploaded, to be deleted with it."""
        if self.route == "create":
            await self.make_model()
            return
        assert self._registry is not None
        announce = self.attempt.one_time.append
        await pull_route.make_remnant(self._client, self._registry, self._plan, present, announce=announce)

    async def commit(self) -> None:
        """Give the model its name. Not interruptible: a copy takes milliseconds, half of one would be a broken model."""
        plan, client = self._plan, self._client
        with anyio.CancelScope(shield=True):
            if plan.replaces is None and await client.find(plan.wanted) is not None:
                raise NameTaken(f"A model named {plan.wanted} appeared meanwhile. Choose another name with --as.")
            if plan.replaces is not None:
                backup = backup_name(plan.replaces)
                self.attempt.one_time.append(backup)
                await client.copy(plan.replaces, backup)
                self.attempt.backup = backup
            self.attempt.committing = True
            await client.copy(self._made, plan.wanted)
            await verify_model(client, self._store, plan, plan.wanted)

    async def clean_up(self) -> None:
        """Remove the helpers. The install stands even if this fails: `recover` does it then."""
        for name in self.attempt.one_time:
            try:
                await delete_if_there(self._client, name)
            except OllamaBridgeError:
                self._say(Progress("a temporary name stays until the next start"))

    async def _ensure_blobs(self) -> None:
        for new in self._plan.new_layers:
            await self._ensure_blob(new)

    async def _ensure_blob(self, new: NewLayer) -> None:
        digest, size = new.layer.digest, new.layer.size
        if await self._client.has_blob(digest):
            await self._check_existing(new)
            return
        self.attempt.uploaded.append(digest)

        def report(sent: int) -> None:
            self._say(Progress("uploading to Ollama", str(digest), size, sent))

        await self._client.push_blob(digest, new.path, size, report)

    async def _check_existing(self, new: NewLayer) -> None:
        """Ollama never looks again at a blob it has (facts 1.4), so we do, where we can."""
        digest = new.layer.digest
        if self._store is None or new.path == self._store.blob_path(digest):
            return  # in the second case the file we were given, verified, is this very one
        try:
            file = self._store.open_blob(digest)
        except BlobMissing:
            return  # another server's store; then the load probe has to do
        with file:
            found = await anyio.to_thread.run_sync(hash_file, file)
        if found != digest:
            raise InstallFailed(
                f"Ollama's own copy of blob {digest.short} is damaged and it will not take another while that is there. "
                f"Delete the file {digest.file_name} from the blobs folder of its store, then try again."
            )

    async def _probe_load(self, name: ModelName) -> None:
        try:
            await self._client.load(name)
        except OllamaRejected as error:
            raise InstallFailed(
                f"Ollama cannot load the base with this adapter ({error.message}), so nothing was installed. "
                "Ollama's log has the reason; an adapter for another base is the usual one."
            ) from None


def _usable(route: Route, plan: InstallPlan) -> RouteKind:
    if route.kind is None:
        raise NoRoute(route.reason)
    if route.kind == "pull" and plan.base_manifest is None:
        raise NoRoute(f"The layers of {plan.base} cannot be read. Give the store with --store.")
    return route.kind


def _say_nothing(progress: Progress) -> None:
    pass


async def _manifest_digest(client: OllamaClient, name: ModelName) -> Digest | None:
    try:
        listed = {model.name.folded: model.manifest_digest for model in await client.tags()}
        return Digest(listed[name.folded])
    except (OllamaBridgeError, KeyError):
        return None  # a comfort for uninstall; the install itself is done
