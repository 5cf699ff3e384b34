"""Names that exist for minutes: what we ask Ollama to pull, push or keep while an install is under way.

They can be told from a user's own names by sight, so that after a crash `recover` finds and removes exactly ours. The
random part doubles as the unguessable path segment of our registry (T24): 128 bits, lower-case hex because Ollama may
change the case of a name on its way (facts 1.6).
"""

from __future__ import annotations

import ipaddress
import re
import secrets
from typing import TYPE_CHECKING, Literal

from ollama_bridge.errors import NameInvalid
from ollama_bridge.names import ModelName

if TYPE_CHECKING:
    from collections.abc import Callable

NAMESPACE = "p2p"
TAG = "once"
BACKUP_HOST = "127.0.0.1"  # no port: Windows cannot have one in a path (facts 1.6); never pulled, so no port is needed

Purpose = Literal["install", "push", "probe"]

_MODEL = re.compile(r"(?:install|push|probe)-[0-9a-f]{32}")
_BACKUP_TAG = re.compile(r"backup-[0-9a-f]{32}")
_ESCAPES = {".": "..", "/": ".s", ":": ".c"}
_UNESCAPES = {code: character for character, code in _ESCAPES.items()}


def new_token() -> str:
    """32 hex digits from the OS random source."""
    return secrets.token_hex(16)


def one_time_name(registry_host: str, purpose: Purpose, *, token: Callable[[], str] = new_token) -> ModelName:
    """A fresh name in our registry. `registry_host` is its address as Ollama reaches it."""
    return ModelName(registry_host, NAMESPACE, f"{purpose}-{token()}", TAG)


def is_one_time(name: ModelName) -> bool:
    """Whether this is a name that `one_time_name` made, here or in an earlier run on another port."""
    return (
        name.namespace == NAMESPACE
        and name.tag == TAG
        and _is_loopback_host(name.host)
        and _MODEL.fullmatch(name.model) is not None
    )


def backup_name(wanted: ModelName, *, token: Callable[[], str] = new_token) -> ModelName:
    """Where the model that `wanted` is about to replace is kept, itself saying which name it came from.

    Raises:
        NameInvalid: `wanted` is too long to be written into another name.
    """
    model = "old-" + "".join(_ESCAPES.get(character, character) for character in wanted.display)
    try:
        return ModelName(BACKUP_HOST, NAMESPACE, model, f"backup-{token()}")
    except NameInvalid:
        raise NameInvalid(f"{wanted} is too long to be replaced safely. Delete it first, or choose another.") from None


def backed_up(name: ModelName) -> ModelName | None:
    """The name a backup came from, None if this is no backup of ours."""
    is_ours = name.host == BACKUP_HOST and name.namespace == NAMESPACE and _BACKUP_TAG.fullmatch(name.tag)
    if not is_ours or not name.model.startswith("old-"):
        return None
    text = re.sub(r"\.[.sc]", lambda match: _UNESCAPES[match[0]], name.model.removeprefix("old-"))
    return ModelName.parse(text) if ModelName.is_valid(text) else None


def _is_loopback_host(host: str) -> bool:
    try:
        return ipaddress.IPv4Address(host.partition(":")[0]).is_loopback
    except ValueError:
        return False
