"""Handing a verified adapter to Ollama, and taking it back."""

from ollama_bridge.install.errors import BaseMissing, InstallFailed, NameTaken, NoRoute, NotOurs
from ollama_bridge.install.installer import Installed, install_adapter
from ollama_bridge.install.probe import Route, RouteKind, choose_route
from ollama_bridge.install.recover import Recovered, recover
from ollama_bridge.install.uninstall import uninstall

__all__ = [
    "BaseMissing",
    "InstallFailed",
    "Installed",
    "NameTaken",
    "NoRoute",
    "NotOurs",
    "Recovered",
    "Route",
    "RouteKind",
    "choose_route",
    "install_adapter",
    "recover",
    "uninstall",
]
