"""Fuzz the readers of untrusted bytes with atheris, by hand; see docs/store.md.

    .venv/bin/python tests/fuzz/fuzz_headers.py TARGET [libFuzzer options] [CORPUS]

A finding is anything but a value or the one error the reader promises, or memory beyond what libFuzzer allows.
"""

from __future__ import annotations

import importlib
import io
import sys
from typing import TYPE_CHECKING

from ollama_bridge.adapters.inspect import describe_adapter
from ollama_bridge.adapters.peft_rules import parse_config
from ollama_bridge.adapters.safetensors import read_safetensors
from ollama_bridge.errors import OllamaBridgeError
from ollama_bridge.manifest import parse_manifest
from ollama_bridge.modelfile import parse_modelfile
from ollama_bridge.names import ModelName

if TYPE_CHECKING:
    from collections.abc import Callable

TARGETS: dict[str, Callable[[bytes], object]] = {
    "gguf": lambda data: describe_adapter(io.BytesIO(data)),
    "safetensors": lambda data: read_safetensors(io.BytesIO(data)),
    "manifest": parse_manifest,
    "name": lambda data: ModelName.parse(data.decode("utf-8", "replace")),
    "modelfile": lambda data: parse_modelfile(data.decode("utf-8", "replace")),
    "peft-config": parse_config,
}


def try_one(target: str, data: bytes) -> None:
    """Run one input; only the promised error is swallowed."""
    try:
        TARGETS[target](data)
    except OllamaBridgeError:
        return


def main() -> None:
    """Hand the chosen target to libFuzzer."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: fuzz_headers.py {'|'.join(TARGETS)} [libFuzzer options] [CORPUS]")
    try:
        atheris = importlib.import_module("atheris")
    except ModuleNotFoundError:
        sys.exit("atheris is not installed; docs/store.md says how.")
    target = sys.argv.pop(1)
    atheris.instrument_all()
    atheris.Setup(sys.argv, lambda data: try_one(target, data))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
