"""Taking back an install that did not get to its end, also while Ollama is restarting under it."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from ollama_bridge.errors import OllamaBridgeError, OllamaRejected, OllamaUnavailable
from ollama_bridge.install.recover import delete_surely

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ollama_bridge.client import OllamaClient
    from ollama_bridge.digests import Digest
    from ollama_bridge.install.plan import Plan
    from ollama_bridge.names import ModelName

RETURN_S = 30.0  # how long a restarting Ollama is waited for; `systemctl restart ollama` takes about 2 s
MAX_TRIES = 3
SETTLE_S = 0.2  # a cancelled pull may write its manifest after our connection closed; then it is deleted once more

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Attempt:
    """What an install has done so far. Each field is set before the call it stands for."""

    plan: Plan
    one_time: list[ModelName] = field(default_factory=list)
    backup: ModelName | None = None
    """Set once the backup is complete."""
    uploaded: list[Digest] = field(default_factory=list)
    """Blobs that we put into the store; they were not there."""
    committing: bool = False
    """The wanted name may have been written."""


async def roll_back(
    client: OllamaClient, attempt: Attempt, make_again: Callable[[list[Digest]], Awaitable[object]]
) -> None:
    """Bring the store back to what it was. What cannot be done now is left to `recover`, and logged.

    Args:
        make_again: Makes a one-time model once more, of these blobs that are in the store. Ollama has no call that
            deletes a blob; deleting a model that uses it is the only way to get an uploaded blob out again.
    """
    with anyio.CancelScope(shield=True):
        try:
            await _when_back(lambda: _restore_wanted(client, attempt))
            await _when_back(lambda: _remove_one_time(client, attempt))
            if attempt.uploaded:
                await _when_back(lambda: _remove_orphans(client, attempt, make_again))
        except OllamaBridgeError as error:
            logger.warning("an install could not be taken back yet, the next start will: %s", error)


async def _restore_wanted(client: OllamaClient, attempt: Attempt) -> None:
    if not attempt.committing:
        return
    if attempt.backup is not None:
        await client.copy(attempt.backup, attempt.plan.wanted)
    elif attempt.plan.replaces is None:
        await delete_surely(client, attempt.plan.wanted, attempt.plan.spare)


async def _remove_one_time(client: OllamaClient, attempt: Attempt) -> None:
    for name in attempt.one_time:
        if not await delete_surely(client, name, attempt.plan.spare):
            await anyio.sleep(SETTLE_S)
            await delete_surely(client, name, attempt.plan.spare)


async def _remove_orphans(
    client: OllamaClient, attempt: Attempt, make_again: Callable[[list[Digest]], Awaitable[object]]
) -> None:
    left = [digest for digest in attempt.uploaded if await client.has_blob(digest)]
    if not left:
        return
    try:
        await make_again(left)
    except OllamaBridgeError as error:
        names = ", ".join(digest.short for digest in left)
        logger.info("uploaded blobs stay until Ollama prunes them at a later start (%s): %s", names, error)
    await _remove_one_time(client, attempt)


async def _when_back(action: Callable[[], Awaitable[None]]) -> None:
    """Do something, waiting for an Ollama that is restarting and bearing with one that fails now and then."""
    deadline = anyio.current_time() + RETURN_S
    pause, tries = 0.05, MAX_TRIES
    while True:
        try:
            await action()
            return
        except OllamaUnavailable:
            if anyio.current_time() > deadline:
                raise
        except OllamaRejected:
            tries -= 1
            if tries == 0:
                raise
        await anyio.sleep(pause)
        pause = min(pause * 2, 1.0)
