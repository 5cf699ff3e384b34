"""Model names by Ollama's rules (types/model/name.go): `[HOST/][NAMESPACE/]MODEL[:TAG]`.

Only names that pass these rules become path parts, and each part starts with a letter, digit or `_`, so no name can
climb out of `manifests/` (T7).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from ollama_bridge.errors import NameInvalid

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

MAX_NAME_CHARS = 350 + 3 * 80 + 3 + len("https://")  # the longest text the rules can accept

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_MODEL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


@dataclass(frozen=True, slots=True, order=True)
class ModelName:
    """A full, valid model name, spelled with the case it was given."""

    host: str
    namespace: str
    model: str
    tag: str

    def __post_init__(self) -> None:
        rules = ((_HOST, self.host), (_NAMESPACE, self.namespace), (_MODEL, self.model), (_MODEL, self.tag))
        for rule, part in rules:
            if not rule.fullmatch(part):
                raise NameInvalid(
                    f"{part[:80]!r} cannot be part of a model name: use letters, digits, '_', '-' and '.', "
                    "start with a letter, digit or '_', at most 80 characters."
                )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a name as a user or Ollama writes it, filling in host, namespace and tag.

        A host is only recognised with three path parts: `127.0.0.1:5000/m` is invalid, `127.0.0.1:5000/ns/m` is a name.

        Raises:
            NameInvalid: The text breaks the rules.
        """
        if len(text) > MAX_NAME_CHARS:
            raise NameInvalid(f"A model name has at most {MAX_NAME_CHARS} characters, this has {len(text)}.")
        rest, tag = text, DEFAULT_TAG
        if text.rfind(":") > text.rfind("/"):
            rest, _, tag = text.rpartition(":")
        rest, slash, model = rest.rpartition("/")
        if not slash:
            return cls(DEFAULT_HOST, DEFAULT_NAMESPACE, model, tag)
        rest, slash, namespace = rest.rpartition("/")
        if not slash:
            return cls(DEFAULT_HOST, namespace, model, tag)
        scheme, separator, host = rest.partition("://")
        return cls(host if separator else scheme, namespace, model, tag)

    @classmethod
    def is_valid(cls, text: str) -> bool:
        """Whether `parse` would accept the text."""
        try:
            cls.parse(text)
        except NameInvalid:
            return False
        return True

    @classmethod
    def from_path_parts(cls, parts: Sequence[str]) -> Self | None:
        """The name of `manifests/HOST/NAMESPACE/MODEL/TAG`, None if Ollama would not take it for one."""
        try:
            host, namespace, model, tag = parts
            return cls(host, namespace, model, tag)
        except ValueError:
            return None

    @property
    def display(self) -> str:
        """The short form Ollama shows: default host and namespace dropped, tag always there."""
        if self.host.lower() != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{self.model}:{self.tag}"
        return f"{self.model}:{self.tag}"

    @property
    def path_parts(self) -> tuple[str, str, str, str]:
        """Folders and file below `manifests/`."""
        return (self.host, self.namespace, self.model, self.tag)

    @property
    def folded(self) -> tuple[str, ...]:
        """What two names share when Ollama takes them for the same model (it ignores case, `getExistingName`)."""
        return tuple(part.lower() for part in self.path_parts)

    @property
    def has_reserved_tag(self) -> bool:
        """Whether Ollama would read the tag as a source marker and rewrite it (internal/modelref, since 0.17.6)."""
        tag = self.tag.lower()
        return tag in {"cloud", "local"} or tag.endswith("-cloud")

    def __str__(self) -> str:
        return self.display
