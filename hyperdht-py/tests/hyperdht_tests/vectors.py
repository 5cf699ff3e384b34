"""The vectors recorded from the JavaScript packages; `vectors/transport.json` names their versions."""

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

VECTORS = Path(__file__).parent.parent / "vectors"


@cache
def transport() -> Any:
    return json.loads((VECTORS / "transport.json").read_text(encoding="utf-8"))


def pattern(size: int) -> bytes:
    """The filler the vectors call pattern(n)."""
    return bytes((i * 31 + 7) % 251 for i in range(size))


def plaintext(text: str) -> bytes:
    """A plaintext as the vectors write it: "quoted text", pattern(n) or nothing."""
    if text.startswith('"'):
        return text.strip('"').encode()
    return pattern(int(text[8:-1])) if text.startswith("pattern(") else b""


def assert_bytes(actual: bytes, expected: dict[str, Any]) -> None:
    """Compare with a recorded string, of which long ones are kept as length, hash and both ends."""
    assert len(actual) == expected["length"]
    if "hex" in expected:
        assert actual.hex() == expected["hex"]
    else:
        assert hashlib.sha256(actual).hexdigest() == expected["sha256"]
