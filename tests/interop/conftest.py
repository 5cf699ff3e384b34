"""The official JavaScript packages, or the reason why they are not here."""

import os

import pytest

from .dht_fixtures import bootstrap as bootstrap
from .setup_node import MIN_ENGINE_NODE, is_installed, missing


@pytest.fixture(scope="session")
def node() -> None:
    """Skip without Node and the pinned packages; fail instead when CI=true."""
    _need(missing() or (None if is_installed() else "tests/interop/node_modules is not there. Run: make node"))


@pytest.fixture(scope="session")
def engine_node(node: None) -> None:
    """The same for llama.cpp, which needs a newer Node."""
    _need(missing(MIN_ENGINE_NODE))


def _need(reason: str | None) -> None:
    if reason is not None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
