"""Files every journey may read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ollama_bridge.standin.tiny_models import Options
from tests.fixtures.make_fixtures import make_fixtures

if TYPE_CHECKING:
    from pathlib import Path

BIG_BYTES = 12 << 20


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder `make_fixtures` made: base.gguf, adapter.gguf, adapter_b.gguf, peft/ and damaged ones. Read only."""
    folder = tmp_path_factory.mktemp("files")
    make_fixtures(folder)
    return folder


@pytest.fixture(scope="session")
def big_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with an adapter of 12 MiB, for tests that interrupt its transfer. Read only."""
    folder = tmp_path_factory.mktemp("big-files")
    make_fixtures(folder, Options(pad_to=BIG_BYTES))
    return folder
