"""The servers: the stand-in in both modes, and a real one when OLLAMASWARM_REAL_OLLAMA names it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conformance.lab import SERVERS, Lab, open_lab
from tests.fixtures.make_fixtures import make_fixtures

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fixtures")
    make_fixtures(folder)
    return folder


@pytest.fixture(params=SERVERS)
async def lab(request: pytest.FixtureRequest, files: Path, tmp_path: Path) -> AsyncIterator[Lab]:
    async with open_lab(request.param, files, tmp_path) as lab:
        yield lab
