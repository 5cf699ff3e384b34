"""Modelfiles: parse and render by Ollama's grammar (facts 5, parser/parser.go), and fill the family templates.

A Modelfile is a list of commands. A value runs to the end of the line; one that opens with `"` or three of them runs to the
next line that ends the same way. There are no escapes, so a few texts cannot be written at all; they are refused.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from importlib.resources import files
from itertools import chain
from typing import TYPE_CHECKING, Final, Self

from jinja2 import Environment, StrictUndefined

from ollama_bridge.errors import ModelfileError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MAX_MODELFILE_CHARS: Final = 1 << 20  # templates reach some ten thousand
COMMANDS: Final = (
    "from", "adapter", "template", "system", "parameter", "license", "message", "renderer", "parser", "requires", "draft",
)  # fmt: skip
ROLES: Final = ("system", "user", "assistant")
TEMPLATE_FAMILIES: Final = {  # `general.architecture` or Ollama's family -> template
    "llama": "llama3",
    "mistral": "mistral",
    "mistral3": "mistral",
    "qwen2": "qwen",
    "qwen3": "qwen",
    "gemma2": "gemma",
    "gemma3": "gemma",
    "phi3": "phi3",
}

_PARAMETER = re.compile(r"[a-z][a-z0-9_]{0,63}")
_WORD = re.compile(r"[A-Za-z]+")
_BLOB_PATH = re.compile(r".*[/\\]blobs[/\\]sha256-[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Command:
    """One instruction."""

    name: str
    """Lower case, one of `COMMANDS`."""
    value: str
    key: str | None = None
    """The parameter's name, or the role of a message."""


@dataclass(frozen=True, slots=True)
class Modelfile:
    """A parsed Modelfile; commands in the order of the text."""

    commands: tuple[Command, ...]

    def values(self, name: str) -> tuple[str, ...]:
        """Values of every command of that name."""
        return tuple(command.value for command in self.commands if command.name == name)

    @property
    def from_(self) -> str:
        """The base."""
        return self.values("from")[-1]

    @property
    def adapter(self) -> str | None:
        """The adapter; a later line replaces an earlier one, as in Ollama's own client."""
        return next(reversed(self.values("adapter")), None)

    @property
    def parameters(self) -> dict[str, tuple[str, ...]]:
        """Values by parameter name; only `stop` is meant to have several."""
        found: dict[str, tuple[str, ...]] = {}
        for command in self.commands:
            if command.name == "parameter" and command.key is not None:
                found[command.key] = (*found.get(command.key, ()), command.value)
        return found


@dataclass(frozen=True, slots=True)
class BlobPaths:
    """Paths of blobs as the server that answered sees them."""

    from_: str | None
    adapters: tuple[str, ...]


def parse_modelfile(text: str) -> Modelfile:
    """Parse a Modelfile.

    Raises:
        ModelfileError: Unknown command, missing or unterminated value, no `FROM` line; with the line's number.
    """
    if len(text) > MAX_MODELFILE_CHARS:
        raise ModelfileError(f"The Modelfile has more than {MAX_MODELFILE_CHARS} characters.")
    lines = _Lines(text.removeprefix("\ufeff"))
    commands = [
        _parse_command(line.lstrip(), lines) for line in lines if line.strip() and not line.lstrip().startswith("#")
    ]
    if not any(command.name == "from" for command in commands):
        raise ModelfileError("The Modelfile has no FROM line. Begin it with FROM and the name of the base model.")
    return Modelfile(tuple(commands))


def render(modelfile: Modelfile) -> str:
    """The text of a Modelfile; `parse_modelfile` of it gives the same commands.

    Raises:
        ModelfileError: A value cannot be written in this grammar.
    """
    return "".join(f"{_render_command(command)}\n" for command in modelfile.commands)


