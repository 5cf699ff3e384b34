"""Names with a secret in them, and that it goes no further (T24)."""

from __future__ import annotations

import pytest

from ollama_bridge.names import ModelName
from ollama_bridge.room_names import hidden, is_room_name, new_secret, public_name

SECRET = "0123456789abcdef" * 2
NAME = f"127.0.0.1:11471/{SECRET}/team.sql-lora:v3"


def test_secrets_are_valid_in_names_and_never_the_same() -> None:
    assert new_secret() != new_secret()
    name = ModelName.parse(f"127.0.0.1:11471/{new_secret()}/team.sql-lora")
    assert is_room_name(name)
    assert name.tag == "latest"


@pytest.mark.parametrize(
    "text",
    [
        f"pulled {NAME}",
        f"'{NAME.upper()}'",
        f"127.0.0.2/{SECRET}/team.x (Windows)",
        f'Get "http://127.0.0.1:11471/v2/{SECRET}/team.sql-lora/manifests/latest": EOF',
        f"GET /v2/{SECRET}/x/blobs/sha256:{'ab' * 32}",
        f"two: {NAME}, {NAME}",
        f"127.0.0.1:1/{SECRET}",
    ],
)
def test_t24_the_secret_is_hidden_in_any_text(text: str) -> None:
    assert SECRET not in hidden(text).lower()
    assert "…" in hidden(text)


@pytest.mark.parametrize(
    "text",
    ["sql-lora:latest", f"sha256:{SECRET * 2}", f"127.0.0.1:5000/{SECRET}0/x", "library/llama3", f"x/{SECRET}/y"],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert hidden(text) == text


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (NAME, "sql-lora:v3"),
        (f"127.0.0.1:11471/{SECRET}/team.v1.5-lora", "v1.5-lora:latest"),
        (f"127.0.0.1:11471/{SECRET}/odd", "odd:latest"),
        ("me/sql-lora", "me/sql-lora:latest"),
        (f"registry.example/{SECRET}/team.x", f"registry.example/{SECRET}/team.x:latest"),
    ],
)
def test_t24_towards_others_the_name_is_without_the_secret(name: str, shown: str) -> None:
    assert public_name(ModelName.parse(name)) == shown
