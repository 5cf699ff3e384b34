"""Why an install or uninstall did not happen. After each of these the store is as it was."""

from __future__ import annotations

from ollama_bridge.errors import OllamaBridgeError


class InstallFailed(OllamaBridgeError):
    """The adapter was not installed; whatever was begun has been taken back."""


class BaseMissing(InstallFailed):
    """This Ollama does not have the base model, or what has its name cannot carry an adapter."""


class NameTaken(InstallFailed):
    """A model of the wanted name exists."""


class NoRoute(InstallFailed):
    """This Ollama can be given an adapter neither by pull nor by create."""


class NotOurs(InstallFailed):
    """The model is no longer what we installed, so it is not ours to remove."""
