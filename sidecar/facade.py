"""`Sidecar`: the whole thing inside another program, without the control API and without signals.

    async with Sidecar(data_dir="data", ollama="http://127.0.0.1:11434") as sidecar:
        await sidecar.join_room(code)
        async with sidecar.events() as events:
            async for event in events:
                ...

The same parts as the daemon's, started and stopped by the same code. One data folder belongs to one daemon or one
`Sidecar` at a time. Everything happens in the event loop that entered it (asyncio, by anyio).
"""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, Self

from anyio import to_thread

from . import errors
from .config import Settings, load_settings
from .control_types import GetOptions, ShareOptions
from .daemon.lifecycle import run_parts
from .paths import DataLock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from types import TracebackType

    from .control import SidecarControl
    from .control_types import (
        AdapterRow,
        Diagnosis,
        DoctorLine,
        InstallResult,
        RegistryInfo,
        RoomInfo,
        StatusInfo,
        TransferInfo,
        UninstallResult,
    )
    from .events import Event
    from .parts import Parts

    Listener = Callable[[Event], None]

log = logging.getLogger(__name__)


class Sidecar:
    """See the module docstring. Every refusal is a `SidecarError` with a cause and a next step."""

    def __init__(self, settings: Settings | None = None, /, **changes: object) -> None:
        """
        Args:
            settings: All settings; else they are read as `ollaswarm up` reads them.
            changes: Settings by name, when `settings` is not given: `data_dir`, `ollama`, `store`, `listen`, `peers`…
        Raises:
            ConfigError: An unknown setting or an unusable value.
        """
        if settings is not None and changes:
            raise errors.ConfigError("Both a Settings object and single settings were given.", "Give one of them.")
        self.settings = settings or load_settings(changes)
        self._exits: contextlib.AsyncExitStack | None = None
        self._running: tuple[Parts, SidecarControl] | None = None
        self._listeners: dict[tuple[str, Listener], Callable[[], None]] = {}

    async def __aenter__(self) -> Self:
        """Start. Raises DaemonError when the data folder or the listening port is taken."""
        paths = self.settings.paths
        async with contextlib.AsyncExitStack() as exits:
            await to_thread.run_sync(paths.prepare)
            exits.enter_context(DataLock(paths))
            # Left by a daemon that crashed, it would send the command line, and our token, to a stranger's port.
            paths.daemon.unlink(missing_ok=True)
            self._running = await exits.enter_async_context(run_parts(self.settings))
            self._exits = exits.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Say goodbye to peers and stop, within five seconds."""
        exits, self._exits, self._listeners = self._exits, None, {}
        assert exits is not None, "entered before"
        try:
            await exits.__aexit__(kind, error, trace)
        finally:
            self._running = None

    @property
    def control(self) -> SidecarControl:
        """Every verb of the command line, as the API calls them."""
        return self._parts_and_control()[1]

    # --- rooms -------------------------------------------------------------------------------------------------------

    async def join_general_room(self, *, consent: bool, orch_mind: bool = False) -> RoomInfo:
        """Join the public room. Without `consent` it raises ConsentNeeded, whose cause says what to ask the user.

        Args:
            orch_mind: Speak with Orch-Mind's users there, too.
        """
        return await self.control.join_room("general", label=None, consent=consent, orch_mind=orch_mind)

    async def join_local_room(self) -> RoomInfo:
        """Join the room of the local network."""
        return await self.control.join_room("local", label=None, consent=True)

    async def create_room(self, label: str | None = None) -> RoomInfo:
        """Make a private room and join it. The answer is the only one that carries its `code`."""
        return await self.control.create_room(label)

    async def join_room(
        self, code: str, label: str | None = None, *, orch_mind: bool = False, consent: bool = False
    ) -> RoomInfo:
        """Join a private room by code or link, or a room of Orch-Mind's by its code. Raises RoomError for what is none.

        Args:
            orch_mind: The code is one of Orch-Mind's. Its rooms are not private: without `consent` it raises ConsentNeeded,
                whose cause says what to ask the user.
        """
        return await self.control.join_room(code, label=label, consent=consent, orch_mind=orch_mind)

    async def leave_room(self, room: str) -> RoomInfo:
        """Leave a room by label or id. Raises NotFound."""
        return await self.control.leave_room(room)

    # --- adapters ----------------------------------------------------------------------------------------------------

    async def share_adapter(self, what: str, room: str, options: ShareOptions | None = None) -> AdapterRow:
        """Sign and offer an adapter model, or the adapter file or PEFT folder of an absolute path."""
        return await self.control.share(what, room, options or ShareOptions())

    async def unshare_adapter(self, name: str, room: str | None = None) -> tuple[AdapterRow, ...]:
        """Withdraw what we share under a name, from one room or all. Raises NotFound."""
        return await self.control.unshare(name, room)

    async def shared_adapters(self) -> tuple[AdapterRow, ...]:
        """What we offer."""
        return await self.control.adapters(local=True)

    async def available_adapters(self, room: str | None = None, *, fits: bool = False) -> tuple[AdapterRow, ...]:
        """What others and we offer; with `fits`, only what is for a base model we have."""
        return await self.control.adapters(room=room, fits=fits)

    async def request_adapter(
        self,
        ref: str,
        options: GetOptions | None = None,
        *,
        progress: Callable[[TransferInfo], None] | None = None,
    ) -> InstallResult:
        """Fetch an adapter, verify it, and make it a model in Ollama; returns when it is one.

        Cancelling this cancels the transfer; what was verified is kept, and the next request goes on from there.

        Args:
            ref: Name, publisher/name, or unique prefix of an entry digest.
            options: Name of the model, whether to install at all, and so on.
            progress: Told the state of the transfer as it changes, about ten times a second.
        Raises:
            SidecarError: What the command line would say, as the class it belongs to (`BaseModelMissing`,
                `ChunkMismatch`, …).
        """
        control = self.control
        async with control.events() as events:
            info = await control.get(ref, options or GetOptions())
            try:
                async for numbered in events:
                    if getattr(numbered.event, "transfer", None) != info.id:
                        continue
                    now = await control.transfer(info.id)
                    if progress is not None:
                        progress(now)
                    if now.result is not None:
                        return now.result
                    if now.error is not None:
                        raise errors.as_error(now.error)
            except BaseException:
                await control.cancel(info.id)  # does not wait; nothing if the transfer itself has ended
                raise
        raise AssertionError("events end only with the sidecar")

    async def uninstall_adapter(self, name: str) -> UninstallResult:
        """Remove a model that `request_adapter` installed, and nothing else."""
        return await self.control.uninstall(name)

    async def registry(self, *, entries: bool = False) -> RegistryInfo:
        """The registry for `ollama pull`: whether it is on, its secret, and with `entries` what can be pulled."""
        return await self.control.registry(entries=entries)

    async def set_registry(self, *, on: bool, new_secret: bool = False) -> RegistryInfo:
        """Switch it on or off, for good; off until then."""
        return await self.control.set_registry(on=on, new_secret=new_secret)

    # --- state and events --------------------------------------------------------------------------------------------

    async def status(self) -> StatusInfo:
        """The whole sidecar on one page."""
        return await self.control.status()

    async def validate_system(self) -> tuple[DoctorLine, ...]:
        """Every check of `ollaswarm doctor`."""
        return await self.control.doctor()

    async def diagnose_room(self, room: str) -> Diagnosis:
        """Why a room has no peers. Raises NotFound."""
        return await self.control.diagnose_room(room)

    async def diagnose_peer(self, peer: str, *, dial: bool = False) -> Diagnosis:
        """Why a peer (key, prefix or pinned name) is not reachable; `dial` tries it now, up to a minute. Raises NotFound."""
        return await self.control.diagnose_peer(peer, dial=dial)

    def on(self, name: str, listener: Listener) -> None:
        """Call `listener` with every event of a name (`entry:added`, …; `*` is all), at once and in the event loop."""
        parts, _ = self._parts_and_control()
        self.off(name, listener)

        def heard(event: Event) -> None:
            if name not in ("*", event.name):
                return
            try:
                listener(event)
            except Exception:  # a listener's fault must not stop what was happening
                log.exception("a listener of %s failed", event.name)

        self._listeners[name, listener] = parts.bus.listen(heard)

    def off(self, name: str, listener: Listener) -> None:
        """End what `on` began; nothing if it did not."""
        if (end := self._listeners.pop((name, listener), None)) is not None:
            end()

    @contextlib.asynccontextmanager
    async def events(self) -> AsyncIterator[AsyncIterator[Event]]:
        """All events from entering the block on; see `sidecar.events`."""
        async with self.control.events() as numbered:
            yield (each.event async for each in numbered)

    def _parts_and_control(self) -> tuple[Parts, SidecarControl]:
        if self._running is None:
            raise errors.DaemonError(
                "The sidecar does not run.", "Use it inside `async with Sidecar(...) as sidecar:`."
            )
        return self._running
