"""Text that strangers wrote, made safe to show: no terminal escapes, no hidden or reordered characters (T9)."""

from __future__ import annotations

import re

# Dropped: control characters except tab and line feed; soft hyphen; Arabic letter mark; zero-width space, bidi marks,
# line and paragraph separators, bidi embeddings and overrides; invisible operators and bidi isolates; byte order mark;
# interlinear annotation; tag characters, which spell instructions that models read and people cannot see. Zero-width
# joiners stay: Persian, Indic scripts and emoji need them.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\U000e0000-\U000e007f]"
)
_BLANKS = re.compile(r"[\t\n]+")


def clean_text(text: str) -> str:
    """Text of several lines: hidden characters dropped, line feeds and tabs kept."""
    return _HIDDEN.sub("", text.replace("\r\n", "\n"))


def clean_line(text: str) -> str:
    """Text for one line: as `clean_text`, with line feeds and tabs as spaces and none at the ends."""
    return _BLANKS.sub(" ", clean_text(text)).strip()
