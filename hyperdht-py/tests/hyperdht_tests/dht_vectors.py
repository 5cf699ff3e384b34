"""The vectors recorded from dht-rpc and hyperdht; `vectors/dht.json` names the versions."""

import json
from functools import cache
from typing import Any

from hyperdht.addresses import Address

from .vectors import VECTORS


@cache
def dht() -> Any:
    return json.loads((VECTORS / "dht.json").read_text(encoding="utf-8"))


def address_of(recorded: dict[str, Any]) -> Address:
    return Address(recorded["host"], recorded["port"])


def address_in(text: str) -> Address:
    """An address written as host:port."""
    host, port = text.rsplit(":", 1)
    return Address(host, int(port))


def optional_bytes(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)
