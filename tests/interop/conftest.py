"""The official JavaScript packages, or the reason why they are not here."""

import os

import pytest

from .setup_node import is_installed, missing


@pytest.fixture(scope="session")
def node() -> None:
    """Skip without Node and the pinned packages; fail instead when CI=true."""
    reason = missing() or (None if is_installed() else "tests/interop/node_modules is not there. Run: make node")
    if reason is not None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
