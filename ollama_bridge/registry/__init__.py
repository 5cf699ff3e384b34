"""The loopback registry: what install serves to Ollama, what `ollama pull` and `ollama push` talk to."""

from ollama_bridge.registry.server import ExpectedPush, LoopbackRegistry, Probe
from ollama_bridge.registry.share import learn_manifest, share_by_push
from ollama_bridge.registry.uploads import OnPush, PushedModel

__all__ = ["ExpectedPush", "LoopbackRegistry", "OnPush", "Probe", "PushedModel", "learn_manifest", "share_by_push"]
