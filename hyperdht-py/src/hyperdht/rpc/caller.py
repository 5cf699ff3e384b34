"""Requests with callbacks, on top of an endpoint."""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from ..addresses import Address
from ..buffers import BytesLike
from .endpoint import Endpoint
from .events import ReplyReceived, RequestReceived, RequestSlow, RequestTimedOut
from .messages import Command, ErrorCode, Reply, Request
from .requests import RETRIES, TIMEOUT_S, Datagram
from .timers import Timers


class Answer(NamedTuple):
    """How a request ended. All but `now` are None when nobody answered in time."""

    reply: Reply | None
    sender: Address | None
    """Who answered. Replies are matched by their tid alone: compare, if it matters."""
    socket: int | None
    """Where the reply came in; not always the socket that the request left from."""
    now: float


@dataclass(slots=True)
class _Waiting:
    then: Callable[[Answer], None] | None
    on_slow: Callable[[float], None] | None


class Caller:
    """An endpoint whose events are callbacks, which may ask again at once. No callback runs inside `request`.

    Like every machine it is driven by its owner: datagrams in, datagrams out, one timer.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.timers = Timers()
        """For everybody who works with this node."""
        self.on_request: Callable[[RequestReceived, float], None] | None = None
        """Gets the commands of the layer above; while None they are answered as unknown."""
        self._waiting: dict[int, _Waiting] = {}

    def request(
        self,
        to: Address,
        command: int,
        *,
        now: float,
        internal: bool = False,
        target: bytes | None = None,
        value: bytes | None = None,
        token: bytes | None = None,
        socket: int | None = None,
        retries: int = RETRIES,
        timeout_s: float = TIMEOUT_S,
        force: bool = False,
        proves_down: bool = False,
        then: Callable[[Answer], None] | None = None,
        on_slow: Callable[[float], None] | None = None,
    ) -> int:
        """Ask a node; the other arguments are those of `Endpoint.request`.

        Args:
            then: Called once, with the answer or without.
            on_slow: Called as on_slow(now) when the first transmission had no answer in time.
        Returns:
            A handle for `cancel`.
        Raises:
            LocalProtocolError: 16,384 requests are pending.
        """
        handle = self.endpoint.request(
            to,
            command,
            now=now,
            internal=internal,
            target=target,
            value=value,
            token=token,
            socket=socket,
            retries=retries,
            timeout_s=timeout_s,
            force=force,
            proves_down=proves_down,
        )
        if then is not None or on_slow is not None:
            self._waiting[handle] = _Waiting(then, on_slow)
        return handle

    def ping(
        self,
        to: Address,
        *,
        now: float,
        socket: int | None = None,
        retries: int = RETRIES,
        size: int = 0,
        then: Callable[[Answer], None] | None = None,
    ) -> int:
        """Ask whether a node is there. With a `size` the request carries that many zero bytes."""
        value = bytes(size) if size else None
        return self.request(
            to, Command.PING, internal=True, value=value, socket=socket, retries=retries, then=then, now=now
        )

    def cancel(self, handle: int) -> None:
        """Forget a request: its callbacks will not be called. Nothing happens if it is already over."""
        self._waiting.pop(handle, None)
        self.endpoint.cancel(handle)

    def reply(
        self,
        received: RequestReceived,
        *,
        value: bytes | None = None,
        error: int = ErrorCode.NONE,
        with_token: bool = True,
        with_closer_nodes: bool = True,
    ) -> None:
        """Answer a command of the layer above. Errors never carry a token."""
        self.endpoint.reply(
            received, value=value, error=error, with_token=with_token, with_closer_nodes=with_closer_nodes
        )

    def send(self, message: Request | Reply, *, to: Address, socket: int) -> None:
        """Send a message as it is, and expect nothing: the legs of a relayed exchange keep the tid of the first."""
        self.endpoint.send(message, to=to, socket=socket)

    def send_datagram(self, datagram: Datagram) -> None:
        """Send what is no message of dht-rpc: the probes of hole punching."""
        self.endpoint.send_datagram(datagram)

    def receive(self, datagram: BytesLike, *, sender: Address, socket: int, now: float) -> None:
        """A datagram that starts with 03 or 13 arrived. What is malformed is counted and dropped."""
        self.endpoint.receive(datagram, sender=sender, socket=socket, now=now)
        self._dispatch(now)

    def datagrams_to_send(self) -> list[Datagram]:
        """What is to be sent now, each once."""
        return self.endpoint.datagrams_to_send()

    def next_timer(self) -> float:
        """When to call `handle_timer`; infinite while nothing is due ever."""
        timer = self.timers.next_timer()
        return min(self.endpoint.next_timer(), inf if timer is None else timer)

    def handle_timer(self, *, now: float) -> None:
        """The time of `next_timer` has come."""
        self.endpoint.handle_timer(now=now)
        self._dispatch(now)
        self.timers.handle_timer(now=now)

    def _dispatch(self, now: float) -> None:
        while (event := self.endpoint.next_event()) is not None:
            if isinstance(event, RequestReceived):
                self._handle_request(event, now)
            elif isinstance(event, ReplyReceived):
                self._end(event.handle, Answer(event.reply, event.sender, event.socket, now))
            elif isinstance(event, RequestTimedOut):
                self._end(event.handle, Answer(None, None, None, now))
            elif isinstance(event, RequestSlow):
                waiting = self._waiting.get(event.handle)
                if waiting is not None and waiting.on_slow is not None:
                    waiting.on_slow(now)

    def _handle_request(self, received: RequestReceived, now: float) -> None:
        if self.on_request is None:
            self.reply(received, error=ErrorCode.UNKNOWN_COMMAND)
        else:
            self.on_request(received, now)

    def _end(self, handle: int, answer: Answer) -> None:
        waiting = self._waiting.pop(handle, None)
        if waiting is not None and waiting.then is not None:
            waiting.then(answer)
