"""The address as a part of names, on systems where a port may be in one and where not."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from ollama_bridge.names import ModelName
from sidecar.registry.service import RegistryService

if TYPE_CHECKING:
    from pathlib import Path

    from sidecar.local_models import LocalModels


def service(tmp_path: Path, platform: str) -> RegistryService:
    return RegistryService(
        path=tmp_path / "registry.json", port=11471, local=cast("LocalModels", None), platform=platform
    )


@pytest.mark.parametrize(
    ("platform", "host", "authorities"),
    [
        ("linux", "127.0.0.1:11471", {"127.0.0.1:11471"}),
        ("win32", "127.0.0.2", {"127.0.0.2", "127.0.0.2:80"}),
    ],
)
def test_the_address_is_one_that_ollama_takes(tmp_path: Path, platform: str, host: str, authorities: set[str]) -> None:
    registry = service(tmp_path, platform)
    assert registry.host() == host
    assert registry.authorities() == authorities
    name = ModelName.parse(f"{registry.host()}/{registry.secret()}/team.sql-lora")
    assert (name.host, name.namespace) == (host, registry.secret())
