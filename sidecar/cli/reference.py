"""docs/reference.md, made from the things it describes: `python -m sidecar.cli.reference docs/reference.md`."""

from __future__ import annotations

import dataclasses
import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import anyio
import typer

import sidecar.errors
import sidecar.events
from sidecar.api.app import build_api
from sidecar.cli.main import root_application
from sidecar.config import settings_table
from sidecar.errors import SidecarError
from sidecar.events import Event
from sidecar.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sidecar.control_types import Control

HELP_WIDTH = 100
HEAD = """# Reference

Made by `make docs` from the settings table, the commands, the API and the events themselves. Do not edit.
"""
SETTINGS = """## Settings

In `config.toml` of the data folder (or a file given with `--config`) under their names, in the environment as
`OLLASWARM_` and the name in capitals, and as flags of `ollaswarm up`. A flag beats a variable, a variable beats the file.
Lists are arrays in the file, `a,b` in variables, repeated flags. Sizes may be written `50GiB`, `500MB`, `1048576`.
"""
COMMANDS = """## Commands

Exit codes: 0 ok, 1 refused or failed with a cause and a next step, 2 usage. With `--json` standard output carries JSON
only; failures are `{"ok":false,"error":{"code":…,"cause":…,"next":…}}`.
"""
ROUTES = """## Control API

On loopback, for the holder of the token in the data folder (`Authorization: Bearer …`). `Host` must be the address
itself, `Origin` absent or ours, bodies `application/json`. Failures are `{"error":{"code":…,"cause":…,"next":…}}`.
The OpenAPI document is at `/api/v1/openapi.json`.
"""
EVENTS = """## Events

`ollaswarm events --json`, and server-sent events at `/api/v1/events`. Each is an object with its name under `event`.
"""
ERRORS = """## Error codes

The `code` of every failure, its HTTP status, and what it means.
"""
METRICS = """## Metrics

At `/metrics`, for the holder of the token, or for every process of this machine with `metrics_open`.
"""


def reference_text() -> str:
    """The whole page."""
    parts = (
        HEAD,
        SETTINGS,
        _table(("setting", "default", "unit", "flag", "variable", "meaning"), _setting_rows()),
        COMMANDS,
        *_command_sections(),
        ROUTES,
        _table(("route", "what", "takes"), _route_rows()),
        EVENTS,
        _table(("event", "meaning", "fields"), _event_rows()),
        ERRORS,
        _table(("code", "status", "meaning"), _error_rows()),
        METRICS,
        _table(("metric", "kind", "meaning"), _metric_rows()),
    )
    return "\n".join(parts)


def _table(heads: Sequence[str], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _setting_rows() -> Iterator[tuple[str, ...]]:
    for row in settings_table():
        yield f"`{row.name}`", row.default, row.unit, f"`{row.flag}`", f"`{row.variable}`", row.help


def _command_sections() -> Iterator[str]:
    for name, command in all_commands():
        context = command.make_context(f"ollaswarm {name}", [], resilient_parsing=True, terminal_width=HELP_WIDTH)
        yield f"### `ollaswarm {name}`\n\n```\n{command.get_help(context).strip()}\n```\n"


def all_commands() -> Iterator[tuple[str, Any]]:
    """Every command that does something: `up`, …, `room create`, … with typer's command object."""
    root: Any = typer.main.get_command(root_application())
    for name in root.list_commands(None):
        command = root.get_command(None, name)
        if hasattr(command, "list_commands"):
            for below in command.list_commands(None):
                yield f"{name} {below}", command.get_command(None, below)
        else:
            yield name, command


def api_document() -> dict[str, Any]:
    """The OpenAPI document, without a daemon."""
    nobody = cast("Control", None)  # the document is about signatures; nothing is called
    return build_api(nobody, metrics=bytes, closing=anyio.Event(), version="1").openapi()


def _route_rows() -> Iterator[tuple[str, ...]]:
    document = api_document()
    schemas = document["components"]["schemas"]
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            yield f"`{method.upper()} {path}`", route["summary"], ", ".join(_route_inputs(route, schemas))


def _route_inputs(route: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    for parameter in route.get("parameters", ()):
        if parameter["in"] == "query":
            yield f"`?{parameter['name']}=`"
    if "requestBody" in route:
        reference = route["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        schema = schemas[reference.rsplit("/", 1)[1]]
        needed = schema.get("required", ())
        for name in schema["properties"]:
            yield f"`{name}`" if name in needed else f"`[{name}]`"


def event_types() -> tuple[type[Event], ...]:
    """Every event a program can see."""
    found = (value for value in vars(sidecar.events).values() if inspect.isclass(value))
    return tuple(value for value in found if issubclass(value, Event) and value is not Event)


def _event_rows() -> Iterator[tuple[str, ...]]:
    for event in event_types():
        names = ", ".join(f"`{field.name}`" for field in dataclasses.fields(event))
        yield f"`{event.name}`", _first_line(event), names


def _error_rows() -> Iterator[tuple[str, ...]]:
    for value in vars(sidecar.errors).values():
        if inspect.isclass(value) and issubclass(value, SidecarError):
            yield f"`{value.code}`", str(value.http_status), _first_line(value)


def _metric_rows() -> Iterator[tuple[str, ...]]:
    for family in Metrics().registry.collect():
        if family.name.startswith("ollaswarm_"):
            yield f"`{family.name}`", family.type, family.documentation


def _first_line(thing: type) -> str:
    return (inspect.getdoc(thing) or "").partition("\n")[0]


def main() -> None:
    """Write the page to the file named on the command line."""
    Path(sys.argv[1]).write_text(reference_text(), encoding="utf-8")


if __name__ == "__main__":
    main()
