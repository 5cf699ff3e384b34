"""Names under which Ollama pulls from the rooms of its sidecar: `127.0.0.1:PORT/SECRET/ROOM.NAME:TAG`.

The secret keeps other users of the machine out (T24). Ollama keeps it in the name of every model pulled so, which comes
back to us from there: nothing that is written down or told to others may carry such a name as it is.
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ollama_bridge.names import ModelName

_HOST = r"127(?:\.[0-9]{1,3}){3}(?::[0-9]{1,5})?"
_DIGITS = "[0-9a-fA-F]{32}"
_LOOPBACK = re.compile(_HOST)
_NAMESPACE = re.compile(_DIGITS)
_IN_TEXT = re.compile(rf"((?<![0-9.]){_HOST}/|/v2/){_DIGITS}(?![0-9A-Za-z_-])")


def new_secret() -> str:
    """32 hex digits from the OS random source: 128 bits, in lower case because Ollama may change case (facts 1.6)."""
    return secrets.token_hex(16)


def is_room_name(name: ModelName) -> bool:
    """Whether this is such a name, of this run or an earlier one."""
    return _LOOPBACK.fullmatch(name.host) is not None and _NAMESPACE.fullmatch(name.namespace) is not None


def hidden(text: str) -> str:
    """The text with an ellipsis for the secret of every such name, or path of its registry, in it."""
    return _IN_TEXT.sub(r"\1…", text)


def public_name(name: ModelName) -> str:
    """What a model is called towards others: a room name without where and from which room it was pulled."""
    if not is_room_name(name):
        return name.display
    return f"{name.model.partition('.')[2] or name.model}:{name.tag}"
