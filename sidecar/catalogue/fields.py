"""Strict reading of signed JSON: exactly the known keys, exact types, bounded values, no second spelling of anything."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from typing import NoReturn, TypeGuard

from sidecar.errors import EntryInvalid

from .limits import MAX_RAW_BYTES
from .text import clean_line, clean_text

MAX_INTEGER = 2**53 - 1
"""What every JSON implementation carries exactly."""

HEX64 = re.compile(r"[0-9a-f]{64}")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
ADAPTER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")


def load_object(raw: bytes) -> Fields:
    """The one JSON object in `raw`.

    Raises:
        EntryInvalid: Too long, not UTF-8, not JSON, not an object, a key twice, or a number JSON does not have.
    """
    if len(raw) > MAX_RAW_BYTES:
        raise EntryInvalid(f"The entry has {len(raw)} bytes, at most {MAX_RAW_BYTES} are allowed.")
    try:
        value = json.loads(raw.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise EntryInvalid("The entry is not valid JSON in UTF-8.") from error
    return Fields(value, "the entry")


class Fields:
    """One JSON object being read. Every method raises EntryInvalid, naming the field but not repeating its value."""

    __slots__ = ("_value", "_where")

    def __init__(self, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise EntryInvalid(f"In a signed entry, {where} is not an object.")
        self._value: dict[str, object] = value
        self._where = where

    def __contains__(self, key: str) -> bool:
        return key in self._value

    def only(self, keys: frozenset[str], optional: frozenset[str] = frozenset()) -> Fields:
        """Refuse unknown and missing keys (T16); returns self."""
        if unknown := self._value.keys() - keys - optional:
            raise EntryInvalid(f"A field of {self._where} is not known: {clean_line(min(unknown))[:40]!r}.")
        if missing := keys - self._value.keys():
            raise EntryInvalid(f"A field of {self._where} is missing: {min(missing)!r}.")
        return self

    def nested(self, key: str) -> Fields:
        """A nested object."""
        return Fields(self._value[key], f"{key!r}")

    def items(self, key: str, max_items: int) -> list[object]:
        """A list of at most `max_items`."""
        value = self._value[key]
        if not isinstance(value, list) or len(value) > max_items:
            self.refuse(key, f"a list of at most {max_items}")
        return value

    def mapping(self, key: str, max_items: int) -> dict[str, object]:
        """An object with keys of the publisher's choice, at most `max_items`."""
        value = self._value[key]
        if not isinstance(value, dict) or len(value) > max_items:
            self.refuse(key, f"an object of at most {max_items} fields")
        return value

    def is_null(self, key: str) -> bool:
        """Whether the value is null."""
        return self._value[key] is None

    def integer(self, key: str, low: int, high: int) -> int:
        """An integer in bounds; true and 1.0 are not integers."""
        value = self._value[key]
        if type(value) is not int or not low <= value <= high:
            self.refuse(key, f"an integer from {low} to {high}")
        return value

    def number(self, key: str, low: float, high: float) -> float:
        """A finite number in bounds."""
        value = self._value[key]
        if type(value) not in (int, float) or not low <= value <= high:  # type: ignore[operator]
            self.refuse(key, f"a number from {low} to {high}")
        return float(value)  # type: ignore[arg-type]

    def matching(self, key: str, pattern: re.Pattern[str], meaning: str) -> str:
        """Text that a pattern matches whole. The patterns are ASCII, so nothing needs cleaning."""
        value = self._value[key]
        if not isinstance(value, str) or not pattern.fullmatch(value):
            self.refuse(key, meaning)
        return value

    def choice(self, key: str, allowed: str) -> str:
        """The one text this version knows here."""
        if self._value[key] != allowed:
            self.refuse(key, repr(allowed))
        return allowed

    def one_of(self, key: str, allowed: frozenset[str]) -> str:
        """One of the texts this version knows here."""
        value = self._value[key]
        if not isinstance(value, str) or value not in allowed:
            self.refuse(key, f"one of {', '.join(sorted(allowed))}")
        return value

    def line(self, key: str, max_chars: int) -> str:
        """Text for one line, cleaned."""
        return clean_line(self._text(key, max_chars))

    def text(self, key: str, max_chars: int) -> str:
        """Text of several lines, cleaned."""
        return clean_text(self._text(key, max_chars))

    def digest(self, key: str) -> str:
        """`sha256:` and 64 lower-case hex digits."""
        return self.matching(key, DIGEST, "sha256: and 64 lower-case hex digits")

    def hex64(self, key: str) -> str:
        """64 lower-case hex digits."""
        return self.matching(key, HEX64, "64 lower-case hex digits")

    def time(self, key: str) -> str:
        """A moment, `YYYY-MM-DDTHH:MM:SSZ`."""
        value = self.matching(key, _TIME, "a time as 2026-11-23T12:00:00Z")
        try:
            unix_seconds(value)
        except ValueError:
            self.refuse(key, "a time that exists")
        return value

    def refuse(self, key: str, wanted: str) -> NoReturn:
        """Raise for a field that is not what it must be."""
        raise EntryInvalid(f"The field {key!r} of {self._where} is not {wanted}.")

    def _text(self, key: str, max_chars: int) -> str:
        value = self._value[key]
        if not is_text(value, max_chars):
            self.refuse(key, f"text of at most {max_chars} characters")
        return value


def is_text(value: object, max_chars: int) -> TypeGuard[str]:
    """Whether a JSON value is text of bounded length that UTF-8 can hold: escapes can smuggle in lone surrogates."""
    return isinstance(value, str) and len(value) <= max_chars and not any("\ud800" <= c <= "\udfff" for c in value)


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether a JSON value is a number we can carry: finite, and exact if an integer."""
    if type(value) is int:
        return abs(value) <= MAX_INTEGER
    return type(value) is float and math.isfinite(value)


def unix_seconds(text: str) -> float:
    """Unix seconds of a time as entries spell it. ValueError if there is no such moment."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp()


def time_text(unix: float) -> str:
    """A moment as entries spell it, cut to whole seconds."""
    return datetime.fromtimestamp(int(unix), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def render(value: dict[str, object]) -> bytes:
    """The bytes we sign for a JSON object. Others may space it differently; what counts is the bytes as signed."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError(
            "a key twice"
        )  # parsers differ in which one counts, so two readers could see two entries (T16)
    return result


def _no_constant(name: str) -> NoReturn:
    raise ValueError(name)
