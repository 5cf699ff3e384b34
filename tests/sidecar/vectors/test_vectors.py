from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.sidecar.vectors import make_vectors


@pytest.mark.parametrize(
    ("file", "content"),
    [("keys", make_vectors.keys), ("entry", make_vectors.entries), ("room", make_vectors.room_protocol)],
)
def test_published_vectors_are_what_their_script_writes(file: str, content: object) -> None:
    assert callable(content)
    published = (Path(make_vectors.__file__).parent / f"{file}.json").read_text("utf-8")
    assert json.loads(published) == content()


def test_the_script_imports_none_of_our_packages() -> None:
    source = Path(make_vectors.__file__).read_text("utf-8")
    assert not any(name in source for name in ("import hyperdht", "import sidecar", "from hyperdht", "from sidecar"))
