"""What is known of a pull before its file is here: policy, base, manifest; and then what its header says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from anyio import to_thread

from ollama_bridge.adapters.gguf import ADAPTER_LIMITS, read_gguf
from ollama_bridge.adapters.inspect_model import describe_model
from ollama_bridge.digests import Digest
from ollama_bridge.errors import AdapterFormatError
from ollama_bridge.install.plan import make_plan
from ollama_bridge.manifest import Layer, MediaType, render_manifest
from sidecar.bridge_errors import bridge_errors
from sidecar.control_types import GetOptions
from sidecar.errors import ClaimMismatch, InstallError
from sidecar.models.arrival import claimed_config, config_of, obtain_texts

from .header import read_header
from .pull import Plan

if TYPE_CHECKING:
    from ollama_bridge.client import OllamaClient
    from ollama_bridge.names import ModelName
    from ollama_bridge.registry import LoopbackRegistry
    from ollama_bridge.store import Store
    from sidecar.blobs import Blobs
    from sidecar.catalogue.entry import SignedEntry
    from sidecar.install import Installer

    from .pull import Pull


class Preparer:
    """See the module docstring."""

    def __init__(
        self,
        *,
        client: OllamaClient,
        store: Store | None,
        one_time: LoopbackRegistry,
        installer: Installer,
        blobs: Blobs,
    ) -> None:
        """
        Args:
            one_time: The registry of installs, by which a base's manifest is learnt where the store cannot be read.
        """
        self._client = client
        self._store = store
        self._one_time = one_time
        self._installer = installer
        self._blobs = blobs

    async def plan(self, entry: SignedEntry, name: ModelName) -> Plan:
        """What to answer.

        Raises:
            SidecarError: It must not be, or cannot be now.
        """
        self._installer.check_policy(entry, GetOptions())
        return await (self._plan_model if entry.entry.is_model else self._plan_adapter)(entry, name)

    async def check_header(self, pull: Pull) -> None:
        """Look at the header as soon as it is here.

        Raises:
            SidecarError: It is not what was signed, or does not fit.
            FollowEnded: It will not come.
        """
        entry = pull.entry
        try:
            if entry.entry.is_model:
                config_of(await read_header(pull.followed, describe_model), entry)
                return
            header = await read_header(pull.followed, lambda file: read_gguf(file, limits=ADAPTER_LIMITS))
        except AdapterFormatError as error:
            raise ClaimMismatch(f"The file of {entry.name} is not one that Ollama should be given: {error}") from error
        await self._installer.check_header(header, entry)

    async def _plan_adapter(self, entry: SignedEntry, name: ModelName) -> Plan:
        """The user's own base and one layer more."""
        base = await self._installer.base_for(entry)
        with bridge_errors():
            plan = await make_plan(
                self._client,
                self._one_time,
                self._store,
                adapter=Path(),  # Ollama fetches it itself
                digest=Digest.parse(entry.entry.blob.digest),
                size=entry.entry.blob.size,
                base=base,
                wanted=name,
                force=True,  # whoever pulls a name again wants it anew
            )
        if plan.base_manifest is None:
            raise InstallError(f"The layers of {base} cannot be read, so it cannot be extended.")
        return Plan(plan.wanted, plan.render_manifest(), plan.base.display)

    async def _plan_model(self, entry: SignedEntry, name: ModelName) -> Plan:
        """The layers that were signed, and a config made of what was signed about the weights (ADR 0012)."""
        await self._blobs.check_room(entry)
        _, texts = await obtain_texts(self._blobs, entry)
        small = {each.file.digest: await to_thread.run_sync(each.file.path.read_bytes) for each in texts}
        config = claimed_config(entry)
        small[Digest.of(config)] = config
        layers = [Layer(blob.media_type, Digest.parse(blob.digest), blob.size) for blob in entry.entry.blobs]
        with bridge_errors():
            spelled = await self._client.find(name) or name
        manifest = render_manifest(Layer(MediaType.CONFIG, Digest.of(config), len(config)), layers)
        return Plan(spelled, manifest, entry.entry.base.name, small)
