"""`ollaswarm up`: the parts and the API, run until told to stop, stopped within five seconds.

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
from ollama_bridge.room_names import hidden
from sidecar import __version__
from sidecar.api.app import create_app
from sidecar.api.auth import hosts_for_port
from sidecar.errors import DaemonError
from sidecar.paths import DaemonRecord, DataLock, load_or_create_token

from .lifecycle import STOP_DEADLINE_S, run_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidecar.config import Settings
    from sidecar.control import SidecarControl
    from sidecar.parts import Parts

log = logging.getLogger(__name__)

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
        host, port = api_socket.getsockname()[:2]
        api = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        async with run_parts(settings, api_address=api) as (parts, control):
            stop = anyio.Event()
            with _signals(stop):
                await _serve(parts, control, api_socket, api, stop, ready)


async def _serve(
    parts: Parts,
    control: SidecarControl,
    api_socket: socket.socket,
    api: str,
    stop: anyio.Event,
    ready: Callable[[str], None] | None,
) -> None:
    closing = anyio.Event()
    server = _api_server(parts, control, api_socket.getsockname()[1], closing)
    async with anyio.create_task_group() as tasks:
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


class _Formatter(logging.Formatter):
    """Hides the registry's secret wherever a name or a path brings it along (T24)."""

    def format(self, record: logging.LogRecord) -> str:
        return hidden(super().format(record))


def _start_logging(settings: Settings) -> None:
    handlers: list[logging.Handler] = [
        logging.StreamHandler(sys.stderr),
        logging.handlers.RotatingFileHandler(
            settings.paths.log_file, maxBytes=1 << 20, backupCount=3, encoding="utf-8"
        ),
    ]
    level = settings.log_level.upper()
    for handler in handlers:
        handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=handlers, force=True)
    # Every folder that changes in Ollama's store, of which one may be the registry's secret (T24).
    logging.getLogger("watchdog").setLevel(logging.WARNING)
    if level != "DEBUG":
        for noisy in ("httpx", "httpcore", "uvicorn.error"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
