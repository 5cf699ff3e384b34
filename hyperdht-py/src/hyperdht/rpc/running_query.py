"""A query on its way: its requests, its callbacks, and the writes that follow it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from ..addresses import Address
from .best_replies import BestReply
from .caller import Answer, Caller
from .messages import Reply
from .query import Commit, DownHintWanted, Query, QueryFinished, QueryReplied
from .requests import QUERY_RETRIES


class Write(NamedTuple):
    """The request that follows a query, to one of its best replies. The token of that reply is added."""

    command: int
    target: bytes
    value: bytes | None


class QueryOutcome(NamedTuple):
    """How a query ended."""

    best: tuple[BestReply, ...]
    """Up to 20, closest first."""
    successes: int
    """Replies without error."""
    failures: int
    """Replies with an error, and timeouts."""
    committed: tuple[tuple[Address, Reply], ...]
    """Who answered the write and what, also with an error. Empty without a write, and when it failed everywhere."""
    now: float


@dataclass(frozen=True, slots=True)
class Question:
    """What a query asks each node, and how."""

    command: int
    internal: bool = False
    value: bytes | None = None
    retries: int = QUERY_RETRIES
    force: bool = False


@dataclass(frozen=True, slots=True)
class QueryCallbacks:
    """Whom a query tells what."""

    on_reply: Callable[[Address, Reply, float], None] | None = None
    """Each reply without error."""
    write: Callable[[BestReply], Write | None] | None = None
    """What to write to a best reply; None leaves that node out."""
    then: Callable[[QueryOutcome], None] | None = None
    on_down: Callable[[DownHintWanted, float], None] | None = None
    on_over: Callable[["RunningQuery"], None] | None = None
    """For the owner of the queries; also called after `cancel`."""


class RunningQuery:
    """Sends the requests of a `Query`, then the writes, then tells the outcome."""

    def __init__(
        self, query: Query, question: Question, callbacks: QueryCallbacks, *, caller: Caller, now: float
    ) -> None:
        self.query = query
        """`query.best_replies` is what was found so far."""
        self.over = False
        self._question = question
        self._callbacks = callbacks
        self._caller = caller
        self._handles: dict[Address, int] = {}
        self._commit = Commit(())
        self._counts = QueryFinished(0, 0)
        # Not at once: a query with nobody to ask would be over before its owner holds it.
        self._first_step = caller.timers.call_at(now, self._advance)
        self._ask(now)

    def cancel(self) -> None:
        """Stop. No callback will be called."""
        self._close()

    def abandon(self, now: float) -> None:
        """Stop, and tell the outcome as it is."""
        if not self.over:
            self._finish(now)

    def _ask(self, now: float) -> None:
        while (to := self.query.next_request(in_flight=self._caller.endpoint.in_flight)) is not None:
            self._handles[to] = self._caller.request(
                to,
                self._question.command,
                now=now,
                internal=self._question.internal,
                target=self.query.target,
                value=self._question.value,
                retries=self._question.retries,
                force=self._question.force,
                proves_down=True,
                then=partial(self._handle_answer, to),
                on_slow=partial(self._handle_slow, to),
            )

    def _handle_answer(self, asked: Address, answer: Answer) -> None:
        del self._handles[asked]
        if answer.reply is None or answer.sender is None:
            self.query.handle_timeout(asked)
        else:
            self.query.receive_reply(asked, answer.reply, sender=answer.sender)
        self._advance(answer.now)

    def _handle_slow(self, asked: Address, now: float) -> None:
        self.query.handle_slow(asked)
        self._advance(now)

    def _advance(self, now: float) -> None:
        self._tell(now)  # first, for a callback may cancel
        if not self.over:
            self._ask(now)
            self._tell(now)

    def _tell(self, now: float) -> None:
        while not self.over and (event := self.query.next_event()) is not None:
            if isinstance(event, QueryReplied):
                if self._callbacks.on_reply is not None:
                    self._callbacks.on_reply(event.address, event.reply, now)
            elif isinstance(event, DownHintWanted):
                if self._callbacks.on_down is not None:
                    self._callbacks.on_down(event, now)
            else:
                self._counts = event
                self._write(now)

    def _write(self, now: float) -> None:
        self._cancel_requests()  # those still open are slow, and 20 others have answered
        writes = self._writes()
        self._commit = Commit([best for best, _ in writes])
        for best, write in writes:
            self._handles[best.address] = self._caller.request(
                best.address,
                write.command,
                now=now,
                target=write.target,
                value=write.value,
                token=best.reply.token,
                then=partial(self._handle_written, best.address),
            )
        if self._commit.finished:
            self._finish(now)

    def _writes(self) -> list[tuple[BestReply, Write]]:
        if self._callbacks.write is None:
            return []
        wanted = [(best, self._callbacks.write(best)) for best in self.query.best_replies]
        return [(best, write) for best, write in wanted if write is not None]

    def _handle_written(self, asked: Address, answer: Answer) -> None:
        del self._handles[asked]
        if answer.reply is None:
            self._commit.handle_timeout(asked)
        else:
            self._commit.receive_reply(asked, answer.reply)
        if self._commit.finished:
            self._finish(answer.now)

    def _finish(self, now: float) -> None:
        self._close()
        if self._callbacks.then is not None:
            counts = self._counts
            best = tuple(self.query.best_replies)
            self._callbacks.then(
                QueryOutcome(best, counts.successes, counts.failures, tuple(self._commit.replies), now)
            )

    def _close(self) -> None:
        self.over = True
        self._first_step.cancel()
        self._cancel_requests()
        if self._callbacks.on_over is not None:
            self._callbacks.on_over(self)

    def _cancel_requests(self) -> None:
        for handle in self._handles.values():
            self._caller.cancel(handle)
        self._handles.clear()
