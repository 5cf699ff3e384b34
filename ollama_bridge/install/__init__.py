"""Handing a verified adapter or model to Ollama, and taking it back."""

from ollama_bridge.install.errors import BaseMissing, InstallFailed, NameTaken, NoRoute, NotOurs
from ollama_bridge.install.installer import Installed, install_adapter
from ollama_bridge.install.model_config import human_number, render_config
from ollama_bridge.install.plan import NewLayer
from ollama_bridge.install.probe import Route, RouteKind, choose_route
from ollama_bridge.install.recover import Recovered, recover
from ollama_bridge.install.uninstall import uninstall
from ollama_bridge.install.whole_model import install_model

__all__ = [
    "BaseMissing",
    "InstallFailed",
    "Installed",
    "NameTaken",
    "NewLayer",
    "NoRoute",
    "NotOurs",
    "Recovered",
    "Route",
    "RouteKind",
    "choose_route",
    "human_number",
    "install_adapter",
    "install_model",
    "recover",
    "render_config",
    "uninstall",
]
