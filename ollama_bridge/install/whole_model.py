"""Installing a whole model from verified files, by pull: the layers keep their digests, so adapters for it fit.

`create` is no way for it: versions of Ollama rewrite a model that is given as a file (facts 2.1), and then it has another
digest than everybody else's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ollama_bridge.install.errors import NoRoute
from ollama_bridge.install.installer import Install, Installed
from ollama_bridge.install.plan import NewLayer, name_to_replace
from ollama_bridge.install.probe import choose_route
from ollama_bridge.manifest import MediaType, render_manifest

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from ollama_bridge.client import OllamaClient, ProgressCallback
    from ollama_bridge.digests import Digest
    from ollama_bridge.manifest import Layer
    from ollama_bridge.names import ModelName
    from ollama_bridge.registry import LoopbackRegistry
    from ollama_bridge.store import Store


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """A whole model; see `Plan`."""

    layers: tuple[NewLayer, ...]
    """In the order of the manifest."""
    config: NewLayer
    wanted: ModelName
    replaces: ModelName | None
    spare: ModelName | None

    @property
    def new_layers(self) -> tuple[NewLayer, ...]:
        """Small ones first: if the large one does not get through, little has to be taken back."""
        return tuple(sorted((*self.layers, self.config), key=lambda new: new.layer.size))

    @property
    def model_digest(self) -> Digest:
        """See `Plan`."""
        return next(new.layer.digest for new in self.layers if new.layer.media_type == MediaType.MODEL)

    @property
    def adapter_digests(self) -> tuple[Digest, ...]:
        """None."""
        return ()

    @property
    def expected_layers(self) -> tuple[Layer, ...]:
        """See `Plan`."""
        return tuple(new.layer for new in self.layers)

    @property
    def expected_config(self) -> Digest:
        """See `Plan`."""
        return self.config.layer.digest

    def render_manifest(self) -> bytes:
        """The layers as they were and a config made here. Nothing says where it came from, as nothing does after a pull."""
        return render_manifest(self.config.layer, self.expected_layers)

    def render_remnant(self, present: Collection[Digest]) -> bytes:
        """Any blob may stand for the config: nobody reads this model, it is deleted at once."""
        first, *others = [new.layer for new in self.new_layers if new.layer.digest in present]
        return render_manifest(first, others)


async def install_model(
    client: OllamaClient,
    registry: LoopbackRegistry,
    *,
    layers: Sequence[NewLayer],
    config: NewLayer,
    wanted: ModelName,
    force: bool = False,
    progress: ProgressCallback | None = None,
    store: Store | None = None,
) -> Installed:
    """Install a model under the wanted name. It is not loaded: whether it runs is a matter of memory, as with any pull.

    Args:
        layers: In the order of the manifest, exactly one of them a model layer. Bytes are checked on their way in.
        config: From `render_config`.
        force: Replace a model that has the wanted name.

    Raises:
        NoRoute: Ollama cannot be made to pull from us.
        NameTaken, InstallFailed: The store is as it was.
        OllamaUnavailable, OllamaRejected: As `install_adapter`.
    """
    route = await choose_route(client, registry)
    if route.kind != "pull":
        raise NoRoute(f"A whole model can only be installed by pull, which is not possible here: {route.reason}.")
    here = {model.name.folded: model.name for model in await client.tags()}
    replaces = name_to_replace(wanted, here, force=force)
    spare = next((name for name in here.values() if name != replaces), None)
    plan = ModelPlan(tuple(layers), config, replaces or wanted, replaces, spare)
    install = Install(client, registry, store, plan, "pull", progress or (lambda told: None))
    return await install.carry_out(probe_load=False)
