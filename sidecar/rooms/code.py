"""Room codes: eight words from the operating system's random source. Rules and reasons: docs/protocol/keys.md."""

from __future__ import annotations

import difflib
import io
import itertools
import re
import secrets

import segno

from sidecar.errors import RoomError
from sidecar.identity import bip39_words

CODE_WORDS = 8
"""88 bits. A topic can be tested offline, so fewer would be guessed in the time a botnet has (T11)."""
MIN_DIFFERENT_WORDS = 6
"""A random code has fewer once in 2 million draws; codes people make up repeat words."""
MAX_INPUT_CHARS = 512
"""Eight of the longest words are 71 characters; a pasted file should not be searched for near misses."""
LINK_PREFIX = "ollaswarm://room/"

_SEPARATORS = re.compile(r"[\s,_\-\u2010-\u2015]+")  # word processors turn hyphens into dashes


def generate_code() -> str:
    """A new room code, normalised."""
    while True:
        words = [secrets.choice(bip39_words()) for _ in range(CODE_WORDS)]
        if _invented(words) is None:
            return "-".join(words)


def normalise_code(text: str) -> str:
    """The one spelling of a code that keys are derived from, out of what a person typed, pasted or scanned.

    Raises:
        RoomError: Not eight words of the list, or words a person chose. The message repeats only words that are
            not on the list, never the code.
    """
    words = _split(text)
    known = frozenset(bip39_words())
    for place, word in enumerate(words, 1):
        if word not in known:
            raise RoomError(f"Word {place} of the room code, {word[:20]!r}, is not a code word.{_nearest(word)}")
    if len(words) != CODE_WORDS:
        raise RoomError(f"A room code has {CODE_WORDS} words, this has {len(words)}.")
    if (reason := _invented(words)) is not None:
        raise RoomError(
            f"This code was not made by ollaswarm: {reason}. Codes people make up can be guessed by strangers.",
            "Make a room with `ollaswarm room create` and pass on the code it prints.",
        )
    return "-".join(words)


def room_link(code: str) -> str:
    """The link of a normalised code. As secret as the code."""
    return LINK_PREFIX + code


def room_qr(code: str) -> str:
    """The link as a QR code in text for a terminal. As secret as the code."""
    out = io.StringIO()
    segno.make(room_link(code), error="m", micro=False).terminal(out=out, border=2, compact=True)
    return out.getvalue()


def _split(text: str) -> list[str]:
    if len(text) > MAX_INPUT_CHARS:
        raise RoomError(f"A room code has {CODE_WORDS} words, this text has {len(text)} characters.")
    lowered = text.strip().lower().removeprefix(LINK_PREFIX).strip("/")
    return [word for word in _SEPARATORS.split(lowered) if word]


def _nearest(word: str) -> str:
    near = difflib.get_close_matches(word[:20], bip39_words(), n=3, cutoff=0.6)
    return f" Did you mean {' or '.join(near)}?" if near else ""


def _invented(words: list[str]) -> str | None:
    """Why eight code words look chosen by a person, or None."""
    if len(set(words)) < MIN_DIFFERENT_WORDS:
        return "it repeats words"
    places = [bip39_words().index(word) for word in words]
    steps = {(after - before) % len(bip39_words()) for before, after in itertools.pairwise(places)}
    return "its words follow each other on the word list" if len(steps) == 1 else None
