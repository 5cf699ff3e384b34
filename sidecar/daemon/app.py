"""`ollaswarm up`: start the parts in order, run until told to stop, stop within five seconds.

A first signal (Ctrl-C, SIGTERM, service stop) says goodbye to peers and closes files; a second one ends at once. A crash
leaves nothing that the next start does not mend.
"""

from __future__ import annotations

import contextlib
import logging
import logging.handlers
import os
import signal
import socket
import sys
import time
from typing import TYPE_CHECKING

import anyio
import anyio.abc
import uvicorn
from anyio import to_thread

from hyperdht.io import keep_freed_memory
from ollama_bridge.errors import OllamaBridgeError
from sidecar import __version__
from sidecar.api.app import create_app
from sidecar.api.auth import hosts_for_port
from sidecar.control import SidecarControl
from sidecar.errors import DaemonError
from sidecar.paths import DaemonRecord, DataLock, load_or_create_token

from .assemble import assemble
from .examine import Examiner
from .local_network import LocalNetwork

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidecar.config import Settings
    from sidecar.parts import Parts

log = logging.getLogger(__name__)

STOP_DEADLINE_S = 5.0
RECOVER_RETRY_S = 5.0
EXIT_AT_ONCE = 130


def run_daemon(settings: Settings, *, ready: Callable[[str], None] | None = None) -> int:
    """Run the daemon in the foreground; blocks, returns the exit code.

    Args:
        ready: Told the API's "host:port" once everything listens.
    Raises:
        ConfigError, DaemonError: It cannot start; nothing was left running.
    """
    settings.paths.prepare()
    with DataLock(settings.paths):
        _start_logging(settings)
        keep_freed_memory()
        anyio.run(_run, settings, ready)
    return 0


async def _run(settings: Settings, ready: Callable[[str], None] | None) -> None:
    with _listen_for_api(settings) as api_socket:
        async with assemble(settings) as parts:
            local_network = LocalNetwork(parts)
            await local_network.open()
            host, port = api_socket.getsockname()[:2]
            api = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            stop = anyio.Event()
            with _signals(stop):
                await _serve(parts, local_network, api_socket, api, stop, ready)


async def _serve(
    parts: Parts,
    local_network: LocalNetwork,
    api_socket: socket.socket,
    api: str,
    stop: anyio.Event,
    ready: Callable[[str], None] | None,
) -> None:
    closing = anyio.Event()
    control = SidecarControl(
        parts,
        api_address=api,
        listening=local_network.listening,
        examine=Examiner(parts, local_network).run,
        rooms_changed=local_network.rooms_changed,
    )
    server = _api_server(parts, control, api_socket.getsockname()[1], closing)
    async with anyio.create_task_group() as tasks:
        await start_parts(parts, local_network, tasks)
        api_done = anyio.Event()
        tasks.start_soon(_run_api, server, api_socket, api_done)
        paths = parts.paths
        await to_thread.run_sync(DaemonRecord(os.getpid(), api, __version__, time.time()).write, paths)
        if ready is not None:
            ready(api)
        await stop.wait()
        log.info("stopping")
        with anyio.move_on_after(STOP_DEADLINE_S):
            closing.set()
            server.should_exit = True
            await parts.network.close()
            await api_done.wait()
        tasks.cancel_scope.cancel()
    with contextlib.suppress(OSError):
        paths.daemon.unlink()


async def start_parts(parts: Parts, local_network: LocalNetwork, tasks: anyio.abc.TaskGroup) -> None:
    """Start everything that works in the background, in this order."""
    tasks.start_soon(parts.network.run)
    tasks.start_soon(parts.transfers.run)
    tasks.start_soon(local_network.run)
    await parts.publisher.restore()
    tasks.start_soon(parts.local.run, parts.publisher.adapter_appeared, parts.publisher.adapter_removed)
    tasks.start_soon(_recover, parts)
    tasks.start_soon(_keep_gauges, parts)