def render_template(
    family: str,
    *,
    base: str,
    base_is_file: bool = False,
    adapter: str | None = None,
    system: str | None = None,
    parameters: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """Fill the template of a model family (`modelfiles/*.modelfile.tmpl`), the default one for unknown families.

    Args:
        family: `general.architecture` of the base, or its family as Ollama names it.
        base: What follows `FROM`: a model name, or a path.
        base_is_file: The base is a GGUF file, from which no chat template is inherited: the family's own is written.
        adapter: Path of an adapter file, for `ollama create` on servers before 0.34.1.
        system: System text.
        parameters: Values by name, in the order to be written.

    Raises:
        ModelfileError: A value cannot be written in this grammar.
    """
    if bad := [name for name in parameters or {} if not _PARAMETER.fullmatch(name)]:
        raise ModelfileError(f"{bad[0][:40]!r} is not the name of a parameter.")
    name = TEMPLATE_FAMILIES.get(family, "default")
    source = files("modelfiles").joinpath(f"{name}.modelfile.tmpl").read_text(encoding="utf-8")
    return _JINJA.from_string(source).render(
        base=base, base_is_file=base_is_file, adapter=adapter, system=system, parameters=parameters or {}
    )


def blob_paths(show_modelfile: str) -> BlobPaths:
    """Blob paths in the `modelfile` text of `/api/show`.

    Only lines before `TEMPLATE` and `SYSTEM` are read: those texts can hold anything, lines that look like commands
    included. The generated header is comment lines, which is why `FROM` is looked for at line starts only.
    """
    from_: str | None = None
    adapters = []
    for line in show_modelfile.splitlines():
        command, _, value = line.partition(" ")
        if command.upper() in {"TEMPLATE", "SYSTEM", "PARAMETER", "LICENSE", "MESSAGE"}:
            break
        value = value.strip().strip('"')
        if not _BLOB_PATH.fullmatch(value):
            continue
        if command.upper() == "FROM" and from_ is None:
            from_ = value
        elif command.upper() == "ADAPTER":
            adapters.append(value)
    return BlobPaths(from_, tuple(adapters))


def quote(value: str) -> str:
    """A value as it is written after a command, so that parsing gives exactly it back.

    Raises:
        ModelfileError: It holds a line that would end the text early, or a character that Ollama's parser drops.
    """
    if not all(map(_is_kept, value)) or "\r" in value:
        raise ModelfileError("A Modelfile value holds characters that cannot be printed, which Ollama would drop.")
    if value and "\n" not in value and value == value.strip() and not value.startswith('"'):
        return value
    fenced = f'"""{value}"""'
    if _unquote_lines(fenced.split("\n")) != value:
        raise ModelfileError('A line of a Modelfile value ends with """, which would end the text there.')
    return fenced


def _is_kept(character: str) -> bool:
    return character.isprintable() or character in "\n\r\t" or unicodedata.category(character) == "Zs"


def _unquote(text: str) -> str | None:
    """The value of a whole text, None if it opens with a quote that its end does not close (`unquote` in parser.go)."""
    for fence in ('"""', '"'):
        if text.startswith(fence):
            closed = len(text) >= 2 * len(fence) and text.endswith(fence)
            return text[len(fence) : -len(fence)] if closed else None
    return text


def _unquote_lines(lines: Iterable[str]) -> str | None:
    text = ""
    for line in lines:
        text = f"{text}\n{line}" if text else line
        if (value := _unquote(text.strip())) is not None:
            return value
    return None


class _Lines:
    """The lines of a text, one after another, with their number."""

    def __init__(self, text: str) -> None:
        # Not splitlines(): it also cuts at form feeds and Unicode separators, which Ollama keeps inside a value.
        self._lines = "".join(filter(_is_kept, text)).replace("\r\n", "\n").split("\n")
        self.number = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        if self.number == len(self._lines):
            raise StopIteration
        self.number += 1
        return self._lines[self.number - 1]


# Square brackets, because the chat templates inside are Go templates and full of braces. Nothing here is HTML.
_JINJA = Environment(  # noqa: S701
    block_start_string="[%", block_end_string="%]", variable_start_string="[[", variable_end_string="]]",
    comment_start_string="[#", comment_end_string="#]", undefined=StrictUndefined, keep_trailing_newline=True,
    trim_blocks=True, lstrip_blocks=True,
)  # fmt: skip
_JINJA.filters["quote"] = quote


def _parse_command(line: str, lines: _Lines) -> Command:
    number = lines.number
    word = _WORD.match(line)
    name = word.group().lower() if word else ""
    if word is None or name not in COMMANDS or line[word.end() : word.end() + 1].strip():
        raise ModelfileError(f"(line {number}): command must be one of {', '.join(COMMANDS)}.")
    rest = line[word.end() :].lstrip()
    key = None
    if name in {"parameter", "message"}:
        words = [*rest.split(maxsplit=1), "", ""]
        key, rest = words[0], words[1]
        if name == "message" and key not in ROLES:
            raise ModelfileError(f"(line {number}): message role must be one of {', '.join(ROLES)}.")
    if not rest.strip():
        raise ModelfileError(f"(line {number}): {name.upper()} needs a value.")
    return Command(name, _parse_value(rest, lines, number), key)


def _parse_value(rest: str, lines: _Lines, number: int) -> str:
    value = _unquote_lines(chain((rest,), lines))
    if value is None:
        raise ModelfileError(f"(line {number}): the text opened with a quote is never closed.")
    return value


def _render_command(command: Command) -> str:
    words = [command.name.upper()]
    if command.key is not None:
        words.append(command.key)
    return " ".join([*words, quote(command.value)])
