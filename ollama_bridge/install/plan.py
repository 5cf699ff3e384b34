"""What is going to be installed, and what the result must look like."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from ollama_bridge.errors import StoreError
from ollama_bridge.install.errors import BaseMissing, InstallFailed, NameTaken, NoRoute
from ollama_bridge.manifest import Layer, Manifest, MediaType, render_manifest
from ollama_bridge.registry import learn_manifest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from ollama_bridge.client import OllamaClient
    from ollama_bridge.digests import Digest
    from ollama_bridge.names import ModelName
    from ollama_bridge.registry import LoopbackRegistry
    from ollama_bridge.store import Store


@dataclass(frozen=True, slots=True)
class NewLayer:
    """A layer that Ollama may not have yet, and the verified file it can have it from."""

    layer: Layer
    path: Path


class Plan(Protocol):
    """What every install has decided before the first change."""

    @property
    def wanted(self) -> ModelName: ...

    @property
    def replaces(self) -> ModelName | None:
        """The model that stands under the wanted name, as the store spells it."""

    @property
    def new_layers(self) -> tuple[NewLayer, ...]:
        """In the order of their upload."""

    @property
    def model_digest(self) -> Digest:
        """Of the model layer of the result."""

    @property
    def adapter_digests(self) -> tuple[Digest, ...]:
        """Of the adapter layers of the result."""

    @property
    def expected_layers(self) -> tuple[Layer, ...] | None:
        """All layers of the result; None if those of its base are not known."""

    @property
    def expected_config(self) -> Digest | None:
        """Of the config of the result; None where Ollama makes one of its own."""

    @property
    def spare(self) -> ModelName | None:
        """A whole model, to be copied over a manifest that is cut, so that Ollama deletes it."""

    def render_manifest(self) -> bytes:
        """The manifest to install."""

    def render_remnant(self, present: Collection[Digest]) -> bytes:
        """A manifest of blobs that are in the store: deleting it is the only way to get an uploaded blob out again."""


@dataclass(frozen=True, slots=True)
class InstallPlan:
    """An adapter on a base of the user's."""

    adapter: Path
    layer: Layer
    """The one layer that is new."""
    base: ModelName
    """As the store spells it: `create` matches `from` by exact case."""
    base_digest: Digest
    """Of the base's model layer."""
    base_manifest: Manifest | None
    """None if it can be read neither from the store nor by a push; then only the create route is left."""
    wanted: ModelName
    replaces: ModelName | None
    """The model that stands under the wanted name, as the store spells it."""

    @property
    def new_layers(self) -> tuple[NewLayer, ...]:
        """The adapter."""
        return (NewLayer(self.layer, self.adapter),)

    @property
    def model_digest(self) -> Digest:
        """See `Plan`."""
        return self.base_digest

    @property
    def adapter_digests(self) -> tuple[Digest, ...]:
        """See `Plan`."""
        return (self.layer.digest,)

    @property
    def expected_config(self) -> Digest | None:
        """None: `create` makes a new one."""
        return None

    @property
    def spare(self) -> ModelName | None:
        """See `Plan`."""
        return self.base

    @property
    def expected_layers(self) -> tuple[Layer, ...] | None:
        """The base's layers and the adapter. None if the base's are not known."""
        return None if self.base_manifest is None else (*self.base_manifest.layers, self.layer)

    def render_manifest(self) -> bytes:
        """The manifest to install, built from the user's own base; nothing of it comes from a peer (T4).

        The base's config is reused as it is, so the adapter is the only new blob. `from` on the model layer names the
        base, as `create` would write it.

        Raises:
            NoRoute: The base's manifest is not known.
        """
        if self.base_manifest is None or self.base_manifest.config is None:
            raise NoRoute(f"The layers of {self.base} cannot be read, so its manifest cannot be extended.")
        layers = [
            replace(layer, from_=self.base.display) if layer.media_type == MediaType.MODEL else layer
            for layer in self.base_manifest.layers
        ]
        return render_manifest(self.base_manifest.config, [*layers, self.layer])

    def render_remnant(self, present: Collection[Digest]) -> bytes:
        """The same: the base is there anyway."""
        return self.render_manifest()


async def make_plan(
    client: OllamaClient,
    registry: LoopbackRegistry | None,
    store: Store | None,
    *,
    adapter: Path,
    digest: Digest,
    size: int,
    base: ModelName,
    wanted: ModelName,
    force: bool,
) -> InstallPlan:
    """Check names and the base; change nothing.

    Raises:
        BaseMissing: No such base here, or one that cannot carry an adapter.
        NameTaken: The wanted name is in use and `force` is off, or it is the base's own.
        InstallFailed: The wanted name cannot be used.
    """
    here = {model.name.folded: model.name for model in await client.tags()}
    base_here = here.get(base.folded)
    if base_here is None:
        raise BaseMissing(f"The base model {base} is not in this Ollama. Get it with: ollama pull {base}")
    if wanted.folded == base.folded:
        raise NameTaken(f"{wanted} is the base model itself. Choose another name with --as.")
    replaces = name_to_replace(wanted, here, force=force)
    shown = await client.show(base_here)
    if not shown.model_blobs:
        raise BaseMissing(f"{base_here} has no model file of its own, so an adapter cannot be added to it.")
    if shown.adapter_blobs:
        raise BaseMissing(f"{base_here} carries an adapter already. Install on the model it was made from.")
    manifest = await _read_manifest(client, registry, store, base_here)
    if manifest is not None:
        _check_base(manifest, base_here, shown.model_blobs[0])
    return InstallPlan(
        adapter=adapter,
        layer=Layer(MediaType.ADAPTER, digest, size),
        base=base_here,
        base_digest=shown.model_blobs[0],
        base_manifest=manifest,
        wanted=replaces or wanted,
        replaces=replaces,
    )


def name_to_replace(wanted: ModelName, here: Mapping[tuple[str, ...], ModelName], *, force: bool) -> ModelName | None:
    """The model that stands under a wanted name, if any.

    Args:
        here: The models there are, by folded name.

    Raises:
        NameTaken: There is one, and `force` is off.
        InstallFailed: The name cannot be used.
    """
    if wanted.has_reserved_tag:
        raise InstallFailed(f"Ollama gives the tag {wanted.tag!r} a meaning of its own. Choose another with --as.")
    replaces = here.get(wanted.folded)
    if replaces is not None and not force:
        raise NameTaken(f"A model named {replaces} exists. Choose another name with --as, or replace it with --force.")
    return replaces


async def _read_manifest(
    client: OllamaClient, registry: LoopbackRegistry | None, store: Store | None, name: ModelName
) -> Manifest | None:
    if store is not None:
        try:
            return store.read_manifest(name)
        except StoreError:
            pass  # not this server's store, or not readable: ask the server itself
    if registry is None or registry.unavailable:
        return None
    return await learn_manifest(client, registry, name)


def _check_base(manifest: Manifest, name: ModelName, model_digest: Digest) -> None:
    if manifest.has_tensor_layers:
        raise BaseMissing(f"{name} is a safetensors (MLX) model; Ollama applies no adapters to those. Use a GGUF base.")
    if manifest.model_layer is None or manifest.config is None or manifest.model_layer.digest != model_digest:
        raise BaseMissing(f"The store and Ollama disagree about {name}. Is this the store of that Ollama? See doctor.")
