"""The sidecar: rooms, catalogue, transfer, trust, install, daemon, API and CLI."""

from importlib.metadata import version

__version__ = version("ollaswarm")