def _listen_for_api(settings: Settings) -> socket.socket:
    host, port = settings.api.host, settings.api.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise DaemonError(
            f"The control API cannot listen on {settings.api}: {error.strerror or error}.",
            "Another daemon or program uses that port. Choose another with --api 127.0.0.1:PORT (0 lets the system choose).",
        ) from error


class _ApiServer(uvicorn.Server):
    """Leaves signals to us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _api_server(parts: Parts, control: SidecarControl, port: int, closing: anyio.Event) -> _ApiServer:
    app = create_app(
        control,
        token=load_or_create_token(parts.paths),
        allowed_hosts=hosts_for_port(port),
        metrics=parts.metrics.render,
        metrics_open=parts.settings.metrics_open,
        closing=closing,
        version=__version__,
    )
    config = uvicorn.Config(
        app, log_config=None, access_log=False, lifespan="off", ws="none", timeout_graceful_shutdown=2
    )
    return _ApiServer(config)


async def _run_api(server: _ApiServer, api_socket: socket.socket, done: anyio.Event) -> None:
    try:
        await server.serve(sockets=[api_socket])
    finally:
        done.set()


async def _recover(parts: Parts) -> None:
    """Take back what an install that was killed left in Ollama, as soon as Ollama answers."""
    while True:
        try:
            recovered = await parts.installer.recover()
        except OllamaBridgeError as error:
            log.debug("not yet: %s", error)
            await anyio.sleep(RECOVER_RETRY_S)
            continue
        for name in recovered.removed:
            log.info("removed %s, left by an interrupted install", name)
        for name in recovered.restored:
            log.info("restored %s, which an interrupted install was about to replace", name)
        return


async def _keep_gauges(parts: Parts) -> None:
    """Bring the gauges up to date now and then; counters are counted where things happen."""
    metrics, network, catalogue = parts.metrics, parts.network, parts.catalogue
    counted: dict[str, int] = {}
    while True:
        metrics.peers.set(sum(1 for each in network.connections.values() if each.proved))
        metrics.rooms.set(len(network.rooms))
        metrics.entries.set(sum(catalogue.count(room) for room in catalogue.rooms()))
        metrics.shared.set(len(await parts.journal.run(lambda journal: journal.shares())))
        metrics.transfers.set(parts.transfers.running)
        metrics.ollama_up.set(bool(parts.local.ollama_up))
        for kind, count in network.bad_input.items():
            for _ in range(count - counted.get(kind, 0)):
                metrics.bad_input(kind)  # type: ignore[arg-type]
            counted[kind] = count
        await anyio.sleep(5.0)


@contextlib.contextmanager
def _signals(stop: anyio.Event) -> Iterator[None]:
    """The first signal sets `stop`; a second one ends the process at once.

    Plain handlers instead of the event loop's own, which Windows does not have.
    """
    import asyncio

    loop = asyncio.get_running_loop()

    def handle(number: int, frame: object) -> None:
        if stop.is_set():
            os._exit(EXIT_AT_ONCE)
        loop.call_soon_threadsafe(stop.set)

    names = ("SIGINT", "SIGTERM", "SIGBREAK")
    previous = {number: signal.signal(number, handle) for name in names if (number := getattr(signal, name, None))}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _start_logging(settings: Settings) -> None:
    handlers: list[logging.Handler] = [
        logging.StreamHandler(sys.stderr),
        logging.handlers.RotatingFileHandler(
            settings.paths.log_file, maxBytes=1 << 20, backupCount=3, encoding="utf-8"
        ),
    ]
    level = settings.log_level.upper()
    logging.basicConfig(
        level=level, handlers=handlers, format="%(asctime)s %(levelname)s %(name)s: %(message)s", force=True
    )
    if level != "DEBUG":
        for noisy in ("httpx", "httpcore", "uvicorn.error"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
