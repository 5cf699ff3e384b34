"""A stand-in with a base model, one per test."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conformance.lab import Lab, open_lab

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def lab(fixture_files: Path, tmp_path: Path) -> AsyncIterator[Lab]:
    """Takes adapters at create, as before 0.34.1."""
    async with open_lab("accept", fixture_files, tmp_path) as lab:
        yield lab


@pytest.fixture
async def refusing_lab(fixture_files: Path, tmp_path: Path) -> AsyncIterator[Lab]:
    """Refuses adapters at create, as since 0.34.1."""
    async with open_lab("refuse", fixture_files, tmp_path) as lab:
        yield lab
