"""The lab, and whether the official packages are here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.interop.conftest import node as node

from .lab import Lab

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def lab(node: None) -> Iterator[Lab]:
    with Lab() as lab:
        yield lab
