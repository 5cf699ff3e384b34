"""docs/reference.md says everything, and says what is true now."""

from pathlib import Path

import sidecar.api.routes
from sidecar.cli.main import VERBS
from sidecar.cli.reference import all_commands, api_document, event_types, reference_text
from sidecar.config import settings_table

PAGE = Path(__file__).parents[3] / "docs" / "reference.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference_text(), "run `make docs`"


def test_every_setting_command_route_and_event_is_on_the_page() -> None:
    page = PAGE.read_text(encoding="utf-8")
    settings = [f"| `{row.name}` |" for row in settings_table()]
    commands = [f"### `ollaswarm {name}`" for name, _ in all_commands()]
    routes = [f"`{method.upper()} {path}`" for path, methods in api_document()["paths"].items() for method in methods]
    events = [f"| `{event.name}` |" for event in event_types()]
    assert [item for item in (*settings, *commands, *routes, *events) if item not in page] == []
    assert len(routes) > 20
    assert len(events) > 15


def test_every_verb_of_the_design_is_a_command() -> None:
    design = {"up", "demo", "status", "doctor", "room", "adapters", "share", "unshare", "get", "uninstall", "transfers"}
    assert design | {
        "peers",
        "trust",
        "block",
        "sync",
        "export",
        "import",
        "blocklist",
        "events",
        "verify",
        "service",
        "bootstrap",
        "registry",
    } == set(VERBS)


def test_every_route_and_command_explains_itself() -> None:
    assert [name for name, command in all_commands() if not command.help] == []
    routes = [route for methods in api_document()["paths"].values() for route in methods.values()]
    assert [route for route in routes if not route.get("summary")] == []
    assert sidecar.api.routes.API_PREFIX == "/api/v1"
