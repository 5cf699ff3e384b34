"""Shared by every test: the anyio backend the shells are written for."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
