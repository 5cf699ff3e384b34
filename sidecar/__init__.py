"""The sidecar: rooms, catalogue, transfer, trust, install, daemon, API and CLI.

`Sidecar` is for programs that embed us; it is loaded when it is asked for, so that the command line starts fast.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .facade import Sidecar

__all__ = ["Sidecar", "__version__"]
__version__ = version("ollaswarm")


def __getattr__(name: str) -> object:
    if name == "Sidecar":
        return import_module("sidecar.facade").Sidecar
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
