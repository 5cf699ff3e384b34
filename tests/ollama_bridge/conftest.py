"""Files every test of the bridge may read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.fixtures.make_fixtures import make_fixtures

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def fixture_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `make_fixtures` made. Read only: tests copy what they change."""
    folder = tmp_path_factory.mktemp("fixtures")
    make_fixtures(folder)
    return folder
