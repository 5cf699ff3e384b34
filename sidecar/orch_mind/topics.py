"""Where Orch-Mind's users meet: a topic for each room code."""

from __future__ import annotations

import hashlib
import re

from sidecar.errors import RoomError

_CODE = re.compile(r"[A-Z0-9][A-Z0-9-]{2,63}")
"""Orch-Mind makes codes like FAST-PEER-123 and takes any text a user types; this leaves out what nobody means."""


def normalise_orch_mind_code(text: str) -> str:
    """A code as Orch-Mind hashes it.

    Raises:
        RoomError: Not a code. The text is not repeated: it may be one of another kind that is secret (T11).
    """
    code = text.strip().upper()
    if not _CODE.fullmatch(code):
        raise RoomError(
            "That is no Orch-Mind room code.", "They look like FAST-PEER-123: letters, digits and hyphens, at most 64."
        )
    return code


def orch_mind_topic(code: str) -> bytes:
    """The topic of a room; the code must be normalised. Anybody can compute it: there are some 25,000 codes."""
    return hashlib.sha256(f"orch-mind-room-{code}".encode("ascii")).digest()
