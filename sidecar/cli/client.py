"""How a verb reaches the daemon: found through the data folder, called over its API."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import httpx

from sidecar.errors import DaemonError, SidecarError
from sidecar.paths import DaemonRecord, DataPaths, is_locked

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

API_PREFIX = "/api/v1"
# The daemon is on this machine; sharing hashes a whole file, and may take as long as it takes.
TIMEOUT = httpx.Timeout(None, connect=5.0)
# Streams carry a heartbeat every 15 s; three missed ones are a dead daemon.
STREAM_TIMEOUT = httpx.Timeout(None, connect=5.0, read=45.0)
RECONNECTS = 5
RECONNECT_PAUSE_S = 0.5


class RemoteFailure(SidecarError):
    """What the daemon refused or failed at, in its own words."""

    def __init__(self, code: str, cause: str, next_step: str) -> None:
        super().__init__(cause, next_step)
        self.code = code


@dataclass(frozen=True, slots=True)
class StreamedEvent:
    """One server-sent event."""

    name: str
    number: int | None
    data: dict[str, Any]


class ApiClient:
    """The API of one daemon. Every failure is a `SidecarError`."""

    def __init__(self, address: str, token: str, *, transport: httpx.BaseTransport | None = None) -> None:
        # No proxy from the environment, no redirects: the token goes to the daemon and nowhere else.
        self._http = httpx.Client(
            base_url=f"http://{address}{API_PREFIX}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=TIMEOUT,
            trust_env=False,
            transport=transport,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    def get(self, path: str, **query: str | bool | None) -> Any:
        """GET a JSON value. Query values that are None are left out."""
        try:
            return _answer(
                self._http.get(path, params={name: value for name, value in query.items() if value is not None})
            )
        except httpx.TransportError as error:
            raise _unreachable(error) from error

    def post(self, path: str, body: Mapping[str, object] | None = None) -> Any:
        """POST a JSON object, get a JSON value."""
        try:
            return _answer(self._http.post(path, json=dict(body or {})))
        except httpx.TransportError as error:
            raise _unreachable(error) from error

    def stream(self, path: str, **query: int | None) -> Iterator[StreamedEvent]:
        """Server-sent events until the daemon ends the stream. Raises httpx.TransportError when it is cut."""
        chosen = {name: value for name, value in query.items() if value is not None}
        with self._http.stream("GET", path, params=chosen, timeout=STREAM_TIMEOUT) as response:
            if response.is_error:
                response.read()
                _answer(response)
            yield from _parse_events(response.iter_lines())

    def follow_transfer(self, transfer: str) -> Iterator[dict[str, Any]]:
        """States of a transfer until the finished one. A cut stream is taken up again: the daemon goes on without us."""
        cuts = 0
        while True:
            try:
                for event in self.stream(f"/transfers/{transfer}/progress"):
                    cuts = 0
                    if event.name == "error":
                        raise _failure(event.data)
                    yield event.data
                    if event.data["result"] or event.data["error"]:
                        return
                cut: httpx.TransportError | None = None
            except httpx.TransportError as error:
                cut = error
            cuts += 1
            if cuts > RECONNECTS:
                raise _unreachable(cut) from cut
            time.sleep(RECONNECT_PAUSE_S)

    def follow_events(self, since: int | None) -> Iterator[dict[str, Any]]:
        """Events until the daemon stops. Raises DaemonError when it goes away without a word."""
        try:
            for event in self.stream("/events", since=since):
                yield event.data | {"number": event.number}
        except httpx.TransportError as error:
            raise _unreachable(error) from error


def find_daemon(paths: DataPaths) -> ApiClient:
    """The client of the daemon that runs on this data folder.

    The lock is looked at first: when no daemon holds it, whoever listens on the recorded port is not ours and must
    not be sent the token.

    Raises:
        DaemonError: None runs, or its files cannot be read.
    """
    here = f"for the data folder {paths.root}"
    if not is_locked(paths):
        raise DaemonError(
            f"No daemon runs {here}.", "Start it with `ollaswarm up`, or name the right folder with --data-dir."
        )
    record = DaemonRecord.read(paths)
    if record is None:
        raise DaemonError(f"The daemon {here} is still starting.", "Try again in a moment.")
    try:
        token = paths.token.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise DaemonError(
            f"The API token in {paths.token} cannot be read.", "Run this as the daemon's user."
        ) from error
    return ApiClient(record.api, token)


def _answer(response: httpx.Response) -> Any:
    try:
        body = response.json()
    except ValueError:
        raise DaemonError(
            f"Something that is not this daemon answered (HTTP {response.status_code}).", "Run `ollaswarm up` again."
        ) from None
    if response.is_success:
        return body
    raise _failure(body)


def _failure(body: Any) -> RemoteFailure:
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        error = {}
    cause = str(error.get("cause", "The daemon refused without saying why."))
    return RemoteFailure(str(error.get("code", "failed")), cause, str(error.get("next", "Run `ollaswarm doctor`.")))


def _unreachable(error: Exception | None) -> DaemonError:
    cause = "The daemon does not answer" if error is None else f"The daemon does not answer ({type(error).__name__})"
    return DaemonError(f"{cause}.", "If it was stopped, start it with `ollaswarm up`; else look at its log.")


def _parse_events(lines: Iterator[str]) -> Iterator[StreamedEvent]:
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(":")
            fields[name] = value.removeprefix(" ")
        elif "data" in fields:
            number = int(fields["id"]) if "id" in fields else None
            yield StreamedEvent(fields.get("event", "message"), number, json.loads(fields["data"]))
            fields = {}
        else:  # a heartbeat
            fields = {}
