"""The registry's life: on or off as the user said, on its port if that is free, and what `ollaswarm registry` shows."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from ollama_bridge.digests import Digest
from ollama_bridge.loopback_http import HttpServer
from ollama_bridge.room_names import new_secret
from sidecar.control_types import RegistryInfo, RegistryRow

from .naming import LATEST
from .state import load_state, save_state

if TYPE_CHECKING:
    from pathlib import Path

    from ollama_bridge.loopback_http import Handler
    from sidecar.catalogue.entry import SignedEntry
    from sidecar.local_models import LocalModels

    from .naming import RoomNames
    from .pulls import Pulls

HOST = "127.0.0.1"
WINDOWS_HOST, WINDOWS_PORT = "127.0.0.2", 80
"""Ollama on Windows takes no port in a name (facts 1.6), and port 80 of 127.0.0.1 is the registry's for installs."""
RETRY_S = 15.0
"""Between tries to get a port that somebody else has."""

log = logging.getLogger(__name__)


class RegistryService:
    """See the module docstring."""

    def __init__(
        self,
        *,
        path: Path,
        port: int,
        local: LocalModels,
        platform: str = sys.platform,
    ) -> None:
        """
        Args:
            path: Where the choice and the secret are kept.
            port: 0 lets the system choose.
        """
        self._path = path
        self._local = local
        self._portless = platform == "win32"
        self._address = (WINDOWS_HOST, WINDOWS_PORT) if self._portless else (HOST, port)
        self._state = load_state(path)
        self._cause = ""
        self._listening = False
        self._wanted = anyio.Event()
        """Set when what is wanted changed."""
        self._reached = anyio.Event()
        """Set when what was wanted is so, or cannot be."""

    def serve(self, names: RoomNames, pulls: Pulls, handler: Handler) -> None:
        """Say what answers; once, before `run`. They ask this object for secret and choices, so they come after it."""
        self._names, self._pulls, self._handler = names, pulls, handler

    # --- what the answers depend on ------------------------------------------------------------------------------------

    def secret(self) -> str:
        """The path segment."""
        return self._state.secret

    def takes_pushes(self) -> bool:
        """Whether `ollama push` shares."""
        return self._state.push

    def offers_models(self) -> bool:
        """Whether whole models can be pulled."""
        return self._state.models

    def host(self) -> str:
        """Our address as part of a model name."""
        host, port = self._address
        return host if self._portless else f"{host}:{port}"

    def authorities(self) -> frozenset[str]:
        """What the `Host` header of a request may be."""
        host, port = self._address
        return frozenset({f"{host}:{port}", self.host()})

    # --- life ----------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Listen while the user wants it, until cancelled."""
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._pulls.run)
            await self._follow_wish()

    async def _follow_wish(self) -> None:
        while True:
            wanted = self._wanted
            if self._state.on:
                await self._listen(wanted)
            else:
                self._pulls.end()
                self._tell("")
                await wanted.wait()

    async def _listen(self, wanted: anyio.Event) -> None:
        host, port = self._address
        try:
            async with HttpServer(self._handler, host=host, port=port) as server:
                self._address = host, server.port
                self._listening = True
                self._tell("")
                await wanted.wait()
        except OSError as error:
            self._tell(f"Port {port} of {host} cannot be used: {error.strerror or error}.")
            log.warning("the registry is switched on, but: %s", self._cause)
            with anyio.move_on_after(RETRY_S):
                await wanted.wait()
        finally:
            self._listening = False

    def _tell(self, cause: str) -> None:
        self._cause = cause
        self._reached.set()

    # --- verbs ---------------------------------------------------------------------------------------------------------

    async def switch(
        self, *, on: bool, new_secret_wanted: bool, push: bool | None, models: bool | None
    ) -> RegistryInfo:
        """Do what the user wants; returns when it is so, or says in `cause` why it cannot be."""
        secret = new_secret() if new_secret_wanted else self._state.secret
        state = replace(
            self._state,
            on=on,
            secret=secret,
            push=self._state.push if push is None else push,
            models=self._state.models if models is None else models,
        )
        await to_thread.run_sync(save_state, self._path, state)
        restart = on != self._state.on or not self._listening
        if new_secret_wanted:
            self._pulls.end()
        self._state = state
        if restart:
            self._reached = anyio.Event()
            wanted, self._wanted = self._wanted, anyio.Event()
            wanted.set()
            await self._reached.wait()
        return self.info(entries=False)

    def info(self, *, entries: bool) -> RegistryInfo:
        """What the user sees: with the secret, so only to them."""
        prefix = f"{self.host()}/{self._state.secret}/"
        return RegistryInfo(
            on=self._state.on,
            listening=self._listening,
            address=self.host(),
            push=self._state.push,
            models=self._state.models,
            cause=self._cause,
            secret=self._state.secret,
            prefix=prefix,
            entries=tuple(self._rows(prefix)) if entries else (),
        )

    def _rows(self, prefix: str) -> list[RegistryRow]:
        return [
            RegistryRow(
                room=room.label,
                ref=entry.ref,
                version=entry.version,
                fits=self._fits(entry),
                model=f"{prefix}{model}:{LATEST}",
            )
            for room, entry, model in self._names.listed()
        ]

    def _fits(self, entry: SignedEntry) -> bool | None:
        if entry.entry.is_model:
            return True
        return bool(self._local.bases(Digest.parse(entry.entry.base.digest))) if self._local.known.is_set() else None
